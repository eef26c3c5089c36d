// What does one more frame cost under a variant?
//
// Prints, for CASA and for token insertion, the bytes held after 24 frames of 64 image tokens and 5
// words and the time of the second frame and of the last one: the median of five streams, as one
// measurement may have met another program. bench/streaming does the same at the size of real
// models. (What stands before " ms" is not compared with the expected text.)
#include <casa/casa.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

int main() {
  casa::DecoderConfig config;
  config.hidden_size = 128;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 32;
  config.intermediate_size = 256;
  config.vocab_size = 100;
  casa::Matrix<float> noise(config.intermediate_size, config.intermediate_size);
  for (casa::Index i = 0; i < noise.size(); ++i)
    noise.data()[i] = static_cast<float>(i * 7919 % 1000) / 5000 - 0.1f;
  const casa::WeightSource source{.get = [&](const casa::TensorSpec& t) {
    return casa::MatrixView<const float>(noise.data(), t.cols == 0 ? 1 : t.rows,
                                         t.cols == 0 ? t.rows : t.cols);
  }};

  const casa::Context context;  // one thread
  casa::Matrix<float> frame(64, config.hidden_size), logits(1, config.vocab_size);
  frame.eigen() = noise.eigen().topLeftCorner(frame.rows(), frame.cols());
  const casa::Insertion image{.position = 0, .num_tokens = frame.rows()};
  const std::array<int, 5> words = {1, 2, 3, 4, 5};
  const auto measure = [&](const char* name, const casa::FusionConfig& variant) {
    config.fusion = variant;
    const casa::Decoder<float> decoder(config, source);
    std::array<double, 5> second, last;
    casa::Index bytes = 0;
    for (std::size_t repeat = 0; repeat < last.size(); ++repeat) {
      casa::DecoderState<float> stream = decoder.new_state();
      for (int f = 1; f <= 24; ++f) {
        const auto begin = std::chrono::steady_clock::now();
        decoder.forward({&stream, words, {&image, 1}, frame}, logits, context);
        const std::chrono::duration<double, std::milli> took =
            std::chrono::steady_clock::now() - begin;
        if (f == 2) second[repeat] = took.count();
        last[repeat] = took.count();
      }
      bytes = stream.cache_bytes();
    }
    std::ranges::sort(second), std::ranges::sort(last);
    std::printf("%-16s %7td bytes, frame 2: %.3f ms, frame 24: %.3f ms\n", name, bytes, second[2],
                last[2]);
  };
  measure("casa", casa::presets::casa({0, 1}));
  measure("token_insertion", casa::presets::token_insertion({0, 1}));
}
