// A decoder into a model folder: next to the rest of the folder it came from, or its fusion alone.
#pragma once

#include <deque>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/checkpoint/quantized_rows.hpp"
#include "casa/checkpoint/safetensors_writer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What is written: every tensor of the model, or only those that fusion added to the base (a
/// folder to be loaded on top of it: ModelOptions::fusion_folder).
enum class SavedTensors { all, fusion_only };

namespace detail {

/// The weights of a decoder as tensors under their names, in the type that is computed in; 16-bit
/// and 8-bit weights as they are held, so that nothing is lost.
template <Scalar T>
class DecoderTensors {
 public:
  DecoderTensors(const Decoder<T>& decoder, const KeyPrefixes& prefixes) {
    const DecoderWeights<T>& w = decoder.weights();
    DecoderSpec spec =
        decoder_spec(decoder.config(), std::string(prefixes.text), std::string(prefixes.head));
    spec.embed_tokens.rows = w.embed.out_features();
    add({spec.embed_tokens, {}}, w.embed, 0);
    for (std::size_t i = 0; i < spec.blocks.size(); ++i) add(spec.blocks[i], w.blocks[i]);
    add(spec.norm, w.norm.span());
    if (spec.lm_head) add({*spec.lm_head, {}}, w.lm_head, 0);
  }

  std::vector<NamedTensor> take() { return std::move(tensors_); }
  /// Names of what fusion has of its own.
  const std::set<std::string, std::less<>>& of_fusion() const { return of_fusion_; }

 private:
  void add(const BlockSpec& s, const BlockWeights<T>& b) {
    if (s.input_norm) add(*s.input_norm, b.input_norm.span());
    if (s.self_attention) add(*s.self_attention, b.self_attention);
    add(s.post_attention_norm, b.post_attention_norm.span());
    add(s.mlp.gate, b.mlp.gate_up(), 0);
    add(s.mlp.up, b.mlp.gate_up(), 1);
    add(s.mlp.down, b.mlp.down(), 0);
    const std::size_t before = tensors_.size();
    if (s.fusion_norm) add(*s.fusion_norm, b.fusion_norm.span());
    if (s.fusion_attention) add(*s.fusion_attention, b.fusion_attention);
    if (s.fusion_gate) add(*s.fusion_gate, std::span<const T>(&b.fusion_gate, 1));
    if (s.token_gate) add(*s.token_gate, b.token_gate.span());
    for (std::size_t i = before; i < tensors_.size(); ++i) of_fusion_.insert(tensors_[i].name);
  }
  void add(const AttentionSpec& s, const AttentionWeights<T>& a) {
    add(s.q, a.qkv, 0);
    add(s.k, a.qkv, 1);
    add(s.v, a.qkv, 2);
    add(s.o, a.o, 0);
  }
  void add(const TensorSpec& s, std::span<const T> values) {
    tensors_.push_back(named_tensor<T>(s.name, s.shape(), values));
  }
  void add(const LinearSpec& s, const Linear<T>& linear, Index piece) {
    const Index begin = linear.piece_begin(piece), end = linear.piece_begin(piece + 1);
    if (linear.type() == WeightType::bfloat16)
      add_rows<bfloat16>(s.weight, linear, begin, end);
    else if (linear.type() == WeightType::half)
      add_rows<half>(s.weight, linear, begin, end);
    else if (linear.type() == WeightType::int8)
      add_steps(s.weight, linear, begin, end);
    else
      add_rows<T>(s.weight, linear, begin, end);
    if (s.bias)
      add(*s.bias, linear.bias().subspan(static_cast<std::size_t>(begin),
                                         static_cast<std::size_t>(end - begin)));
  }
  void add_steps(const TensorSpec& s, const Linear<T>& linear, Index begin, Index end) {
    QuantizedRows rows(s);
    for (Index r = begin; r < end; ++r)
      linear.unpack_row(r, rows.steps.row(r - begin), rows.scales.row(r - begin));
    rows.append_to(tensors_);
    quantized_.push_back(std::move(rows));
  }
  template <Storage S>
  void add_rows(const TensorSpec& s, const Linear<T>& linear, Index begin, Index end) {
    const Index cols = linear.in_features(), bytes = (end - begin) * cols * Index{sizeof(S)};
    Buffer<std::byte>& own = owned_.emplace_back(bytes);
    S* to = static_cast<S*>(static_cast<void*>(own.data()));
    Buffer<T> row(cols);
    for (Index r = begin; r < end; ++r) {
      linear.unpack_row(r, row.data());
      for (Index c = 0; c < cols; ++c) *to++ = narrow<S>(row[c]);
    }
    tensors_.push_back({s.name, dtype_of<S>(), s.shape(), own.span()});
  }

  std::vector<NamedTensor> tensors_;
  std::deque<Buffer<std::byte>> owned_;
  std::deque<QuantizedRows> quantized_;
  std::set<std::string, std::less<>> of_fusion_;
};

/// The object of `config` with `fusion` in place of what it said of fusion.
inline std::string config_with_fusion(const Json& config,
                                      const std::optional<FusionConfig>& fusion) {
  JsonWriter w(2);
  w.begin_object();
  for (const auto& [key, value] : config.items())
    if (key != "fusion") w.key(key).value(value);
  if (fusion) {
    w.key("fusion");
    write_fusion(w, *fusion);
  }
  return w.end_object().str() + "\n";
}

}  // namespace detail

/// Writes `decoder`, which came from `base_folder` (by load_model, perhaps add_fusion and
/// training), into `folder` (made if it is not there): model.safetensors and config.json. With
/// SavedTensors::all also what else the base holds (its vision tower), so that the folder stands
/// alone. casa::error if the base does not load or a file cannot be written; each file is written
/// whole or not at all.
template <Scalar T>
void save_model(const std::string& base_folder, const std::string& folder,
                const Decoder<T>& decoder, SavedTensors saved = SavedTensors::all) {
  const ModelFolder base(base_folder);
  require(base.report().ok(), base_folder, ": does not load, so nothing is saved on top of it");
  const Json config = read_json(base_folder + "/config.json", python_json({}));
  detail::DecoderTensors<T> own(decoder, base.prefixes());
  std::vector<NamedTensor> tensors = own.take();
  if (saved == SavedTensors::fusion_only) {
    std::erase_if(tensors, [&](const NamedTensor& t) { return !own.of_fusion().contains(t.name); });
  } else {
    std::set<std::string, std::less<>> written = own.of_fusion();
    for (const NamedTensor& t : tensors) written.insert(t.name);
    const std::string layers = std::string(base.prefixes().text) + "layers.";
    for (const std::string_view name : base.files().names())
      if (!written.contains(name) && !name.starts_with(layers) && name != base.prefixes().head)
        tensors.push_back(named_tensor(base.files().at(name)));
  }
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  require(!code, folder, ": cannot make the folder: ", code.message());
  write_safetensors(folder + "/model.safetensors", std::move(tensors), {{"format", "pt"}});
  write_file(folder + "/config.json", detail::config_with_fusion(config, decoder.config().fusion));
}

}  // namespace io
CASA_NAMESPACE_END
