// attend() against a definition in double of its own, by the acceptance rule
// |o - ref| <= eps V (1 + A), |lse - ref| <= 2 eps (1 + A + log n), finiteness first.
#include "casa/attention/attention.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

using namespace casa;

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

// A problem that owns its memory: head-major keys in pieces, everything else NaN bits.
template <class T, class S = T>
struct Problem {
  AttentionShape shape;
  double scale = 1;
  Index rows = 0;
  std::vector<Index> piece_counts;
  std::vector<Interval> intervals;
  std::vector<T> q;
  std::vector<std::vector<S>> k, v;  // per piece, (head, token, head_dim), padding behind each row
  Index padding = 0;
  std::vector<KeyPiece<S>> pieces;

  Problem(AttentionShape shape_, Index rows_, std::vector<Index> counts, unsigned seed,
          double score_scale = 1, Index padding_ = 0)
      : shape(shape_), rows(rows_), piece_counts(std::move(counts)), padding(padding_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const Index d = shape.head_dim;
    scale = score_scale / std::sqrt(static_cast<double>(d));
    q.resize(size(rows * shape.num_heads * d));
    for (T& x : q) x = T(normal(random));
    for (const Index count : piece_counts) {
      S nan;
      std::memset(&nan, 0xff, sizeof nan);
      const Index stride = d + padding;
      k.emplace_back(size(shape.num_kv_heads * (count + 1) * stride), nan);
      v.emplace_back(k.back());
      for (Index h = 0; h < shape.num_kv_heads; ++h)
        for (Index t = 0; t < count; ++t)
          for (Index i = 0; i < d; ++i) {
            k.back()[size((h * (count + 1) + t) * stride + i)] = narrow<S>(T(normal(random)));
            v.back()[size((h * (count + 1) + t) * stride + i)] = narrow<S>(T(normal(random)));
          }
      pieces.push_back({k.back().data(), v.back().data(), count, stride, (count + 1) * stride});
    }
    intervals.assign(size(rows), Interval{0, num_keys()});
  }

  static std::size_t size(Index n) { return static_cast<std::size_t>(n); }
  Index num_keys() const {
    Index n = 0;
    for (const Index c : piece_counts) n += c;
    return n;
  }
  S* at(std::vector<std::vector<S>>& m, Index place, Index head) {
    std::size_t p = 0;
    while (place >= piece_counts[p]) place -= piece_counts[p++];
    const Index stride = shape.head_dim + padding;
    return m[p].data() + (head * (piece_counts[p] + 1) + place) * stride;
  }
  S* key(Index place, Index head) { return at(k, place, head); }
  S* value(Index place, Index head) { return at(v, place, head); }
  AttentionInput<T, S> input() const {
    return {shape, scale, {q.data(), rows, shape.num_heads * shape.head_dim}, pieces, intervals};
  }
};

template <class T>
struct Result {
  Matrix<T> out;
  std::vector<T> lse;
};

template <class T, class S>
Result<T> run(const Problem<T, S>& p, const Context& context = {}) {
  Result<T> r{{p.rows, p.shape.num_heads * p.shape.head_dim},
              std::vector<T>(Problem<T, S>::size(p.rows * p.shape.num_heads))};
  attend(p.input(), r.out.view(), r.lse.data(), context);
  return r;
}

// A query's value as the kernel multiplies it: scaled for powers of 2 and rounded, if it may be.
template <class T>
auto query_as(T x, double scale, Precision precision) {
  using Real = std::conditional_t<sizeof(T) == 4, double, long double>;
  if (precision == Precision::full) return static_cast<Real>(x);
  const T scaled = detail::Scaling<T>(scale)(simd::broadcast(x))[0];
  const bfloat16 rounded = narrow<bfloat16>(scaled);
  return static_cast<Real>(widen(rounded)) * std::numbers::ln2_v<Real> / static_cast<Real>(scale);
}

// The definition for each row and head, with the right sides of the acceptance rule.
struct Reference {
  struct Row {
    std::vector<double> out;
    double lse = kNone, out_bound = 0, lse_bound = 0;
  };
  std::vector<Row> rows;  // (row, head)
};

