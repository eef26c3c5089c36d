#include "casa/checkpoint/convert_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

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

constexpr WeightType kInt8 = WeightType::int8;

std::string golden_folder(const char* name) { return (golden::repository_root() / name).string(); }
ModelOptions held_as(WeightType type) {
  ModelOptions o;
  o.weights = type;
  return o;
}

// A folder in 8 bits whose tensors can be changed before they are written.
struct Eight {
  Scratch scratch;
  SafeTensors source;
  std::vector<NamedTensor> tensors;

  explicit Eight(const char* name = "hf_qwen2") : source(converted(name)) {
    for (const TensorView& t : source.tensors()) tensors.push_back(named_tensor(t));
  }
  NamedTensor& at(std::string_view name) {
    return *std::ranges::find(tensors, name, &NamedTensor::name);
  }
  // The values of a tensor, to be changed; valid until another's are asked for.
  template <class S>
  std::vector<S>& values(std::string_view name, std::vector<S>& store) {
    NamedTensor& t = at(name);
    store = source.at(name).to_vector<S>();
    t.bytes = std::as_bytes(std::span(store));
    return store;
  }
  std::string refusal(const ModelOptions& options = {}) const {
    write_safetensors(scratch.file("model.safetensors"), tensors);
    return message_of([&] { load_model<float>(scratch.path(), options); });
  }

 private:
  SafeTensors converted(const char* name) const {
    convert_model(golden_folder(name), scratch.path(), held_as(kInt8));
    return read_safetensors(scratch.file("model.safetensors"));
  }
};

const char* const q_proj = "model.layers.1.self_attn.q_proj.weight";
const char* const q_scale = "model.layers.1.self_attn.q_proj.weight_scale";

}  // namespace

TEST_CASE("a folder in 8 bits gives the bits of the folder it was made from, held in 8 bits") {
  for (const char* name : {"hf_qwen2", "hf_qwen2_bf16", "hf_helium", "casa_llama", "hf_qwen2_5_vl",
                           "casa_qwen2_5_vl", "casa_helium_replace"}) {
    CAPTURE(name);
    const Scratch out;
    convert_model(golden_folder(name), out.path(), held_as(kInt8));
    const Model<float> expected = load_model<float>(golden_folder(name), held_as(kInt8));
    for (const bool map : {false, true}) {
      ModelOptions unset;
      unset.files.map = map;
      const Model<float> model = load_model<float>(out.path(), unset);
      CHECK(model.decoder.weight_bytes() == expected.decoder.weight_bytes());
      CHECK(same_bits(logits(model), logits(expected)));
      CHECK(same_bits(seen(model), seen(expected)));
      CHECK(model.config.tokens.eos == expected.config.tokens.eos);
    }
    // 8 bits, and 16 for each 32 of them; what is no matrix stays as it is.
    const ModelFolder before(golden_folder(name)), after(out.path());
    for (const TensorView& t : after.files().files()[0].tensors()) {
      if (t.dtype != DType::I8) continue;
      const TensorView& scales = after.files().at(std::string(t.name) + "_scale");
      const Index cols = t.count() / t.shape[0];
      CHECK(scales.count() == t.shape[0] * ((cols + 31) / 32));
      CHECK(before.files().at(t.name).count() == t.count());
    }
    CHECK(after.files().data_bytes() < before.files().data_bytes());
  }
}

TEST_CASE("what is 8 bits is copied, or becomes its values, in whatever type is asked for") {
  const Eight eight;
  const Scratch again, wide, narrow;
  convert_model(eight.scratch.path(), again.path(), held_as(kInt8));
  CHECK(again.read("model.safetensors") == eight.scratch.read("model.safetensors"));
  convert_model(eight.scratch.path(), wide.path(), held_as(WeightType::native));
  CHECK(same_bits(logits(load_model<float>(wide.path())),
                  logits(load_model<float>(eight.scratch.path(), held_as(WeightType::native)))));
  convert_model(eight.scratch.path(), narrow.path(), held_as(WeightType::bfloat16));
  CHECK(same_bits(logits(load_model<float>(narrow.path())),
                  logits(load_model<float>(eight.scratch.path(), held_as(WeightType::bfloat16)))));
  // Loading rounds weights of other types alike, whatever they were.
  const Scratch half_floats;
  convert_model(golden_folder("hf_qwen2"), half_floats.path(), held_as(WeightType::half));
  CHECK(same_bits(logits(load_model<float>(half_floats.path())),
                  logits(load_model<float>(golden_folder("hf_qwen2"), held_as(WeightType::half)))));
}

TEST_CASE("a decoder held in 8 bits is saved as it is held") {
  const Eight eight;
  const Scratch saved;
  save_model(eight.scratch.path(), saved.path(), load_model<float>(eight.scratch.path()).decoder);
  const SafeTensors file = read_safetensors(saved.file("model.safetensors"));
  for (const TensorView& t : eight.source.tensors()) {
    CAPTURE(t.name);
    const TensorView& other = file.at(t.name);
    if (t.dtype != DType::I8 && !t.name.ends_with("_scale")) continue;
    CHECK(other.dtype == t.dtype);
    CHECK(std::ranges::equal(other.bytes, t.bytes));
  }
  CHECK(same_bits(logits(load_model<float>(saved.path())),
                  logits(load_model<float>(eight.scratch.path()))));
}

