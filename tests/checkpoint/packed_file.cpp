#include "casa/checkpoint/packed_file.hpp"

#include <doctest/doctest.h>

#include <filesystem>

#include "casa/checkpoint/convert_model.hpp"
#include "golden.hpp"
#include "support/messages.hpp"
#include "support/model_outputs.hpp"
#include "support/scratch.hpp"

using namespace casa;
using namespace casa::io;
using casa_test::logits;
using casa_test::same_bits;
using casa_test::seen;

namespace {

// A copy of a model folder and the file that its weights are kept in.
struct Kept {
  Scratch scratch;
  std::string file = scratch.file("weights.packed");

  explicit Kept(const char* name = "hf_qwen2") {
    for (const char* part : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(golden::repository_root() / name / part, scratch.file(part));
      std::filesystem::permissions(scratch.file(part), std::filesystem::perms::owner_all);
    }
  }
  ModelOptions options(WeightType type, bool map = false) const {
    ModelOptions o;
    o.weights = type;
    o.files.map = map;
    o.packed_file = file;
    return o;
  }
  Model<float> load(WeightType type, bool map = false) const {
    return load_model<float>(scratch.path(), options(type, map));
  }
  Model<float> plain(WeightType type) const {
    ModelOptions o;
    o.weights = type;
    return load_model<float>(scratch.path(), o);
  }
  std::string refusal(WeightType type) const {
    return message_of([&] { load(type); });
  }
  std::string bytes() const { return scratch.read("weights.packed"); }
  void write(const std::string& content) const { scratch.write("weights.packed", content); }
};

}  // namespace

TEST_CASE("weights from the file that kept them are those that were packed, bit for bit") {
  for (const char* name : {"hf_qwen2", "hf_helium", "casa_qwen2_5_vl", "casa_helium_replace"})
    for (const WeightType type :
         {WeightType::native, WeightType::bfloat16, WeightType::half, WeightType::int8}) {
      CAPTURE(name);
      CAPTURE(static_cast<int>(type));
      const Kept kept(name);
      const Model<float> expected = kept.plain(type);
      CHECK(same_bits(logits(kept.load(type)), logits(expected)));  // makes it
      const std::string made = kept.bytes();
      for (const bool map : {false, true}) {
        const Model<float> model = kept.load(type, map);
        CHECK(same_bits(logits(model), logits(expected)));
        CHECK(same_bits(seen(model), seen(expected)));
        CHECK(model.decoder.weight_bytes() == expected.decoder.weight_bytes());
      }
      // The same weights make the same file, without a byte left to chance.
      std::filesystem::remove(kept.file);
      kept.load(type);
      CHECK(kept.bytes() == made);
    }
}

TEST_CASE("the weights of such a file are used, and live as long as the model") {
  const Kept kept;
  kept.load(WeightType::int8);
  const SafeTensors file = read_safetensors(kept.file);
  // Another embedding under the same key, with a hash that fits.
  std::vector<std::byte> other(file.at("model.embed_tokens.weight").bytes.begin(),
                               file.at("model.embed_tokens.weight").bytes.end());
  for (std::size_t i = 0; i < 64; ++i) other[i] ^= std::byte{1};  // scales
  PackedParts parts;
  for (const TensorView& t : file.tensors()) {
    const bool changed = t.name == "model.embed_tokens.weight";
    const std::byte* data = changed ? other.data() : t.bytes.data();
    parts.emplace(t.name, PackedBytes{{std::shared_ptr<void>(), data}, t.count()});
  }
  write_packed_file(kept.file, file.metadata().find("casa.packed")->second, parts);
  const Model<float> expected = kept.plain(WeightType::int8);
  for (const bool map : {false, true}) {
    const Model<float> model = kept.load(WeightType::int8, map);
    std::filesystem::rename(kept.file, kept.scratch.file("moved"));
    CHECK_FALSE(same_bits(logits(model), logits(expected)));
    std::filesystem::rename(kept.scratch.file("moved"), kept.file);
  }
}

