// What the functions of attention/ demand beside tests/attention/attend.cpp and simple.cpp: rows
// behind packed sequences, states, and executors of any width.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "casa/attention/scores.hpp"
#include "casa/attention/simple.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

Matrix<float> random(Index rows, Index cols, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  Matrix<float> m(rows, cols);
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal(rng);
  return m;
}

using Lengths = std::vector<std::int32_t>;

}  // namespace

TEST_CASE("varlen: rows behind the last sequence are zero, keys behind it are not read") {
  constexpr Index heads = 2, dim = 8, width = heads * dim;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const bool causal : {false, true})
    for (const Index padding_q : {0, 1, 3, 40})
      for (const Index padding_k : {0, 2, 50}) {
        CAPTURE(causal);
        CAPTURE(padding_q);
        CAPTURE(padding_k);
        const Lengths cu_q = {0, 5, 5, 9}, cu_k = {0, 6, 8, 12};
        Matrix<float> q = random(9 + padding_q, width, 1), k = random(12 + padding_k, width, 2);
        for (Index i = 9 * width; i < q.size(); ++i) q.data()[i] = nan;
        for (Index i = 12 * width; i < k.size(); ++i) k.data()[i] = nan;
        const Matrix<float> v = k;
        std::vector<float> lse(static_cast<std::size_t>(q.rows() * heads), nan),
            exact_lse(9 * heads);
        const auto out = varlen(q, k, v, cu_q, cu_k, causal,
                                {.num_heads = heads, .num_kv_heads = heads, .lse = lse.data()});
        const auto exact =
            varlen(q.view().middle_rows(0, 9), k.view().middle_rows(0, 12),
                   v.view().middle_rows(0, 12), cu_q, cu_k, causal,
                   {.num_heads = heads, .num_kv_heads = heads, .lse = exact_lse.data()});
        REQUIRE(out.rows() == q.rows());
        // (to rounding: more rows may be cut into other panels)
        CHECK((out.topRows(9) - exact).cwiseAbs().maxCoeff() < 1e-5f);
        CHECK((out.bottomRows(padding_q).array() == 0).all());
        CHECK(exact.allFinite());
        for (std::size_t i = 0; i < lse.size(); ++i) {
          if (i < exact_lse.size())
            CHECK(std::abs(lse[i] - exact_lse[i]) < 1e-5f);
          else
            CHECK(lse[i] == -std::numeric_limits<float>::infinity());
        }
      }
}

TEST_CASE("varlen: no sequence at all, and more queries than keys") {
  const Matrix<float> x = random(4, 8, 3);
  const AttendOptions<float> one;
  const auto nothing = varlen(x, x, x, Lengths{0}, Lengths{0}, true, one);
  CHECK((nothing.array() == 0).all());
  // Aligned at the end: the first two queries of four stand before the two keys.
  const auto few = varlen(x, x, x, Lengths{0, 4}, Lengths{0, 2}, true, one);
  CHECK((few.topRows(2).array() == 0).all());
  CHECK((few.row(2).array() == x.eigen().row(0).array()).all());
}

TEST_CASE("varlen: lists that are none are refused, with what is wrong") {
  const Matrix<float> x = random(12, 8, 4);
  const auto said = [&](const Lengths& q, const Lengths& k) {
    return message_of([&] { (void)varlen(x, x, x, q, k, true, {}); });
  };
  CHECK(said({}, {}) ==
        "varlen: cu_seqlens_q and cu_seqlens_k must have equally many entries, at least one, got 0 "
        "and 0");
  CHECK(has(said({0, 12}, {0, 5, 12}), "equally many entries, at least one, got 2 and 3"));
  CHECK(said({2, 12}, {0, 12}) == "varlen: cu_seqlens must begin with 0, got 2 and 0");
  CHECK(said({0, 12}, {-1, 12}) == "varlen: cu_seqlens must begin with 0, got 0 and -1");
  CHECK(said({0, 7, 5, 12}, {0, 5, 7, 12}) ==
        "varlen: cu_seqlens must not decrease, sequence 1 has -2 queries and 2 keys");
  CHECK(said({0, 5, 7, 12}, {0, 7, 5, 12}) ==
        "varlen: cu_seqlens must not decrease, sequence 1 has 2 queries and -2 keys");
  CHECK(said({0, 13}, {0, 12}) == "varlen: cu_seqlens_q ends at 13, but q has 12 rows");
  CHECK(said({0, 12}, {0, 13}) == "varlen: cu_seqlens_k ends at 13, but k has 12 rows");
  // (nothing of that size is asked for)
  CHECK(said({0, 2147483647}, {0, 12}) ==
        "varlen: cu_seqlens_q ends at 2147483647, but q has 12 rows");
  CHECK(message_of([&] {
          (void)varlen_intervals(Lengths{0, 3, 2}, Lengths{0, 3, 4}, true);
        }) == "varlen: cu_seqlens must not decrease, sequence 1 has -1 queries and 1 keys");
}

