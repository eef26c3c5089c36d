#include "casa/layers/rope.hpp"

#include <doctest/doctest.h>

#include <array>

#include "support/allocations.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace casa_test;

TEST_CASE("inverse frequencies are theta^(-2i / dim), in the model's own arithmetic") {
  const auto f = rope_inv_freq<double>(8, 10000);
  REQUIRE(f.size() == 4);
  CHECK(f[0] == 1);
  CHECK(f[1] == doctest::Approx(0.1).epsilon(1e-15));
  CHECK(f[2] == doctest::Approx(0.01).epsilon(1e-15));
  CHECK(f[3] == doctest::Approx(0.001).epsilon(1e-15));
  // As torch gives 1 / 10000^(arange(0, 8, 2).float() / 8), printed to 9 digits.
  const auto g = rope_inv_freq<float>(8, 10000);
  CHECK(static_cast<float>(g[1]) == 0.1f);
  CHECK(static_cast<float>(g[2]) == 0.01f);
  for (const double v : g) CHECK(static_cast<double>(static_cast<float>(v)) == v);
  for (const double theta : {1e4, 5e5, 1e6})
    for (const Index dim : {40, 64, 128}) {
      const auto single = rope_inv_freq<float>(dim, theta);
      const auto wide = rope_inv_freq<double>(dim, theta);
      for (std::size_t i = 0; i < single.size(); ++i) {
        const double exact =
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        CHECK(wide[i] == doctest::Approx(exact).epsilon(1e-14));
        // Exponent (times ln theta), power and reciprocal are each rounded to float.
        CHECK(std::abs(single[i] - exact) <= exact * 0x1p-24 * (2 + std::log(theta)));
      }
    }
}