TEST_CASE("8-bit tensors that are not such are refused by name") {
  {
    Eight f;
    std::erase_if(f.tensors, [](const NamedTensor& t) { return t.name == q_scale; });
    CHECK(has(f.refusal(), casa::text("missing \"", q_scale, "\" [64, 2]")));
  }
  {
    Eight f;
    std::erase_if(f.tensors, [](const NamedTensor& t) { return t.name == q_proj; });
    CHECK(has(f.refusal(), casa::text("missing \"", q_proj, "\"")));
    CHECK(has(f.refusal(), casa::text("unexpected \"", q_scale, "\"")));
  }
  {
    Eight f;
    f.at(q_scale).shape = {2, 64};
    CHECK(has(f.refusal(), casa::text("\"", q_scale, "\": expected [64, 2], got [2, 64]")));
  }
  {
    Eight f;
    f.at(q_scale).dtype = DType::F16;
    CHECK(has(f.refusal(), casa::text("\"", q_scale, "\": expected BF16, got F16")));
  }
  {
    Eight f;
    f.at(q_proj).dtype = DType::U8;
    CHECK(has(f.refusal(), casa::text("\"", q_proj, "\": expected F32, F64, F16 or BF16, got U8")));
  }
  {
    Eight f;  // a vector has no 8 bits
    NamedTensor& norm = f.at("model.norm.weight");
    std::vector<std::int8_t> ones(64, 1);
    norm.dtype = DType::I8;
    norm.bytes = std::as_bytes(std::span(ones));
    CHECK(has(f.refusal(), "\"model.norm.weight\": expected F32, F64, F16 or BF16, got I8"));
  }
  for (const int bits : {0x7f80, 0x7fc0, 0xbf80, 0x8000}) {  // inf, NaN, -1, -0
    CAPTURE(bits);
    Eight f;
    std::vector<bfloat16> scales;
    f.values(q_scale, scales)[63 * 2 + 1].bits = static_cast<std::uint16_t>(bits);
    for (const WeightType type : {kInt8, WeightType::native})
      CHECK(has(f.refusal(held_as(type)),
                casa::text("tensor \"", q_scale, "\": scale 1 of row 63 is ")));
  }
  {
    Eight f;
    std::vector<std::int8_t> steps;
    f.values(q_proj, steps)[3 * 64 + 63] = -128;
    CHECK(has(f.refusal(), casa::text("tensor \"", q_proj, "\": row 3 has a step of -128")));
    steps[3 * 64 + 63] = -127;
    CHECK(f.refusal().empty());
  }
}

TEST_CASE("head and embedding of the same steps are one tensor only with the same scales") {
  Eight f;
  const std::string embed = "model.embed_tokens.weight";
  for (const char* part : {"", "_scale"}) {
    f.tensors.push_back(f.at(embed + part));
    f.tensors.back().name = std::string("lm_head.weight") + part;
  }
  CHECK(f.refusal().empty());
  CHECK(load_model<float>(f.scratch.path()).config.decoder.tie_word_embeddings);
  std::vector<bfloat16> scales;
  scales = f.source.at(embed + "_scale").to_vector<bfloat16>();
  ++scales[5].bits;
  f.at("lm_head.weight_scale").bytes = std::as_bytes(std::span(scales));
  CHECK(f.refusal().empty());
  const Model<float> apart = load_model<float>(f.scratch.path());
  CHECK_FALSE(apart.config.decoder.tie_word_embeddings);
  CHECK(apart.decoder.weights().lm_head.type() == kInt8);
}

TEST_CASE("a folder is not converted onto itself, nor what 8 bits cannot hold at all") {
  const Scratch out, own;
  for (const char* file : {"config.json", "model.safetensors"})
    std::filesystem::copy_file(golden_folder("hf_qwen2") + "/" + file, own.file(file));
  const std::string before = own.read("model.safetensors");
  CHECK(has(message_of([&] { convert_model(own.path(), own.path() + "/.", held_as(kInt8)); }),
            "is the folder that is converted"));
  CHECK(own.read("model.safetensors") == before);
  CHECK(has(message_of([&] { convert_model(own.path(), out.path(), {}); }),
            "ModelOptions::weights is not set"));
  out.write("model.safetensors.index.json", "{}");
  CHECK(has(message_of([&] { convert_model(own.path(), out.path(), held_as(kInt8)); }),
            "model.safetensors.index.json: is in the way"));

  const SafeTensors source = read_safetensors(own.file("model.safetensors"));
  std::vector<NamedTensor> tensors;
  std::vector<float> values = source.at(q_proj).to_vector<float>();
  values[2 * 64 + 7] = std::numeric_limits<float>::infinity();
  for (const TensorView& t : source.tensors()) {
    tensors.push_back(named_tensor(t));
    if (t.name == q_proj) tensors.back() = named_tensor(q_proj, {64, 64}, values);
  }
  std::filesystem::permissions(own.file("model.safetensors"), std::filesystem::perms::owner_all);
  write_safetensors(own.file("model.safetensors"), tensors);
  const Scratch bad;
  CHECK(has(message_of([&] { convert_model(own.path(), bad.path(), held_as(kInt8)); }),
            casa::text("tensor \"", q_proj, "\": row 2 has the value inf, which int8")));
  CHECK(bad.list().empty());
}
