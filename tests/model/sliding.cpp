#include "casa/model/sliding.hpp"

#include <doctest/doctest.h>

#include "random_model.hpp"
#include "support/allocations.hpp"

using namespace casa;
using model_test::all_layers;
using model_test::random_decoder;
using model_test::random_ids;
using model_test::random_matrix;
using model_test::RandomWeights;

namespace {

DecoderConfig sliding_config(Index window, std::vector<int> layers) {
  DecoderConfig c = model_test::small_config(3);
  c.sliding_window = window;
  c.sliding_layers = std::move(layers);
  return c;
}

}  // namespace

TEST_CASE("what a sliding row sees are the kept keys within its window, whatever was forgotten") {
  for (const Index sinks : {0, 1, 3})
    for (const Index gap : {0, 1, 2, 9})
      for (const Index end : {1, 2, 5, 8})
        for (const Index window : {1, 2, 3, 4, 6, 7, 10, 14, 30}) {
          CAPTURE(sinks);
          CAPTURE(gap);
          CAPTURE(end);
          CAPTURE(window);
          if (gap > 0 && end <= sinks) continue;  // nothing is forgotten before the sinks are full
          const auto place = [&](Index key) { return key < sinks ? key : key + gap; };
          Index begin = end;
          while (begin > 0 && place(end - 1) - place(begin - 1) < window) --begin;
          CHECK(detail::slide({0, end}, window, sinks, gap) == Interval{begin, end});
        }
}

TEST_CASE("images as tokens of the stream slide with it: the naive decoder under the same mask") {
  const Index text = 14;
  const std::vector<Insertion> insertions{{0, 3}, {4, 2}, {9, 4}, {14, 1}};
  for (const Index window : {1, 2, 5, 9, 40}) {
    CAPTURE(window);
    DecoderConfig config = sliding_config(window, all_layers(3));
    config.fusion = presets::token_insertion(all_layers(3));
    RandomWeights weights(4);
    const Decoder<double> model(config, weights.source());
    const auto ids = random_ids(text, config.vocab_size, 4);
    const auto images = random_matrix<double>(10, config.hidden_size, 4);
    DecoderConfig plain = config;
    plain.sliding_layers.clear();
    const NaiveTokenInsertion naive(plain, [&](const TensorSpec& spec) {
      const RowMatrix<double> m = weights.get(spec).eigen().cast<double>();
      return spec.cols == 0 ? RowMatrix<double>(m.transpose()) : m;
    });
    const auto expected = naive.logits(ids, insertions, images.eigen(),
                                       [&](Index i, Index j) { return i - j < window; });
    const auto whole = model.logits(ids, insertions, images);
    CHECK((whole.eigen() - expected).cwiseAbs().maxCoeff() <= 1e-11);

    // The same in chunks, the caches going on.
    auto state = model.new_state();
    Matrix<double> logits(text, config.vocab_size);
    Index image = 0;
    for (Index begin = 0; begin < text;) {
      const Index count = std::min<Index>(text - begin, begin == 0 ? 4 : begin == 4 ? 5 : 1);
      std::vector<Insertion> here;
      Index images_here = 0;
      for (const Insertion& at : insertions)
        if (at.position >= begin && at.position < begin + count) {
          here.push_back({at.position - begin, at.num_tokens});
          images_here += at.num_tokens;
        }
      model.forward(
          {&state,
           std::span(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
           here,
           images.view().middle_rows(image, images_here),
           {},
           LogitRows::all},
          logits.view().middle_rows(begin, count), {});
      image += images_here;
      begin += count;
    }
    CHECK((logits.eigen() - whole.eigen()).cwiseAbs().maxCoeff() <= 1e-12);
  }
}

TEST_CASE("a fusion beside self-attention has its own history: the window is self-attention's") {
  const std::vector<Insertion> insertions{{0, 3}};
  for (const Placement placement : {Placement::before, Placement::parallel, Placement::replace}) {
    DecoderConfig config = sliding_config(1, {0});
    config.num_hidden_layers = 1;
    config.fusion = presets::casa({0});
    config.fusion->placement = placement;
    const auto ids = random_ids(6, config.vocab_size, 2);
    const auto images = random_matrix<double>(3, config.hidden_size, 2);
    auto changed = images;
    changed.row(0)[0] += 1;
    const auto model = random_decoder<double>(config, 5);
    const auto a = model.logits(ids, insertions, images),
               b = model.logits(ids, insertions, changed);
    const double difference = (a.eigen() - b.eigen()).row(5).cwiseAbs().maxCoeff();
    CHECK((difference == 0) == (placement == Placement::replace));
  }
}

TEST_CASE("streams of other lengths in one pass turn with frequencies of their own") {
  DecoderConfig config = model_test::small_config(2);
  config.rope.scaling = DynamicScaling{3, 8};
  const auto model = random_decoder<double>(config, 6);
  const auto ids = random_ids(20, config.vocab_size, 6);
  const std::vector<Index> lengths{5, 20, 12, 9};
  std::vector<DecoderState<double>> states;
  for (std::size_t s = 0; s < lengths.size(); ++s) states.push_back(model.new_state());
  std::vector<StreamInput<double>> inputs;
  for (std::size_t s = 0; s < lengths.size(); ++s)
    inputs.push_back({&states[s], std::span(ids).first(static_cast<std::size_t>(lengths[s]))});
  Matrix<double> together(4, config.vocab_size), alone(1, config.vocab_size);
  model.forward(inputs, together, {});
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    auto state = model.new_state();
    model.forward({&state, inputs[s].ids}, alone, {});
    CHECK((alone.eigen().row(0) - together.eigen().row(static_cast<Index>(s)))
              .cwiseAbs()
              .maxCoeff() <= 1e-12);
  }
}

