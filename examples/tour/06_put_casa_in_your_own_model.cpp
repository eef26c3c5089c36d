// How do I put a CASA layer into a model of my own?
//
// A FusionLayer takes its weights as matrices (nothing is loaded) and gives the update that images
// make to the text; the model adds it where it likes. Prints the updates (the first four of 16
// columns) of 5 words in a stream of two images of 4 tokens, 3 words after the first and 2 after
// the second: of the whole stream at once, as in training, and whether they are the same where
// image and words come one by one and a cache holds the window's keys.
#include <casa/casa.hpp>

#include <iomanip>
#include <iostream>
#include <utility>
#include <vector>

using Matrix = casa::RowMatrix<float>;
constexpr casa::Index kHidden = 16, kHeads = 4, kKvHeads = 2, kHeadDim = 8;

Matrix numbers(casa::Index rows, casa::Index cols, casa::Index step) {
  return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
    return static_cast<float>((step * (r * cols + c)) % 101) / 200 - 0.25f;
  });
}

casa::FusionLayer<float> make_layer() {
  // Weights as checkpoints hold them, (out x in): y = W x. Here they would come from your own code.
  const Matrix wq = numbers(kHeads * kHeadDim, kHidden, 29), wo = numbers(kHidden, wq.rows(), 37);
  const Matrix wk = numbers(kKvHeads * kHeadDim, kHidden, 31), wv = numbers(wk.rows(), kHidden, 41);
  const std::vector<casa::LinearPiece> qkv = {{wq}, {wk}, {wv}};
  casa::FusionLayerWeights<float> weights;
  weights.attention = {casa::Linear<float>(qkv), casa::Linear<float>(casa::LinearPiece{wo})};
  weights.norm = casa::Buffer<float>(kHidden);
  for (float& gain : weights.norm.span()) gain = 1;
  // What the layer computes is CASA unless config.fusion says otherwise.
  return {{.hidden_size = kHidden, .shape = {kHeads, kKvHeads, kHeadDim}}, std::move(weights)};
}

int main() {
  const casa::FusionLayer<float> layer = make_layer();
  const Matrix images = numbers(8, kHidden, 17), words = numbers(5, kHidden, 59);
  casa::StreamLayout stream;
  for (const casa::Index words_after : {3, 2})
    stream.append_image(4), stream.append_text(words_after);
  Matrix update(words.rows(), kHidden);
  layer.forward(stream, words, images, update);
  std::cout << std::fixed << std::setprecision(3) << update.leftCols(4) << '\n';

  casa::FusionLayerState<float> state = layer.new_state();
  Matrix one_by_one(words.rows(), kHidden);
  for (const casa::Window& window : stream.windows()) {
    if (window.image.size() > 0)
      layer.append_image(state, images.middleRows(window.image.begin, window.image.size()));
    for (casa::Index i = window.text.begin; i < window.text.end; ++i)
      layer.append_text(state, words.row(i), one_by_one.row(i));
  }
  const float difference = (one_by_one - update).cwiseAbs().maxCoeff();
  std::cout << "token by token: " << (difference < 1e-5f ? "the same" : "another result") << '\n'
            << "keys held in the end: " << state.num_keys() << '\n';
}
