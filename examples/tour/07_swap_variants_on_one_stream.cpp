// What changes when the same stream goes through CASA, cross-attention or token insertion?
//
// The variants are values of one config, so that one decoder runs them all. Prints the bytes of
// keys and values that each preset holds after 1, 2, 3 and 4 frames of 64 image tokens and 5 words:
// images stay in the caches of token insertion alone. (The weights are made up; the caches do not
// depend on their values.)
#include <casa/casa.hpp>

#include <array>
#include <cstdio>
#include <utility>

int main() {
  casa::DecoderConfig config;
  config.hidden_size = 64;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 128;
  config.vocab_size = 100;

  // A source gives every tensor that the config needs by its name and shape: all the same noise
  // here.
  casa::Matrix<float> noise(config.intermediate_size, config.intermediate_size);
  for (casa::Index i = 0; i < noise.size(); ++i)
    noise.data()[i] = static_cast<float>(i * 7919 % 1000) / 1000 - 0.5f;
  const casa::WeightSource source{.get = [&](const casa::TensorSpec& t) {
    return casa::MatrixView<const float>(noise.data(), t.cols == 0 ? 1 : t.rows,
                                         t.cols == 0 ? t.rows : t.cols);
  }};

  const casa::Context context;
  casa::Matrix<float> frame(64, config.hidden_size), no_logits;
  frame.fill(1);
  const casa::Insertion image{.position = 0, .num_tokens = frame.rows()};
  const std::array<int, 5> words = {1, 2, 3, 4, 5};
  const std::pair<const char*, casa::FusionConfig (*)(std::vector<int>)> variants[] = {
      {"casa", casa::presets::casa},
      {"casa_before", casa::presets::casa_before},
      {"casa_shared", casa::presets::casa_shared},
      {"casa_replace", casa::presets::casa_replace},
      {"cross_attention", casa::presets::cross_attention},
      {"token_insertion", casa::presets::token_insertion}};
  std::printf("%-16s bytes after each frame\n", "variant");
  for (const auto& [name, preset] : variants) {
    config.fusion = preset({0, 1});  // in both blocks
    const casa::Decoder<float> decoder(config, source);
    casa::DecoderState<float> stream = decoder.new_state();
    std::printf("%-16s", name);
    for (int f = 0; f < 4; ++f) {
      decoder.forward({&stream, words, {&image, 1}, frame, {}, casa::LogitRows::none}, no_logits,
                      context);
      std::printf(" %7td", stream.cache_bytes());
    }
    std::printf("\n");
  }
}
