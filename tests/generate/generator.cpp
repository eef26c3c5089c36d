#include "casa/generate/generator.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "model/random_model.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

Decoder<float> random_decoder(const std::optional<FusionConfig>& fusion) {
  auto config = model_test::small_config(2);
  config.fusion = fusion;
  model_test::RandomWeights weights(11);
  return Decoder<float>(config, weights.source());
}

struct Case {
  std::vector<int> ids;
  std::vector<Insertion> insertions;
  Matrix<float> images;
  PromptInput<float> prompt() const { return {ids, insertions, images}; }
};

Case make_case(unsigned seed, Index text, bool with_images) {
  Case c{model_test::random_ids(text, 31, seed), {}, Matrix<float>(0, 24)};
  if (with_images) {
    c.insertions = {{0, 2}, {3, 3}, {text, 1}};
    c.images = model_test::random_matrix<float>(6, 24, seed);
  }
  return c;
}

GenerateOptions sampled(std::uint64_t seed) {
  GenerateOptions o;
  o.sampling.temperature = 1.3;
  o.sampling.top_k = 20;
  o.sampling.top_p = 0.95;
  o.sampling.repetition_penalty = 1.1;
  o.sampling.seed = seed;
  return o;
}

}  // namespace

TEST_CASE("greedy generation takes the most likely token of a full forward, each time") {
  const auto model = random_decoder(presets::casa_before({0, 1}));
  const Case c = make_case(1, 7, true);
  const auto result = generate(model, c.prompt(), {}, 12, {});
  REQUIRE(result.ids.size() == 12);
  std::vector<int> ids = c.ids;
  for (const int id : result.ids) {
    const auto logits = model.logits(ids, c.insertions, c.images);
    const float* last = logits.row(logits.rows() - 1);
    CHECK(id == std::max_element(last, last + logits.cols()) - last);
    ids.push_back(id);
  }
}

TEST_CASE("the same ids whatever the chunks, the neighbours and the threads") {
  const auto model = random_decoder(presets::casa({0, 1}));
  constexpr std::size_t streams = 5;
  std::vector<Case> cases;
  std::vector<GenerateOptions> options;
  std::vector<Generation> alone;
  for (unsigned s = 0; s < streams; ++s) {
    cases.push_back(make_case(s, 4 + static_cast<Index>(s), s % 2 == 0));
    options.push_back(sampled(s));
    alone.push_back(generate(model, cases[s].prompt(), options[s], 20, {}));
  }
  CHECK(alone[0].ids != alone[1].ids);
  for (const Index chunk : {1, 2, 3, 512}) {
    for (const Index threads : {1, 3}) {
      CAPTURE(chunk);
      CAPTURE(threads);
      ThreadPool pool(threads);
      const Context context{.executor = pool};
      std::vector<PromptInput<float>> prompts;
      for (std::size_t s = 0; s < streams; ++s) {
        prompts.push_back(cases[s].prompt());
        options[s].prefill_chunk = chunk;
      }
      for (const std::size_t at_once : {0u, 1u, 2u, 4u, 9u}) {
        CAPTURE(at_once);
        const auto together = generate<float>(model, prompts, options, 20, context, {}, at_once);
        for (std::size_t s = 0; s < streams; ++s) CHECK(together[s].ids == alone[s].ids);
      }
    }
  }
}

