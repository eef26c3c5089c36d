// The naive token-insertion baseline, and what the rungs of the ladder have in common with it.
#include <doctest/doctest.h>

#include "random_model.hpp"
#include "support/difference.hpp"

using namespace casa;
using model_test::RandomWeights;

namespace {

using Dense = RowMatrix<double>;

struct InsertionTwins {
  DecoderConfig config;
  RandomWeights weights;
  std::vector<int> ids;
  Matrix<double> images;

  InsertionTwins(Index layers, unsigned seed, Index text = 14, Index image_tokens = 9)
      : config(model_test::small_config(layers)),
        weights(seed),
        ids(model_test::random_ids(text, config.vocab_size, seed)),
        images(model_test::random_matrix<double>(image_tokens, config.hidden_size, seed)) {}

  Dense insertion(std::span<const Insertion> insertions,
                  const NaiveTokenInsertion::Mask& mask = {}) {
    const NaiveTokenInsertion naive(config, [&](const TensorSpec& spec) -> Dense {
      const Matrix<float>& m = weights.get(spec);
      if (spec.cols == 0) return m.eigen().transpose().cast<double>();
      return m.eigen().cast<double>();
    });
    return naive.logits(ids, insertions, images.eigen(), mask);
  }
  Matrix<double> with(const std::optional<FusionConfig>& fusion,
                      std::span<const Insertion> insertions) {
    config.fusion = fusion;
    return Decoder<double>(config, weights.source()).logits(ids, insertions, images);
  }
  static void check_equal(const Matrix<double>& actual, const Dense& expected) {
    CHECK(casa_test::largest_difference(actual.eigen(), expected) <=
          1e-11 * casa_test::largest(expected));
  }
};

}  // namespace

TEST_CASE("with D1..D5 switched on, CASA is token insertion") {
  for (unsigned seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    InsertionTwins f(3, seed);
    const std::vector<Insertion> insertions{{2, 3}, {2, 1}, {7, 0}, {9, 3}, {14, 2}};
    f.check_equal(f.with(presets::token_insertion({0, 1, 2}), insertions), f.insertion(insertions));
  }
}

TEST_CASE("one image that stands first: the window is all of history") {
  InsertionTwins f(3, 3);
  const std::vector<Insertion> first{{0, 9}};
  FusionConfig window = presets::token_insertion({0, 1, 2});
  window.history = History::window;
  f.check_equal(f.with(window, first), f.insertion(first));
  // An image further on begins a window that forgets what came before: no longer the same.
  const std::vector<Insertion> later{{4, 9}};
  const auto differs = f.with(window, later);
  CHECK(casa_test::largest_difference(differs.eigen(), f.insertion(later)) > 1e-3);
}

TEST_CASE("a stream without images is plain causal text, for every placement") {
  InsertionTwins f(2, 4, 14, 0);
  const Dense causal = f.insertion({});
  f.check_equal(f.with(std::nullopt, {}), causal);
  f.check_equal(f.with(presets::token_insertion({0, 1}), {}), causal);
  FusionConfig replace = presets::casa_replace({0, 1});
  replace.parameters = Sharing::shared;  // window 0 is the whole text
  f.check_equal(f.with(replace, {}), causal);
}

TEST_CASE("text rows of one CASA layer are insertion restricted to the window") {
  for (unsigned seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    InsertionTwins f(1, seed);
    const std::vector<Insertion> insertions{{2, 3}, {2, 1}, {7, 0}, {9, 3}, {14, 2}};
    FusionConfig casa = presets::casa_replace({0});
    casa.parameters = Sharing::shared;
    casa.image_rope = ImageRope::stream;
    // The window of every place of the stream.
    const StreamLayout layout(14, insertions);
    std::vector<Index> window;
    for (Index w = 0; w < static_cast<Index>(layout.windows().size()); ++w)
      window.insert(
          window.end(),
          static_cast<std::size_t>(layout.window(w).text.size() + layout.window(w).image.size()),
          w);
    const auto same_window = [&](Index row, Index key) {
      return window[static_cast<std::size_t>(row)] == window[static_cast<std::size_t>(key)];
    };
    f.check_equal(f.with(casa, insertions), f.insertion(insertions, same_window));
  }
}

TEST_CASE("what each variant keeps in its caches as images arrive") {
  constexpr Index image_tokens = 16, text = 5, layers = 2;
  auto config = model_test::small_config(layers);
  const Index token =
      2 * config.num_key_value_heads * config.head_dim * Index{sizeof(float)} * layers;
  const auto image = model_test::random_matrix<float>(image_tokens, config.hidden_size, 1);
  const auto ids = model_test::random_ids(text, config.vocab_size, 1);
  const Insertion insertion{0, image_tokens};
  const auto all = model_test::all_layers(layers);
  RandomWeights weights(1);
  const auto check_grows = [&](const FusionConfig& fusion, auto tokens_after) {
    config.fusion = fusion;
    const Decoder<float> model(config, weights.source());
    auto state = model.new_state();
    Matrix<float> logits(1, config.vocab_size);
    const Context context;
    for (Index n = 1; n <= 6; ++n) {
      model.forward({&state, ids, {&insertion, 1}, image}, logits, context);
      CHECK(state.cache_bytes() == token * tokens_after(n));
    }
  };
  check_grows(presets::casa(all), [](Index n) { return n * text + (image_tokens + text); });
  check_grows(presets::casa_replace(all), [](Index) { return image_tokens + text; });
  check_grows(presets::cross_attention(all), [](Index n) { return n * text + image_tokens; });
  check_grows(presets::token_insertion(all), [](Index n) { return n * (text + image_tokens); });
}
