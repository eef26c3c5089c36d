// attend() against the definition: shapes, masks, types, edges.
#include "casa/attention/attend.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "attention/problem.hpp"

using namespace casa;
using namespace attention_test;

TEST_CASE_TEMPLATE("every head_dim, odd ones too", P, Problem<float>, Problem<double>,
                   Problem<float, bfloat16>, Problem<float, half>) {
  for (const Index d : {1, 2, 3, 5, 8, 16, 17, 24, 40, 64, 80, 96, 111, 128, 256}) {
    CAPTURE(d);
    P p({4, 2, d}, 7, {9, 14}, static_cast<unsigned>(d));
    p.intervals = causal_intervals(7, 23);
    check_both_paths(p);
  }
}

TEST_CASE_TEMPLATE("every group size and row count", T, float, double) {
  for (const Index group : {1, 2, 3, 4, 5, 6, 7, 8, 16})
    for (const Index rows : {1, 2, 3, 5, 8, 21}) {
      CAPTURE(group);
      CAPTURE(rows);
      Problem<T> p({2 * group, 2, 16}, rows, {40}, static_cast<unsigned>(100 * group + rows));
      p.intervals = causal_intervals(rows, 40);
      check_both_paths(p);
    }
}

TEST_CASE_TEMPLATE("16-bit keys and values, read where they lie or copied, by few rows and by many",
                   P, Problem<float, bfloat16>, Problem<float, half>) {
  for (const Index d : {16, 32, 48, 80, 128})
    for (const Index rows : {1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 64, 65}) {
      CAPTURE(d);
      CAPTURE(rows);
      P p({1, 1, d}, rows, {110, 320}, static_cast<unsigned>(1000 * d + rows), 1, d == 48 ? 1 : 0);
      p.intervals = causal_intervals(rows, 430);
      for (std::size_t r = 0; r < p.intervals.size(); r += 3) p.intervals[r].begin = 5;
      check_both_paths(p);
    }
}

// Where the machine multiplies pairs of bfloat16, rows that are enough round; elsewhere nothing
// does.
TEST_CASE("queries and weights may be rounded to the bfloat16 that keys are stored in") {
  Context rounds;
  rounds.precision = Precision::storage;
  for (const Index d : {8, 16, 32, 48, 80, 128, 256})
    for (const Index rows : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 24, 33, 48, 65}) {
      CAPTURE(d);
      CAPTURE(rows);
      Problem<float, bfloat16> p({1, 1, d}, rows, {110, 319},
                                 static_cast<unsigned>(1000 * d + rows), 1, d == 48 ? 1 : 0);
      p.intervals = causal_intervals(rows, 429);
      for (std::size_t r = 0; r < p.intervals.size(); r += 3) p.intervals[r].begin = 5;
      if (rows > 8) make_needle(p, 429 - rows / 2, rows / 2);
      const bool rounded = simd::kMultipliesPairs<bfloat16> && rows > detail::kFewQueries &&
                           d % simd::kLanes<float> == 0;
      const auto got = run(p, rounds);
      check_result(p, got, define(p, rounded ? Precision::storage : Precision::full));
      CHECK(same_bits(got, run(p)) == !rounded);
    }
}

