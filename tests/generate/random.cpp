#include "casa/generate/random.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

using casa::Random;

TEST_CASE("the sequence is the published one") {
  // First outputs of xoshiro256++ from the state 1, 2, 3, 4, as its authors' program prints them.
  Random random(Random::State{1, 2, 3, 4});
  constexpr std::uint64_t expected[] = {41943041u,
                                        58720359u,
                                        3588806011781223u,
                                        3591011842654386u,
                                        9228616714210784205u,
                                        9973669472204895162u,
                                        14011001112246962877u,
                                        12406186145184390807u,
                                        15849039046786891736u,
                                        10450023813501588000u};
  for (const std::uint64_t x : expected) CHECK(random.next() == x);
}

TEST_CASE("a seed is spread over the state by SplitMix64") {
  const Random::State expected{6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                               4593380528125082431u};
  CHECK(Random(1234567).state() == expected);
  CHECK(Random(0).state() != Random(1).state());
}

TEST_CASE("a copy and a saved state go on as the original") {
  Random random(7);
  for (int i = 0; i < 100; ++i) random.next();
  Random copy = random;
  Random resumed(random.state());
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t x = random.next();
    CHECK(copy.next() == x);
    CHECK(resumed.next() == x);
  }
  CHECK(copy == random);
}

TEST_CASE("four zeros are no state") { CHECK_THROWS_AS(Random(Random::State{}), casa::error); }

TEST_CASE("uniform numbers fill [0, 1) evenly") {
  constexpr int cells = 64, draws = 1 << 20;
  std::vector<int> count(cells);
  Random random(3);
  for (int i = 0; i < draws; ++i) {
    const double u = random.uniform();
    if (!(u >= 0 && u < 1)) FAIL("draw ", i, " is ", u);
    ++count[static_cast<std::size_t>(u * cells)];
  }
  double chi2 = 0;
  for (const int n : count) {
    const double expected = static_cast<double>(draws) / cells;
    chi2 += (n - expected) * (n - expected) / expected;
  }
  // Laurent and Massart: a chi-square of f degrees exceeds f + 2 sqrt(f x) + 2 x with probability
  // below exp(-x), and falls below f - 2 sqrt(f x) likewise; x = 20.
  const double f = cells - 1;
  CHECK(chi2 < f + 2 * std::sqrt(f * 20) + 40);
  CHECK(chi2 > f - 2 * std::sqrt(f * 20));
}
