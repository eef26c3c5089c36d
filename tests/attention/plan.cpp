// How work is cut into jobs and panels: few rows over many keys, and many windows of few keys.
#include "casa/attention/kernel/plan.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <vector>

#include "attention/variant.hpp"
#include "casa/attention/kernel/plan_sequences.hpp"
#include "casa/attention/masks.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using namespace attention_test;

namespace {

Mask all_see(Index rows, Index keys) {
  Mask mask;
  for (Index r = 0; r < rows; ++r) mask.add_row({{0, keys}});
  mask.compact();
  return mask;
}

// Windows of 1 to `most` tokens, the rows of each of which see all of its keys.
Mask random_windows(Index rows, Index keys, Index most, std::mt19937& random) {
  Mask mask;
  for (Index begin = 0; mask.num_rows() < rows && begin < keys;) {
    const auto below = [&](Index n) {
      return static_cast<Index>(random() % static_cast<unsigned>(n));
    };
    const Index end = (std::min)(keys, begin + 1 + below(most));
    for (Index r = 1 + below(most); r > 0 && mask.num_rows() < rows; --r)
      mask.add_row({{begin, begin + (end - begin + r - 1) / r}});
    begin = end + (random() % 5 == 0 ? below(10) : 0);
  }
  while (mask.num_rows() < rows) mask.add_row({});
  mask.compact();
  return mask;
}

}  // namespace

// Fault: a job of two rows whose lists leave keys out is read as segments.
TEST_CASE("the plan decides how the tiles of each job are cut") {
  struct Expected {
    Mask mask;
    bool few_rows, strided;
  };
  Mask one_list, two_lists;  // the second row of two_lists sees a gap in what both see together
  one_list.add_row({{0, 4}, {50, 100}});
  two_lists.add_row({{0, 100}});
  two_lists.add_row({{0, 4}, {50, 100}});
  for (const Expected& e :
       {Expected{all_see(1, 100), true, true}, Expected{one_list, true, true},
        Expected{two_lists, true, false}, Expected{all_see(3, 100), true, false},
        Expected{all_see(100, 100), false, false}}) {
    CAPTURE(e.mask.num_rows());
    const Matrix<float> q(e.mask.num_rows(), 16), keys(100, 16);
    const KeyPiece<float> piece{keys.data(), keys.data(), 100, 16, 0};
    const AttentionInput<float> in{{1, 1, 16},       1.0,           q.view(), {&piece, 1},
                                   e.mask.intervals, e.mask.offsets};
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    const detail::Plan plan = detail::make_plan(in, false, workspace);
    REQUIRE(plan.jobs.size() == 1);
    CHECK(plan.jobs[0].tiles.few_rows == e.few_rows);
    // (With 16 registers two rows are not read as segments either.)
    CHECK(plan.jobs[0].tiles.strided == (e.strided && e.mask.num_rows() <= detail::kFewQueries));
  }
}

// Fault: only jobs of at most 32 rows are split.
TEST_CASE("few jobs over many keys are split, and parts hold enough keys") {
  struct Few {
    Index rows, heads, kv_heads;
  };
  for (const Few f : {Few{16, 2, 1}, {17, 2, 1}, {1, 64, 1}, {17, 16, 8}, {100, 2, 1}}) {
    CAPTURE(f.rows);
    CAPTURE(f.heads);
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    const auto plan =
        detail::make_plan<float>(all_see(f.rows, 100000), {f.heads, f.kv_heads, 8}, workspace);
    CHECK(plan.jobs.size() >= 28);
    CHECK(plan.max_job_keys >= detail::kSplitKeys * 9 / 10);
    Index pairs = 0;
    for (const detail::Job& job : plan.jobs)
      pairs += job.rows(f.heads / f.kv_heads) * (job.key_end - job.key_begin);
    CHECK(pairs == f.rows * f.heads * 100000);
  }
  Workspace workspace;
  const Workspace::Frame frame(workspace);
  // Enough jobs, or too few keys: parts would only cost a merge.
  CHECK(detail::make_plan<float>(masks::causal(4096), {16, 8, 8}, workspace).num_parts == 0);
  CHECK(detail::make_plan<float>(all_see(40, 3000), {2, 1, 8}, workspace).num_parts == 0);
}

TEST_CASE_TEMPLATE("few jobs: results are right, and of the same bits on any number of threads", P,
                   Variant<float>, Variant<double>, Variant<float, bfloat16>) {
  for (const Index rows : {17, 40}) {
    P p;
    p.shape = {2, 1, 16, 0};
    p.rows = rows;
    p.counts = {4000, 5001};
    p.mask = all_see(rows, 9001);
    p.randomize(static_cast<unsigned>(rows));
    const auto got = run(p, PlainScore{});
    check_variant(p, Steps{}, got, define(p, Steps{}));
    for (const Index threads : {2, 5}) {
      ThreadPool pool(threads);
      const auto threaded = run(p, PlainScore{}, {.executor = pool});
      CHECK(casa_test::same_bits(threaded.out, got.out));
      CHECK(casa_test::same_bits(threaded.lse, got.lse));
    }
  }
}

