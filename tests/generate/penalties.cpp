#include "casa/generate/penalties.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "support/allocations.hpp"

using casa::EmaRepetitionPenalty;
using casa::EmaRepetitionState;
using casa::Index;
using casa::NgramBlock;
using casa::Random;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Index random_id(Random& random, Index vocab) {
  return static_cast<Index>(random.uniform() * static_cast<double>(vocab));
}

// count(v) = sum of decay^(t - i) over the places i of v in the text x_1 .. x_t.
double naive_count(const std::vector<Index>& text, Index v, double decay) {
  double count = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] == v) count += std::pow(decay, static_cast<double>(text.size() - 1 - i));
  return count;
}

// Every n-gram of the last `window` tokens whose first n - 1 tokens are the last n - 1 of the text.
std::set<Index> naive_forbidden(std::vector<Index> text, Index n, Index window,
                                const std::vector<Index>& stop_ids) {
  if (std::ssize(text) > window) text.erase(text.begin(), text.end() - window);
  std::set<Index> ids;
  for (Index begin = 0; n > 0 && begin + n <= std::ssize(text); ++begin) {
    bool equal = true;
    for (Index j = 0; j < n - 1; ++j) equal &= text.begin()[begin + j] == text.end()[j - (n - 1)];
    if (equal) ids.insert(text.begin()[begin + n - 1]);
  }
  for (const Index id : stop_ids) ids.erase(id);
  return ids;
}

template <class T>
std::vector<T> applied(const EmaRepetitionPenalty& penalty, std::vector<T> logits) {
  penalty.apply(std::span<T>(logits));
  return logits;
}

}  // namespace

TEST_CASE("a repeated token's logit sinks with its count, up to the clamp") {
  EmaRepetitionPenalty penalty(4, {.penalty = 2, .decay = 0.5, .max_count = 1.6, .stop_ids = {3}});
  const std::vector<double> logits{8, -8, 0, 8};
  CHECK(applied(penalty, logits) == logits);
  penalty.observe(1);
  CHECK(applied(penalty, logits) == std::vector<double>{8, -16, 0, 8});
  penalty.observe(0);
  CHECK(applied(penalty, logits) == std::vector<double>{4, -8 * std::sqrt(2.), 0, 8});
  for (int i = 0; i < 100; ++i) penalty.observe(0);  // tends to 2: clamped
  CHECK(applied(penalty, logits)[0] == 8 / std::pow(2., 1.6));
  for (int i = 0; i < 100; ++i) penalty.observe(3);  // a stop id decays the rest, and is spared
  CHECK(applied(penalty, logits) == logits);
  CHECK(penalty.state() == EmaRepetitionState{});
}

TEST_CASE("counts are the decayed sums over the whole text") {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    CAPTURE(seed);
    Random random(seed);
    const Index vocab = 50;
    EmaRepetitionPenalty penalty(vocab, {.stop_ids = {4, 5}});
    std::vector<Index> text;
    for (int step = 0; step < 400; ++step) {
      text.push_back(random_id(random, vocab));
      penalty.observe(text.back());
    }
    std::vector<double> logits(50);
    for (double& x : logits) x = 20 * random.uniform() - 10;
    const std::vector<double> result = applied(penalty, logits);
    for (Index id = 0; id < vocab; ++id) {
      const auto i = static_cast<std::size_t>(id);
      const double count = id == 4 || id == 5 ? 0 : naive_count(text, id, 0.99);
      const double factor = std::pow(1.15, std::min(count, 5.));
      const double expected = logits[i] > 0 ? logits[i] / factor : logits[i] * factor;
      REQUIRE(std::isfinite(result[i]));
      // The recurrence rounds twice a step over 400 steps, relative 2^-53 each, and the exponent
      // count log penalty is below 1; a dropped count weighs 1e-6 log 1.15.
      const double bound = (count < 2e-6 ? 3e-7 : 1000 * 0x1p-53) * std::abs(expected);
      CHECK(std::abs(result[i] - expected) <= bound);
    }
  }
}

