// The vectors of core/simd.hpp: exponentials against libm, loads and stores of every type.
#include "casa/simd/simd.hpp"
#include "casa/simd/quads.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

using namespace casa;

namespace {

template <class T>
constexpr T kInf = std::numeric_limits<T>::infinity();

// |got - exact| in units of the last place of exact (of the smallest number where exact is
// subnormal). For float from the exponent's bits: a billion of them are asked for.
double ulps(float got, double exact) {
  const auto biased = static_cast<int>(std::bit_cast<std::uint64_t>(exact) >> 52 & 0x7ffu);
  const int ulp = std::max(biased - 1023 - 23, -149);
  const auto per_ulp = std::bit_cast<double>(static_cast<std::uint64_t>(1023 - ulp) << 52);
  return std::abs(static_cast<double>(got) - exact) * per_ulp;
}
double ulps(double got, long double exact) {
  int exponent = 0;
  std::frexp(exact, &exponent);
  const long double ulp = std::ldexp(1.0L, std::max(exponent - 53, -1074));
  return static_cast<double>(std::abs(static_cast<long double>(got) - exact) / ulp);
}

// What results in T are compared with.
template <class T>
using Exact = std::conditional_t<sizeof(T) == 4, double, long double>;

// f over xs, a vector at a time.
template <class T, class F>
std::vector<T> mapped(const std::vector<T>& xs, F f) {
  constexpr Index n = simd::kLanes<T>;
  std::vector<T> ys(xs.size());
  const Index count = static_cast<Index>(xs.size());
  for (Index i = 0; i < count; i += n) {
    const Index left = std::min(n, count - i);
    if (left == n)
      simd::store(ys.data() + i, f(simd::load(xs.data() + i)));
    else
      simd::store_partial(ys.data() + i, f(simd::load_partial(xs.data() + i, left)), left);
  }
  return ys;
}

// The largest error of ys in ulp; one above 2, or a NaN, ends the test case.
template <class T>
double worst_ulps(const std::vector<T>& xs, const std::vector<T>& ys,
                  const std::vector<Exact<T>>& exact) {
  double worst = 0;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    const double e = ulps(ys[i], exact[i]);
    if (e <= worst) continue;
    worst = e;
    if (e <= 2) continue;
    CAPTURE(xs[i]);
    CAPTURE(ys[i]);
    REQUIRE(e <= 2);
  }
  return worst;
}

template <class T, class F, class G>
double worst_ulps(const std::vector<T>& xs, F f, G exact) {
  std::vector<Exact<T>> expected;
  for (const T x : xs) expected.push_back(exact(static_cast<Exact<T>>(x)));
  return worst_ulps(xs, mapped(xs, f), expected);
}

// Calls f with every float in [lowest, -0] (in unoptimised builds one in 997), some thousands at a
// time: all of them and their powers would take gigabytes.
template <class F>
void for_nonpositive_floats(float lowest, F f) {
#if defined(NDEBUG) && defined(__OPTIMIZE__)
  constexpr std::uint32_t step = 1;
#else
  constexpr std::uint32_t step = 997;
#endif
  constexpr std::uint32_t at_once = 1u << 14;
  std::vector<float> xs;
  const auto end = std::bit_cast<std::uint32_t>(lowest) + 1;
  for (auto bits = std::bit_cast<std::uint32_t>(-0.0f); bits < end;) {
    xs.clear();
    for (; bits < end && xs.size() < at_once; bits += step)
      xs.push_back(std::bit_cast<float>(bits));
    f(xs);
  }
}

}  // namespace

