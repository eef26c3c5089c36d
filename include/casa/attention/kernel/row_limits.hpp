// Which of a job's keys each of its rows sees, and the form in which tiles of scores read that.
#pragma once

#include <algorithm>
#include <span>

#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// For each row of one worker's job, the interval of keys that it sees.
template <class T>
class RowLimits {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  /// For jobs of up to `rows` (row, head) pairs.
  RowLimits(std::span<const Interval> intervals, Index group, Index rows, Workspace& workspace)
      : intervals_(intervals),
        group_(group),
        seen_(workspace.take<Interval>(rows)),
        lane_limits_(workspace.take<Lane<T>>(kMaxVectors * lanes * 2)) {}

  void set(const Job& job) {
    for (Index t = job.row_begin, row = 0; t < job.row_end; ++t) {
      const Interval i = intervals_[static_cast<std::size_t>(t)];
      const Interval seen = meet(i, {job.key_begin, job.key_end});
      for (Index h = 0; h < group_; ++h) seen_[row++] = seen.size() > 0 ? seen : Interval{};
    }
  }

  /// The hull of what rows [begin, end) see: keys that some row may see.
  Interval some(Index begin, Index end) const {
    Interval all;
    for (Index r = begin; r < end; ++r) all = hull(all, seen_[r]);
    return all;
  }
  /// The keys that every one of rows [begin, end) sees; begin < end.
  Interval every(Index begin, Index end) const {
    Interval all = seen_[begin];
    for (Index r = begin + 1; r < end; ++r) all = meet(all, seen_[r]);
    return all;
  }

  /// What each lane of the panel sees, counted from the first key of `block`. Valid until the next
  /// call.
  Visible<T> visible(const QueryPanel<T>& panel, Interval block) const {
    const Index width = panel.width(), count = panel.vectors * lanes;
    Lane<T>*const begins = lane_limits_, *const ends = lane_limits_ + count;
    const auto place = [&](Index key) {
      return (std::min)((std::max)(key, block.begin), block.end) - block.begin;
    };
    for (Index lane = 0, r = 0, later = 0; lane < count; ++lane, ++r) {
      if (r == width) r = 0, ++later;  // lanes from here on are of the vector's next key
      const Interval i = seen_[panel.first + (std::min)(r, panel.rows - 1)];
      begins[lane] = static_cast<Lane<T>>(place(i.begin) - later);
      ends[lane] = static_cast<Lane<T>>(place(i.end) - later);
    }
    const Interval all = meet(block, every(panel.first, panel.first + panel.rows));
    return {all.begin - block.begin, all.end - block.begin, begins, ends};
  }

 private:
  std::span<const Interval> intervals_;
  Index group_;
  Interval* seen_;
  Lane<T>* lane_limits_;
};

}  // namespace detail

CASA_NAMESPACE_END
