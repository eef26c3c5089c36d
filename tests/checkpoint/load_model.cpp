#include "casa/checkpoint/load_model.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <functional>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/checkpoint/save_model.hpp"
#include "golden.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"

using namespace casa;
using namespace casa::io;

namespace {

// A small tied decoder of the golden sets, as bytes that can be changed.
std::filesystem::path golden_model() { return golden::repository_root() / "hf_qwen2"; }

struct Folder {
  Scratch scratch;
  SafeTensors source = read_safetensors((golden_model() / "model.safetensors").string());
  std::vector<NamedTensor> tensors;

  explicit Folder(const std::filesystem::path& from = golden_model())
      : source(read_safetensors((from / "model.safetensors").string())) {
    std::filesystem::copy_file(from / "config.json", scratch.file("config.json"));
    std::filesystem::permissions(scratch.file("config.json"), std::filesystem::perms::owner_all);
    for (const TensorView& t : source.tensors()) tensors.push_back(named_tensor(t));
  }
  NamedTensor& at(std::string_view name) {
    return *std::ranges::find(tensors, name, &NamedTensor::name);
  }
  void save() const { write_safetensors(scratch.file("model.safetensors"), tensors); }
  void replace_in_config(const std::string& from, const std::string& to) const {
    std::string config = scratch.read("config.json");
    const auto place = config.find(from);
    REQUIRE(place != std::string::npos);
    scratch.write("config.json", config.replace(place, from.size(), to));
  }
  Model<float> load() const { return load_model<float>(scratch.path()); }
  std::string refusal() const {
    try {
      load();
    } catch (const casa::error& e) {
      return e.what();
    }
    return {};
  }
};

const std::vector<int> ids = {5, 90, 17, 3};

bool same_logits(const Decoder<float>& a, const Decoder<float>& b) {
  return a.logits(ids, {}, {}).eigen() == b.logits(ids, {}, {}).eigen();
}

double largest_logit(const Decoder<float>& d) {
  return static_cast<double>(d.logits(ids, {}, {}).eigen().cwiseAbs().maxCoeff());
}

constexpr const char* kQueryWeight = "model.layers.1.self_attn.q_proj.weight";

}  // namespace

TEST_CASE("a tensor renamed, dropped or added is named by the error") {
  Folder f;
  f.at(kQueryWeight).name = "model.layers.1.self_attn.query.weight";
  f.save();
  CHECK(has(f.refusal(), text("missing \"", kQueryWeight, "\" [64, 64]")));
  CHECK(has(f.refusal(), "unexpected \"model.layers.1.self_attn.query.weight\""));

  Folder dropped;
  std::erase_if(dropped.tensors, [](const NamedTensor& t) { return t.name == kQueryWeight; });
  dropped.save();
  CHECK(has(dropped.refusal(), text("missing \"", kQueryWeight, "\"")));
  CHECK(!has(dropped.refusal(), "unexpected"));

  Folder added;
  added.tensors.push_back(added.at(kQueryWeight));
  added.tensors.back().name = "model.layers.3.self_attn.q_proj.weight";
  added.save();
  CHECK(has(added.refusal(), "unexpected \"model.layers.3.self_attn.q_proj.weight\""));
}

TEST_CASE("a tensor of another shape or type is named with what was expected and found") {
  Folder f;
  f.at(kQueryWeight).shape = {32, 128};
  f.at("model.norm.weight").dtype = DType::I32;
  f.save();
  CHECK(has(f.refusal(), text("\"", kQueryWeight, "\": expected [64, 64], got [32, 128]")));
  CHECK(has(f.refusal(), "\"model.norm.weight\": expected F32, F64, F16 or BF16, got I32"));
}