TEST_CASE("rounded weights: random intervals, equal keys, and what a row must not see") {
  Context rounds;
  rounds.precision = Precision::storage;
  const auto expected = simd::kMultipliesPairs<bfloat16> ? Precision::storage : Precision::full;
  std::mt19937 random(4);
  for (unsigned seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    const Index rows = static_cast<Index>(3 + random() % 60);
    Problem<float, bfloat16> p({4, 2, 32}, rows, {static_cast<Index>(random() % 300), 40}, seed);
    p.intervals = random_intervals(rows, p.num_keys(), random);
    for (auto& i : p.intervals) i.begin = std::min<Index>(i.begin, 3);  // one window
    for (auto& i : p.intervals) i.end = std::max<Index>(i.end, 4);
    check_result(p, run(p, rounds), define(p, expected));
  }
  // Windows that begin at odd places, and rows that see nothing.
  Problem<float, bfloat16> windows({2, 1, 32}, 40, {333}, 7);
  for (Index r = 0; r < 40; ++r)
    windows.intervals[windows.size(r)] =
        r % 9 == 4 ? Interval{} : Interval{r / 8 * 61, r / 8 * 61 + 20 + r};
  check_result(windows, run(windows, rounds), define(windows, expected));
  // A long range that is split into parts.
  Problem<float, bfloat16> split({4, 1, 32}, 1, {1000, 3097}, 8);
  make_needle(split, 1037, 0);
  check_result(split, run(split, rounds), define(split, expected));
  // Weights that are summed as they are multiplied: equal values are met exactly.
  Problem<float, bfloat16> equal({4, 1, 32}, 3, {4097}, 5);
  for (Index j = 0; j < 4097; ++j) std::fill_n(equal.value(j, 0), 32, narrow<bfloat16>(0.75f));
  const auto same = run(equal, rounds);
  for (Index i = 0; i < same.out.size(); ++i)
    CHECK(std::abs(same.out.data()[i] - 0.75f) <= 0x1p-22f);
  // NaN beside what a row sees, at even and odd places.
  for (const Index place : {100, 101, 150, 151})
    for (const Index rows : {3, 6, 40}) {
      CAPTURE(place);
      CAPTURE(rows);
      Problem<float, bfloat16> p({2, 2, 32}, rows, {200}, 6);
      for (std::size_t r = 0; r < p.intervals.size(); ++r)
        p.intervals[r] = r % 3 == 0   ? Interval{0, place}
                         : r % 3 == 1 ? Interval{place + 1, 200}
                                      : Interval{99, 100};
      p.intervals.back() = {0, 200};
      const auto before = run(p, rounds);
      for (Index g = 0; g < 2; ++g)
        std::fill_n(p.value(place, g), 32,
                    narrow<bfloat16>(std::numeric_limits<float>::quiet_NaN()));
      const auto after = run(p, rounds);
      const auto unchanged = static_cast<std::size_t>((rows - 1) * 64) * sizeof(float);
      CHECK(std::memcmp(before.out.data(), after.out.data(), unchanged) == 0);
      CHECK(std::isnan(after.out(rows - 1, 0)));
    }
}

TEST_CASE_TEMPLATE("random intervals, several pieces, padded memory", P, Problem<float>,
                   Problem<double>, Problem<float, bfloat16>, Problem<float, half>) {
  std::mt19937 random(3);
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::vector<Index> counts;
    for (auto n = 1 + random() % 5; n > 0; --n)
      counts.push_back(static_cast<Index>(random() % (seed % 4 == 0 ? 300 : 30)));
    const Index d = static_cast<Index>(1 + random() % 40);
    P p({4, 2, d}, static_cast<Index>(random() % 60), counts, seed, 1,
        static_cast<Index>(random() % 3));
    p.intervals = random_intervals(p.rows, p.num_keys(), random);
    check_both_paths(p);
  }
}

TEST_CASE_TEMPLATE("nothing to see, nothing to ask", T, float, double) {
  Problem<T> no_rows({2, 1, 8}, 0, {5}, 1);
  CHECK(run(no_rows).out.size() == 0);
  Problem<T> no_keys({2, 1, 8}, 3, {}, 1);
  check_both_paths(no_keys);
  Problem<T> empty_pieces({2, 1, 8}, 3, {0, 0}, 1);
  check_both_paths(empty_pieces);
  Problem<T> some_rows({2, 1, 8}, 6, {0, 12, 0}, 1);
  some_rows.intervals = {{0, 0}, {3, 7}, {12, 12}, {5, 2}, {0, 12}, {11, 12}};
  check_both_paths(some_rows);
}

TEST_CASE_TEMPLATE("needles at every edge of intervals and blocks are found or not seen", P,
                   Problem<float>, Problem<double>, Problem<float, bfloat16>,
                   Problem<float, half>) {
  // The needle stands at `place`; row 0's interval begins or ends beside it.
  for (const Index place : {0,   1,   7,   8,   63,  64,  127, 128, 191, 192, 255,
                            256, 275, 276, 287, 288, 300, 511, 512, 575, 576, 599})
    for (const bool split : {false, true}) {
      CAPTURE(place);
      CAPTURE(split);
      P p({4, 2, 32}, 5, split ? std::vector<Index>{place, 600 - place} : std::vector<Index>{600},
          7);
      make_needle(p, place, 1);
      p.intervals = {{0, place},
                     {0, place + 1},
                     {place, 600},
                     {std::min<Index>(600, place + 1), 600},
                     {0, 600}};
      check_both_paths(p);
    }
}

TEST_CASE_TEMPLATE("all scores equal, zero, huge or far below zero", T, float, double) {
  for (const Index keys : {1, 5, 64, 300, 1000}) {
    CAPTURE(keys);
    Problem<T> zero({2, 1, 16}, 4, {keys}, 5, 0.0);
    check_both_paths(zero);
    // Integer q and k on a scale that is exact: all scores of a row equal, near +-1e5 or at +-1e30.
    for (const double level : {1e5, -1e5, 1e30, -1e30}) {
      CAPTURE(level);
      Problem<T> p({2, 1, 16}, 4, {keys}, 5);
      std::fill(p.q.begin(), p.q.end(), T(1));
      for (Index j = 0; j < keys; ++j) std::fill_n(p.key(j, 0), 16, T(1));
      p.scale = level / 16;
      check_both_paths(p);
    }
  }
}

