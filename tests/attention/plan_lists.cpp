// How rows that see lists of intervals are cut into jobs: every visible pair is in one job, and
// pairs that nobody sees in few.
#include "casa/attention/kernel/plan_lists.hpp"

#include <doctest/doctest.h>

#include <random>
#include <set>
#include <vector>

#include "attention/variant.hpp"

using namespace casa;
using namespace attention_test;

namespace {

// Rows times keys of all jobs of a plan.
Index planned_pairs(const detail::Plan& plan, Index group) {
  Index pairs = 0;
  for (const detail::Job& job : plan.jobs) pairs += job.rows(group) * (job.key_end - job.key_begin);
  return pairs;
}

}  // namespace

TEST_CASE("a union of lists holds what any of them does, with gaps between its intervals") {
  std::mt19937 random(1);
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    const Mask mask = random_mask(12, 60, 5, random);
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    detail::KeyUnion keys(static_cast<Index>(mask.intervals.size()), workspace);
    keys.clear();
    std::set<Index> expected;
    for (Index r = 0; r < mask.num_rows(); ++r) {
      Index common = 0;
      for (const Interval i : mask.row(r))
        for (Index j = i.begin; j < i.end; ++j) common += static_cast<Index>(expected.count(j));
      REQUIRE(keys.common(mask.row(r)) == common);
      keys.add(mask.row(r));
      for (const Interval i : mask.row(r))
        for (Index j = i.begin; j < i.end; ++j) expected.insert(j);
      std::set<Index> got;
      Index end = -1;
      for (const Interval i : keys.intervals()) {
        REQUIRE(i.begin > end);
        end = i.end;
        for (Index j = i.begin; j < i.end; ++j) got.insert(j);
      }
      REQUIRE(got == expected);
    }
  }
}

TEST_CASE("the jobs of random lists cover every row once, and every key that it sees") {
  std::mt19937 random(2);
  for (unsigned seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    const Index groups[] = {1, 2, 3, 8, 300}, rows = static_cast<Index>(1 + random() % 400);
    const AttentionShape shape{2 * groups[seed % 5], 2, 8};
    const Mask mask = random_mask(rows, 3000, 6, random);
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    const detail::Plan plan = detail::make_plan<float>(mask, shape, workspace);
    if (plan.mask().offsets.empty()) continue;  // no row has two intervals
    // For each head and row the number of keys of its jobs that it sees.
    std::vector<std::vector<Index>> seen(2, std::vector<Index>(static_cast<std::size_t>(rows)));
    for (const detail::Job& job : plan.jobs)
      for (Index r = job.row_begin; r < job.row_end; ++r)
        for (const detail::KeySpan& span : job.spans)
          for (const Interval i : plan.mask().row(r)) {
            const Interval keys = detail::meet(i, span.keys);
            const Index shift = span.at - span.keys.begin;
            const Interval places =
                detail::meet({keys.begin + shift, keys.end + shift}, {job.key_begin, job.key_end});
            seen[static_cast<std::size_t>(job.kv_head)][static_cast<std::size_t>(plan.order[r])] +=
                keys.size() > 0 ? places.size() : 0;
          }
    for (Index r = 0; r < rows; ++r) {
      Index expected = 0;
      for (const Interval i : mask.row(r)) expected += i.size();
      for (const auto& head : seen) REQUIRE(head[static_cast<std::size_t>(r)] == expected);
    }
  }
}

// Fault: a job goes on where the chosen blocks change.
TEST_CASE("chosen blocks of keys for blocks of rows: jobs have no pair that is not seen") {
  std::mt19937 random(3);
  Mask mask;
  for (Index r = 0; r < 2048; ++r) {
    if (r % 64 == 0) random.seed(static_cast<unsigned>(r));
    auto row = random;  // the same for 64 rows
    for (Index b = 0; b < 32; ++b)
      if (row() % 8 == 0 || b == r / 64) mask.intervals.push_back({b * 64, b * 64 + 64});
    mask.offsets.push_back(static_cast<Index>(mask.intervals.size()));
  }
  for (const Index group : {1, 2, 4}) {
    CAPTURE(group);
    Workspace workspace;
    const Workspace::Frame frame(workspace);
    const auto plan = detail::make_plan<float>(mask, {8 * group, 8, 128}, workspace);
    const Index pairs = 8 * group * detail::size_of(mask.intervals);
    CHECK(planned_pairs(plan, group) >= pairs);
    // (Neighbours that share more than half of their blocks may share a job.)
    CHECK(planned_pairs(plan, group) <= pairs + pairs / 10);
  }
}

TEST_CASE("sinks and a window: jobs have no more pairs than of a window alone") {
  Mask mask;
  for (Index r = 0; r < 2048; ++r)
    if (r - 255 > 4)
      mask.add_row({{0, 4}, {r - 255, r + 1}});
    else
      mask.add_row({{0, r + 1}});
  Workspace workspace;
  const Workspace::Frame frame(workspace);
  const auto plan = detail::make_plan<float>(mask, {16, 8, 128}, workspace);
  // A job of 144 rows sees 256 + 143 keys and the sinks, of which each row sees 260.
  const double ratio = static_cast<double>(planned_pairs(plan, 2)) /
                       static_cast<double>(16 * detail::size_of(mask.intervals));
  CHECK(ratio >= 1);
  CHECK(ratio <= 403.0 / 260);
}
