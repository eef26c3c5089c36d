#include "casa/vision/patch_encoder_backward.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "support/messages.hpp"

using namespace casa;

namespace {

PatchEncoderConfig small_encoder(Index image = 6, Index patch = 3) {
  return {.image_size = image,
          .patch_size = patch,
          .hidden_size = 8,
          .num_hidden_layers = 2,
          .num_attention_heads = 2,
          .intermediate_size = 12,
          .out_hidden_size = 5,
          .rms_norm_eps = 1e-5};
}

template <class T>
struct EncoderProblem {
  explicit EncoderProblem(std::uint64_t seed, PatchEncoderConfig c = small_encoder(),
                          Index count = 3)
      : config(c),
        parameters(tensor_specs(patch_encoder_spec(c))),
        images(count, c.image_size * c.image_size),
        d_tokens(count * c.num_patches(), c.out_hidden_size) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    for (T& v : parameters.values()) v = static_cast<T>(0.5 * normal(random));
    for (Index i = 0; i < images.size(); ++i)
      images.data()[i] = static_cast<std::uint8_t>(random());
    for (Index i = 0; i < d_tokens.size(); ++i) d_tokens.data()[i] = static_cast<T>(normal(random));
  }
  PatchEncoder<T> encoder() const { return PatchEncoder<T>(config, parameters.source()); }
  T loss() const {
    Matrix<T> tokens(d_tokens.rows(), d_tokens.cols());
    typename PatchEncoder<T>::Scratch scratch;
    encoder().encode(images, tokens, scratch, {});
    return tokens.view().eigen().cwiseProduct(d_tokens.view().eigen()).sum();
  }
  void add(TensorSet<T>& gradients, const Context& context = {},
           Activations kept = Activations::recompute) const {
    PatchEncoderGradient<T>(config, gradients, "vision.", kept)
        .add(encoder(), images, d_tokens, context);
  }

  PatchEncoderConfig config;
  TensorSet<T> parameters;
  Matrix<std::uint8_t> images;
  Matrix<T> d_tokens;
};

template <class T>
bool same_bits(const TensorSet<T>& a, const TensorSet<T>& b) {
  return std::memcmp(a.values().data(), b.values().data(), a.values().size_bytes()) == 0;
}

}  // namespace

TEST_CASE("gradients of a patch encoder are the slopes of its outputs") {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    CAPTURE(seed);
    EncoderProblem<double> p(seed);
    TensorSet<double> gradients(p.parameters.specs());
    p.add(gradients);
    double largest = 0;
    for (const double g : gradients.values()) largest = (std::max)(largest, std::abs(g));
    // Central differences: the error of the slope is of the order of step^2 and of 1e-16 / step.
    constexpr double step = 1e-5;
    for (std::size_t i = 0; i < p.parameters.values().size(); ++i) {
      CAPTURE(i);
      double& value = p.parameters.values()[i];
      const double at = value;
      value = at + step;
      const double above = p.loss();
      value = at - step;
      const double below = p.loss();
      value = at;
      REQUIRE(std::abs((above - below) / (2 * step) - gradients.values()[i]) <= 1e-6 * largest);
    }
  }
}

TEST_CASE_TEMPLATE("gradients are added, with the same bits for any threads and activations", T,
                   float, double) {
  // Enough patches that threads share the work.
  const EncoderProblem<T> p(5, small_encoder(24, 3), 9);
  TensorSet<T> once(p.parameters.specs()), other(p.parameters.specs());
  p.add(once);
  p.add(other, {}, Activations::keep);
  CHECK(same_bits(once, other));
  ThreadPool pool(3);
  const Context context{.executor = pool};
  other.fill(T(0));
  p.add(other, context);
  CHECK(same_bits(once, other));
  // On top of 1 each sum begins elsewhere: it is as large as a sum of 576 rows may round.
  other.fill(T(1));
  p.add(other);
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  double largest = 0;
  for (const T g : once.values()) largest = (std::max)(largest, std::abs(static_cast<double>(g)));
  for (std::size_t i = 0; i < once.values().size(); ++i)
    REQUIRE(std::abs(static_cast<double>(other.values()[i]) - 1 -
                     static_cast<double>(once.values()[i])) <= 576 * eps * (1 + largest));
}

TEST_CASE_TEMPLATE("what is frozen has no gradient and changes no other", T, float, double) {
  const EncoderProblem<T> p(6);
  TensorSet<T> all(p.parameters.specs());
  p.add(all);
  const auto specs = p.parameters.specs();
  for (const char* part :
       {"vision.pos_embed", "vision.proj.bias", "vision.layers.1.mlp.up_proj.weight",
        "vision.norm.weight", "vision.patch_embed.bias"}) {
    CAPTURE(part);
    const TensorSet<T> like = all;
    TensorSet<T> one({specs[static_cast<std::size_t>(like.find(part))]});
    p.add(one);
    const MatrixView<const T> expected = like[like.find(part)];
    if (std::string(part).ends_with(".bias")) {  // summed by another loop
      for (Index c = 0; c < expected.cols(); ++c)
        CHECK(std::abs(static_cast<double>(one[0](0, c) - expected(0, c))) <=
              36 * static_cast<double>(std::numeric_limits<T>::epsilon()) * 36);
    } else {
      CHECK(one[0].eigen() == expected.eigen());
    }
  }
}

TEST_CASE("what does not fit is refused, and no gradient is touched") {
  const EncoderProblem<float> p(7);
  TensorSet<float> gradients(p.parameters.specs());
  PatchEncoderGradient<float> gradient(p.config, gradients);
  const auto add = [&](const PatchEncoder<float>& encoder, MatrixView<const std::uint8_t> images,
                       MatrixView<const float> d) {
    const std::string m = message_of([&] { gradient.add(encoder, images, d, {}); });
    for (const float g : gradients.values()) CHECK(g == 0);
    return m;
  };
  const EncoderProblem<float> other(7, small_encoder(6, 2));
  CHECK(has(add(other.encoder(), p.images, p.d_tokens), "of another config"));
  CHECK(has(add({}, p.images, p.d_tokens), "of another config, or has no weights"));
  CHECK(has(add(p.encoder(), p.images.view().middle_rows(0, 2), p.d_tokens),
            "rows of d_tokens: expected 8, got 12"));
  CHECK(has(add(p.encoder(), p.images.view().middle_cols(0, 9), p.d_tokens),
            "pixels of an image: expected 36, got 9"));
  CHECK(has(add(p.encoder(), p.images, p.d_tokens.view().middle_cols(0, 4)),
            "columns of d_tokens: expected 5, got 4"));
  TensorSet<float> wrong({{"vision.pos_embed", 2, 2}});
  CHECK(has(message_of([&] { PatchEncoderGradient<float>(p.config, wrong); }),
            "vision.pos_embed: expected 4 x 8 values, got 2 x 2"));
}
