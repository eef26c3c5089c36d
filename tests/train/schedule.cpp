#include "casa/train/schedule.hpp"

#include <doctest/doctest.h>

#include "support/messages.hpp"

using namespace casa;

TEST_CASE("a warm-up rises in equal steps and ends at the peak") {
  const Schedule s{.peak = 0.5, .warmup = 4};
  CHECK(learning_rate(s, 0) == 0.125);
  CHECK(learning_rate(s, 1) == 0.25);
  CHECK(learning_rate(s, 2) == 0.375);
  CHECK(learning_rate(s, 3) == 0.5);
  CHECK(learning_rate(s, 4) == 0.5);
  CHECK(learning_rate(s, 1'000'000'000'000) == 0.5);
  CHECK(learning_rate({.peak = 0.5}, 0) == 0.5);
}

TEST_CASE("a rate falls from the peak to the floor, and stays there") {
  for (const Decay decay : {Decay::linear, Decay::cosine}) {
    const Schedule s{.peak = 2, .warmup = 10, .total = 110, .decay = decay, .floor = 0.25};
    CHECK(learning_rate(s, 9) == 2);
    CHECK(learning_rate(s, 10) == 2);
    // Halfway both are at the mean of peak and floor; cos(pi / 2) is 6e-17 in double.
    CHECK(learning_rate(s, 60) == doctest::Approx(1.25).epsilon(1e-15));
    CHECK(learning_rate(s, 110) == 0.5);
    CHECK(learning_rate(s, 111) == 0.5);
    for (std::int64_t t = 10; t < 111; ++t) {
      CAPTURE(t);
      CHECK(learning_rate(s, t + 1) <= learning_rate(s, t));
    }
  }
  // A quarter of the way: 3/4 on the line, (1 + sqrt(1/2)) / 2 on the cosine.
  CHECK(learning_rate({.peak = 1, .total = 8, .decay = Decay::linear}, 2) == 0.75);
  CHECK(learning_rate({.peak = 1, .total = 8, .decay = Decay::cosine}, 2) ==
        doctest::Approx((1 + std::sqrt(0.5)) / 2).epsilon(1e-15));
}

TEST_CASE("a schedule out of range is refused by name") {
  CHECK(has(message_of([] { check(Schedule{.peak = -1}); }), "peak must be finite"));
  CHECK(has(message_of([] { check(Schedule{.peak = std::nan("")}); }), "got nan"));
  CHECK(has(message_of([] { check(Schedule{.warmup = -2}); }), "warmup must not be negative"));
  CHECK(has(message_of([] { check(Schedule{.floor = 1.5}); }), "floor must be in [0, 1], got 1.5"));
  CHECK(has(message_of([] { learning_rate({.warmup = 5, .total = 5, .decay = Decay::linear}, 0); }),
            "total must exceed warmup, got 5 and 5"));
  CHECK(has(message_of([] { learning_rate({}, -1); }), "step must not be negative, got -1"));
}
