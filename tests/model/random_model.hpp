// Small decoders with random weights, and random streams to feed them.
#pragma once

#include <cmath>
#include <map>
#include <random>
#include <string>

#include "casa/model/decoder.hpp"
#include "support/naive_token_insertion.hpp"

namespace model_test {

using casa::Index;

/// Weights by name, N(0, 1 / cols) (norms around 1), the same for a name whatever the config asks
/// besides.
class RandomWeights {
 public:
  explicit RandomWeights(unsigned seed) : seed_(seed) {}

  casa::WeightSource source() {
    return {[this](const casa::TensorSpec& spec) -> casa::StoredView { return get(spec); }};
  }

  /// A vector is 1 x rows.
  const casa::Matrix<float>& get(const casa::TensorSpec& spec) {
    const auto [at, is_new] = tensors_.try_emplace(spec.name);
    if (!is_new) return at->second;
    casa::Matrix<float> m(spec.cols == 0 ? 1 : spec.rows, spec.cols == 0 ? spec.rows : spec.cols);
    std::mt19937 random(seed_ + static_cast<unsigned>(std::hash<std::string>{}(spec.name)));
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(m.cols())));
    const bool norm = spec.name.find("norm") != std::string::npos;
    for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal(random) + (norm ? 1.0f : 0.0f);
    return at->second = std::move(m);
  }

 private:
  unsigned seed_;
  std::map<std::string, casa::Matrix<float>> tensors_;
};

inline casa::DecoderConfig small_config(Index layers = 2) {
  casa::DecoderConfig c;
  c.hidden_size = 24;
  c.num_hidden_layers = layers;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 6;
  c.intermediate_size = 40;
  c.vocab_size = 31;
  c.attention_bias = true;
  return c;
}

inline std::vector<int> all_layers(Index layers) {
  std::vector<int> v;
  for (Index l = 0; l < layers; ++l) v.push_back(static_cast<int>(l));
  return v;
}

inline std::vector<int> random_ids(Index count, Index vocab_size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> ids;
  for (Index i = 0; i < count; ++i)
    ids.push_back(std::uniform_int_distribution<int>(0, static_cast<int>(vocab_size) - 1)(random));
  return ids;
}

template <class T>
casa::Matrix<T> random_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<T> normal(0, 1);
  casa::Matrix<T> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

template <class T>
casa::Decoder<T> random_decoder(const casa::DecoderConfig& config, unsigned seed) {
  RandomWeights weights(seed);
  return casa::Decoder<T>(config, weights.source());
}

/// A small CASA model that reads frames: an image of 4 tokens and a token of text, then 9 more.
/// Warm when new: as many frames as fill its text window were read.
class FrameReader {
 public:
  FrameReader() {
    for (int frame = 0; frame < 20; ++frame) read_frame();
  }
  void read_frame() {
    model_.forward({&state_, token_, {&image_, 1}, images_}, logits_, context_);
    for (int i = 0; i < 9; ++i) model_.forward({&state_, token_}, logits_, context_);
  }

 private:
  static casa::DecoderConfig config() {
    casa::DecoderConfig c = small_config();
    c.fusion = casa::presets::casa_before({0, 1});
    return c;
  }
  casa::Decoder<float> model_ = random_decoder<float>(config(), 3);
  casa::Matrix<float> images_ = random_matrix<float>(4, config().hidden_size, 3);
  casa::DecoderState<float> state_ = model_.new_state({.text_window = 32});
  casa::Matrix<float> logits_{1, config().vocab_size};
  casa::Context context_;
  std::vector<int> token_{7};
  casa::Insertion image_{0, 4};
};

}  // namespace model_test
