// How attention's work is cut into jobs where rows see lists of intervals.
//
// A job's keys are the union of its rows' lists, its spans laid end to end. Rows join a job while
// they see much the same keys: under a block-sparse mask a job ends where the chosen blocks change,
// and a job whose rows share their lists is one whole interval of its places.
#pragma once

#include "casa/attention/kernel/plan_intervals.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Cuts the rows of a mask into windows, from the last row to the first: under a causal mask the
/// rows that see most keys come first (see cut_intervals). A row begins another window where it has
/// no key in common with this one, where the window is full, or where it shares less than half of
/// its keys and the window has enough rows: then panels of both would skip many of the other's
/// keys. A window is one job of each kv head.
inline std::span<JobRows> cut_lists(const MaskView& mask, Index group, Workspace& workspace) {
  const Index rows = mask.num_rows();
  const Index whole = kWholeRows % group == 0 ? kWholeRows / group : 1;
  const Index tokens = (std::max)(kJobRows / group / whole * whole, whole);
  const auto offset = [&](Index r) { return mask.offsets[static_cast<std::size_t>(r)]; };
  Index most = 0;  // intervals of a window's rows
  for (Index r = 1; r <= rows; ++r)
    most = (std::max)(most, offset(r) - offset((std::max<Index>)(0, r - tokens)));
  KeyUnion keys(most, workspace);
  JobRows* windows = workspace.take<JobRows>(rows);
  KeySpan* spans = workspace.take<KeySpan>(offset(rows));
  std::size_t count = 0;
  for (Index end = rows, begin = rows; end > 0; end = begin) {
    keys.clear();
    keys.add(mask.row(--begin));
    for (; begin > 0 && end - begin < tokens; --begin) {
      const auto list = mask.row(begin - 1);
      const Index size = size_of(list), common = keys.common(list);
      if (common == 0 && size > 0 && !keys.intervals().empty()) break;
      if (2 * common < size && (end - begin) * group >= kWholeRows) break;
      if (common < size) keys.add(list);
    }
    Index at = 0;
    const std::size_t num_spans = keys.intervals().size();
    for (std::size_t i = 0; i < num_spans; ++i) {
      spans[i] = {keys.intervals()[i], at};
      at += spans[i].keys.size();
    }
    windows[count++] = {{begin, end}, {0, at}, {spans, num_spans}};
    spans += num_spans;
  }
  return {windows, count};
}

/// The same mask with one interval a row, if no row has more.
inline MaskView compacted(const MaskView& mask, Workspace& workspace) {
  for (Index r = 0; r < mask.num_rows(); ++r)
    if (mask.row(r).size() > 1) return mask;
  Interval* one = workspace.take<Interval>(mask.num_rows());
  for (Index r = 0; r < mask.num_rows(); ++r)
    one[r] = mask.row(r).empty() ? Interval{} : mask.row(r)[0];
  return {{one, static_cast<std::size_t>(mask.num_rows())}, {}};
}

/// The plan for a mask, in memory of the workspace. T: what is computed in, as panels are vectors
/// of it.
template <class T>
Plan make_plan(const MaskView& mask, const AttentionShape& shape, Workspace& workspace,
               bool side_by_side = false) {
  const Index group = shape.group();
  Plan plan;
  plan.order = OrderSearch(mask.offsets.empty() ? mask : compacted(mask, workspace),
                           (std::max<Index>)(1, kWholeRows / group), workspace)
                   .find();
  const MaskView& ordered = plan.mask();
  const bool lists = !ordered.offsets.empty();
  const auto cut = lists ? cut_lists(ordered, group, workspace)
                         : cut_intervals(ordered.intervals, group, workspace);
  add_panels<T>(plan, cut, group, workspace);
  add_jobs(plan, cut, shape, side_by_side, workspace);
  if (!lists) return plan;
  const auto offset = [&](Index r) { return ordered.offsets[static_cast<std::size_t>(r)]; };
  for (const JobRows& job : cut)
    plan.max_job_intervals =
        (std::max)(plan.max_job_intervals, offset(job.rows.end) - offset(job.rows.begin));
  return plan;
}

}  // namespace detail

CASA_NAMESPACE_END