TEST_CASE("a horizon beyond the trained length is refused where frequencies depend on the length") {
  DecoderConfig config = model_test::small_config(2);
  config.rope.scaling = DynamicScaling{3, 16};
  const auto model = random_decoder<double>(config, 7);
  CHECK_THROWS_AS(model.new_state({.text_window = 8, .sinks = 2, .horizon = 17}), error);
  // Below it no frequency ever changes: the stream is that of a model without scaling.
  DecoderConfig plain = config;
  plain.rope.scaling = {};
  const auto unscaled = random_decoder<double>(plain, 7);
  const StateOptions options{.text_window = 8, .sinks = 2, .horizon = 16};
  auto a = model.new_state(options), b = unscaled.new_state(options);
  Matrix<double> x(1, config.vocab_size), y(1, config.vocab_size);
  for (const int id : random_ids(60, config.vocab_size, 7)) {
    model.forward({&a, {&id, 1}}, x, {});
    unscaled.forward({&b, {&id, 1}}, y, {});
    CHECK(x.eigen() == y.eigen());
  }
  config.fusion = presets::casa_before({0, 1});
  config.fusion->image_rope = ImageRope::stream;
  CHECK_THROWS_AS(random_decoder<double>(config, 7).new_state(options), error);
}

TEST_CASE("sliding layers that do not fit are refused by name") {
  for (const auto& [window, layers] : std::vector<std::pair<Index, std::vector<int>>>{
           {0, {1}}, {4, {3}}, {4, {1, 1}}, {4, {2, 0}}, {4, {-1}}, {-2, {0}}})
    CHECK_THROWS_AS(check(sliding_config(window, layers)), error);
  CHECK_NOTHROW(check(sliding_config(4, {0, 2})));
}

TEST_CASE("a warm step allocates nothing where blocks slide and frequencies follow the length") {
  DecoderConfig config = sliding_config(5, {0, 2});
  config.rope.scaling = DynamicScaling{3, 16};
  const auto model = random_decoder<float>(config, 8);
  auto state = model.new_state({.text_window = 12, .sinks = 2});
  Matrix<float> logits(1, config.vocab_size);
  const Context context;
  const std::vector<int> token{7};
  for (int i = 0; i < 60; ++i) model.forward({&state, token}, logits, context);
  const auto before = casa_test::allocation_count();
  for (int i = 0; i < 50; ++i) model.forward({&state, token}, logits, context);
  CHECK(casa_test::allocation_count() == before);
  if (!casa_test::kSanitized) CHECK(casa_test::counts_allocations());
}