TEST_CASE("a config that asks for more than the files hold is refused before memory is") {
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"\"hidden_size\": 64", "\"hidden_size\": 4096"},
      {"\"vocab_size\": 127", "\"vocab_size\": 2097152"},
      {"\"intermediate_size\": 112", "\"intermediate_size\": 1048576"},
      {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1024"}};
  for (const auto& change : changes) {
    CAPTURE(change.second);
    Folder f;
    f.save();
    f.replace_in_config(change.first, change.second);
    const std::string message = f.refusal();
    CHECK((has(message, "expected ") || has(message, "missing")));
    CHECK(message.size() < 4000);  // the list is cut
  }
}

TEST_CASE("a model in memory is the model of its folder") {
  Folder f;
  f.save();
  const std::string config = f.scratch.read("config.json");
  std::string bytes = f.scratch.read("model.safetensors");
  const auto from_memory = [&](const std::string& text, const ModelOptions& options = {}) {
    return load_model<float>(std::string_view(text),
                             Checkpoint(SafeTensors(Bytes(std::string_view(bytes)), "in memory")),
                             options);
  };
  const Model<float> model = from_memory(config);
  const std::string kept = bytes;
  bytes.assign(bytes.size(), '\0');  // the model has copies of its own
  CHECK(same_logits(model.decoder, f.load().decoder));
  bytes = kept;

  // A checkpoint that others hold, too, may be loaded again.
  const Checkpoint files(SafeTensors(Bytes(std::string_view(bytes)), "in memory"));
  const auto twice = [&] { return load_model<float>(std::string_view(config), files); };
  CHECK(same_logits(twice().decoder, twice().decoder));

  CHECK(has(message_of([&] { from_memory("{\"model_type\": 3"); }), "config.json"));
  bytes.resize(bytes.size() - 1);
  CHECK(has(message_of([&] { from_memory(config); }), "in memory"));
  bytes = kept;
  CHECK(has(message_of([&] { from_memory(config, {.fusion_folder = "added"}); }),
            "fusion_folder \"added\""));
}

TEST_CASE("a file cut anywhere is an error that names it") {
  Folder f;
  f.save();
  const std::string whole = f.scratch.read("model.safetensors");
  for (std::size_t length = 0; length < whole.size(); length += whole.size() / 97) {
    CAPTURE(length);
    f.scratch.write("model.safetensors", whole.substr(0, length));
    CHECK(has(f.refusal(), "model.safetensors"));
  }
  const std::string config = f.scratch.read("config.json");
  f.scratch.write("model.safetensors", whole);
  for (std::size_t length = 0; length + 2 < config.size(); length += 7) {
    CAPTURE(length);
    f.scratch.write("config.json", config.substr(0, length));
    CHECK(has(f.refusal(), "config.json"));
  }
  f.scratch.write("config.json", config);
  CHECK(f.refusal() == "");
}

TEST_CASE("missing files are named") {
  Folder f;
  CHECK(has(f.refusal(), "model.safetensors"));
  CHECK(has(f.refusal(), f.scratch.path()));
  f.save();
  std::filesystem::remove(f.scratch.file("config.json"));
  CHECK(has(f.refusal(), "config.json"));
  CHECK_THROWS_AS(load_model<float>(f.scratch.file("nothing")), casa::error);
}

TEST_CASE("shards are one model, and an index points into its own folder only") {
  Folder f;
  f.save();
  const Model<float> whole = f.load();
  std::filesystem::remove(f.scratch.file("model.safetensors"));
  std::vector<NamedTensor> halves[2];
  JsonWriter index;
  index.begin_object().key("weight_map").begin_object();
  for (std::size_t i = 0; i < f.tensors.size(); ++i) {
    halves[i % 2].push_back(f.tensors[i]);
    index.member(f.tensors[i].name, text("model-0000", i % 2 + 1, "-of-00002.safetensors"));
  }
  index.end_object().end_object();
  for (int half : {0, 1})
    write_safetensors(f.scratch.file(text("model-0000", half + 1, "-of-00002.safetensors")),
                      halves[half]);
  f.scratch.write("model.safetensors.index.json", index.str());
  CHECK(same_logits(f.load().decoder, whole.decoder));

  std::string outside = index.str();
  outside.replace(outside.find("model-00001"), 11, "../model-00");
  f.scratch.write("model.safetensors.index.json", outside);
  CHECK(has(f.refusal(), "../model-00"));
}