template <class T, class S>
Reference define(Problem<T, S>& p, Precision precision = Precision::full) {
  using Real = std::conditional_t<sizeof(T) == 4, double, long double>;
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
  const Index d = p.shape.head_dim;
  Reference reference;
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < p.shape.num_heads; ++h) {
      Reference::Row row;
      row.out.assign(static_cast<std::size_t>(d), 0.0);
      const Interval seen = p.intervals[static_cast<std::size_t>(r)];
      std::vector<Real> score, sums(static_cast<std::size_t>(d));
      Real max = -std::numeric_limits<Real>::infinity(), sum = 0;
      double magnitude = 0, largest_v = 0;
      std::vector<Real> q;
      for (Index i = 0; i < d; ++i)
        q.push_back(query_as(p.q[p.size((r * p.shape.num_heads + h) * d + i)], p.scale, precision));
      for (Index j = seen.begin; j < seen.end; ++j) {
        Real dot = 0, absolute = 0;
        const S* key = p.key(j, h / p.shape.group());
        for (Index i = 0; i < d; ++i) {
          const Real product = q[p.size(i)] * static_cast<Real>(widen(key[i]));
          dot += product;
          absolute += std::abs(product);
        }
        score.push_back(static_cast<Real>(p.scale) * dot);
        magnitude = std::max(magnitude, std::abs(p.scale) * static_cast<double>(absolute));
        max = std::max(max, score.back());
      }
      for (Index j = seen.begin; j < seen.end; ++j) {
        const Real w = std::exp(score[static_cast<std::size_t>(j - seen.begin)] - max);
        const S* value = p.value(j, h / p.shape.group());
        sum += w;
        for (Index i = 0; i < d; ++i) {
          const auto x = static_cast<double>(widen(value[i]));
          sums[static_cast<std::size_t>(i)] += w * static_cast<Real>(x);
          largest_v = std::max(largest_v, std::abs(x));
        }
      }
      if (seen.size() > 0) {
        row.out_bound = eps * largest_v * (1 + magnitude);
        row.lse_bound = 2 * eps * (1 + magnitude + std::log(static_cast<double>(seen.size())));
        row.lse = static_cast<double>(max + std::log(sum));
        for (std::size_t i = 0; i < row.out.size(); ++i)
          row.out[i] = static_cast<double>(sums[i] / sum);
        if (precision == Precision::storage) {
          // Each weight is off by 2^-8 at most, in the sums of weights as in those of values:
          // |o' - o| <= u sum_j p_j |v_j - o| / (1 - u).
          const double u = 0x1p-8;
          std::vector<double> spread(p.size(d));
          for (Index j = seen.begin; j < seen.end; ++j)
            for (Index i = 0; i < d; ++i)
              spread[p.size(i)] +=
                  static_cast<double>(std::exp(score[p.size(j - seen.begin)] - max) / sum) *
                  std::abs(static_cast<double>(widen(p.value(j, h / p.shape.group())[i])) -
                           row.out[p.size(i)]);
          row.out_bound += u / (1 - u) * *std::max_element(spread.begin(), spread.end());
          row.lse_bound += u / (1 - u);
        }
      }
      reference.rows.push_back(std::move(row));
    }
  return reference;
}

template <class T, class S>
void check_result(const Problem<T, S>& p, const Result<T>& got, const Reference& reference) {
  const Index d = p.shape.head_dim;
  for (Index r = 0; r < p.rows; ++r)
    for (Index h = 0; h < p.shape.num_heads; ++h) {
      CAPTURE(r);
      CAPTURE(h);
      const auto index = static_cast<std::size_t>(r * p.shape.num_heads + h);
      const auto& row = reference.rows[index];
      const auto lse = static_cast<double>(got.lse[index]);
      if (row.lse == kNone) {
        REQUIRE(lse == kNone);
      } else {
        REQUIRE(std::isfinite(lse));
        REQUIRE(std::abs(lse - row.lse) <= row.lse_bound);
      }
      double worst = 0;
      bool finite = true;
      for (Index i = 0; i < d; ++i) {
        const auto x = static_cast<double>(got.out(r, h * d + i));
        finite = finite && std::isfinite(x);
        worst = std::max(worst, std::abs(x - row.out[static_cast<std::size_t>(i)]));
      }
      REQUIRE(finite);
      REQUIRE(worst <= row.out_bound);  // 0 where nothing is seen
    }
}

template <class T, class S>
void check_both_paths(Problem<T, S>& p) {
  const Reference reference = define(p);
  Context naive_path;
  naive_path.path = Path::naive;
  {
    INFO("path: naive");
    check_result(p, run(p, naive_path), reference);
  }
  INFO("path: fast");
  check_result(p, run(p), reference);
}

template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  return std::memcmp(a.out.data(), b.out.data(),
                     static_cast<std::size_t>(a.out.size()) * sizeof(T)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(T)) == 0;
}

// A key that every query of its group finds by far the best, with a value that cannot be
// overlooked.
template <class T, class S>
void make_needle(Problem<T, S>& p, Index place, Index row) {
  for (Index g = 0; g < p.shape.num_kv_heads; ++g)
    for (Index i = 0; i < p.shape.head_dim; ++i) {
      const T x = p.q[static_cast<std::size_t>(
          (row * p.shape.num_heads + g * p.shape.group()) * p.shape.head_dim + i)];
      p.key(place, g)[i] = narrow<S>(T(4) * x);
      p.value(place, g)[i] = narrow<S>(widen(p.value(place, g)[i]) + T(64));
    }
}

std::vector<Interval> causal_intervals(Index rows, Index keys) {
  std::vector<Interval> v;
  for (Index r = 0; r < rows; ++r) v.push_back({0, std::max<Index>(0, keys - rows + r + 1)});
  return v;
}

std::vector<Interval> random_intervals(Index rows, Index keys, std::mt19937& random) {
  std::vector<Interval> v;
  for (Index r = 0; r < rows; ++r) {
    const Index a = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
    const Index b = static_cast<Index>(random() % static_cast<unsigned>(keys + 1));
    v.push_back(random() % 8 == 0 ? Interval{b, b} : Interval{std::min(a, b), std::max(a, b)});
  }
  return v;
}

}  // namespace

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
