// How do I get the gradients of a CASA layer?
//
// Weights and their gradients are two sets of the same tensors; the layer is made from the first,
// and a FusionLayerGradient adds to the second. Prints the length of each gradient of the loss,
// half the square of what the layer adds to 5 words, and whether a small step against the gradients
// of the weights lowers it by what they say: the step times the square of their length.
#include <casa/casa.hpp>

#include <cmath>
#include <cstdio>

using Matrix = casa::RowMatrix<double>;
constexpr casa::Index kHidden = 16;

Matrix numbers(casa::Index rows, casa::Index cols, casa::Index step) {
  return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
    return static_cast<double>((step * (r * cols + c)) % 101) / 200 - 0.25;
  });
}

int main() {
  const casa::FusionLayerConfig config{.hidden_size = kHidden, .shape = {4, 2, 8}};
  const casa::FusionLayerSpec spec = casa::fusion_layer_spec(config);
  casa::TensorSet<double> weights(casa::tensor_specs(spec)), gradients(weights.specs());
  for (casa::Index i = 0; i < weights.size(); ++i)
    weights[i].eigen() = numbers(weights[i].rows(), weights[i].cols(), 29 + 2 * i);

  casa::StreamLayout stream;  // two images of 4 tokens, 3 words after the first, 2 after the second
  for (const casa::Index words_after : {3, 2})
    stream.append_image(4), stream.append_text(words_after);
  const Matrix images = numbers(8, kHidden, 17), words = numbers(5, kHidden, 59);
  Matrix update(5, kHidden), d_words(5, kHidden), d_images(8, kHidden);
  const auto make_layer = [&] {
    const casa::WeightSource source = weights.source();
    casa::WeightReader<double> read(source, casa::WeightType::native);
    casa::FusionLayerWeights<double> w;
    w.attention = read.attention(spec.attention);
    w.norm = read.vector(spec.norm);
    return casa::FusionLayer<double>(config, std::move(w));
  };
  const auto loss = [&] {
    make_layer().forward(stream, words, images, update);
    return update.squaredNorm() / 2;
  };

  const double before = loss();
  casa::FusionLayerGradient<double> gradient(spec, gradients);
  gradient.add(make_layer(), stream, words, images, update, d_words, d_images);  // d_out = update
  for (casa::Index i = 0; i < gradients.size(); ++i)
    std::printf("%-20s %.5f\n", gradients.specs()[static_cast<std::size_t>(i)].name.c_str(),
                gradients[i].eigen().norm());
  std::printf("%-20s %.5f\n%-20s %.5f\n", "words", d_words.norm(), "images", d_images.norm());

  const double step = 1e-6;
  double square = 0;
  for (std::size_t i = 0; i < gradients.values().size(); ++i) {
    weights.values()[i] -= step * gradients.values()[i];
    square += gradients.values()[i] * gradients.values()[i];
  }
  std::printf("a step lowers the loss by %.4f of what is said\n",
              (before - loss()) / (step * square));
}
