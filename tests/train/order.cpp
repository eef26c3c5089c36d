#include "casa/train/packing.hpp"
#include "casa/train/sample_order.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "support/messages.hpp"

using namespace casa;

TEST_CASE("each epoch has every sample once, in an order of its own") {
  for (const Index n : {1, 2, 3, 97}) {
    CAPTURE(n);
    SampleOrder order(n, 5);
    std::vector<std::vector<Index>> epochs;
    for (int epoch = 0; epoch < 4; ++epoch) {
      auto& seen = epochs.emplace_back();
      for (Index i = 0; i < n; ++i) seen.push_back(order.next());
      std::vector<Index> sorted = seen;
      std::sort(sorted.begin(), sorted.end());
      for (Index i = 0; i < n; ++i) CHECK(sorted[static_cast<std::size_t>(i)] == i);
    }
    if (n == 97) {
      CHECK(epochs[0] != epochs[1]);
      CHECK(epochs[1] != epochs[2]);
      SampleOrder again(n, 5), other(n, 6);
      std::vector<Index> same, different;
      for (Index i = 0; i < n; ++i) same.push_back(again.next()), different.push_back(other.next());
      CHECK(same == epochs[0]);
      CHECK(different != epochs[0]);
    }
  }
}

TEST_CASE("an order goes on from a saved state, at the ends of an epoch too") {
  SampleOrder whole(10, 3);
  std::vector<SampleOrderState> states;
  std::vector<Index> all;
  for (int i = 0; i < 35; ++i) {
    states.push_back(whole.state());
    all.push_back(whole.next());
  }
  for (std::size_t i = 0; i < states.size(); ++i) {
    CAPTURE(i);
    SampleOrder rest(10, 3, states[i]);
    for (std::size_t j = i; j < all.size(); ++j) REQUIRE(rest.next() == all[j]);
  }
}

TEST_CASE("bounded numbers are below the bound, and each is as likely") {
  Random random(11);
  std::array<int, 6> count{};
  const int n = 60000;
  for (int i = 0; i < n; ++i) ++count[uniform_below(random, count.size())];
  // Each count is binomial, of variance n 1/6 5/6: no one of them is 6 deviations away.
  for (const int c : count) CHECK(std::abs(c - n / 6) < 6 * std::sqrt(n * 5.0 / 36));
  // With a bound of 2^63 + 1 nearly half of the draws are repeated.
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t bound = (std::uint64_t{1} << 63) + 1;
    CHECK(uniform_below(random, bound) < bound);
  }
  CHECK(has(message_of([&] { uniform_below(random, 0); }), "n must be positive"));
}

TEST_CASE("generators of one seed and different numbers have nothing in common") {
  std::vector<std::uint64_t> drawn;
  for (std::uint64_t seed = 0; seed < 50; ++seed)
    for (std::uint64_t number = 0; number < 50; ++number) {
      Random random = random_of(seed, number);
      CHECK(random == random_of(seed, number));
      drawn.push_back(random.next());
    }
  std::sort(drawn.begin(), drawn.end());
  CHECK(std::adjacent_find(drawn.begin(), drawn.end()) == drawn.end());
}

TEST_CASE("orders that cannot be are refused") {
  CHECK(has(message_of([] { SampleOrder(0); }), "samples must be positive, got 0"));
  CHECK(has(message_of([] { SampleOrder(3, 0, {0, 4}); }), "place in [0, 3], got 0 and 4"));
  CHECK(has(message_of([] { SampleOrder(3, 0, {-1, 0}); }), "got -1 and 0"));
}

TEST_CASE("samples are packed in order, into as few parts as that allows") {
  const std::vector<Index> tokens{3, 4, 3, 10, 0, 1, 9, 1};
  const auto parts = pack_samples(tokens, 10);
  const std::vector<Interval> expected{{0, 3}, {3, 5}, {5, 7}, {7, 8}};
  REQUIRE(parts.size() == expected.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    CHECK(parts[i].begin == expected[i].begin);
    CHECK(parts[i].end == expected[i].end);
  }
  CHECK(pack_samples({}, 10).empty());
  constexpr Index most = (std::numeric_limits<Index>::max)();
  const std::vector<Index> large{most, 1, most};
  CHECK(pack_samples(large, most).size() == 3);
  CHECK(has(message_of([&] { pack_samples(tokens, 9); }),
            "sample 3: tokens must be in [0, 9], got 10"));
}
