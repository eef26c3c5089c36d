// A small random model and a stream of random frames, for tests of captioners.
#pragma once

#include "casa/generate/captioner.hpp"
#include "model/random_model.hpp"

namespace captioner_test {

using casa::Index;

constexpr Index kImageTokens = 5;
constexpr int kStop = 2;

template <class T>
struct Stage {
  model_test::RandomWeights weights{11};
  casa::DecoderConfig config = [] {
    casa::DecoderConfig c = model_test::small_config(2);
    c.fusion = casa::presets::casa_before({0, 1});
    return c;
  }();
  casa::Decoder<T> model{config, weights.source()};
  casa::Matrix<T> frames = model_test::random_matrix<T>(40 * kImageTokens, config.hidden_size, 3);

  casa::MatrixView<const T> frame(Index i) const {
    return frames.view().middle_rows(i % 40 * kImageTokens, kImageTokens);
  }
};

inline casa::CaptionerOptions small_options(std::uint64_t seed = 1) {
  casa::CaptionerOptions o;
  o.max_new_tokens = 6;
  o.sampling.temperature = 1;
  o.sampling.top_k = 12;
  o.sampling.seed = seed;
  o.repetition.penalty = 1.3;
  o.ngrams = {.size = 3, .window = 20};
  o.stop_ids = {kStop, 17, 23};
  o.before_image = {5};
  o.after_image = {7, 8};
  o.state = {.text_window = 24, .sinks = 4, .horizon = 60};
  return o;
}

/// Captions of frames [begin, end).
template <class T>
std::vector<std::vector<int>> captions(casa::Captioner<T>& captioner, const Stage<T>& stage,
                                       Index begin, Index end) {
  std::vector<std::vector<int>> all;
  for (Index i = begin; i < end; ++i) {
    captioner.push_frame(stage.frame(i));
    const auto ids = captioner.caption();
    all.emplace_back(ids.begin(), ids.end());
  }
  return all;
}

}  // namespace captioner_test
