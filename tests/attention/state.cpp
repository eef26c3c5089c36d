#include "casa/attention/state.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>
#include <vector>

#include "attention/problem.hpp"
#include "support/allocations.hpp"

using namespace casa;
using casa_test::same_bits;

namespace {

template <class T>
std::vector<T> random_values(Index n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<T> normal;
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = normal(random);
  return v;
}

template <class T>
bool same_bits(const AttentionState<T>& a, const AttentionState<T>& b) {
  using casa_test::same_bits;  // (of matrices: this one hides it)
  return same_bits(a.max, b.max) && same_bits(a.sum, b.sum) && same_bits(a.out, b.out);
}

// 3 rows, 4 heads of 16, one kv head pair, keys in one piece.
template <class T>
struct Small {
  AttentionShape shape{4, 2, 16};
  Index keys;
  std::vector<T> q = random_values<T>(3 * 64, 1), k, v;
  KeyPiece<T> piece;
  explicit Small(Index keys_)
      : keys(keys_), k(random_values<T>(keys * 32, 2)), v(random_values<T>(keys * 32, 3)) {
    piece = {k.data(), v.data(), keys, 32, 16};
  }
  AttentionState<T> over(Index begin, Index end) const {
    const std::vector<Interval> intervals(3, Interval{begin, end});
    return attend_state(AttentionInput<T>{shape, 0.25, {q.data(), 3, 64}, {&piece, 1}, intervals});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("merging with the empty state changes no bit, empty with empty is empty", T,
                   float, double) {
  const Small<T> p(37);
  const auto empty = empty_state<T>(3, p.shape);
  CHECK(same_bits(p.over(5, 5), empty));
  const auto state = p.over(0, 37);
  auto merged = state;
  merge(merged, empty);
  CHECK(same_bits(merged, state));
  auto from_empty = empty;
  merge(from_empty, state);
  CHECK(same_bits(from_empty, state));
  auto nothing = empty;
  merge(nothing, empty);
  CHECK(same_bits(nothing, empty));
}

TEST_CASE_TEMPLATE("parts over disjoint keys merge to the whole, in any order", T, float, double) {
  const Small<T> p(100);
  Matrix<T> whole(3, 64), merged(3, 64);
  std::vector<T> whole_lse(12), merged_lse(12);
  finish(p.over(0, 100), whole.view(), whole_lse.data());
  const std::vector<std::vector<Index>> cuts = {
      {0, 50, 100}, {0, 1, 99, 100}, {0, 0, 30, 30, 31, 100}};
  for (const auto& cut : cuts) {
    std::vector<std::size_t> order(cut.size() - 1);
    std::iota(order.begin(), order.end(), std::size_t{0});
    do {
      auto state = empty_state<T>(3, p.shape);
      for (const std::size_t i : order) merge(state, p.over(cut[i], cut[i + 1]));
      finish(state, merged.view(), merged_lse.data());
      const T eps = std::numeric_limits<T>::epsilon();
      for (Index i = 0; i < 192; ++i) {
        REQUIRE(std::isfinite(merged.data()[i]));
        REQUIRE(std::abs(merged.data()[i] - whole.data()[i]) <= 40 * eps);
      }
      for (std::size_t i = 0; i < 12; ++i)
        REQUIRE(std::abs(merged_lse[i] - whole_lse[i]) <= 16 * eps);
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_CASE("a chain of 1000 merges at log-sum-exp 1e4 loses nothing") {
  // Each part has two keys; scores are about 1e4 with differences of order 1.
  const Index parts = 1000, n = 2 * parts;
  const AttentionShape shape{1, 1, 2};
  const std::vector<float> q = {1, 1};
  auto k = random_values<float>(2 * n, 5), v = random_values<float>(2 * n, 6);
  for (Index j = 0; j < n; ++j) k[static_cast<std::size_t>(2 * j)] = 1e4f;
  const KeyPiece<float> piece{k.data(), v.data(), n, 2, 0};
  auto state = empty_state<float>(1, shape);
  for (Index i = 0; i < parts; ++i) {
    const Interval interval{2 * i, 2 * i + 2};
    merge(state, attend_state(AttentionInput<float>{
                     shape, 1.0, {q.data(), 1, 2}, {&piece, 1}, {&interval, 1}}));
  }
  Matrix<float> out(1, 2), whole(1, 2);
  float lse = 0, whole_lse = 0;
  finish(state, out.view(), &lse);
  const Interval all{0, n};
  attend(AttentionInput<float>{shape, 1.0, {q.data(), 1, 2}, {&piece, 1}, {&all, 1}}, whole.view(),
         &whole_lse);
  CHECK(std::abs(lse - whole_lse) <= 2 * 0x1p-23f * 1e4f);
  for (Index i = 0; i < 2; ++i) {
    REQUIRE(std::isfinite(out(0, i)));
    CHECK(std::abs(out(0, i) - whole(0, i)) <= 1e-5f);
  }
}

// Fault: ln 2 is taken as the nearest double, which is off by a third of a rounding.
TEST_CASE("log-sum-exp from a state is rounded once") {
  for (int max = -3000; max <= 3000; ++max) {
    const long double exact = static_cast<long double>(max) * std::numbers::ln2_v<long double>;
    const double got = casa::detail::log_sum_exp(static_cast<double>(max), 1.0);
    const double unit = std::abs(std::nextafter(got, 1e9) - got);
    REQUIRE(std::abs(static_cast<long double>(got) - exact) <=
            0.501L * static_cast<long double>(unit));
  }
}

// Fault: a sink is added to every part.
TEST_CASE_TEMPLATE("a sink counts once: in one part, or after the merge", T, float, double) {
  const Small<T> p(40);
  const std::vector<T> sinks = {T(-0.5), T(2), T(60), -std::numeric_limits<T>::infinity()};
  const auto state = [&](Index begin, Index end, bool with_sinks) {
    const std::vector<Interval> intervals(3, Interval{begin, end});
    AttentionInput<T> in{p.shape, 0.25, {p.q.data(), 3, 64}, {&p.piece, 1}, intervals};
    if (with_sinks) in.sinks = sinks;
    return attend_state(in);
  };
  const auto check_same = [&](const AttentionState<T>& got) {
    Matrix<T> out(3, 64), lse(3, 4), expected(3, 64), expected_lse(3, 4);
    finish(got, out.view(), lse.data());
    finish(state(0, 40, true), expected.view(), expected_lse.data());
    const T eps = std::numeric_limits<T>::epsilon();
    CHECK((out.eigen() - expected.eigen()).cwiseAbs().maxCoeff() <= 40 * eps);
    CHECK((lse.eigen() - expected_lse.eigen()).cwiseAbs().maxCoeff() <= 64 * eps);
  };
  auto in_first = state(0, 13, true);
  merge(in_first, state(13, 40, false));
  check_same(in_first);
  auto in_last = state(0, 13, false);
  merge(in_last, state(13, 40, true));
  check_same(in_last);
  auto after = state(0, 13, false);
  merge(after, state(13, 40, false));
  add_sinks(after, std::span<const T>(sinks));
  check_same(after);

  // Rows without keys: zeros, and the sink as log-sum-exp.
  Matrix<T> out(3, 64), lse(3, 4);
  finish(state(7, 7, true), out.view(), lse.data());
  CHECK((out.eigen().array() == 0).all());
  for (Index h = 0; h < 4; ++h)
    CHECK((lse(2, h) == sinks[static_cast<std::size_t>(h)] ||
           std::abs(lse(2, h) - sinks[static_cast<std::size_t>(h)]) <=
               60 * std::numeric_limits<T>::epsilon()));
}

// Fault: attend_state takes new memory though the state has the size; merge or finish use some.
TEST_CASE_TEMPLATE("attend_state, merge and finish in place allocate nothing once warm", T, float,
                   double) {
  const bool counts = casa_test::must_count();
  const Small<T> p(300);
  ThreadPool pool(2);
  for (const Executor& executor : {Executor{}, Executor(pool)}) {
    Context context;
    context.executor = executor;
    AttentionState<T> whole = p.over(0, 3), part;  // (of the right size, and empty)
    Matrix<T> out(3, 64), lse(3, 4);
    const auto pass = [&](Index cut) {
      const std::array<Interval, 3> before = {{{0, cut}, {0, cut}, {0, cut}}},
                                    after = {{{cut, 300}, {cut, 300}, {cut, 300}}};
      AttentionInput<T> in{p.shape, 0.25, {p.q.data(), 3, 64}, {&p.piece, 1}, before};
      attend_state(in, whole, context);
      CHECK(same_bits(whole, p.over(0, cut)));
      in.intervals = after;
      attend_state(in, part, context);
      CHECK(same_bits(part, p.over(cut, 300)));
    };
    pass(100);
    pass(200);
    const T *max = whole.max.data(), *sum = whole.sum.data(), *values = whole.out.data();
    const auto warm = [&] {
      const std::array<Interval, 3> before = {{{0, 50}, {0, 50}, {0, 50}}},
                                    after = {{{50, 300}, {50, 300}, {50, 300}}};
      AttentionInput<T> in{p.shape, 0.25, {p.q.data(), 3, 64}, {&p.piece, 1}, before};
      attend_state(in, whole, context);
      in.intervals = after;
      attend_state(in, part, context);
      merge(whole, part, context);
      finish(whole, out.view(), lse.data(), context);
      finish(whole, whole.out, nullptr, context);
    };
    warm();  // (memory grows,
    warm();  // and becomes one block)
    const long long allocations = casa_test::allocation_count();
    warm();
    if (counts) CHECK(casa_test::allocation_count() == allocations);
    CHECK((max == whole.max.data() && sum == whole.sum.data() && values == whole.out.data()));
    CHECK(same_bits(whole.out, out));
    // The same by values.
    auto merged = p.over(0, 50);
    merge(merged, p.over(50, 300));
    Matrix<T> expected(3, 64), expected_lse(3, 4);
    finish(merged, expected.view(), expected_lse.data());
    CHECK(same_bits(out, expected));
    CHECK(same_bits(lse, expected_lse));
  }
}

TEST_CASE("a state of another size gets new memory, and a refused call leaves it as it was") {
  const Small<float> p(9);
  AttentionState<float> state = empty_state<float>(7, {4, 2, 16});
  std::vector<Interval> intervals(3, Interval{0, 10});
  AttentionInput<float> in{p.shape, 0.25, {p.q.data(), 3, 64}, {&p.piece, 1}, intervals};
  CHECK_THROWS_AS(attend_state(in, state), error);  // there are nine keys
  CHECK(same_bits(state, empty_state<float>(7, {4, 2, 16})));
  intervals.assign(3, Interval{0, 9});
  for (const Path path : {Path::naive, Path::fast}) {
    Context context;
    context.path = path;
    attend_state(in, state, context);
    CHECK(same_bits(state, attend_state(in, context)));
  }
}

// Fault: a worker takes rows of another.
TEST_CASE("merge and finish give the same bits on any number of threads") {
  const Index rows = 500;
  const AttentionShape shape{4, 4, 24};
  const auto filled = [&](unsigned seed) {
    auto s = empty_state<float>(rows, shape);
    const auto max = random_values<float>(rows * 4, seed),
               out = random_values<float>(rows * 96, seed);
    std::copy(max.begin(), max.end(), s.max.data());
    std::copy(out.begin(), out.end(), s.out.data());
    for (Index i = 0; i < rows * 4; ++i) s.sum.data()[i] = 1 + std::abs(s.max.data()[i]);
    return s;
  };
  Matrix<float> expected(rows, 96), expected_lse(rows, 4);
  auto alone = filled(1);
  merge(alone, filled(2));
  finish(alone, expected.view(), expected_lse.data());
  for (const Index threads : {2, 3, 7}) {
    ThreadPool pool(threads);
    Context context;
    context.executor = pool;
    auto shared = filled(1);
    Matrix<float> out(rows, 96), lse(rows, 4);
    merge(shared, filled(2), context);
    CHECK(same_bits(shared, alone));
    finish(shared, out.view(), lse.data(), context);
    CHECK(same_bits(out, expected));
    CHECK(same_bits(lse, expected_lse));
  }
}

TEST_CASE("states that do not fit are refused") {
  auto a = empty_state<float>(2, {4, 2, 8});
  CHECK_THROWS_AS(merge(a, empty_state<float>(3, {4, 2, 8})), error);
  CHECK_THROWS_AS(merge(a, empty_state<float>(2, {2, 2, 8})), error);
  CHECK_THROWS_AS(merge(a, empty_state<float>(2, {4, 2, 4})), error);
  Matrix<float> out(2, 31);
  CHECK_THROWS_AS(finish(a, out.view()), error);
  const std::vector<float> sinks(3);
  CHECK_THROWS_AS(add_sinks(a, sinks), error);
  for (const float wrong : {std::nanf(""), std::numeric_limits<float>::infinity(), 2.4e38f})
    CHECK_THROWS_WITH_AS(add_sinks(a, std::vector<float>{0, 0, wrong, 0}),
                         doctest::Contains("add_sinks: sinks[2] must be at most 2.2"), error);
  CHECK((a.max)(0, 0) == -std::numeric_limits<float>::infinity());  // as it was
}