TEST_CASE("the link layout of the Hugging Face cache loads") {
  Folder f;
  f.save();
  const Model<float> plain = f.load();
  Scratch cache;
  std::filesystem::create_directories(cache.file("blobs"));
  std::filesystem::create_directories(cache.file("snapshots/0123abc"));
  for (const std::string name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(f.scratch.file(name), cache.file("blobs/" + name + "-blob"));
    std::filesystem::create_symlink("../../blobs/" + name + "-blob",
                                    cache.file("snapshots/0123abc/" + name));
  }
  CHECK(same_logits(load_model<float>(cache.file("snapshots/0123abc")).decoder, plain.decoder));
  ModelOptions strict;
  strict.files.limits.follow_links = false;
  CHECK_THROWS_AS(load_model<float>(cache.file("snapshots/0123abc"), strict), casa::error);
}

TEST_CASE("other names for the same parts are found by their prefix") {
  Folder f;
  f.save();
  const Model<float> plain = f.load();
  for (NamedTensor& t : f.tensors) t.name = "language_model." + t.name;
  f.save();
  CHECK(same_logits(f.load().decoder, plain.decoder));
}

TEST_CASE("embeddings and heads that are padded are sized by their tensors") {
  Folder f;
  const Index rows = 160, hidden = 64;
  Matrix<float> padded(rows, hidden);
  padded.fill(0.25f);
  const Matrix<float> before = f.source.at("model.embed_tokens.weight").to_matrix<float>();
  padded.view().middle_rows(0, before.rows()).eigen() = before.eigen();
  NamedTensor& embed = f.at("model.embed_tokens.weight");
  embed = named_tensor(embed.name, padded);
  f.save();
  Folder plain;
  plain.save();
  const Model<float> model = f.load();
  CHECK(model.decoder.config().vocab_size == rows);
  const auto logits = model.decoder.logits(ids, {}, {});
  CHECK(logits.cols() == rows);
  CHECK(logits.eigen().leftCols(127) == plain.load().decoder.logits(ids, {}, {}).eigen());

  // A head of its own, wider than the embedding.
  NamedTensor head = embed;
  head.name = "lm_head.weight";
  Folder untied;
  untied.tensors.push_back(head);
  untied.save();
  untied.replace_in_config("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  CHECK(untied.load().decoder.logits(ids, {}, {}).eigen() == logits.eigen());
}

TEST_CASE("a head that a tied model does not need is reported, not refused") {
  Folder f;
  f.tensors.push_back(f.at("model.embed_tokens.weight"));
  f.tensors.back().name = "lm_head.weight";
  f.save();
  CHECK(f.refusal() == "");
  const TensorReport report = ModelFolder(f.scratch.path()).report();
  CHECK(report.ok());
  CHECK(report.unused == std::vector<std::string>{"lm_head.weight"});
  f.replace_in_config("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  CHECK(ModelFolder(f.scratch.path()).report().unused.empty());
}

TEST_CASE("a head that differs from the embedding is used, whatever the config says of tying") {
  Folder f;
  const Matrix<float> embed = f.source.at("model.embed_tokens.weight").to_matrix<float>();
  Matrix<float> values(embed.rows(), embed.cols());
  values.eigen() = embed.eigen().colwise().reverse();
  f.tensors.push_back(named_tensor("lm_head.weight", values));
  f.save();
  const Model<float> model = f.load();  // the config ties
  CHECK_FALSE(model.config.decoder.tie_word_embeddings);
  CHECK(ModelFolder(f.scratch.path()).report().unused.empty());
  Folder untied;
  untied.tensors = f.tensors;
  untied.save();
  untied.replace_in_config("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  CHECK(same_logits(model.decoder, untied.load().decoder));
  const auto tied = load_model<float>(golden_model().string());
  const auto logits = model.decoder.logits(ids, {}, {}),
             embedded = tied.decoder.logits(ids, {}, {});
  CHECK((logits.eigen() - embedded.eigen()).cwiseAbs().maxCoeff() > 0.1f);

  // One value apart is apart; a head of another type or width is used or named, never dropped.
  values.eigen() = embed.eigen();
  values(3, 5) = std::nextafter(values(3, 5), 10.0f);
  f.save();
  CHECK_FALSE(f.load().config.decoder.tie_word_embeddings);
  f.at("lm_head.weight").dtype = DType::I32;
  f.save();
  CHECK(has(f.refusal(), "\"lm_head.weight\": expected F32, F64, F16 or BF16, got I32"));
  f.at("lm_head.weight") = named_tensor("lm_head.weight", values);
  f.at("lm_head.weight").shape = {values.cols(), values.rows()};
  f.save();
  CHECK(has(f.refusal(), "\"lm_head.weight\": expected"));

  // Saved and loaded it is the same model.
  values.eigen() = embed.eigen().colwise().reverse();
  f.at("lm_head.weight") = named_tensor("lm_head.weight", values);
  f.save();
  const Scratch saved;
  save_model(f.scratch.path(), saved.path(), f.load().decoder);
  CHECK(same_logits(load_model<float>(saved.path()).decoder, model.decoder));
}

TEST_CASE("a head without an embedding is both where they are tied, a missing head an error else") {
  Folder f;
  f.at("model.embed_tokens.weight").name = "lm_head.weight";
  f.save();
  const Model<float> plain = load_model<float>(golden_model().string());
  CHECK(same_logits(f.load().decoder, plain.decoder));
  const Scratch saved;
  save_model(f.scratch.path(), saved.path(), f.load().decoder);
  CHECK(same_logits(load_model<float>(saved.path()).decoder, plain.decoder));
  f.replace_in_config("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  CHECK(has(f.refusal(), "missing \"model.embed_tokens.weight\""));
  Folder headless;
  headless.save();
  headless.replace_in_config("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  CHECK(has(headless.refusal(), "missing \"lm_head.weight\""));
}

TEST_CASE("what the files hold besides is refused by the option that passes over it") {
  Folder f;
  f.tensors.push_back(f.at(kQueryWeight));
  f.tensors.back().name = "extra.weight";
  f.save();
  CHECK(has(f.refusal(), "unexpected \"extra.weight\""));
  CHECK(has(f.refusal(), "ModelOptions::allow_unexpected"));
  ModelOptions lenient;
  lenient.allow_unexpected = true;
  const Model<float> plain = load_model<float>(golden_model().string());
  CHECK(same_logits(load_model<float>(f.scratch.path(), lenient).decoder, plain.decoder));
  CHECK(ModelFolder(f.scratch.path(), lenient).report().unused ==
        std::vector<std::string>{"extra.weight"});

  // What an index does not list is no part of the model: it need not be used, but may be.
  std::filesystem::rename(f.scratch.file("model.safetensors"),
                          f.scratch.file("model-00001-of-00001.safetensors"));
  f.scratch.write("model.safetensors.index.json",
                  casa::text(R"({"metadata": {"total_size": 1.5e99}, "weight_map": {")",
                             kQueryWeight, R"(": "model-00001-of-00001.safetensors"}})"));
  CHECK(same_logits(f.load().decoder, plain.decoder));
  CHECK(ModelFolder(f.scratch.path()).report().unused == std::vector<std::string>{"extra.weight"});
}

