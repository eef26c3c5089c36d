// Few rows over long ranges of keys, which are cut into parts that are merged.
//
// Keys are many and of like weight, so that each part counts: a needle would hide the loss of all
// parts but its own. Everything is held against the definition: two runs that both wrote nothing
// are equal as well.
#include <doctest/doctest.h>

#include <vector>

#include "attention/problem.hpp"

using namespace casa;
using namespace attention_test;

namespace {

// Six parts, in two pieces that are cut elsewhere. Rows differ in what they see of the parts: all,
// a tail, a head, one key, nothing.
template <class P>
P six_parts(Index rows, Index d, unsigned seed) {
  P p({6, 2, d}, rows, {1500, 4644}, seed);
  const std::vector<Interval> some = {{0, 6144}, {700, 6144}, {0, 5000}, {2050, 2051}, {}};
  for (std::size_t r = 0; r < p.intervals.size(); ++r) p.intervals[r] = some[r % some.size()];
  return p;
}

// Two windows in one call: their jobs' parts follow each other in one numbering.
template <class P>
P two_windows(unsigned seed) {
  P p({4, 2, 24}, 5, {6144}, seed);
  p.intervals = {{0, 1600}, {3, 1602}, {1602, 6144}, {1602, 6143}, {1700, 6144}};
  return p;
}

template <class T>
Result<T> finished(const AttentionState<T>& state) {
  Result<T> r{{state.out.rows(), state.out.cols()},
              std::vector<T>(static_cast<std::size_t>(state.max.size()))};
  finish(state, r.out.view(), r.lse.data());
  return r;
}

}  // namespace

// Faults: parts behind the fourth are not merged; a part's row is written at the head of another
// (rows counted as head * tokens + token); the parts of a second window begin at 0 again; what rows
// of a part see nothing of is not written.
TEST_CASE_TEMPLATE("parts of a long range: each is merged, each row lands at its own head", P,
                   Problem<float>, Problem<double>, Problem<float, bfloat16>) {
  for (const Index rows : {1, 5})
    for (const Index d : {16, 20}) {
      CAPTURE(rows);
      CAPTURE(d);
      auto p = six_parts<P>(rows, d, static_cast<unsigned>(rows));
      check_both_paths(p);
    }
  auto windows = two_windows<P>(3);
  check_both_paths(windows);
  // The last four rows, which are computed together, see nothing of the last parts.
  P panels({1, 1, 16}, 20, {6144}, 9);
  for (std::size_t r = 16; r < 20; ++r) panels.intervals[r] = {0, 3000};
  check_both_paths(panels);
}

TEST_CASE("parts of a long range whose weights are rounded") {
  Context rounds;
  rounds.precision = Precision::storage;
  auto p = six_parts<Problem<float, bfloat16>>(5, 16, 4);
  const bool rounded = simd::kMultipliesPairs<bfloat16>;
  check_result(p, run(p, rounds), define(p, rounded ? Precision::storage : Precision::full));
}

// Faults: the merge keeps the first part's sum; a state is divided by its sum.
TEST_CASE_TEMPLATE("attend_state over long keys holds the maximum, the sum and the values of all",
                   T, float, double) {
  auto p = six_parts<Problem<T>>(5, 16, 5);
  auto windows = two_windows<Problem<T>>(6);
  Problem<T> whole({2, 1, 16}, 40, {1500, 500}, 7);  // not split
  for (auto* problem : {&p, &windows, &whole}) {
    const Reference reference = define(*problem);
    for (const Path path : {Path::naive, Path::fast}) {
      CAPTURE(static_cast<int>(path));
      Context context;
      context.path = path;
      const auto state = attend_state(problem->input(), context);
      check_result(*problem, finished(state), reference);
      // One key of weight 1, the others of less: of so many keys the sum says how many it has.
      for (Index r = 0; r < problem->rows; ++r)
        for (Index h = 0; h < problem->shape.num_heads; ++h) {
          const Index n = problem->intervals[problem->size(r)].size();
          CHECK(state.sum(r, h) >= (n > 0 ? T(0.999) : T(0)));
          CHECK(state.sum(r, h) <= static_cast<T>(n) * T(1.001));
        }
    }
  }
}