TEST_CASE("lists of intervals that are none are refused, with row and values") {
  const Matrix<float> q = random(3, 8, 1), k = random(10, 8, 2);
  const auto said = [&](const Mask& mask) {
    return message_of([&] { (void)attend(q, k, k, mask); });
  };
  const Mask good{{{0, 2}, {2, 5}, {9, 10}}, {0, 2, 2, 3}};
  CHECK(said(good).empty());
  Mask built;
  built.add_row({{0, 2}, {2, 5}});
  built.add_row({});
  built.add_row({{9, 10}});
  CHECK(built == good);
  CHECK(said({{{0, 2}}, {0, 1}}) ==
        "attention: rows of interval_offsets (one less than there are): expected 3, got 1");
  CHECK(said({{{0, 2}}, {1, 1, 1, 1}}) == "attention: interval_offsets[0]: expected 0, got 1");
  CHECK(said({{{0, 2}}, {0, 1, 0, 1}}) ==
        "attention: interval_offsets must not decrease nor exceed the 1 intervals, got 1 and 0 for "
        "row 1");
  CHECK(has(said({{{0, 2}}, {0, 1, 2, 1}}), "the 1 intervals, got 1 and 2 for row 1"));
  CHECK(said({{{0, 2}, {3, 4}}, {0, 1, 1, 1}}) ==
        "attention: the last of interval_offsets: expected 2, got 1");
  CHECK(said({{{0, 2}, {4, 4}}, {0, 1, 2, 2}}) == "attention: row 1 has an empty interval: [4, 4)");
  CHECK(said({{{0, 2}, {8, 11}}, {0, 1, 2, 2}}) ==
        "attention: intervals of row 1 must lie within [0, 10), got [8, 11)");
  CHECK(has(said({{{0, 2}, {-1, 1}}, {0, 1, 2, 2}}), "row 1 must lie within [0, 10), got [-1, 1)"));
  CHECK(said({{{0, 5}, {4, 6}}, {0, 0, 2, 2}}) ==
        "attention: intervals of row 1 must ascend without overlap, got [4, 6) after one that ends "
        "at 5");
}