TEST_CASE("both pairings turn by hand-computed angles") {
  // head_dim 4, theta 10^4: the pairs turn by p and p / 100.
  struct Turn {
    std::int64_t p;
    double c0, s0, c1, s1;
  };
  const Turn turns[] = {
      {0, 1, 0, 1, 0},
      {1, 0.54030230586814, 0.84147098480790, 0.99995000041667, 0.00999983333417},
      {2, -0.41614683654714, 0.90929742682568, 0.99980000666658, 0.01999866669333},
      {1000, 0.56237907629070, 0.82687954053200, -0.83907152907645, -0.54402111088937},
  };
  for (const Path path : {Path::fast, Path::naive}) {
    Context context{.path = path};
    for (const Turn& t : turns) {
      CAPTURE(t.p);
      const std::array<Position, 1> at = {Position(t.p)};
      RopeTable<double> table;
      // Two heads, so that the second one's place is tested too.
      const double x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
      for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
        Matrix<double> y(1, 8);
        std::copy_n(x, 8, y.data());
        table.assign(make_rope<double>(4, 1e4, style), at, context);
        apply_rope<double>(y, table, 4, context);
        for (const Index head : {0, 4}) {
          const Index first[2] = {head, style == RopeStyle::half ? head + 1 : head + 2};
          const Index apart = style == RopeStyle::half ? 2 : 1;
          const double c[2] = {t.c0, t.c1}, s[2] = {t.s0, t.s1};
          for (int i = 0; i < 2; ++i) {
            const double a = x[first[i]], b = x[first[i] + apart];
            CHECK(std::abs(y(0, first[i]) - (a * c[i] - b * s[i])) < 1e-12);
            CHECK(std::abs(y(0, first[i] + apart) - (b * c[i] + a * s[i])) < 1e-12);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("angles are exact to 1e-6 rad at positions of many days", T, float, double) {
  Context context;
  const Rope rope = make_rope<T>(128, 1e4, RopeStyle::half);
  std::vector<Position> at;
  for (const std::int64_t p :
       {0L, 1L, 4096L, 100000L, 1L << 20, 3460000L, 10000000L, (1L << 24) + 1, 1L << 28,
        (1L << 29) - 1, (1L << 30) - 1, 1L << 30, -5L})
    at.emplace_back(p);
  RopeTable<T> table;
  table.assign(rope, at, context);
  const long double unit = static_cast<long double>(std::numeric_limits<T>::epsilon()) / 2;
  for (Index r = 0; r < table.rows(); ++r)
    for (Index i = 0; i < table.num_pairs(); ++i) {
      const auto u = static_cast<std::size_t>(r);
      const long double angle =
          static_cast<long double>(at[u].t) *
          static_cast<long double>(rope.inv_freq[static_cast<std::size_t>(i)]);
      CAPTURE(at[u].t);
      CAPTURE(i);
      // Up to 2^29 a float frequency's angle is exact; a double's is rounded once.
      const long double slack = std::abs(angle) * 0x1p-53L + 2 * unit;
      REQUIRE(slack < 1e-6L);
      REQUIRE(std::abs(static_cast<long double>(table.cos(r, i)) - std::cos(angle)) <= slack);
      REQUIRE(std::abs(static_cast<long double>(table.sin(r, i)) - std::sin(angle)) <= slack);
    }
}

TEST_CASE("only differences of positions count: scores stay when all are moved") {
  std::mt19937_64 rng(4);
  Context context;
  const Index heads = 3, dim = 64;
  for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
    const Rope rope = make_rope<float>(dim, 1e4, style);
    const Matrix<float> q0 = random_matrix<float>(rng, 1, heads * dim);
    const Matrix<float> k0 = random_matrix<float>(rng, 1, heads * dim);
    double reference = 0;
    for (const std::int64_t shift : {0L, 1000L, 1L << 20, 1L << 28}) {
      Matrix<float> q = q0, k = k0;
      RopeTable<float> table;
      table.assign(rope, std::array{Position(shift + 937), Position(shift)}, context);
      apply_rope<float>(q, table, dim, context, 0);
      apply_rope<float>(k, table, dim, context, 1);
      double score = 0, size = 0;
      for (Index c = 0; c < q.cols(); ++c) {
        score += static_cast<double>(q(0, c)) * static_cast<double>(k(0, c));
        size += std::abs(static_cast<double>(q(0, c)) * static_cast<double>(k(0, c)));
      }
      if (shift == 0) reference = score;
      // Each turned value is rounded a few times in float; the terms' sum is in double.
      CHECK(std::abs(score - reference) <= 8 * 0x1p-24 * 2 * size);
    }
  }
}

TEST_CASE_TEMPLATE("the vector path is the definition, for any head and rotary width", T, float,
                   double) {
  std::uint64_t seed = 5;
  const double eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved})
    for (const Index rotary : {2, 4, 6, 10, 16, 30, 34, 64, 80, 128})
      for (const Index extra : {0, 3}) {
        CAPTURE(rotary);
        CAPTURE(seed);
        std::mt19937_64 rng(seed++);
        const Index dim = rotary + extra;
        const Matrix<T> x = random_matrix<T>(rng, 5, 2 * dim);
        std::vector<Position> at;
        for (int i = 0; i < 6; ++i) at.emplace_back(static_cast<std::int64_t>(rng() % 5000));
        Context fast, naive{.path = Path::naive};
        RopeTable<T> table;
        table.assign(make_rope<T>(rotary, 1e4, style), at, fast);
        Matrix<T> a = x, b = x;
        apply_rope<T>(a, table, dim, fast, 1);
        apply_rope<T>(b, table, dim, naive, 1);
        for (Index i = 0; i < x.size(); ++i) {
          REQUIRE(std::isfinite(a.data()[i]));
          REQUIRE(std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i])) <=
                  eps * 20);  // values of N(0, 1) stay below 6; three roundings
        }
        for (Index r = 0; r < 5; ++r)
          for (Index c = 0; c < 2 * dim; ++c)
            if (c % dim >= rotary) REQUIRE(a(r, c) == x(r, c));
        Matrix<T> one = x;
        for (Index r = 0; r < 5; ++r)
          apply_rope<T>(one.view().middle_rows(r, 1), table, dim, fast, 1 + r);
        CHECK(same_bits(one.data(), a.data(), a.size()));
        ThreadPool pool(3);
        Context threads{.executor = pool};
        Matrix<T> c = x;
        apply_rope<T>(c, table, dim, threads, 1);
        CHECK(same_bits(c.data(), a.data(), a.size()));
      }
}

TEST_CASE("M-RoPE: each pair turns with its section's coordinate; text is ordinary RoPE") {
  Context context;
  Rope rope = make_rope<double>(16, 1e4, RopeStyle::half);
  const Rope plain = rope;
  rope.axis = mrope_axes(std::array<Index, 3>{2, 3, 3}, 8);
  RopeTable<double> table, expected[3];
  const std::int64_t place[3] = {11, 5, 7};
  table.assign(rope, std::array{Position(11, 5, 7), Position(9)}, context);
  for (std::size_t a = 0; a < 3; ++a)
    expected[a].assign(plain, std::array{Position(place[a]), Position(9)}, context);
  for (Index i = 0; i < 8; ++i) {
    const std::size_t axis = i < 2 ? 0 : i < 5 ? 1 : 2;
    CHECK(table.cos(0, i) == expected[axis].cos(0, i));
    CHECK(table.sin(0, i) == expected[axis].sin(0, i));
    CHECK(table.cos(1, i) == expected[0].cos(1, i));
  }
  CHECK_THROWS_AS(mrope_axes(std::array<Index, 3>{2, 3, 2}, 8), error);
  CHECK_THROWS_AS(mrope_axes(std::array<Index, 2>{4, 4}, 8), error);
  CHECK_THROWS_AS(mrope_axes(std::array<Index, 3>{-1, 4, 5}, 8), error);
}

