// Streams of bounded text. What a kept token's keys are in a deep layer depends on text that is
// gone by now, so a fresh run over the kept tokens is another thing, except in the first layer.
// What holds for every depth: the logits are those of one run over the whole text in which each
// token sees its chunk up to itself and what was kept before the chunk.
#include <doctest/doctest.h>

#include "casa/model/sinks.hpp"
#include "random_model.hpp"
#include "support/difference.hpp"
#include "support/twin.hpp"

using namespace casa;
using model_test::Dense;
using model_test::random_ids;
using model_test::random_matrix;
using model_test::RandomWeights;
using model_test::Twin;

namespace {

// A stream in random chunks, fed to the library, and what each of its tokens sees and where.
struct Run {
  std::vector<int> ids;
  std::vector<Index> chunk_begin, origin;  // of each token
  std::vector<Insertion> windows;          // images before some chunks
  Dense images;
  Matrix<double> logits;
  int restarts = 0;
};

template <class T>
Run run(const Decoder<T>& model, const StateOptions& options, Index length, unsigned seed,
        DecoderState<T>* last = nullptr) {
  std::mt19937 random(seed);
  const auto up_to = [&](Index n) { return std::uniform_int_distribution<Index>(0, n)(random); };
  Run r;
  r.ids = random_ids(length, model.config().vocab_size, seed);
  r.logits = Matrix<double>(length, model.config().vocab_size);
  const Matrix<double> images = random_matrix<double>(length * 3, model.config().hidden_size, seed);
  r.images = images.eigen();
  const Context context;
  auto state = model.new_state(options);
  const Index bound = options.sinks + options.text_window;
  Index image = 0, origin = 0;
  for (Index begin = 0; begin < length;) {
    const Index count = std::min(length - begin, 1 + up_to(4));
    std::vector<Insertion> here;
    if (model.config().fusion && up_to(2) == 0) here.push_back({0, 1 + up_to(2)});
    const Index new_images = here.empty() ? 0 : here[0].num_tokens;
    Matrix<T> tokens(new_images, model.config().hidden_size);
    for (Index i = 0; i < tokens.size(); ++i)
      tokens.data()[i] = static_cast<T>(images.row(image)[i]);
    Matrix<T> logits(count, model.config().vocab_size);
    StreamInput<T> input{
        &state,
        std::span(r.ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
        here, tokens};
    input.logits = LogitRows::all;
    model.forward(input, logits, context);
    for (Index i = 0; i < logits.size(); ++i)
      r.logits.row(begin)[i] = static_cast<double>(logits.data()[i]);

    if (options.horizon > 0 && begin - origin + count > options.horizon) {
      origin = begin - std::min(begin, bound);
      ++r.restarts;
    }
    CHECK(state.origin() == origin);
    CHECK(state.text_len() - state.origin() <=
          (options.horizon > 0 ? options.horizon : state.text_len()));
    if (options.text_window > 0) CHECK(state.self_tokens() == std::min(begin + count, bound));
    r.chunk_begin.insert(r.chunk_begin.end(), static_cast<std::size_t>(count), begin);
    r.origin.insert(r.origin.end(), static_cast<std::size_t>(count), origin);
    if (new_images > 0) r.windows.push_back({begin, new_images});
    image += new_images;
    begin += count;
  }
  r.images.conservativeResize(image, Eigen::NoChange);
  if (last) *last = state;
  return r;
}

Matrix<double> twin_logits(const Twin& twin, const StateOptions& o, const Run& r) {
  const auto at = [](const std::vector<Index>& v, Index i) {
    return v[static_cast<std::size_t>(i)];
  };
  return twin.logits(
      r.ids,
      [&](Index i, Index j) {
        const Index kept_from = at(r.chunk_begin, i) - o.text_window;
        return j <= i && (o.text_window == 0 || j < o.sinks || j >= kept_from);
      },
      // A sink stands at its own number, whatever the origin is by now.
      [&](Index i, Index j) {
        const Index origin = at(r.origin, i);
        return (i - origin) - (j < o.sinks ? j : j - origin);
      },
      r.windows, r.images, r.origin);
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  return casa_test::largest_difference(a.eigen(), b.eigen());
}

DecoderConfig config_of(bool fusion, Index layers) {
  DecoderConfig c = model_test::small_config(layers);
  if (fusion) c.fusion = presets::casa_before(model_test::all_layers(layers));
  return c;
}

}  // namespace

TEST_CASE("bounded text: logits are those of the whole text under the mask of what was kept") {
  int restarts = 0;
  for (unsigned seed = 0; seed < 6; ++seed) {
    for (const Index horizon : {0, 17, 40}) {
      CAPTURE(seed);
      CAPTURE(horizon);
      RandomWeights weights(seed);
      const bool fusion = seed % 2 == 0;
      const DecoderConfig config = config_of(fusion, 1 + static_cast<Index>(seed) % 3);
      const Decoder<double> model(config, weights.source());
      const StateOptions options{.text_window = 5 + static_cast<Index>(seed),
                                 .sinks = static_cast<Index>(seed) % 3,
                                 .horizon = horizon};
      const Run r = run(model, options, 90, seed);
      const Matrix<double> expected = twin_logits(Twin(config, weights), options, r);
      CHECK(largest_difference(r.logits, expected) <= 1e-11 * casa_test::largest(expected.eigen()));
      restarts += r.restarts;
    }
  }
  CHECK(restarts > 20);
}

// Faults: images that stand at 0 are as far as the whole stream is long (the origin is not taken
// off), or text of consecutive and stream positions is taken back by it and images are not.
TEST_CASE("bounded text: images stand where they should, whatever their positions count") {
  for (const ImageRope rope :
       {ImageRope::none, ImageRope::window_start, ImageRope::consecutive, ImageRope::stream})
    for (const Index horizon : {0, 17}) {
      CAPTURE(static_cast<int>(rope));
      CAPTURE(horizon);
      RandomWeights weights(20);
      DecoderConfig config = config_of(true, 2);
      config.fusion->image_rope = rope;
      if (rope == ImageRope::none) config.fusion->keys = Keys::image;
      const Decoder<double> model(config, weights.source());
      const StateOptions options{.text_window = 6, .sinks = 2, .horizon = horizon};
      const Run r = run(model, options, 80, 20);
      const Matrix<double> expected = twin_logits(Twin(config, weights), options, r);
      CHECK(largest_difference(r.logits, expected) <= 1e-11 * casa_test::largest(expected.eigen()));
      CHECK((horizon == 0 || r.restarts > 3));
      CHECK(r.windows.size() > 5);
    }
}

TEST_CASE("bounded text in blocks that slide: of what was kept, what stands within the window") {
  int restarts = 0;
  for (unsigned seed = 0; seed < 4; ++seed) {
    for (const Index window : {1, 3, 7, 12, 30}) {
      for (const Index horizon : {0, 17}) {
        CAPTURE(seed);
        CAPTURE(window);
        CAPTURE(horizon);
        RandomWeights weights(seed);
        DecoderConfig config = config_of(seed % 2 == 0, 3);
        config.sliding_window = window;
        config.sliding_layers = seed < 2 ? std::vector<int>{0, 2} : std::vector<int>{1};
        const Decoder<double> model(config, weights.source());
        const StateOptions options{.text_window = horizon > 0 || seed > 0 ? 6 : 0,
                                   .sinks = static_cast<Index>(seed) % 3 + 1,
                                   .horizon = horizon};
        const Run r = run(model, options, 60, seed);
        const Matrix<double> expected = twin_logits(Twin(config, weights), options, r);
        CHECK(largest_difference(r.logits, expected) <=
              1e-11 * casa_test::largest(expected.eigen()));
        restarts += r.restarts;
      }
    }
  }
  CHECK(restarts > 20);
}

TEST_CASE("the mask is seen: without it the logits are others") {
  RandomWeights weights(1);
  const DecoderConfig config = config_of(false, 2);
  const Decoder<double> model(config, weights.source());
  const StateOptions options{.text_window = 6, .sinks = 2};
  const Run r = run(model, options, 60, 1);
  for (const StateOptions& other : {StateOptions{.text_window = 7, .sinks = 2},
                                    StateOptions{.text_window = 6, .sinks = 1}, StateOptions{}})
    CHECK(largest_difference(r.logits, twin_logits(Twin(config, weights), other, r)) > 1e-3);
}

TEST_CASE("one layer: after any eviction, a fresh run over the kept tokens at their positions") {
  for (unsigned seed = 10; seed < 16; ++seed) {
    for (const Index horizon : {0, 16}) {
      CAPTURE(seed);
      CAPTURE(horizon);
      RandomWeights weights(seed);
      const DecoderConfig config = config_of(false, 1);
      const Decoder<double> model(config, weights.source());
      const StateOptions o{.text_window = 7, .sinks = 3, .horizon = horizon};
      DecoderState<double> state;
      const Run r = run(model, o, 50 + static_cast<Index>(seed), seed, &state);
      const auto kept = static_cast<Index>(o.sinks + o.text_window);
      const Index gone = static_cast<Index>(r.ids.size()) - kept;
      std::vector<int> ids(r.ids.begin(), r.ids.begin() + o.sinks);
      ids.insert(ids.end(), r.ids.end() - o.text_window, r.ids.end());
      ids.push_back(7);

      Matrix<double> logits(1, config.vocab_size);
      const std::vector<int> next{7};
      model.forward({&state, next}, logits, {});
      const Index origin = static_cast<Index>(state.origin());
      const auto place = [&](Index j) { return j < o.sinks ? j : j + gone - origin; };
      const Matrix<double> fresh = Twin(config, weights)
                                       .logits(
                                           ids, [](Index i, Index j) { return j <= i; },
                                           [&](Index i, Index j) { return place(i) - place(j); });
      CHECK(casa_test::largest_difference(logits.eigen(), fresh.eigen().bottomRows(1)) <=
            1e-11 * casa_test::largest(fresh.eigen()));
      if (origin == gone) {  // just restarted: nothing but a stream of the kept tokens
        const Matrix<double> again = model.logits(ids, {}, {});
        CHECK(casa_test::largest_difference(logits.eigen(), again.eigen().bottomRows(1)) <=
              1e-11 * casa_test::largest(fresh.eigen()));
      }
    }
  }
}

TEST_CASE("16-bit caches stay as near after many restarts as after few") {
  RandomWeights weights(3);
  const DecoderConfig config = config_of(true, 2);
  const Decoder<float> model(config, weights.source());
  const StateOptions options{
      .cache = CacheType::bfloat16, .text_window = 8, .sinks = 4, .horizon = 20};
  const Run r = run(model, options, 400, 3);
  CHECK(r.restarts > 30);
  const Matrix<double> expected = twin_logits(Twin(config, weights), options, r);
  const auto error = [&](Index begin, Index count) {
    return casa_test::largest_difference(r.logits.eigen().middleRows(begin, count),
                                         expected.eigen().middleRows(begin, count));
  };
  // The first 20 tokens are before any restart: what rounding to bfloat16 alone costs. Over 380
  // tokens the worst is a few times the worst of 20.
  CHECK(error(0, 20) > 0);
  CHECK(error(20, 380) <= 4 * error(0, 20));
}

TEST_CASE("sinks turned a thousand times and back are as they were, bit for bit") {
  const Rope rope = make_rope<float>(6, 10000, RopeStyle::half);
  const Context context;
  const Matrix<float> k = random_matrix<float>(3, 12, 1), v = random_matrix<float>(3, 12, 2);
  Matrix<float> noted(3, 12);
  AnyKvCache<float> cache = make_cache<float>(CacheType::bfloat16, 2, 6);
  detail::store_sink_keys<float>(cache, k, noted);
  std::visit([&](auto& c) { c.append(k.view(), v.view()); }, cache);
  const auto bits = [&] {
    std::vector<float> all;
    std::visit(
        [&](const auto& c) {
          for (Index h = 0; h < 2; ++h)
            for (Index t = 0; t < 3; ++t)
              for (Index i = 0; i < 6; ++i) {
                all.push_back(widen(c.key(h, t)[i]));
                all.push_back(widen(c.value(h, t)[i]));
              }
        },
        cache);
    return all;
  };
  RopeTable<float> table;
  const auto turn = [&](std::int64_t origin) {
    const std::vector<Position> places{origin, origin + 1, origin + 2};
    table.assign(rope, places, context);
    detail::rotate_sink_keys(cache, noted, table, context);
  };
  turn(5);
  const std::vector<float> once = bits();
  for (int i = 0; i < 1000; ++i) turn(1 + 977 * i);
  CHECK(bits() != once);
  turn(5);
  CHECK(bits() == once);
}

TEST_CASE("streams that begin behind 2^24, 2^31 and 2^32 tokens go on as others do") {
  for (const bool fusion : {false, true}) {
    for (const Index horizon : {0, 20}) {
      RandomWeights weights(8);
      const DecoderConfig config = config_of(fusion, 2);
      const Decoder<double> model(config, weights.source());
      const StateOptions options{.text_window = 6, .sinks = 2, .horizon = horizon};
      const auto logits_from = [&](std::int64_t start) {
        auto state = model.new_state(options);
        state.start_at(start);
        Matrix<double> all(40, config.vocab_size);
        const auto ids = random_ids(40, config.vocab_size, 5);
        const auto images = random_matrix<double>(40, config.hidden_size, 5);
        const Insertion image{0, 2};
        for (Index i = 0; i < 40; ++i) {
          const bool has_image = fusion && i % 5 == 0;
          model.forward({&state, std::span(ids).subspan(static_cast<std::size_t>(i), 1),
                         std::span(&image, has_image ? 1 : 0),
                         images.view().middle_rows(i / 5 * 2, has_image ? 2 : 0)},
                        all.view().middle_rows(i, 1), {});
        }
        CHECK(state.text_len() == start + 40);
        CHECK(state.self_tokens() == 8);
        return all;
      };
      const Matrix<double> from_0 = logits_from(0);
      for (const std::int64_t start : {(std::int64_t{1} << 24) - 2, (std::int64_t{1} << 31) - 2,
                                       (std::int64_t{1} << 32) - 2}) {
        CAPTURE(start);
        // An angle of p rad is right to half an ulp of p (double), twice for a difference; a score
        // moves by about as much, times its size, here below 10, once a layer.
        const double bound = 1e-11 + 20 * static_cast<double>(start) * 0x1p-53;
        CHECK(largest_difference(logits_from(start), from_0) <= bound);
      }
    }
  }
}

TEST_CASE("a failed chunk leaves restarted positions as they were") {
  RandomWeights weights(4);
  const DecoderConfig config = config_of(true, 2);
  const Decoder<double> model(config, weights.source());
  auto state = model.new_state({.text_window = 6, .sinks = 2, .horizon = 12});
  Matrix<double> logits(1, config.vocab_size), again(1, config.vocab_size);
  const auto ids = random_ids(12, config.vocab_size, 1);
  for (const int id : ids) model.forward({&state, std::span(&id, 1)}, logits, {});
  auto fork = state;
  const int next = 3;
  const Trace<double> failing = [](Index layer, const char*, MatrixView<const double>) {
    if (layer == 1) throw std::runtime_error("stop here");
  };
  CHECK(state.origin() == 0);
  CHECK_THROWS(model.forward({&state, std::span(&next, 1)}, logits, {}, &failing));
  CHECK(state.origin() == 0);
  model.forward({&state, std::span(&next, 1)}, logits, {});
  model.forward({&fork, std::span(&next, 1)}, again, {});
  CHECK(state.origin() == 4);
  CHECK(logits.eigen() == again.eigen());
}

TEST_CASE("bounds that cannot hold are refused") {
  RandomWeights weights(2);
  const Decoder<double> model(config_of(true, 1), weights.source());
  CHECK_THROWS_AS(model.new_state({.text_window = -1}), error);
  CHECK_THROWS_AS(model.new_state({.horizon = 100}), error);
  CHECK_THROWS_AS(model.new_state({.text_window = 96, .sinks = 4, .horizon = 100}), error);
  auto state = model.new_state({.text_window = 5, .sinks = 4, .horizon = 10});
  Matrix<double> logits(1, 31);
  const auto ids = random_ids(11, 31, 1);
  CHECK_THROWS_AS(model.forward({&state, ids}, logits, {}), error);
  CHECK(state.text_len() == 0);
  model.forward({&state, std::span(ids).first(10)}, logits, {});
  CHECK(state.text_len() == 10);

  DecoderConfig none = config_of(true, 1);
  none.fusion->image_rope = ImageRope::none;
  const Decoder<double> unrotated(none, weights.source());
  CHECK_THROWS_AS(unrotated.new_state({.text_window = 5, .sinks = 4, .horizon = 10}), error);
}