// Faults: a window is a job; a panel holds rows of as many windows as come.
TEST_CASE("small windows share jobs and panels, and panels compute few pairs that nobody sees") {
  const std::vector<Index> three(1000, 3), forty(100, 40);
  for (const Index group : {1, 2, 8}) {
    CAPTURE(group);
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    const auto panel_pairs = [&](const Mask& mask, const detail::Plan& plan) {
      Index pairs = 0;
      for (const detail::Job& job : plan.jobs)
        for (const detail::PanelRows& panel : job.panels) {
          Interval keys;
          const Index first = job.row_begin + panel.first / group;
          const Index last = job.row_begin + (panel.first + panel.rows - 1) / group;
          for (Index r = first; r <= last; ++r) keys = detail::hull(keys, mask.row(r)[0]);
          pairs += panel.rows * keys.size();
        }
      return pairs;
    };
    const Mask small = masks::packed_documents(3000, three);
    const auto jobs = detail::make_plan<float>(small, {group, 1, 8}, workspace);
    CHECK(static_cast<Index>(jobs.jobs.size()) <= 3000 * group / 240 + 1);
    // Five windows of three rows share a vector of 16, so that a row computes 15 keys.
    CHECK(panel_pairs(small, jobs) <= 3000 * group * simd::kLanes<float>);

    const Mask larger = masks::packed_documents(4000, forty);
    const auto plan = detail::make_plan<float>(larger, {group, 1, 8}, workspace);
    CHECK(panel_pairs(larger, plan) <= 4000 * group * 40);  // no panel has rows of two windows
  }
}

TEST_CASE_TEMPLATE("small windows of random sizes, in pieces, with rows that see nothing", P,
                   Variant<float>, Variant<double>, Variant<float, bfloat16>,
                   Variant<float, half>) {
  std::mt19937 random(7);
  const Index groups[] = {1, 2, 3, 8}, dims[] = {16, 24, 5, 32};
  for (unsigned seed = 0; seed < 24; ++seed) {
    CAPTURE(seed);
    P p;
    p.shape = {2 * groups[seed % 4], 2, dims[seed / 4 % 4], 0};
    p.rows = static_cast<Index>(1 + random() % 200);
    p.counts = {static_cast<Index>(random() % 60), static_cast<Index>(1 + random() % 400)};
    p.mask = random_windows(p.rows, p.num_keys(), seed % 3 == 0 ? 40 : 5, random);
    p.randomize(seed);
    const auto got = run(p, PlainScore{});
    check_variant(p, Steps{}, got, define(p, Steps{}));
    ThreadPool pool(3);
    const auto threaded = run(p, PlainScore{}, {.executor = pool});
    CHECK(casa_test::same_bits(threaded.out, got.out));
    CHECK(casa_test::same_bits(threaded.lse, got.lse));
  }
}

// Fault: a panel is computed row by row wherever a value of the block is infinite (which is slow),
// or nowhere (which gives NaN).
TEST_CASE_TEMPLATE("infinite values change the rows alone that see them", P, Variant<float>,
                   Variant<double>, Variant<float, bfloat16>, Variant<float, half>) {
  using T = std::remove_cvref_t<decltype(P::q[0])>;
  using S = std::remove_cvref_t<decltype(P::k[0][0])>;
  std::mt19937 random(8);
  for (const bool lists : {false, true})
    for (const Precision precision : {Precision::full, Precision::storage})
      for (const Index rows : {2, 9, 150}) {
        CAPTURE(lists);
        CAPTURE(rows);
        P p;
        p.shape = {4, 2, 32, 0};
        p.rows = rows;
        p.counts = {rows + 60};
        p.mask = lists ? masks::sinks_window({60, 60 + rows}, 4, 20)
                       : masks::sliding_window({60, 60 + rows}, 20);
        p.randomize(9);
        const Context context{.precision = precision};
        const auto before = run(p, PlainScore{}, context);
        std::vector<Index> places;
        for (Index j = 0; j < rows + 60; j += 1 + static_cast<Index>(random() % 40))
          places.push_back(j);
        for (const Index j : places)
          p.value(1, j)[7] = narrow<S>(std::numeric_limits<T>::infinity());
        const auto after = run(p, PlainScore{}, context);
        for (Index r = 0; r < rows; ++r) {
          bool sees = false;
          for (const Interval i : p.mask.row(r))
            for (const Index j : places) sees = sees || i.contains(j);
          for (Index c = 0; c < 128; ++c) {
            const bool infinite = sees && c >= 64 && c % 32 == 7;
            const bool right = infinite ? std::isinf(after.out(r, c)) || std::isnan(after.out(r, c))
                                        : after.out(r, c) == before.out(r, c);
            if (!right) FAIL("row ", r, ", column ", c, ": ", after.out(r, c));
          }
        }
      }
}
