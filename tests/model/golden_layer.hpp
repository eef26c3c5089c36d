// Fusion layers of the golden set layer/.
#pragma once

#include <string>
#include <utility>

#include "casa/checkpoint/fusion_config.hpp"
#include "casa/model/fusion_layer.hpp"
#include "golden_model.hpp"

namespace golden {

inline casa::AttentionSpec layer_attention(const Case& c, Index hidden_size,
                                           const casa::AttentionShape& shape) {
  const auto d = c.description();
  return casa::attention_spec("weight.attn", hidden_size, shape, d.at("bias").as_bool(),
                              d.at("out_bias").as_bool());
}

template <class T>
casa::FusionLayer<T> fusion_layer(const Case& c) {
  using namespace casa;
  const auto d = c.description();
  FusionLayerConfig config;
  config.hidden_size = d.at("hidden_size").as_int();
  config.shape = {d.at("n_heads").as_int(), d.at("n_kv_heads").as_int(), d.at("head_dim").as_int()};
  config.rms_norm_eps = d.at("rms_norm_eps").as_number();
  config.rope.theta = d.at("rope_theta").as_number();
  config.rope.style = io::detail::from_name(d.at("rope_style"), io::detail::rope_style_names);
  config.fusion.image_rope =
      io::detail::from_name(d.at("image_rope"), io::detail::image_rope_names);
  config.fusion.keys = d.at("layer").as_string() == "ca" ? Keys::image : Keys::image_text;
  config.fusion.gate = d.at("gate").as_bool() ? Gate::tanh : Gate::none;

  io::CheckpointWeights source(c.file);
  const WeightSource weights = source.weights();
  WeightReader<T> read(weights, WeightType::native);
  FusionLayerWeights<T> w;
  w.norm = read.vector({"weight.norm.weight", config.hidden_size, 0});
  w.attention = read.attention(layer_attention(c, config.hidden_size, config.shape));
  if (config.fusion.gate == Gate::tanh) w.gate = read.vector({"weight.attn.gate", 1, 0})[0];
  return {config, std::move(w)};
}

}  // namespace golden