TEST_CASE("sinks, widths of values and parameters of scores that do not fit are refused") {
  const Matrix<float> q = random(3, 8, 1), k = random(10, 8, 2), wide = random(10, 12, 3);
  const std::vector<Interval> all(3, Interval{0, 10});
  const AttendOptions<float> two{.num_heads = 2, .num_kv_heads = 2};
  const auto with = [&](auto change) {
    AttendOptions<float> options = two;
    change(options);
    return message_of([&] { (void)attend(q, k, k, all, options); });
  };
  const float sinks[] = {1, std::numeric_limits<float>::infinity(), 3};
  CHECK(with([&](auto& o) { o.sinks = sinks; }) ==
        "attention: sinks (one per head): expected 2, got 3");
  CHECK(has(with([&](auto& o) { o.sinks = {sinks, 2}; }), "sinks[1] must be at most 2.2"));
  CHECK(with([&](auto& o) { o.value_dim = 6; }) == "attend: columns of v: expected 12, got 8");
  CHECK(has(with([&](auto& o) { o.value_dim = -1; }), "value_dim must not be negative, got -1"));
  CHECK(attend(q, k, wide, all, {.num_heads = 2, .num_kv_heads = 2, .value_dim = 6}).cols() == 12);

  const auto scored = [&](const auto& score) {
    return message_of([&] { (void)attend(q, k, k, all, two, score); });
  };
  const std::vector<float> one{1}, ones{1, 1};
  const std::vector<Index> places(4, 0), far{0, 0, Index{1} << 40};
  CHECK(scored(Scores{SoftCap{5}, Alibi<float>{ones}}).empty());
  CHECK(has(scored(SoftCap{0}), "SoftCap: cap must lie in [1e-30, 1e30], got 0"));
  for (const double cap : {-1.0, 1e-40, 1e39, std::nan("")})
    CHECK(has(scored(SoftCap{cap}), "SoftCap: cap must lie in [1e-30, 1e30]"));
  CHECK(scored(Alibi<float>{one}) == "Alibi: slopes (one per head): expected 2, got 1");
  CHECK(scored(Alibi<float>{ones, places}) == "Alibi: query_places: expected 3, got 4");
  CHECK(has(scored(Alibi<float>{ones, far}), "Alibi: query_places[2] must lie within +-2^29"));
  CHECK(scored(Scores{SoftCap{5}, HeadScale<float>{one}}) ==
        "HeadScale: factors (one per head): expected 2, got 1");
  CHECK(scored(Bias<float>{k}) == "Bias: rows of matrix (heads * rows of q): expected 3, got 10");
  CHECK(scored(Bias<float>{q}) == "Bias: columns of matrix (keys): expected 10, got 8");
  CHECK(scored(RelativeBias<float>{q}) ==
        "RelativeBias: rows of table (one per head): expected 2, got 3");
}

// Faults: a cap that is no float, or whose inverse is none, gave NaN for a score of 0; a difference
// of places beyond 32 bits changed its sign.
TEST_CASE("the largest and smallest parameters of score functions give what the definition does") {
  Matrix<float> q(2, 8);
  q.fill(0);  // scores are 0
  const Matrix<float> k = random(20, 8, 2);
  const std::vector<Interval> all(2, Interval{0, 20});
  const auto same = [&](const auto& score) {
    Context definition;
    definition.path = Path::naive;
    float fast = 0, exact = 0;
    std::vector<float> lse(2);
    AttendOptions<float> options{.lse = lse.data()};
    (void)attend(q, k, k, all, options, score);
    fast = lse[1];
    options.context = &definition;
    (void)attend(q, k, k, all, options, score);
    exact = lse[1];
    return std::isfinite(fast) && std::abs(fast - exact) <= 1e-5f * std::abs(exact);
  };
  CHECK(same(SoftCap{1e30}));
  CHECK(same(SoftCap{1e-30}));
  constexpr Index most = Index{1} << 29;
  const std::vector<Index> low_rows(2, -most), high_rows(2, most), low(20, -most), high(20, most);
  Matrix<float> table(1, 2);
  table(0, 0) = -5;
  table(0, 1) = 5;
  CHECK(same(RelativeBias<float>{table, most, low_rows, high}));
  CHECK(same(RelativeBias<float>{table, -most, high_rows, low}));
  const std::vector<float> slope{1e-9f};
  CHECK(same(Alibi<float>{slope, low_rows, high}));
  CHECK(same(Alibi<float>{slope, high_rows, low}));
}