TEST_CASE(
    "the vision tower's embedding: rows turn the first half of the pairs, columns the second") {
  Context context;
  const Rope rope = make_vision_rope<double>(80);
  REQUIRE(rope.num_pairs() == 40);
  RopeTable<double> table;
  table.assign(rope, std::array{Position(0, 3, 8)}, context);
  for (Index i = 0; i < 20; ++i) {
    const double f = std::pow(10000.0, -2.0 * static_cast<double>(i) / 40);
    CHECK(table.cos(0, i) == doctest::Approx(std::cos(3 * f)).epsilon(1e-13));
    CHECK(table.sin(0, i) == doctest::Approx(std::sin(3 * f)).epsilon(1e-13));
    CHECK(table.cos(0, 20 + i) == doctest::Approx(std::cos(8 * f)).epsilon(1e-13));
    CHECK(table.sin(0, 20 + i) == doctest::Approx(std::sin(8 * f)).epsilon(1e-13));
  }
  CHECK_THROWS_AS(make_vision_rope<float>(6), error);
}

TEST_CASE("a table may be filled part by part, each with frequencies and a magnitude of its own") {
  for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved}) {
    Rope slow = make_rope<double>(8, 1e4, style), fast = make_rope<double>(8, 1e2, style);
    fast.magnitude = 1.5;
    const std::array<Position, 5> at{0, 1, 7, 100, 3};
    const Context context;
    RopeTable<double> table, of_slow, of_fast;
    table.resize(slow, 5);
    table.fill(fast, 2, std::span(at).subspan(2), context);
    table.fill(slow, 0, std::span(at).first(2), context);
    of_slow.assign(slow, at, context);
    of_fast.assign(fast, at, context);
    for (Index row = 0; row < 5; ++row)
      for (Index i = 0; i < 4; ++i) {
        CHECK(table.cos(row, i) == (row < 2 ? of_slow : of_fast).cos(row, i));
        CHECK(table.sin(row, i) == (row < 2 ? of_slow : of_fast).sin(row, i));
      }
    CHECK(std::hypot(table.cos(3, 1), table.sin(3, 1)) == doctest::Approx(1.5).epsilon(1e-15));
    CHECK_THROWS_AS(table.fill(slow, 3, std::span(at).first(3), context), error);
    CHECK_THROWS_AS(table.fill(slow, -1, std::span(at).first(1), context), error);
    CHECK_THROWS_AS(
        table.fill(make_rope<double>(6, 1e4, style), 0, std::span(at).first(1), context), error);
    CHECK_THROWS_AS(table.resize(slow, -1), error);
  }
}

TEST_CASE("a warm table allocates nothing") {
  if (!must_count()) return;
  Context context;
  const Rope rope = make_rope<float>(64, 1e4, RopeStyle::interleaved);
  const std::vector<Position> many(20, Position(3));
  RopeTable<float> table;
  table.assign(rope, many, context);
  Matrix<float> x(20, 128);
  x.fill(1);
  const long long before = allocation_count();
  table.assign(rope, std::span(many).first(1), context);
  table.assign(rope, many, context);
  apply_rope<float>(x, table, 64, context);
  CHECK(allocation_count() == before);
}

TEST_CASE("RoPE refuses what does not fit") {
  Context context;
  RopeTable<float> table;
  Rope rope = make_rope<float>(8, 1e4, RopeStyle::half);
  table.assign(rope, std::array{Position(1), Position(2)}, context);
  Matrix<float> x(2, 24), odd(2, 20);
  x.fill(0);
  CHECK_THROWS_AS(apply_rope<float>(odd, table, 8, context), error);
  CHECK_THROWS_AS(apply_rope<float>(x, table, 6, context), error);
  CHECK_THROWS_AS(apply_rope<float>(x, table, 8, context, 1), error);
  CHECK_THROWS_AS(apply_rope<float>(x, table, 8, context, -1), error);
  CHECK_NOTHROW(apply_rope<float>(x, table, 8, context));
  rope.axis.resize(3);
  CHECK_THROWS_AS(table.assign(rope, std::array{Position(1)}, context), error);
  CHECK_THROWS_AS(rope_inv_freq<float>(7, 1e4), error);
  CHECK_THROWS_AS(rope_inv_freq<float>(8, 0), error);
}