TEST_CASE_TEMPLATE("wide scores neither overflow nor lose accuracy", T, float, double) {
  for (const double score_scale : {1e-2, 10.0, 1e3, 1e5}) {
    CAPTURE(score_scale);
    Problem<T> p({4, 2, 64}, 20, {150, 250}, 11, score_scale);
    p.intervals = causal_intervals(20, 400);
    check_both_paths(p);
  }
}

TEST_CASE_TEMPLATE("a key that a row must not see cannot change a bit of it, not even as NaN", T,
                   float, double) {
  for (const Index rows : {3, 30, 70}) {
    Problem<T> p({4, 2, 24}, rows, {rows + 200}, 13);
    p.intervals = causal_intervals(rows, rows + 200);
    const auto before = run(p);
    for (const T poison :
         {T(1e30), std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN()}) {
      Problem<T> changed = p;
      changed.pieces = {
          {changed.k[0].data(), changed.v[0].data(), rows + 200, 24, (rows + 201) * 24}};
      // The key that the last `rows / 2` rows see and the others do not.
      const Index place = 200 + rows / 2;
      for (Index g = 0; g < 2; ++g) {
        std::fill_n(changed.key(place, g), 24, poison);
        std::fill_n(changed.value(place, g), 24, poison);
      }
      const auto after = run(changed);
      CAPTURE(rows);
      CAPTURE(poison);
      const Index unchanged = rows / 2;
      CHECK(std::memcmp(before.out.data(), after.out.data(),
                        static_cast<std::size_t>(unchanged * 4 * 24) * sizeof(T)) == 0);
      CHECK(std::memcmp(before.lse.data(), after.lse.data(),
                        static_cast<std::size_t>(unchanged * 4) * sizeof(T)) == 0);
      CHECK(std::memcmp(before.out.row(unchanged), after.out.row(unchanged), 24 * sizeof(T)) != 0);
    }
  }
}

// Faults: only the first vector of a value is looked at, or only whole vectors, before rows that
// see a key share a tile with rows that do not, in which its weight of 0 meets its value.
TEST_CASE_TEMPLATE("NaN anywhere in a value is met by the rows alone that see its key", P,
                   Problem<float>, Problem<double>, Problem<float, bfloat16>,
                   Problem<float, half>) {
  using S = std::remove_cvref_t<decltype(P::k[0][0])>;
  for (const Index d : {19, 64, 80})
    for (const Index rows : {5, 34}) {
      CAPTURE(d);
      CAPTURE(rows);
      P p({4, 2, d}, rows, {rows + 300}, 21);
      p.intervals = causal_intervals(rows, rows + 300);
      p.intervals[0].begin = 2;
      const auto before = run(p);
      for (const Index place : {Index{1}, 300 + rows / 2})
        for (const Index i : {Index{0}, Index{3}, Index{9}, Index{17}, d / 2, d - 1}) {
          CAPTURE(place);
          CAPTURE(i);
          const S kept = p.value(place, 1)[i];
          p.value(place, 1)[i] = narrow<S>(std::numeric_limits<float>::quiet_NaN());
          const auto after = run(p);
          for (Index r = 0; r < rows; ++r)
            for (Index c = 0; c < 4 * d; ++c) {
              const bool meets = p.intervals[p.size(r)].contains(place) && c >= 2 * d && c % d == i;
              const bool right =
                  meets ? std::isnan(after.out(r, c)) : after.out(r, c) == before.out(r, c);
              if (!right) FAIL("row ", r, ", column ", c, ": ", after.out(r, c));
            }
          p.value(place, 1)[i] = kept;
        }
    }
}

TEST_CASE_TEMPLATE("a row that sees nothing gives zeros beside one that sees NaN", P,
                   Problem<float>, Problem<double>, Problem<float, bfloat16>) {
  using T = std::remove_cvref_t<decltype(P::q[0])>;
  using S = std::remove_cvref_t<decltype(P::k[0][0])>;
  for (const Precision precision : {Precision::full, Precision::storage})
    for (const Index rows : {3, 9, 40}) {
      CAPTURE(rows);
      P p({2, 2, 32}, rows, {200}, 3);
      p.intervals[1] = {};
      for (Index g = 0; g < 2; ++g)
        p.value(150, g)[5] = narrow<S>(std::numeric_limits<T>::quiet_NaN());
      Context context;
      context.precision = precision;
      const auto got = run(p, context);
      for (Index i = 0; i < 64; ++i) CHECK(got.out(1, i) == 0);
      CHECK(std::isnan(got.out(0, 5)));
      CHECK(std::isfinite(got.out(0, 6)));
    }
}