// Grids of equal size, so that one in another's place fits and is not refused.
//
// Faults: later chunks get the grids of the first images, or none; an image that is pushed has
// none.
TEST_CASE("each image keeps its grid, whichever chunk it comes in") {
  auto config = model_test::small_config(2);
  config.rope.mrope_sections = {1, 1, 1};
  for (const ImageRope rope : {ImageRope::window_start, ImageRope::stream}) {
    CAPTURE(static_cast<int>(rope));
    config.fusion = presets::casa_before({0, 1});
    config.fusion->image_rope = rope;
    model_test::RandomWeights weights(13);
    const Decoder<float> model(config, weights.source());
    const auto ids = model_test::random_ids(9, 31, 13);
    const std::vector<Insertion> insertions = {{1, 6}, {3, 6}, {4, 6}, {8, 6}};
    const std::vector<ImageGrid> grids = {{2, 3}, {6, 1}, {3, 2}, {1, 6}};
    const auto images = model_test::random_matrix<float>(24, 24, 13);
    const auto expected = model.logits(ids, insertions, images, {}, grids);
    float largest = 0;
    for (Index i = 0; i < 31; ++i) largest = std::max(largest, std::abs(expected(8, i)));
    const auto off = [&](std::span<const float> logits) {
      float most = 0;
      for (std::size_t i = 0; i < logits.size(); ++i) {
        REQUIRE(std::isfinite(logits[i]));
        most = std::max(most, std::abs(logits[i] - expected(8, static_cast<Index>(i))));
      }
      return most;
    };
    const Context context;
    for (const Index chunk : {1, 2, 4, 512}) {
      CAPTURE(chunk);
      GenerateOptions options;
      options.prefill_chunk = chunk;
      Generator<float> generator(model, options);
      generator.feed({ids, insertions, images, grids}, context);
      CHECK(off(generator.logits()) <= 1e-5f * largest);
    }
    Generator<float> pushed(model);
    for (std::size_t i = 0; i <= insertions.size(); ++i) {
      const auto begin = i == 0 ? 0 : insertions[i - 1].position;
      const auto end = i == insertions.size() ? Index{9} : insertions[i].position;
      if (i > 0)
        pushed.push_image(images.view().middle_rows(6 * static_cast<Index>(i - 1), 6), context,
                          grids[i - 1]);
      pushed.feed({std::span(ids).subspan(static_cast<std::size_t>(begin),
                                          static_cast<std::size_t>(end - begin))},
                  context);
    }
    CHECK(off(pushed.logits()) <= 1e-5f * largest);
    // What is told apart: one grid in another's place.
    auto swapped = grids;
    std::swap(swapped[2], swapped[3]);
    const auto other = model.logits(ids, insertions, images, {}, swapped);
    CHECK(off({other.row(8), 31}) > 1e-3f * largest);
  }
}

TEST_CASE("a text ends at a stop id, at its length, or when the callback says so") {
  const auto model = random_decoder(std::nullopt);
  const Case c = make_case(3, 5, false);
  const auto free = generate(model, c.prompt(), {}, 10, {});
  REQUIRE(free.ids.size() == 10);
  CHECK(free.stop == Stop::length);

  GenerateOptions options;
  options.sampling.stop_ids = {free.ids[4]};
  const auto stopped = generate(model, c.prompt(), options, 10, {});
  const auto first = std::ranges::find(free.ids, free.ids[4]) - free.ids.begin();
  CHECK(stopped.stop == Stop::stop_id);
  CHECK(stopped.stop_id == free.ids[4]);
  CHECK(stopped.ids == std::vector<int>(free.ids.begin(), free.ids.begin() + first));

  std::vector<int> seen;
  const auto cut = generate(model, c.prompt(), {}, 10, {}, [&](std::size_t, int id) {
    seen.push_back(id);
    return seen.size() < 3;
  });
  CHECK(cut.stop == Stop::callback);
  CHECK(cut.ids == seen);

  GenerateOptions bounded;  // five of the prompt, three behind it, and the one that comes then
  bounded.context = 8;
  const auto full = generate(model, c.prompt(), bounded, 10, {});
  CHECK(full.stop == Stop::length);
  CHECK(full.ids == std::vector<int>(free.ids.begin(), free.ids.begin() + 4));
  CHECK(seen.size() == 3);
  CHECK(generate(model, c.prompt(), {}, 0, {}).ids.empty());
}

TEST_CASE("a conversation goes on from what was said") {
  const auto model = random_decoder(std::nullopt);
  const Case c = make_case(4, 9, false);
  const Context context;
  Generator<float> whole(model), turns(model);
  whole.feed(c.prompt(), context);
  turns.feed({std::span(c.ids).first(4)}, context);
  turns.feed({std::span(c.ids).subspan(4)}, context);
  for (int i = 0; i < 5; ++i) {
    CHECK(whole.sample() == turns.sample());
    whole.advance(context);
    turns.advance(context);
  }
  const int last = whole.sample();
  turns.sample();
  // A sampled token that was not taken further goes in with the next turn.
  whole.advance(context);
  whole.feed({std::span(c.ids).first(2)}, context);
  turns.feed({std::span(c.ids).first(2)}, context);
  CHECK(whole.state().text_len() == turns.state().text_len());
  CHECK(whole.sample() == turns.sample());
  CHECK(last >= 0);
}