TEST_CASE("exp2 of float is within 2 ulp on all of a softmax's range, subnormals included") {
  double general = 0, softmax = 0;
  std::size_t count = 0;
  std::vector<double> exact;
  for_nonpositive_floats(-104 * 1.442695f, [&](const std::vector<float>& xs) {
    exact.clear();
    for (const float x : xs) exact.push_back(std::exp2(static_cast<double>(x)));
    const auto worst = [&](auto f) { return worst_ulps(xs, mapped(xs, f), exact); };
    general = std::max(general, worst([](simd::VecF v) { return simd::exp2(v); }));
    softmax = std::max(softmax, worst([](simd::VecF v) { return simd::exp2_nonpositive(v); }));
    count += xs.size();
  });
  MESSAGE("worst error of exp2: ", general, " ulp, of exp2_nonpositive: ", softmax, " ulp, over ",
          count, " values");
  CHECK(count > 1'000'000);
  CHECK(general > 0);
  CHECK(softmax > 0);
}

// Fault: e^(2x) - 1 is computed as a difference, which is off by a rounding of 1 for small x.
TEST_CASE_TEMPLATE("tanh is within 4 ulp, of small values, too", T, float, double) {
  constexpr auto n = static_cast<std::size_t>(simd::kLanes<T>);
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(sizeof(T) == 4 ? -40 : -80, 6);
  double worst = 0;
  for (int i = 0; i < 20000; ++i) {
    T x[n], y[n];
    for (T& value : x)
      value = static_cast<T>((random() % 2 == 0 ? 1 : -1) * std::exp2(exponent(random)));
    simd::store(y, simd::tanh(simd::load(x)));
    for (std::size_t l = 0; l < n; ++l) {
      const long double exact = std::tanh(static_cast<long double>(x[l]));
      const T rounded = static_cast<T>(exact);
      const long double ulp = std::abs(static_cast<long double>(rounded) -
                                       static_cast<long double>(std::nextafter(rounded, T(0))));
      const auto off = static_cast<double>(std::abs(static_cast<long double>(y[l]) - exact) / ulp);
      REQUIRE(off <= 4);
      worst = std::max(worst, off);
    }
  }
  CHECK(worst > 0);
  const auto of = [](T x) { return simd::tanh(simd::broadcast(x))[0]; };
  CHECK(of(T(0)) == T(0));
  CHECK(of(kInf<T>) == T(1));
  CHECK(of(-kInf<T>) == T(-1));
  CHECK(std::isnan(of(std::numeric_limits<T>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("select_bits takes a lane where its bit is set", T, float, double) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t bits = random();
    const auto v = simd::select_bits(bits, simd::broadcast(T(1)), simd::broadcast(T(2)));
    for (Index l = 0; l < simd::kLanes<T>; ++l) CHECK(v[l] == ((bits >> l & 1) != 0 ? T(1) : T(2)));
  }
}

TEST_CASE_TEMPLATE("exp2 and exp are within 2 ulp over random values of both signs", T, float,
                   double) {
  const T reach = sizeof(T) == 4 ? T(126) : T(1022);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<T> u(-reach, reach);
  std::vector<T> xs(20011);
  for (T& x : xs) x = u(random);
  worst_ulps<T>(
      xs, [](simd::Vec<T> v) { return simd::exp2(v); }, [](Exact<T> x) { return std::exp2(x); });
  for (T& x : xs) x *= T(0.69);
  worst_ulps<T>(
      xs, [](simd::Vec<T> v) { return simd::exp(v); }, [](Exact<T> x) { return std::exp(x); });
  for (T& x : xs) x = -std::abs(x);
  worst_ulps<T>(
      xs, [](simd::Vec<T> v) { return simd::exp2_nonpositive(v); },
      [](Exact<T> x) { return std::exp2(x); });
}

TEST_CASE_TEMPLATE("exponentials of zero, infinities, NaN and values far out", T, float, double) {
  using V = simd::Vec<T>;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const auto exp2 = [](T x) { return simd::exp2(simd::broadcast(x))[1]; };
  const auto exp = [](T x) { return simd::exp(simd::broadcast(x))[1]; };
  const auto soft = [](T x) { return simd::exp2_nonpositive(simd::broadcast(x))[1]; };
  for (const T zero : {T(0), T(-0.0)}) {
    CHECK(exp2(zero) == 1);
    CHECK(exp(zero) == 1);
    CHECK(soft(zero) == 1);
  }
  for (const T low : {-kInf<T>, T(-1e30), T(-1e5), std::numeric_limits<T>::lowest()}) {
    CHECK(exp2(low) == 0);
    CHECK(exp(low) == 0);
    CHECK(soft(low) == 0);
  }
  for (const T high : {kInf<T>, T(1e30), std::numeric_limits<T>::max()}) {
    CHECK(exp2(high) == kInf<T>);
    CHECK(exp(high) == kInf<T>);
  }
  CHECK(std::isnan(exp2(nan)));
  CHECK(std::isnan(exp(nan)));
  CHECK(std::isnan(soft(nan)));
  // A NaN beside numbers stays in its lane.
  V v = simd::broadcast(T(1));
  v[0] = nan;
  CHECK(simd::exp2(v)[1] == 2);
}

TEST_CASE_TEMPLATE("partial loads and stores touch nothing behind the end", S, float, double,
                   bfloat16, half) {
  using V = simd::Loaded<S>;
  using T = simd::Element<V>;
  constexpr Index lanes = simd::kLanes<T>;
  for (Index n = 0; n < lanes; ++n) {
    // Exactly n values on the heap, so that a sanitizer sees a read or write behind them.
    std::vector<S> from(static_cast<std::size_t>(n)), to(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) from[static_cast<std::size_t>(i)] = narrow<S>(T(i + 1));
    const V v = simd::load_partial(from.data(), n);
    for (Index i = 0; i < lanes; ++i) CHECK(T(v[i]) == (i < n ? T(i + 1) : T(0)));
    simd::store_partial(to.data(), v, n);
    CHECK(to == from);
  }
}

TEST_CASE_TEMPLATE("16-bit loads and stores are widen() and narrow() of every bit pattern", S,
                   bfloat16, half) {
  constexpr auto lanes = static_cast<std::size_t>(simd::kLanes<float>);
  for (std::uint32_t base = 0; base < 0x10000u; base += static_cast<std::uint32_t>(lanes)) {
    std::array<S, lanes> bits, back;
    for (std::size_t i = 0; i < lanes; ++i) bits[i].bits = static_cast<std::uint16_t>(base + i);
    const simd::VecF wide = simd::load(bits.data());
    simd::store(back.data(), wide);
    bool same = true;
    for (std::size_t i = 0; i < lanes; ++i) {
      const float expected = widen(bits[i]);
      const float got = wide[i];
      if (std::isnan(expected))
        same = same && std::isnan(got) && std::isnan(widen(back[i]));
      else
        same = same &&
               std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(expected) &&
               back[i] == bits[i];
    }
    CAPTURE(base);
    REQUIRE(same);
  }
}

TEST_CASE_TEMPLATE("16-bit stores round as narrow() does", S, bfloat16, half) {
  constexpr auto lanes = static_cast<std::size_t>(simd::kLanes<float>);
  std::mt19937 random(2);
  for (int round = 0; round < 5000; ++round) {
    std::array<float, lanes> x;
    std::array<S, lanes> got;
    // Random bits (all exponents, NaN, infinities) and values around half's own range by turns.
    for (float& f : x) {
      const auto r = static_cast<std::uint32_t>(random());
      f = std::bit_cast<float>(round % 2 ? r : (r & 0x81ffffffu) + 0x37000000u);
    }
    simd::store(got.data(), simd::load(x.data()));
    bool same = true;
    for (std::size_t i = 0; i < lanes; ++i)
      same = same && (std::isnan(x[i]) ? std::isnan(widen(got[i])) : got[i] == narrow<S>(x[i]));
    REQUIRE(same);
  }
}

TEST_CASE("int8 is widened with its sign") {
  std::int8_t x[static_cast<std::size_t>(simd::kLanes<float>)];
  for (int base = -128; base < 128; base += static_cast<int>(simd::kLanes<float>)) {
    for (int i = 0; i < simd::kLanes<float>; ++i) x[i] = static_cast<std::int8_t>(base + i);
    const simd::VecF v = simd::load(x);
    for (int i = 0; i < simd::kLanes<float>; ++i)
      CHECK(float(v[i]) == static_cast<float>(base + i));
  }
}

TEST_CASE_TEMPLATE("fma, max, select, reductions", T, float, double) {
  using V = simd::Vec<T>;
  constexpr Index n = simd::kLanes<T>;
  const V i = simd::iota<T>();
  CHECK(simd::fma(i, simd::broadcast(T(3)), simd::broadcast(T(1)))[n - 1] == T(3 * (n - 1) + 1));
  CHECK(simd::reduce_add(i) == T(n * (n - 1) / 2));
  CHECK(simd::reduce_max(-i) == 0);
  CHECK(simd::reduce_max(i) == T(n - 1));
  const V picked = simd::select(i < T(1), i + T(10), -i);
  CHECK(T(picked[0]) == 10);
  CHECK(T(picked[1]) == -1);
  CHECK(simd::max(i, simd::broadcast(T(1)))[0] == 1);
  CHECK(std::isnan(simd::max(i, simd::broadcast(std::numeric_limits<T>::quiet_NaN()))[0]));
}

TEST_CASE_TEMPLATE("squares of lanes: their transpose, the sums of their vectors", T, float,
                   double) {
  constexpr Index n = simd::kLanes<T>;
  simd::Vec<T> square[static_cast<std::size_t>(n)];
  T sums[static_cast<std::size_t>(n)] = {};
  for (Index r = 0; r < n; ++r)
    for (Index c = 0; c < n; ++c) sums[r] += square[r][c] = T(r * r * n + (c * 7 + r) % n);
  const auto v = simd::add_lanes(square);
  for (Index r = 0; r < n; ++r) CHECK(T(v[r]) == sums[r]);
  simd::transpose(square);
  for (Index r = 0; r < n; ++r)
    for (Index c = 0; c < n; ++c) CHECK(T(square[c][r]) == T(r * r * n + (c * 7 + r) % n));
}

TEST_CASE_TEMPLATE("two vectors at once, apart and back", S, float, double, bfloat16, half) {
  using V = simd::Loaded<S>;
  using T = simd::Element<V>;
  constexpr Index n = simd::kLanes<T>;
  S x[static_cast<std::size_t>(2 * n)];
  for (Index i = 0; i < 2 * n; ++i) x[i] = narrow<S>(T(i + 1));
  V first, second;
  simd::load_two(x, first, second);
  V a = simd::load(x), b = simd::load(x + n);
  if (simd::kLoadsPairs<S>) simd::split_pair(a, b);
  for (Index i = 0; i < n; ++i) {
    CHECK(T(first[i]) == T(a[i]));
    CHECK(T(second[i]) == T(b[i]));
  }
  if (simd::kLoadsPairs<S>) simd::merge_pair(a, b);
  for (Index i = 0; i < n; ++i) {
    CHECK(T(a[i]) == T(i + 1));
    CHECK(T(b[i]) == T(n + i + 1));
  }
}

TEST_CASE("pairs of bfloat16: made, loaded, multiplied, and what was computed of them in order") {
  using simd::bfloat16_pair;
  constexpr Index n = simd::kLanes<float>;
  const auto pair_at = [](simd::VecPairs v, Index i) {
    return std::bit_cast<bfloat16_pair>(std::uint32_t(v[i]));
  };
  simd::VecF a, b;
  for (Index i = 0; i < n; ++i) {  // 1 + 2^-8 lies halfway between two of bfloat16
    a[i] = static_cast<float>(i + 1) + 0x1p-8f;
    b[i] = static_cast<float>(-100 - 3 * i) * 1.01f;
  }
  const auto is_pair = [&](simd::VecPairs v, Index i, float first, float second) {
    CHECK(pair_at(v, i).first == narrow<bfloat16>(first));
    CHECK(pair_at(v, i).second == narrow<bfloat16>(second));
  };
  const auto apart = [&]<int Stride>() {
    const auto pairs = simd::to_pairs<Stride>(a, b);
    const auto value = [&](Index i) { return float(i < n ? a[i] : b[i - n]); };
    for (Index i = 0; i < n; ++i) {
      const Index first = i / Stride * 2 * Stride + i % Stride;
      is_pair(pairs, i, value(first), value(first + Stride));
    }
  };
  apart.operator()<1>();
  apart.operator()<2>();
  apart.operator()<static_cast<int>(n)>();

  bfloat16 x[static_cast<std::size_t>(2 * n)], y[static_cast<std::size_t>(2 * n)];
  for (Index i = 0; i < 2 * n; ++i) {
    x[i] = narrow<bfloat16>(static_cast<float>(i + 1));
    y[i] = narrow<bfloat16>(static_cast<float>(100 + i));
  }
  const auto rows = simd::load_rows(x, y);
  for (Index i = 0; i < n; ++i) is_pair(rows, i, widen(x[i]), widen(y[i]));
  simd::VecPairs first, second;
  simd::load_rows(x, y, first, second);
  // Times (1, 0.5): x + y / 2, of the whole row in order.
  const auto factor =
      simd::broadcast(bfloat16_pair{narrow<bfloat16>(1.0f), narrow<bfloat16>(0.5f)});
  simd::VecF low = simd::fma(first, factor, simd::broadcast(1000.0f)), high{};
  simd::accumulate(high, second, factor);
  high += simd::broadcast(1000.0f);
  simd::merge_pair<4>(low, high);
  for (Index i = 0; i < 2 * n; ++i)
    CHECK(float(i < n ? low[i] : high[i - n]) == 1000.0f + widen(x[i]) + widen(y[i]) / 2);

  bfloat16_pair stored[static_cast<std::size_t>(n)];
  simd::store(stored, rows);
  is_pair(simd::load(stored), n - 1, widen(x[n - 1]), widen(y[n - 1]));
  is_pair(simd::load_partial(stored, 1), 0, widen(x[0]), widen(y[0]));
  is_pair(simd::load_partial(stored, 1), 1, 0, 0);
}

// Faults: a byte of another output; an offset that stays in the value.
TEST_CASE("quads: each weight comes back, however the quads were made") {
  constexpr Index width = simd::kBytes, lanes = simd::kLanes<float>;
  std::int8_t rows[4 * width], outputs[4 * width];
  simd::WeightQuad made[std::size_t{width}];
  std::mt19937 rng(5);
  for (int round = 0; round < 20; ++round) {
    for (Index r = 0; r < 4; ++r)
      for (Index i = 0; i < width; ++i)
        rows[r * width + i] = outputs[4 * i + r] =
            static_cast<std::int8_t>(static_cast<int>(rng() % 255) - 127);
    simd::make_quads(rows, width, made);
    for (Index i = 0; i < width; ++i) {
      const simd::WeightQuad one = simd::weight_quad(outputs + 4 * i);
      for (Index r = 0; r < 4; ++r) {
        CHECK(made[i].weight(r) == rows[r * width + i]);
        CHECK(one.weight(r) == rows[r * width + i]);
      }
    }
    for (Index i = 0; i < width; i += lanes)
      for (Index r = 0; r < 4; ++r) {
        const simd::VecF v = simd::load_one_of_four(made + i, r);
        for (Index l = 0; l < lanes; ++l)
          CHECK(v[l] == static_cast<float>(rows[r * width + i + l]));
      }
  }
}
