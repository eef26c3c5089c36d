// How do I write a history of my own: which images text still sees, and which are kept?
//
// A casa::VisibilityRule says so; fusion layers, decoders and captioners follow it. The rule here:
// of the image before a word every token, of the two images before that the first token alone.
// Prints what each word of a stream of five images (A to E, 3 tokens each, 2 words after each) sees
// by the rule and by three histories of the library, and how many keys are kept then.
#include <casa/casa.hpp>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

struct Summaries final : casa::VisibilityRule {
  casa::RuleSeen sees(const casa::RuleRow& row, const casa::RuleWindow& window) const override {
    if (window.number == row.window) return casa::RuleSeen::all(window);
    return {.images = {0, 1}};  // of an earlier window: its first image token, no text
  }
  bool keeps(casa::Index window, casa::Index newest) const override { return newest - window < 3; }
};

void show(const char* name, const casa::FusionConfig& fusion) {
  const std::string stream = "AAAabBBBabCCCabDDDabEEEab";  // a letter a token, capitals of images
  const casa::Index tokens = std::ssize(stream);
  // Shows what it sees: scores are 0, and values the tokens, each of which is 1 in its own column.
  casa::RowMatrix<float> zero(tokens, tokens), unit(tokens, tokens), update(1, tokens);
  zero.setZero(), unit.setIdentity();
  const std::vector<casa::LinearPiece> qkv = {{zero}, {zero}, {unit}};
  casa::FusionLayerWeights<float> weights;
  weights.attention = {casa::Linear<float>(qkv), casa::Linear<float>(casa::LinearPiece{unit})};
  weights.norm = casa::Buffer<float>(tokens);
  for (float& gain : weights.norm.span()) gain = 1;
  const casa::FusionLayer<float> layer(
      {.hidden_size = tokens, .shape = {1, 1, tokens}, .fusion = fusion}, std::move(weights));

  casa::FusionLayerState<float> state = layer.new_state();
  std::printf("%s\n", name);
  for (casa::Index token = 0; token < tokens; ++token) {
    if (token % 5 == 0) layer.append_image(state, unit.middleRows(token, 3));
    if (token % 5 < 3) continue;
    layer.append_text(state, unit.row(token), update);
    std::string seen = stream;
    for (casa::Index t = 0; t < tokens; ++t)
      if (update(0, t) == 0) seen[static_cast<std::size_t>(t)] = '.';
    std::printf("  %s  keeps %2td\n", seen.c_str(), state.num_keys());
  }
}

int main() {
  casa::FusionConfig fusion = casa::presets::casa({});
  fusion.image_rope = casa::ImageRope::off;
  show("its window (CASA)", fusion);
  fusion.history = casa::History::last(2);
  show("the last two windows", fusion);
  fusion.history = casa::History::every(2);
  show("its window, and every second one", fusion);
  fusion.rule = std::make_shared<Summaries>();
  show("the rule: its window, and the first token of the two images before", fusion);
}