TEST_CASE("states of other sizes are not merged or finished, and stay as they were") {
  const AttentionShape shape{.num_heads = 2, .num_kv_heads = 1, .head_dim = 4};
  auto to = empty_state<float>(3, shape);
  to.sum.fill(2);
  to.max.fill(1);
  to.out.fill(5);
  const auto refused = [&](const AttentionState<float>& from) {
    const std::string said = message_of([&] { merge(to, from); });
    CHECK(to.sum(2, 1) == 2);
    CHECK(to.max(2, 1) == 1);
    CHECK(to.out(2, 7) == 5);
    return said;
  };
  CHECK(refused(empty_state<float>(2, shape)) == "merge: rows: expected 3, got 2");
  CHECK(refused(empty_state<float>(3, {2, 1, 5})) == "merge: value_dim: expected 4, got 5");
  CHECK(refused(empty_state<float>(3, {4, 1, 4})) == "merge: num_heads: expected 2, got 4");
  auto torn = empty_state<float>(3, shape);
  torn.sum = Matrix<float>(2, 2);
  CHECK(
      refused(torn) ==
      "merge: max, sum and out of the state are of different rows or heads: 3 x 2, 2 x 2, 3 rows");
  torn = empty_state<float>(3, shape);
  torn.out = Matrix<float>(3, 7);
  CHECK(
      has(refused(torn), "columns of the state's out must be a multiple of num_heads = 2, got 7"));
  torn = empty_state<float>(3, shape);
  torn.out = Matrix<float>(2, 8);
  CHECK(
      refused(torn) ==
      "merge: max, sum and out of the state are of different rows or heads: 3 x 2, 3 x 2, 2 rows");
  CHECK(refused({}) == "merge: the state is empty, of no heads");

  Matrix<float> out(3, 8);
  const auto finished = [&](MatrixView<float> view) {
    return message_of([&] { finish(to, view); });
  };
  CHECK(finished({out.data(), 2, 8}) == "finish: rows of out: expected 3, got 2");
  CHECK(finished({out.data(), 3, 7}) == "finish: columns of out: expected 8, got 7");
  CHECK(finished({out.data(), 3, 8, 7}) ==
        "finish: out: a view of 3 x 8 values must have memory and a stride of 8 or more, got a "
        "stride of 7");
  CHECK(has(finished({nullptr, 3, 8}), "and no memory"));
  CHECK(finished(out).empty());

  CHECK(message_of([&] { (void)empty_state<float>(-1, shape); }) ==
        "attention state: rows must not be negative, got -1");
  CHECK(has(message_of([&] { (void)empty_state<float>(1, {3, 2, 4}); }), "must divide num_heads"));
}

TEST_CASE("the definition is called as attention is, with or without a score function") {
  const Matrix<float> q = random(3, 8, 8), k = random(5, 8, 9), v = random(5, 8, 10);
  const KeyPiece<float> piece{k.data(), v.data(), 5, 8, 4};
  const std::vector<Interval> seen{{0, 3}, {1, 5}, {2, 2}};
  const AttentionInput<float> in{{2, 2, 4}, 0.5, q.view(), {&piece, 1}, seen};
  Matrix<float> by_path(3, 8), exact(3, 8), scored(3, 8);
  attend(in, by_path.view(), nullptr, Context{.path = Path::naive});
  naive::attend(in, exact.view());
  naive::attend(in, scored.view(), nullptr, {}, PlainScore{});
  CHECK((by_path.view().eigen().array() == exact.view().eigen().array()).all());
  CHECK((scored.view().eigen().array() == exact.view().eigen().array()).all());
}

TEST_CASE("attention with more workers than 64, whichever comes first") {
  const Index heads = 8, dim = 16, rows = 700;
  const Matrix<float> q = random(rows, heads * dim, 5), k = random(rows, heads * dim, 6),
                      v = random(rows, heads * dim, 7);
  std::vector<Interval> seen;
  for (Index r = 0; r < rows; ++r) seen.push_back({0, r + 1});
  const auto run = [&](const Executor& executor) {
    const Context context{.executor = executor};
    return attend(q, k, v, seen, {.num_heads = heads, .num_kv_heads = heads, .context = &context});
  };
  const auto alone = run({});
  for (const Index workers : {2, 65, 100, 300}) {
    CAPTURE(workers);
    // The last worker comes first and takes all.
    const Executor backwards{workers, nullptr,
                             [](void*, Index count, Executor::Task task, void* context) {
                               for (Index w = count - 1; w >= 0; --w) task(context, w);
                             }};
    CHECK((run(backwards).array() == alone.array()).all());
  }
  ThreadPool pool(100);
  for (int repeat = 0; repeat < 5; ++repeat) CHECK((run(pool).array() == alone.array()).all());
  CHECK(message_of([&] { run({.concurrency = 0}); }) ==
        "Executor: concurrency must be positive, got 0");
}