// Fault: the sampler does not see the prompt, or of several turns only one.
TEST_CASE("what stands in a prompt counts as said: it is less likely to be repeated") {
  const auto model = random_decoder(std::nullopt);
  GenerateOptions options;
  options.sampling.repetition_penalty = 1e4;
  int turned = 0;
  for (unsigned seed = 0; seed < 5; ++seed) {
    CAPTURE(seed);
    const Case c = make_case(seed, 16, false);
    Generator<float> generator(model, options);
    generator.feed({std::span(c.ids).first(8)}, {});
    generator.feed({std::span(c.ids).subspan(8)}, {});
    std::vector<float> logits(generator.logits().begin(), generator.logits().end());
    const auto likeliest = [&] { return std::ranges::max_element(logits) - logits.begin(); };
    const auto plain = likeliest();
    for (const int id : std::set<int>(c.ids.begin(), c.ids.end())) {
      float& x = logits[static_cast<std::size_t>(id)];
      x = x > 0 ? x / 1e4f : x * 1e4f;
    }
    CHECK(generator.sample() == likeliest());
    turned += plain != likeliest();
  }
  CHECK(turned > 0);
}

TEST_CASE("an image pushed between turns is an insertion at that point") {
  const auto model = random_decoder(presets::casa_before({0, 1}));
  const Case c = make_case(7, 8, false);
  const auto image = model_test::random_matrix<float>(5, 24, 7);
  const Context context;
  Generator<float> whole(model), turns(model);
  const Insertion insertion{3, 5};
  whole.feed({c.ids, {&insertion, 1}, image}, context);
  turns.feed({std::span(c.ids).first(3)}, context);
  turns.push_image(image, context);
  turns.feed({std::span(c.ids).subspan(3)}, context);
  float off = 0, largest = 0;  // chunks differ by rounding
  for (std::size_t i = 0; i < whole.logits().size(); ++i) {
    off = std::max(off, std::abs(whole.logits()[i] - turns.logits()[i]));
    largest = std::max(largest, std::abs(whole.logits()[i]));
  }
  CHECK(off <= 1e-5f * largest);
  CHECK(turns.state().image_len() == 5);
  CHECK_THROWS_AS(turns.push_image(model_test::random_matrix<float>(5, 23, 7), context), error);
  CHECK(turns.state().image_len() == 5);
}

TEST_CASE("what does not fit is refused by name") {
  const auto model = random_decoder(presets::casa({0}));
  const Case c = make_case(5, 6, true);
  const Context context;
  GenerateOptions bounded;
  bounded.context = 5;
  Generator<float> small(model, bounded);
  CHECK_THROWS_WITH_AS(small.feed(c.prompt(), context),
                       "context: 6 text tokens are more than the 5 asked for", error);
  CHECK(small.state().text_len() == 0);
  // A sampled token that goes in with the next turn takes room, too.
  small.feed({std::span(c.ids).first(2)}, context);
  small.sample();
  CHECK_THROWS_AS(small.feed({std::span(c.ids).first(3)}, context), error);
  CHECK(small.state().text_len() == 2);
  small.feed({std::span(c.ids).first(2)}, context);
  CHECK(small.state().text_len() == 5);
  Generator<float> generator(model);
  CHECK_THROWS_WITH_AS(generator.feed({}, context), "feed: the prompt has no token", error);
  CHECK_THROWS_AS(generator.sample(), error);
  CHECK_THROWS_AS(generator.advance(context), error);
  PromptInput<float> more = c.prompt();
  more.image_tokens = more.image_tokens.middle_rows(0, 5);
  CHECK_THROWS_AS(generator.feed(more, context), error);
  GenerateOptions wrong;
  wrong.prefill_chunk = 0;
  CHECK_THROWS_AS(Generator<float>(model, wrong), error);
  wrong = {};
  wrong.sampling.temperature = -1;
  CHECK_THROWS_AS(Generator<float>(model, wrong), error);
  wrong = {};
  wrong.sampling.stop_ids = {31};
  CHECK_THROWS_AS(Generator<float>(model, wrong), error);
}

TEST_CASE("a NaN among the weights is an error, not a text") {
  auto config = model_test::small_config(1);
  model_test::RandomWeights weights(12);
  const auto norm = decoder_spec(config).norm;
  const_cast<Matrix<float>&>(weights.get(norm))(0, 3) = std::numeric_limits<float>::quiet_NaN();
  const Decoder<float> model(config, weights.source());
  const Case c = make_case(6, 4, false);
  CHECK_THROWS_AS(generate(model, c.prompt(), {}, 3, {}), error);
}

