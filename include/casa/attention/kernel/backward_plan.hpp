// How the backward pass is cut: rows into panels, keys into ranges.
//
//   panel    up to three vectors of (row, head) pairs of one kv head that see much the same keys
//   range    neighbouring keys, about as many as a block of the forward pass. A job is one range of
//            one kv head: it goes through the panels that see the range, and owns the gradients of
//            its keys and values
//
// Gradients of queries are sums over ranges. Jobs of the same rows add theirs in the order of the
// ranges, each waiting for the one before, so that sums do not depend on the number of threads.
// The cut depends on the problem alone.
#pragma once

#include <algorithm>
#include <span>

#include "casa/attention/kernel/plan.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// (row, head) pairs of one kv head. Pair p is row p / group, head p % group of the kv head's.
struct BackwardPanel {
  Index first = 0;
  Index rows = 0;
  Interval keys;    ///< the hull of what its rows see
  Interval ranges;  ///< those that have some of these keys
};

/// A range of keys.
struct BackwardRange {
  Interval keys;
  Interval panels;  ///< the first and last panel whose hull has some of them, and those between
};

struct BackwardPlan {
  std::span<BackwardPanel> panels;
  std::span<BackwardRange> ranges;  ///< ascending, with all keys that a row may see
  Index max_range_keys = 0;
};

/// Cuts the keys of several hulls into ranges: where no hull goes on, and else evenly.
inline void cut_ranges(BackwardPlan& plan, Workspace& workspace) {
  Interval* const hulls = workspace.take<Interval>(static_cast<Index>(plan.panels.size()));
  std::transform(plan.panels.begin(), plan.panels.end(), hulls,
                 [](const BackwardPanel& p) { return p.keys; });
  const auto count = plan.panels.size();
  std::sort(hulls, hulls + count, [](Interval a, Interval b) { return a.begin < b.begin; });
  std::size_t joined = 0;  // hulls that overlap become one
  for (std::size_t i = 0; i < count; ++i) {
    if (joined > 0 && hulls[joined - 1].end > hulls[i].begin)
      hulls[joined - 1].end = (std::max)(hulls[joined - 1].end, hulls[i].end);
    else
      hulls[joined++] = hulls[i];
  }
  const auto parts_of = [](Interval keys) { return (keys.size() + kBlockKeys - 1) / kBlockKeys; };
  Index ranges = 0;
  for (std::size_t i = 0; i < joined; ++i) ranges += parts_of(hulls[i]);
  BackwardRange* range = workspace.take<BackwardRange>(ranges);
  plan.ranges = {range, static_cast<std::size_t>(ranges)};
  for (std::size_t i = 0; i < joined; ++i) {
    const Index parts = parts_of(hulls[i]), keys = hulls[i].size(), begin = hulls[i].begin;
    for (Index p = 0; p < parts; ++p) {
      *range = {{begin + keys * p / parts, begin + keys * (p + 1) / parts}, {}};
      plan.max_range_keys = (std::max)(plan.max_range_keys, range->keys.size());
      ++range;
    }
  }
}

/// The cut of rows with this mask, of `group` heads each, for panels of up to `pairs`.
inline BackwardPlan make_backward_plan(const MaskView& mask, Index group, Index pairs,
                                       Workspace& workspace) {
  BackwardPlan plan;
  const Index rows = mask.num_rows();
  const Index most = checked_mul(rows, (group + pairs - 1) / pairs, "attend_backward: rows");
  BackwardPanel* const panels = workspace.take<BackwardPanel>(most);
  Index count = 0;
  bool open = false;  // the last panel may be given further rows
  for (Index t = 0; t < rows; ++t) {
    const auto list = mask.row(t);
    const Interval seen = list.empty() ? Interval{} : Interval{list.front().begin, list.back().end};
    if (seen.size() <= 0) {
      open = false;
      continue;
    }
    if (open) {
      BackwardPanel& last = panels[count - 1];
      if (last.rows + group <= pairs && meet(last.keys, seen).size() > 0) {
        last.rows += group;
        last.keys = hull(last.keys, seen);
        continue;
      }
    }
    for (Index g = 0; g < group; g += pairs)
      panels[count++] = {t * group + g, (std::min)(pairs, group - g), seen, {}};
    open = group <= pairs;
  }
  plan.panels = {panels, static_cast<std::size_t>(count)};
  if (count == 0) return plan;
  cut_ranges(plan, workspace);
  for (Index p = 0; p < count; ++p) {
    const auto has_end_after = [](Index key, const BackwardRange& r) { return key < r.keys.end; };
    const auto first = std::upper_bound(plan.ranges.begin(), plan.ranges.end(),
                                        panels[p].keys.begin, has_end_after);
    const auto last = std::upper_bound(plan.ranges.begin(), plan.ranges.end(),
                                       panels[p].keys.end - 1, has_end_after);
    panels[p].ranges = {first - plan.ranges.begin(), last - plan.ranges.begin() + 1};
    for (auto r = first; r <= last; ++r) r->panels = hull(r->panels, {p, p + 1});
  }
  return plan;
}

}  // namespace detail

CASA_NAMESPACE_END