TEST_CASE("a file that does not fit is made anew: other values, another type, another processor") {
  const Kept kept;
  kept.load(WeightType::int8);
  const std::string of_int8 = kept.bytes();
  CHECK(same_bits(logits(kept.load(WeightType::native)), logits(kept.plain(WeightType::native))));
  CHECK(kept.bytes() != of_int8);
  CHECK(load_model<double>(kept.scratch.path(), kept.options(WeightType::native))
            .decoder.weight_bytes() > 0);
  CHECK(same_bits(logits(kept.load(WeightType::int8)), logits(kept.plain(WeightType::int8))));
  CHECK(kept.bytes() == of_int8);

  // The model's file changes, in place and without a change of its size.
  const SafeTensors source = read_safetensors(kept.scratch.file("model.safetensors"));
  std::string model = kept.scratch.read("model.safetensors");
  const auto at = static_cast<std::size_t>(
      reinterpret_cast<const char*>(source.at("model.embed_tokens.weight").bytes.data()) -
      reinterpret_cast<const char*>(source.tensors()[0].bytes.data()));
  const std::size_t data = model.size() - static_cast<std::size_t>(source.data_bytes());
  for (std::size_t i = 0; i < 400; ++i) model[data + at + 4 * i + 3] ^= '\x80';  // signs
  const Matrix<float> before = logits(kept.plain(WeightType::int8));
  kept.scratch.write("model.safetensors", model);
  CHECK_FALSE(same_bits(logits(kept.plain(WeightType::int8)), before));
  CHECK(same_bits(logits(kept.load(WeightType::int8)), logits(kept.plain(WeightType::int8))));
  CHECK(kept.bytes() != of_int8);

  // Another layout, or version.
  std::string foreign = kept.bytes();
  const std::size_t key = foreign.find("\"casa.packed\":\"1 4 ");
  REQUIRE(key != std::string::npos);
  char& digit = foreign[key + 20];
  digit = digit == '0' ? '1' : '0';
  kept.write(foreign);
  CHECK(same_bits(logits(kept.load(WeightType::int8)), logits(kept.plain(WeightType::int8))));
  CHECK(kept.bytes() != foreign);
}

TEST_CASE("a file of other weights of the image encoder does not fit") {
  for (const char* name : {"casa_qwen2_5_vl", "digits/casa"}) {
    CAPTURE(name);
    const Kept kept(name);
    kept.load(WeightType::bfloat16);
    const std::string before = kept.bytes();
    ModelOptions options = kept.options(WeightType::bfloat16);
    options.encoder_weights = WeightType::int8;
    const auto model = load_model<float>(kept.scratch.path(), options);
    CHECK(kept.bytes() != before);
    options.packed_file.clear();
    const auto expected = load_model<float>(kept.scratch.path(), options);
    if (model.vision_tower) CHECK(same_bits(seen(model), seen(expected)));
  }
}

TEST_CASE("a damaged file and one that is something else are refused and left alone") {
  const Kept kept;
  kept.load(WeightType::int8);
  const std::string good = kept.bytes();
  for (const std::size_t at : {std::size_t{1}, good.size() / 2}) {
    std::string bad = good;
    bad[bad.size() - at] ^= 4;
    kept.write(bad);
    CHECK(has(kept.refusal(WeightType::int8), "packed weights are damaged: their hash is "));
    CHECK(kept.bytes() == bad);
  }
  kept.write(good.substr(0, good.size() - 1));
  CHECK(has(kept.refusal(WeightType::int8), kept.file));
  const std::string model = kept.scratch.read("model.safetensors");
  kept.write(model);
  CHECK(has(kept.refusal(WeightType::int8), "is no file of packed weights"));
  CHECK(kept.bytes() == model);

  ModelOptions nowhere = kept.options(WeightType::int8);
  nowhere.packed_file = kept.scratch.file("none/weights.packed");
  CHECK(has(message_of([&] { load_model<float>(kept.scratch.path(), nowhere); }),
            "none/weights.packed: cannot create"));
  const Checkpoint memory(SafeTensors(Bytes(model), "memory"));
  CHECK(has(message_of([&] {
              load_model<float>(kept.scratch.read("config.json"), memory,
                                kept.options(WeightType::int8));
            }),
            "cannot be kept of a model in memory"));
}

TEST_CASE("steps and scales that nobody may have are found before they are packed and kept") {
  const Kept kept;
  const Scratch eight;
  ModelOptions int8;
  int8.weights = WeightType::int8;
  convert_model(kept.scratch.path(), eight.path(), int8);
  const SafeTensors file = read_safetensors(eight.file("model.safetensors"));
  std::vector<NamedTensor> tensors;
  std::vector<bfloat16> scales = file.at("model.embed_tokens.weight_scale").to_vector<bfloat16>();
  scales[0].bits = 0x7fc0;
  for (const TensorView& t : file.tensors()) {
    tensors.push_back(named_tensor(t));
    if (t.name == "model.embed_tokens.weight_scale")
      tensors.back().bytes = std::as_bytes(std::span(scales));
  }
  write_safetensors(eight.file("model.safetensors"), tensors);
  ModelOptions keeping;
  keeping.packed_file = eight.file("weights.packed");
  CHECK(has(message_of([&] { load_model<float>(eight.path(), keeping); }),
            "\"model.embed_tokens.weight_scale\": scale 0 of row 0 is nan"));
  CHECK_FALSE(std::filesystem::exists(keeping.packed_file));
}
