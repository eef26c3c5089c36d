// The digit readers: their shapes, how they begin, and the folder that other programs load.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <numbers>
#include <numeric>
#include <string>
#include <vector>

#include "casa/checkpoint/fusion_config.hpp"
#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/checkpoint/training_checkpoint.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/model/tensor_set.hpp"
#include "casa/vision/patch_encoder.hpp"
#include "support/digit_reader.hpp"
#include "train_digits/compose.hpp"

namespace digits {

/// The names of the ways to look at pictures that are compared.
inline const std::vector<std::string> kVariants = {"casa", "cross_attention", "token_insertion"};

/// A decoder with its image encoder, as in tests/golden/digits.
struct Shapes {
  casa::DecoderConfig decoder;
  casa::PatchEncoderConfig encoder;
};

inline Shapes shapes(const std::string& variant) {
  Shapes s;
  casa::DecoderConfig& d = s.decoder;
  d.hidden_size = 128;
  d.num_hidden_layers = 4;
  d.num_attention_heads = 4;
  d.num_key_value_heads = 2;
  d.head_dim = 32;
  d.intermediate_size = 256;
  d.vocab_size = 16;
  d.rms_norm_eps = 1e-5;
  std::vector<int> layers(static_cast<std::size_t>(d.num_hidden_layers));
  std::iota(layers.begin(), layers.end(), 0);
  d.fusion = variant == "casa"              ? casa::presets::casa_before(layers)
             : variant == "cross_attention" ? casa::presets::cross_attention(layers)
                                            : casa::presets::token_insertion(layers);
  s.encoder = {.image_size = kSide,
               .patch_size = 4,
               .hidden_size = 64,
               .num_hidden_layers = 2,
               .num_attention_heads = 4,
               .intermediate_size = 128,
               .out_hidden_size = d.hidden_size,
               .rms_norm_eps = 1e-5};
  return s;
}

/// All tensors of a reader: all are trained.
inline std::vector<casa::TensorSpec> reader_specs(const Shapes& s) {
  std::vector<casa::TensorSpec> specs = casa::tensor_specs(casa::decoder_spec(s.decoder));
  for (casa::TensorSpec& spec : casa::tensor_specs(casa::patch_encoder_spec(s.encoder)))
    specs.push_back(std::move(spec));
  return specs;
}

/// Where a training begins. Norms are 1, biases 0; matrices are normal, of variance 1 / columns
/// (embeddings and positions 0.3^2), those that add to the residual stream smaller by the root of
/// how many do. A tensor's values follow from the seed and its name: the variants begin alike as
/// far as they are alike.
inline casa::TensorSet<float> initial_parameters(const Shapes& shapes, std::uint64_t seed) {
  casa::TensorSet<float> set(reader_specs(shapes));
  for (Index i = 0; i < set.size(); ++i) {
    const casa::TensorSpec& spec = set.specs()[static_cast<std::size_t>(i)];
    const casa::MatrixView<float> values = set[i];
    if (spec.cols == 0) {
      values.eigen().setConstant(spec.name.ends_with(".bias") ? 0.0f : 1.0f);
      continue;
    }
    std::uint64_t name = 0xcbf29ce484222325u;  // FNV-1a
    for (const char c : spec.name) name = (name ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    casa::Random random = casa::random_of(seed, name);
    const bool table = spec.name.find("embed_tokens") != std::string::npos ||
                       spec.name.find("pos_embed") != std::string::npos;
    const bool adds = spec.name.find("o_proj") != std::string::npos ||
                      spec.name.find("down_proj") != std::string::npos;
    const auto blocks =
        static_cast<double>(spec.name.starts_with("vision.") ? shapes.encoder.num_hidden_layers
                                                             : shapes.decoder.num_hidden_layers);
    const double deviation =
        table ? 0.3 : std::sqrt(1 / (static_cast<double>(spec.cols) * (adds ? 3 * blocks : 1)));
    for (Index v = 0; v < values.rows() * values.cols(); ++v) {  // Box and Muller
      const double radius = std::sqrt(-2 * std::log(1 - random.uniform())),
                   angle = 2 * std::numbers::pi * random.uniform();
      values.data()[v] = static_cast<float>(deviation * radius * std::cos(angle));
    }
  }
  return set;
}

/// config.json of a reader.
inline std::string config_text(const Shapes& s) {
  const casa::DecoderConfig& d = s.decoder;
  const casa::PatchEncoderConfig& e = s.encoder;
  casa::io::JsonWriter w(1);
  w.begin_object();
  w.member("model_type", "casa_digits").member("hidden_size", d.hidden_size);
  w.member("num_hidden_layers", d.num_hidden_layers);
  w.member("num_attention_heads", d.num_attention_heads);
  w.member("num_key_value_heads", d.num_key_value_heads).member("head_dim", d.head_dim);
  w.member("intermediate_size", d.intermediate_size).member("vocab_size", d.vocab_size);
  w.member("rms_norm_eps", d.rms_norm_eps).member("rope_theta", d.rope.theta);
  w.member("rope_style", "half").member("attention_bias", d.attention_bias);
  w.member("attention_out_bias", d.attention_out_bias).member("mlp_bias", d.mlp_bias);
  w.member("tie_word_embeddings", d.tie_word_embeddings).member("image_tokens", e.num_patches());
  w.key("vocab").begin_array();
  for (int digit = 0; digit < 10; ++digit) w.value(std::to_string(digit));
  for (const char* name : {"/", ";", ">", "<pad>", "<unused0>", "<unused1>"}) w.value(name);
  w.end_array().key("vision_config").begin_object();
  w.member("image_size", e.image_size).member("patch_size", e.patch_size);
  w.member("hidden_size", e.hidden_size).member("num_hidden_layers", e.num_hidden_layers);
  w.member("num_attention_heads", e.num_attention_heads);
  w.member("intermediate_size", e.intermediate_size).member("rms_norm_eps", e.rms_norm_eps);
  w.end_object().key("fusion");
  casa::io::write_fusion(w, *d.fusion);
  return w.end_object().str() + "\n";
}

/// Writes a model folder, for read_digits, caption_stream, inspect and load_model.
inline void save_reader(const std::string& folder, const Shapes& shapes,
                        const casa::TensorSet<float>& parameters) {
  casa::io::write_safetensors(folder + "/model.safetensors", casa::io::named_tensors(parameters),
                              {{"format", "pt"}});
  casa::io::write_file(folder + "/config.json", config_text(shapes));
  casa::io::write_file(
      folder + "/captioner.json",
      "{\"opening\": \">\", \"stop\": \";\", \"closing\": \";\", \"max_new_tokens\": 20,\n"
      " \"temperature\": 0, \"top_k\": 0, \"eos_bias\": 1, \"repetition_penalty\": 1,\n"
      " \"ngram_size\": 0, \"text_window\": 40, \"sinks\": 0, \"horizon\": 70}\n");
}

/// The reader of these parameters, which are copied.
inline program::Reader make_reader(const std::string& name, const Shapes& shapes,
                                   const casa::TensorSet<float>& parameters,
                                   casa::WeightType type = casa::WeightType::native) {
  program::Reader r{name, {}, program::kDigitSpelling};
  r.model.decoder = casa::Decoder<float>(shapes.decoder, parameters.source(), type);
  r.model.patch_encoder.emplace(shapes.encoder, parameters.source(), type);
  return r;
}

}  // namespace digits