TEST_CASE("streams begin and end when they like, and none lends another anything") {
  const auto model = random_decoder(presets::casa_before({0, 1}));
  std::vector<Case> cases;
  std::vector<GenerateOptions> options;
  std::vector<Generation> alone;
  for (unsigned s = 0; s < 12; ++s) {
    cases.push_back(make_case(s, 4 + static_cast<Index>(s), s % 2 == 0));
    options.push_back(sampled(s));
    options.back().sampling.stop_ids = {static_cast<int>(s)};
    if (s % 4 == 3) options.back().context = 18;
    alone.push_back(generate(model, cases[s].prompt(), options[s], 5 + s, {}));
  }
  const Context context;
  BatchGenerator<float> batch(model);
  std::vector<Generation> results(12);
  std::size_t next = 0, ended = 0, most = 0;
  std::vector<std::size_t> tokens(12);
  const auto on_end = [&](std::size_t stream, Generation g) {
    results[stream] = std::move(g);
    ++ended;
  };
  for (int step = 0; next < 12 || batch.num_streams() > 0; ++step) {
    // One comes in every other step, so that all are at other places.
    if (next < 12 && (step % 2 == 0 || batch.num_streams() == 0)) {
      batch.add(next, cases[next].prompt(), options[next], 5 + static_cast<Index>(next), context);
      ++next;
    }
    most = std::max(most, batch.num_streams());
    batch.step(context, on_end, [&](std::size_t stream, int) {
      ++tokens[stream];
      return true;
    });
  }
  CHECK(ended == 12);
  CHECK(most > 3);
  std::set<Stop> stops;
  for (std::size_t s = 0; s < 12; ++s) {
    CAPTURE(s);
    CHECK(results[s].ids == alone[s].ids);
    CHECK(results[s].stop == alone[s].stop);
    CHECK(results[s].stop_id == alone[s].stop_id);
    CHECK(tokens[s] == alone[s].ids.size());
    stops.insert(results[s].stop);
  }
  CHECK(stops.size() == 2);  // by a stop id and by length
}

TEST_CASE("a batch that is told something wrong goes on as if it had not been") {
  const auto model = random_decoder(std::nullopt);
  const Case c = make_case(1, 5, false), d = make_case(2, 6, false);
  const auto expected_c = generate(model, c.prompt(), {}, 6, {});
  const auto expected_d = generate(model, d.prompt(), {}, 6, {});
  const Context context;
  BatchGenerator<float> batch(model);
  batch.add(7, c.prompt(), {}, 6, context);
  batch.add(9, d.prompt(), {}, 6, context);
  CHECK(message_of([&] { batch.add(9, c.prompt(), {}, 6, context); }) ==
        "BatchGenerator::add: stream 9 goes on already");
  CHECK(message_of([&] { batch.add(1, c.prompt(), {}, 0, context); }) ==
        "BatchGenerator::add: max_new_tokens must be positive, got 0");
  CHECK(message_of([&] { batch.add(1, {}, {}, 6, context); }) == "feed: the prompt has no token");
  CHECK(message_of([&] { batch.remove(1); }) == "BatchGenerator::remove: there is no stream 1");
  batch.add(1, c.prompt(), {}, 6, context);
  batch.remove(1);
  CHECK(batch.num_streams() == 2);

  // Callbacks that throw lose no token.
  std::vector<Generation> results(10);
  int calls = 0, thrown = 0;
  const auto on_token = [&](std::size_t, int) -> bool {
    if (++calls % 3 == 0) throw error("not now");
    return true;
  };
  const auto on_end = [&](std::size_t stream, Generation g) { results[stream] = std::move(g); };
  while (batch.num_streams() > 0 && thrown < 100)
    if (!message_of([&] { batch.step(context, on_end, on_token); }).empty()) ++thrown;
  CHECK(thrown == 4);
  CHECK(calls == 12);
  CHECK(results[7].ids == expected_c.ids);
  CHECK(results[9].ids == expected_d.ids);
  batch.step(context, on_end);  // without streams nothing happens

  // Of many prompts none is continued where one does not fit.
  const std::vector<PromptInput<float>> prompts{c.prompt(), {}};
  const std::vector<GenerateOptions> options(2);
  int told = 0;
  CHECK_THROWS_AS(generate<float>(model, prompts, options, 3, context,
                                  [&](std::size_t, int) { return ++told > 0; }),
                  error);
  CHECK(told == 0);
}
