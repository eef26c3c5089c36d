// How do I write a history of my own: which images text still sees, and which are kept?
//
// A casa::VisibilityRule says what a row sees of each window and which windows are kept; fusion
// layers, decoders and captioners follow it, and nothing in the library is touched. The rule here:
// of the image before a word every token, of the two images before that the first token alone.
// Prints what each word of a stream of five images (A to E, 3 tokens each, 2 words behind each)
// sees by the rule and by three histories that the library has, and how many keys a stream that
// came word by word keeps.
#include <casa/casa.hpp>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

struct Summaries final : casa::VisibilityRule {
  casa::RuleSeen sees(const casa::RuleRow& row, const casa::RuleWindow& window) const override {
    if (window.number == row.window) return casa::RuleSeen::all(window);
    return {.images = {0, 1}};  // of an earlier window: its first image token, no text
  }
  bool keeps(casa::Index window, casa::Index newest) const override { return newest - window < 3; }
};

int main() {
  casa::StreamLayout stream;
  std::string order;  // the stream as it stands, a letter a token
  for (char image = 'A'; image <= 'E'; ++image) {
    stream.append_image(3);
    stream.append_text(2);
    order += std::string(3, image) + "ab";
  }
  // A layer that shows what it sees: every score is 0, and values are the tokens themselves, of
  // which each is 1 in a column of its own.
  const casa::Index tokens = stream.stream_len();
  using Matrix = casa::RowMatrix<float>;
  const Matrix zero = Matrix::Zero(tokens, tokens), unit = Matrix::Identity(tokens, tokens);
  Matrix words = Matrix::Zero(stream.text_len(), tokens);
  Matrix images = Matrix::Zero(stream.image_len(), tokens);
  for (const casa::Window& w : stream.windows()) {
    for (casa::Index i = w.text.begin; i < w.text.end; ++i) words(i, casa::text_place(w, i)) = 1;
    for (casa::Index j = w.image.begin; j < w.image.end; ++j)
      images(j, casa::image_place(w, j)) = 1;
  }
  const auto show = [&](const char* name, const casa::FusionConfig& fusion) {
    const auto piece = [](const Matrix& w) {
      return casa::LinearPiece{casa::MatrixView<const float>(w), {}};
    };
    const std::vector<casa::LinearPiece> qkv = {piece(zero), piece(zero), piece(unit)};
    casa::FusionLayerWeights<float> weights;
    weights.attention = {casa::Linear<float>(qkv), casa::Linear<float>(piece(unit))};
    weights.norm = casa::Buffer<float>(tokens);
    for (float& gain : weights.norm.span()) gain = 1;
    casa::FusionLayerConfig config;
    config.hidden_size = tokens;
    config.shape = {.num_heads = 1, .num_kv_heads = 1, .head_dim = tokens};
    config.fusion = fusion;
    config.fusion.image_rope = casa::ImageRope::off;
    const casa::FusionLayer<float> layer(config, std::move(weights));

    casa::FusionLayerState<float> state = layer.new_state();
    Matrix update(1, tokens);
    std::printf("%s\n", name);
    for (const casa::Window& w : stream.windows()) {
      if (w.image.size() > 0) layer.append_image(state, images.middleRows(w.image.begin, 3));
      for (casa::Index i = w.text.begin; i < w.text.end; ++i) {
        layer.append_text(state, words.middleRows(i, 1), update);
        std::string seen = order;
        for (casa::Index t = 0; t < tokens; ++t)
          if (std::abs(update(0, t)) < 1e-6f) seen[static_cast<std::size_t>(t)] = '.';
        std::printf("  %s  keeps %2td\n", seen.c_str(), state.num_keys());
      }
    }
  };
  casa::FusionConfig fusion = casa::presets::casa({});
  show("its window (CASA)", fusion);
  fusion.history = casa::History::last(2);
  show("the last two windows", fusion);
  fusion.history = casa::History::every(2);
  show("its window, and every second one", fusion);
  fusion.rule = std::make_shared<Summaries>();
  show("the rule: its window, and the first token of the two images before", fusion);
}