TEST_CASE("the table stays bounded and normal for a million tokens") {
  struct Text {
    Index length, repeats, largest;  // tokens; how often each is repeated; entries to be seen
  };
  // A count of 1 is dropped after 1375 steps: 0.99^1375 < 1e-6 < 0.99^1374. 20 repetitions sum to
  // 18.2, which is dropped after 1664: beside the current token those of ages 1, 21, ... 1661 are
  // left.
  for (const Text text : {Text{10'000, 1, 1375}, Text{1'000'000, 20, 85}}) {
    CAPTURE(text.repeats);
    EmaRepetitionPenalty penalty(1 << 20, {});
    CHECK(penalty.max_entries() == 1833);
    Index largest = 0;
    double smallest = 1;
    for (Index i = 0; i < text.length; ++i) {
      penalty.observe(i / text.repeats);
      largest = std::max(largest, Index{std::ssize(penalty.state().ids)});
      smallest = std::min(smallest, penalty.state().counts.front());  // the oldest
    }
    CHECK(largest == text.largest);
    CHECK(smallest >= EmaRepetitionPenalty::kDropped);
    CHECK(smallest < 1.3e-6);
  }
}

TEST_CASE("a count that was at its largest is dropped after max_entries steps") {
  EmaRepetitionPenalty penalty(10, {.stop_ids = {9}});
  for (int i = 0; i < 10'000; ++i) penalty.observe(0);
  CHECK(penalty.state().counts[0] <= 100);
  CHECK(penalty.state().counts[0] > 99.9);
  const EmaRepetitionPenalty wide(1 << 20, {});
  for (Index i = 1; i < wide.max_entries(); ++i) penalty.observe(9);
  CHECK(penalty.state().ids.size() == 1);
  penalty.observe(9);
  CHECK(penalty.state().ids.empty());
  CHECK(penalty.max_entries() == 10);  // no more than the vocabulary
}

TEST_CASE("a penalty of 1 is off") {
  EmaRepetitionPenalty penalty(3, {.penalty = 1});
  penalty.observe(1);
  CHECK(penalty.state().ids.empty());
  const std::vector<float> logits{1, 2, -kInfinity};
  CHECK(applied(penalty, logits) == logits);
}

TEST_CASE("a token that would complete an n-gram again is forbidden") {
  NgramBlock block(10, {.size = 3, .window = 6});
  for (const Index id : {1, 2, 5, 1, 2}) block.observe(id);
  std::vector<float> logits(10, 1.f);
  CHECK(block.apply(std::span<float>(logits)) == 1);
  for (std::size_t id = 0; id < 10; ++id) CHECK(logits[id] == (id == 5 ? -kInfinity : 1.f));
  block.observe(7);  // 1 2 5 1 2 7
  block.observe(1);  // 2 5 1 2 7 1: the first 1 2 5 has left the window
  block.observe(2);
  const auto forbidden = block.forbidden();
  CHECK(std::vector<Index>(forbidden.begin(), forbidden.end()) == std::vector<Index>{7});
}

TEST_CASE("forbidden tokens are those of the definition") {
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
    Random random(seed);
    for (int round = 0; round < 40; ++round) {
      const Index vocab = 2 + random_id(random, 6);
      const Index window = random_id(random, 70);
      const Index n = std::min(window, random_id(random, 6));
      const std::vector<Index> stop_ids{random_id(random, vocab)};
      CAPTURE(seed);
      CAPTURE(round);
      NgramBlock block(vocab, {.size = n, .window = window, .stop_ids = stop_ids});
      std::vector<Index> text;
      for (int step = 0; step < 150; ++step) {
        const auto ids = block.forbidden();
        const std::set<Index> expected = naive_forbidden(text, n, window, stop_ids);
        if (std::vector<Index>(ids.begin(), ids.end()) !=
            std::vector<Index>(expected.begin(), expected.end()))
          FAIL("step ", step, ", n ", n, ", window ", window);
        text.push_back(random_id(random, vocab));
        block.observe(text.back());
      }
    }
  }
}

TEST_CASE("silent frames may follow each other: stop ids are never forbidden") {
  NgramBlock block(5, {.stop_ids = {2}});
  for (int i = 0; i < 100; ++i) block.observe(2);
  CHECK(block.forbidden().empty());
  NgramBlock strict(5, {});
  for (int i = 0; i < 100; ++i) strict.observe(2);
  CHECK(strict.forbidden().size() == 1);
}

TEST_CASE("when nothing would be left nothing is forbidden") {
  NgramBlock block(3, {.size = 1, .window = 10});
  for (const Index id : {0, 1, 2}) block.observe(id);
  std::vector<float> logits{1, 2, 3};
  CHECK(block.apply(std::span<float>(logits)) == 0);
  CHECK(logits == std::vector<float>{1, 2, 3});

  NgramBlock two(3, {.size = 1, .window = 2});
  for (const Index id : {0, 1}) two.observe(id);
  logits = {1, 2, -kInfinity};  // the only token left is impossible already
  CHECK(two.apply(std::span<float>(logits)) == 0);
  CHECK(logits == std::vector<float>{1, 2, -kInfinity});
  logits = {1, 2, -50};
  CHECK(two.apply(std::span<float>(logits)) == 2);
  CHECK(logits == std::vector<float>{-kInfinity, -kInfinity, -50});
}

TEST_CASE("restored rules go on as ones never stopped") {
  const Index vocab = 12;
  const casa::EmaRepetitionOptions ema{.stop_ids = {0}};
  const casa::NgramBlockOptions ngram{.size = 2, .window = 20, .stop_ids = {0}};
  EmaRepetitionPenalty penalty(vocab, ema), resumed_penalty(vocab, ema);
  NgramBlock block(vocab, ngram), resumed_block(vocab, ngram);
  Random random(8);
  const auto step = [&](auto&... rules) {
    const Index id = random_id(random, vocab);
    (rules.observe(id), ...);
  };
  for (int i = 0; i < 100; ++i) step(penalty, block);
  resumed_penalty.restore(EmaRepetitionState(penalty.state()));
  resumed_block.restore(std::vector<Index>(block.state()));
  for (int i = 0; i < 100; ++i) {
    step(penalty, block, resumed_penalty, resumed_block);
    std::vector<float> logits(12, 3.f), resumed_logits = logits;
    penalty.apply(std::span<float>(logits));
    resumed_penalty.apply(std::span<float>(resumed_logits));
    CHECK(block.apply(std::span<float>(logits)) ==
          resumed_block.apply(std::span<float>(resumed_logits)));
    CHECK(logits == resumed_logits);
  }
  penalty.reset();
  block.reset();
  CHECK(penalty.state() == EmaRepetitionState{});
  CHECK(block.state().empty());
}

TEST_CASE("states, options and ids out of range are refused and change nothing") {
  EmaRepetitionPenalty penalty(10, {.stop_ids = {3}});
  penalty.observe(1);
  const EmaRepetitionState good = penalty.state();
  for (const EmaRepetitionState& bad :
       {EmaRepetitionState{{1}, {}}, EmaRepetitionState{{10}, {1}}, EmaRepetitionState{{-1}, {1}},
        EmaRepetitionState{{3}, {1}}, EmaRepetitionState{{1, 2, 1}, {1, 1, 1}},
        EmaRepetitionState{{1}, {1e-7}}, EmaRepetitionState{{1}, {1000}},
        EmaRepetitionState{{1}, {std::nan("")}}})
    CHECK_THROWS_AS(penalty.restore(bad), casa::error);
  CHECK(penalty.state() == good);
  CHECK_THROWS_AS(penalty.observe(10), casa::error);
  CHECK_THROWS_AS(penalty.observe(-1), casa::error);
  std::vector<float> logits(9);
  CHECK_THROWS_AS(penalty.apply(std::span<float>(logits)), casa::error);
  for (const casa::EmaRepetitionOptions& bad :
       {casa::EmaRepetitionOptions{.penalty = 0}, casa::EmaRepetitionOptions{.penalty = HUGE_VAL},
        casa::EmaRepetitionOptions{.decay = 0}, casa::EmaRepetitionOptions{.decay = 1},
        casa::EmaRepetitionOptions{.max_count = -1}, casa::EmaRepetitionOptions{.stop_ids = {10}}})
    CHECK_THROWS_AS(EmaRepetitionPenalty(10, bad), casa::error);
  CHECK_THROWS_WITH(EmaRepetitionPenalty(10, {.decay = 1}),
                    "EmaRepetitionPenalty: decay: expected in (0, 1), got 1");

  NgramBlock block(10, {.size = 2, .window = 3});
  block.observe(4);
  CHECK_THROWS_AS(block.observe(10), casa::error);
  CHECK_THROWS_AS(block.restore(std::vector<Index>{1, 2, 3, 4}), casa::error);
  CHECK_THROWS_AS(block.restore(std::vector<Index>{10}), casa::error);
  CHECK_THROWS_AS(block.apply(std::span<float>(logits)), casa::error);
  CHECK(block.state() == std::vector<Index>{4});
  for (const casa::NgramBlockOptions& bad :
       {casa::NgramBlockOptions{.size = -1}, casa::NgramBlockOptions{.size = 61},
        casa::NgramBlockOptions{.size = 0, .window = -1},
        casa::NgramBlockOptions{.window = (1 << 20) + 1},
        casa::NgramBlockOptions{.stop_ids = {-1}}})
    CHECK_THROWS_AS(NgramBlock(10, bad), casa::error);
}

TEST_CASE("the rules allocate nothing once built") {
  if (!casa_test::must_count()) return;
  const Index vocab = 1 << 16;
  EmaRepetitionPenalty penalty(vocab, {.stop_ids = {0}});
  NgramBlock block(vocab, {.stop_ids = {0}});
  std::vector<float> logits(static_cast<std::size_t>(vocab), 1.f);
  Random random(6);
  const long long before = casa_test::allocation_count();
  for (int i = 0; i < 20'000; ++i) {
    const Index id = random_id(random, i % 3 == 0 ? 3 : vocab);
    penalty.observe(id);
    block.observe(id);
    if (i % 100 != 0) continue;
    penalty.apply(std::span<float>(logits));
    block.apply(std::span<float>(logits));
  }
  penalty.reset();
  penalty.observe(1);
  CHECK(casa_test::allocation_count() == before);
}