TEST_CASE("a file over its limit is refused with the limit's name") {
  ModelOptions small;
  small.files.limits.json_bytes = 100;
  CHECK(has(message_of([&] { load_model<float>(golden_model().string(), small); }),
            "limit of 100 (LoadLimits::json_bytes)"));
}

TEST_CASE("configs with numbers beyond JSON load, and are saved with them") {
  Folder f;
  f.save();
  f.replace_in_config("\"tie_word_embeddings\"",
                      "\"limits\": [0.0, Infinity, NaN], \"tie_word_embeddings\"");
  const Model<float> model = f.load();
  const Scratch saved;
  save_model(f.scratch.path(), saved.path(), model.decoder);
  const Json config = read_json(saved.file("config.json"), python_json({}));
  CHECK(config.at("limits")[1].describe() == "Infinity");
  CHECK(config.at("limits")[2].describe() == "NaN");
  CHECK(same_logits(load_model<float>(saved.path()).decoder, model.decoder));
}

TEST_CASE("weights of 16 bits stay so, and count as the float values they stand for") {
  Folder f;
  std::vector<std::vector<half>> narrow_values;
  std::vector<std::vector<float>> widened;
  narrow_values.reserve(f.tensors.size());
  widened.reserve(f.tensors.size());
  Folder wide;
  for (std::size_t i = 0; i < f.tensors.size(); ++i) {
    const TensorView& t = f.source.at(f.tensors[i].name);
    narrow_values.push_back(t.to_vector<half>());
    widened.emplace_back();
    for (const half h : narrow_values.back()) widened.back().push_back(widen(h));
    const std::vector<Index> shape(t.shape.begin(), t.shape.end());
    f.tensors[i] = named_tensor(f.tensors[i].name, shape, narrow_values.back());
    wide.at(f.tensors[i].name) = named_tensor(f.tensors[i].name, shape, widened.back());
  }
  f.save();
  wide.save();
  const Model<float> model = f.load(), reference = wide.load();
  CHECK(same_logits(model.decoder, reference.decoder));
  CHECK(model.decoder.weight_bytes() < reference.decoder.weight_bytes() * 6 / 10);
  ModelOptions eight_bits;
  eight_bits.weights = WeightType::int8;
  const auto small = load_model<float>(wide.scratch.path(), eight_bits);
  CHECK(small.decoder.weight_bytes() < model.decoder.weight_bytes());
  const auto exact = reference.decoder.logits(ids, {}, {}),
             near = small.decoder.logits(ids, {}, {});
  CHECK((exact.eigen() - near.eigen()).cwiseAbs().maxCoeff() <
        0.1f * exact.eigen().cwiseAbs().maxCoeff());
}