TEST_CASE_TEMPLATE("threads, repetition and a used workspace change no bit", P, Problem<float>,
                   Problem<float, bfloat16>) {
  for (const Index d : {40, 48})  // vectors are padded; pairs may be read
    for (const Precision precision : {Precision::full, Precision::storage}) {
      CAPTURE(d);
      P p({6, 2, d}, 150, {100, 3000}, 17);
      p.intervals = causal_intervals(150, 3100);
      for (std::size_t r = 0; r < 50; ++r) p.intervals[r] = {100, 130 + static_cast<Index>(r)};
      P decode({6, 2, d}, 1, {9000}, 18);
      Context serial;
      serial.precision = precision;
      const auto expected = run(p, serial);
      const auto expected_decode = run(decode, serial);
      // What was never written is NaN bits, and equal to itself: the values first.
      REQUIRE(std::all_of(expected.out.data(), expected.out.data() + expected.out.size(),
                          [](auto x) { return std::isfinite(x); }));
      const bool rounded = std::is_same_v<P, Problem<float, bfloat16>> &&
                           simd::kMultipliesPairs<bfloat16> && precision == Precision::storage &&
                           d == 48;
      check_result(decode, expected_decode,
                   define(decode, rounded ? Precision::storage : Precision::full));
      for (const Index threads : {1, 2, 3, 4, 7}) {
        CAPTURE(threads);
        ThreadPool pool(threads);
        Context context{.executor = pool, .precision = precision};
        for (int repeat = 0; repeat < 3; ++repeat) {
          CHECK(same_bits(run(p, context), expected));
          CHECK(same_bits(run(decode, context), expected_decode));
        }
      }
    }
}

TEST_CASE("a warm call takes no new memory") {
  Problem<float> p({4, 2, 32}, 70, {90}, 19);
  p.intervals = causal_intervals(70, 90);
  Context context;
  for (int i = 0; i < 3; ++i) run(p, context);
  const Index before = context.workspace.capacity();
  run(p, context);
  CHECK(context.workspace.capacity() == before);
}

TEST_CASE("out may be q itself") {
  Problem<float> p({4, 2, 32}, 33, {90}, 19);
  const auto expected = run(p);
  std::vector<float> lse(33 * 4);
  const MatrixView<float> both(p.q.data(), 33, 128);
  attend(p.input(), both, lse.data());
  CHECK(std::memcmp(both.data(), expected.out.data(), p.q.size() * sizeof(float)) == 0);
}

TEST_CASE("what does not fit is refused before anything is written") {
  using P = Problem<float>;
  const auto refused = [](const std::function<void(P&, AttentionInput<float>&)>& spoil,
                          const char* named) {
    P p({4, 2, 8}, 3, {5, 6}, 1);
    AttentionInput<float> in = p.input();
    spoil(p, in);
    if (in.intervals.size() == 3) in.intervals = p.intervals;
    in.keys = p.pieces;
    Matrix<float> out(3, 32);
    out.fill(7);
    std::string message;
    try {
      attend(in, out.view());
    } catch (const error& e) {
      message = e.what();
    }
    CAPTURE(message);
    CHECK(message.find(named) != std::string::npos);
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float x) { return x == 7.0f; }));
  };
  refused([](P&, auto& in) { in.shape.num_kv_heads = 3; }, "num_kv_heads");
  refused([](P&, auto& in) { in.shape.head_dim = 0; }, "head_dim");
  refused([](P&, auto& in) { in.shape.head_dim = 7; }, "columns of q");
  refused([](P&, auto& in) { in.scale = kNone; }, "scale");
  refused([](P&, auto& in) { in.q = {nullptr, 3, 32}; }, "q is null");
  refused([](P&, auto& in) { in.intervals = in.intervals.subspan(1); }, "intervals");
  refused([](P& p, auto&) { p.intervals[1] = {0, 12}; }, "intervals[1]");
  refused([](P& p, auto&) { p.intervals[2] = {-1, 2}; }, "[-1, 2)");
  refused([](P& p, auto&) { p.pieces[1].v = nullptr; }, "keys[1]");
  refused([](P& p, auto&) { p.pieces[0].count = -1; }, "keys[0]");
  P p({4, 2, 8}, 3, {5}, 1);
  Matrix<float> wrong(2, 32), narrow_out(3, 31);
  CHECK_THROWS_AS(attend(p.input(), wrong.view()), error);
  CHECK_THROWS_AS(attend(p.input(), narrow_out.view()), error);
}