TEST_CASE("an image encoder has weights and a precision of its own") {
  const std::string folder = (golden::repository_root() / "hf_qwen2_5_vl").string();
  const auto load = [&](const ModelOptions& options) { return load_model<float>(folder, options); };
  const auto tokens_of = [&](const Model<float>& model, Precision precision) {
    const VisionTower<float>& tower = *model.vision_tower;
    const VisionGrid grid{1, 4, 6};
    Matrix<float> patches(24, tower.config().patch_width()),
        tokens(6, tower.config().out_hidden_size);
    for (Index i = 0; i < patches.size(); ++i)
      patches.data()[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
    VisionTower<float>::Scratch scratch;
    tower.encode(patches, {&grid, 1}, tokens, scratch, Context{.precision = precision});
    return tokens;
  };
  const Model<float> native = load({.weights = WeightType::native}),
                     int8 = load({.weights = WeightType::int8}),
                     apart = load({.weights = WeightType::native,
                                   .encoder_weights = WeightType::int8,
                                   .encoder_precision = Precision::int8});
  CHECK(apart.decoder.weight_bytes() == native.decoder.weight_bytes());
  CHECK(same_logits(apart.decoder, native.decoder));
  CHECK(apart.vision_tower->weight_bytes() == int8.vision_tower->weight_bytes());
  CHECK(int8.vision_tower->weight_bytes() < native.vision_tower->weight_bytes());
  CHECK(!int8.vision_tower->precision());
  CHECK(apart.vision_tower->precision() == Precision::int8);
  const Matrix<float> rounded = tokens_of(int8, Precision::int8);
  CHECK(tokens_of(apart, Precision::full).eigen() == rounded.eigen());
  CHECK(tokens_of(int8, Precision::full).eigen() != rounded.eigen());
  const Model<float> exact = load({.weights = WeightType::int8,
                                   .encoder_weights = WeightType::native,
                                   .encoder_precision = Precision::full});
  CHECK(tokens_of(exact, Precision::int8).eigen() == tokens_of(native, Precision::full).eigen());
}

TEST_CASE("a patch encoder computes in the scalar, unless its own weights are asked for") {
  const std::string folder = (golden::repository_root() / "digits" / "casa").string();
  const auto tokens_of = [&](const ModelOptions& options) {
    const Model<float> model = load_model<float>(folder, options);
    const PatchEncoder<float>& encoder = *model.patch_encoder;
    CHECK(encoder.precision() == options.encoder_precision);
    Matrix<std::uint8_t> image(1, encoder.config().image_size * encoder.config().image_size);
    for (Index i = 0; i < image.size(); ++i)
      image.data()[i] = static_cast<std::uint8_t>(i * 37 % 256);
    Matrix<float> tokens(encoder.config().num_patches(), encoder.config().out_hidden_size);
    PatchEncoder<float>::Scratch scratch;
    encoder.encode(image, tokens, scratch, Context{});
    return tokens;
  };
  const Matrix<float> native = tokens_of({});
  CHECK(tokens_of({.weights = WeightType::int8}).eigen() == native.eigen());
  const Matrix<float> narrow = tokens_of({.encoder_weights = WeightType::int8});
  CHECK(narrow.eigen() != native.eigen());
  const Matrix<float> rounded =
      tokens_of({.encoder_weights = WeightType::int8, .encoder_precision = Precision::int8});
  CHECK(rounded.eigen() != narrow.eigen());
}

TEST_CASE("mapped files give the same model") {
  Folder f;
  f.save();
  ModelOptions mapped;
  mapped.files.map = true;
  CHECK(same_logits(load_model<float>(f.scratch.path(), mapped).decoder, f.load().decoder));
}

TEST_CASE("generation_config.json has the last word on where generation ends") {
  Folder f;
  f.save();
  CHECK(f.load().config.tokens.eos == std::vector<int>{2});
  f.scratch.write("generation_config.json", R"({"eos_token_id": [3, 4], "bos_token_id": null})");
  CHECK(f.load().config.tokens.eos == std::vector<int>{3, 4});
  CHECK(f.load().config.tokens.bos == 1);
  f.scratch.write("generation_config.json", R"({"eos_token_id": -1, "max_length": Infinity})");
  CHECK(f.load().config.tokens.eos.empty());
  f.scratch.write("generation_config.json", R"({"eos_token_id": null})");
  CHECK(f.load().config.tokens.eos == std::vector<int>{2});
  f.scratch.write("generation_config.json", R"({"eos_token_id": "x"})");
  CHECK(has(f.refusal(), "eos_token_id"));
  ModelOptions without;
  without.generation_config = false;
  CHECK(load_model<float>(f.scratch.path(), without).config.tokens.eos == std::vector<int>{2});
}

TEST_CASE("a projector from another encoder's embeddings comes with the model") {
  Folder f;
  Matrix<float> weight(64, 24);
  weight.fill(0.5f);
  f.tensors.push_back(named_tensor("image_projector.weight", weight));
  f.save();
  const Model<float> model = f.load();
  REQUIRE(model.image_projector.has_value());
  CHECK(model.image_projector->in_features() == 24);
  CHECK(model.image_projector->out_features() == 64);
}

TEST_CASE("a folder may be read by any number of models, whatever they hold weights as") {
  const ModelFolder folder(golden_model().string());
  const ModelOptions floats{.weights = WeightType::native};
  const Model<float> first = folder.load<float>(floats), second = folder.load<float>(floats);
  CHECK(same_logits(first.decoder, second.decoder));
  const Model<float> narrow = folder.load<float>({.weights = WeightType::bfloat16});
  CHECK(largest_logit(narrow.decoder) > 0);
  const Model<double> wide = folder.load<double>({});
  const RowMatrix<double> difference = wide.decoder.logits(ids, {}, {}).eigen() -
                                       first.decoder.logits(ids, {}, {}).eigen().cast<double>();
  CHECK(difference.cwiseAbs().maxCoeff() < 1e-3 * largest_logit(first.decoder));
}

TEST_CASE("a tensor of several pages is what it was after a model has been made of it") {
  const Folder f;
  const TensorView& embed = f.source.at("model.embed_tokens.weight");
  REQUIRE(embed.bytes.size() > 16384);
  const auto before = embed.to_vector<float>();
  const CheckpointWeights weights(f.source);
  for (int time = 0; time < 2; ++time) {
    const WeightSource source = weights.weights();
    WeightReader<float> reader(source, WeightType::native);
    const Matrix<float> read = reader.matrix({std::string(embed.name), embed.rows(), embed.cols()});
    CHECK(std::ranges::equal(std::span(read.data(), before.size()), before));
  }
  CHECK(embed.to_vector<float>() == before);
}

TEST_CASE("memory that the owner gave back is an error by name when it is read again") {
  const std::string path = (golden_model() / "model.safetensors").string();
  for (const bool map : {false, true}) {
    CAPTURE(map);
    SafeTensors file = read_safetensors(path, {.map = map, .limits = {}});
    const TensorView embed = file.at("model.embed_tokens.weight");  // a view of before
    const auto norm = file.at("model.norm.weight").to_vector<float>();
    file.give_back(embed);
    const std::string where = embed.where() + ": its memory was given back";
    CHECK(has(message_of([&] { embed.to_vector<float>(); }), where));
    CHECK(has(message_of([&] { embed.to_matrix<double>(); }), where));
    CHECK(has(message_of([&] { embed.as<float>(); }), where));
    CHECK(has(message_of([&] { named_tensor(file.at(embed.name)); }), where));
    const CheckpointWeights weights(file);
    const WeightSource source = weights.weights();
    WeightReader<float> reader(source, WeightType::native);
    CHECK(has(message_of([&] {
                reader.matrix({std::string(embed.name), embed.rows(), embed.cols()});
              }),
              where));
    CHECK(file.at("model.norm.weight").to_vector<float>() == norm);
  }
}

TEST_CASE("what others share is not given back") {
  SafeTensors file = read_safetensors((golden_model() / "model.safetensors").string());
  const TensorView embed = file.at("model.embed_tokens.weight");
  const auto before = embed.to_vector<float>();
  {
    const SafeTensors copy = file;
    CHECK(has(message_of([&] { file.give_back(embed); }), "2 copies"));
    CHECK(copy.at(embed.name).to_vector<float>() == before);
  }
  Checkpoint set(file);
  CHECK(has(message_of([&] { set.give_back(embed); }), "2 copies"));
  SafeTensors other = read_safetensors((golden_model() / "model.safetensors").string());
  CHECK(has(message_of([&] { other.give_back(embed); }), "does not hold it"));
  CHECK(embed.to_vector<float>() == before);
}

TEST_CASE(
    "load_model gives its files back: a folder given up is an error when it is loaded again") {
  ModelFolder folder(golden_model().string());
  const Model<float> first = std::move(folder).load<float>({});
  CHECK(has(message_of([&] { folder.load<float>({}); }), "its memory was given back"));
  CHECK(same_logits(first.decoder, load_model<float>(golden_model().string()).decoder));
}
