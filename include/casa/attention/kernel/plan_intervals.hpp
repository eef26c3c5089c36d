// How attention's work is cut into jobs and panels where each row sees one interval.
//
// Consecutive rows whose intervals overlap form a window. A large window is cut into jobs; small
// ones share a job, and the smallest share panels, so that sequences of three tokens do not cost a
// job each.
#pragma once

#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/kernel/plan.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows [begin, end) whose intervals overlap, and the keys that they see together.
struct RowWindow {
  Index begin = 0;
  Index end = 0;
  Interval keys = {};
};

/// The window that begins at a row.
inline RowWindow window_at(std::span<const Interval> intervals, Index begin) {
  const Index rows = static_cast<Index>(intervals.size());
  RowWindow window{begin, begin};
  for (; window.end < rows; ++window.end) {
    const Interval next = intervals[static_cast<std::size_t>(window.end)];
    if (next.size() > 0 && window.keys.size() > 0 &&
        (next.begin >= window.keys.end || next.end <= window.keys.begin))
      break;
    window.keys = hull(window.keys, next);
  }
  return window;
}

/// The small windows that share a job with `window`, and it: one block must hold the keys of all,
/// which must lie close together. `next` is the window that follows, before and after.
inline RowWindow joined(std::span<const Interval> intervals, RowWindow window, Index group,
                        RowWindow& next) {
  const Index rows = static_cast<Index>(intervals.size());
  for (Index sum = window.keys.size(); next.begin < rows; next = window_at(intervals, window.end)) {
    const RowWindow both{window.begin, next.end, hull(window.keys, next.keys)};
    sum += next.keys.size();
    if ((both.end - both.begin) * group > kJobRows || both.keys.size() > kBlockKeys ||
        4 * both.keys.size() > 5 * sum)
      break;
    window = both;
  }
  return window;
}

/// Cuts rows into jobs. A window is cut into jobs of equally many rows; under a causal mask the
/// rows that see most keys come first, so that the last jobs are short and threads end together.
inline std::span<JobRows> cut_intervals(std::span<const Interval> intervals, Index group,
                                        Workspace& workspace) {
  const Index rows = static_cast<Index>(intervals.size());
  JobRows* const jobs = workspace.take<JobRows>(rows);
  std::size_t count = 0;
  for (RowWindow window = window_at(intervals, 0), next; window.begin < rows; window = next) {
    next = window_at(intervals, window.end);
    const RowWindow all = joined(intervals, window, group, next);
    const Index begin = all.begin, end = all.end;
    const Index blocks = ((end - begin) * group + kJobRows - 1) / kJobRows;
    Index tokens = (end - begin + blocks - 1) / blocks;
    if (blocks > 1 && kWholeRows % group == 0)  // whole panels, but for the last
      tokens = (tokens * group + kWholeRows - 1) / kWholeRows * kWholeRows / group;
    for (Index last = end; last > begin;) {
      JobRows& job = jobs[count++];
      job = {{(std::max)(begin, last - tokens), last}, {}};
      for (Index r = job.rows.begin; r < last; ++r)
        job.keys = hull(job.keys, intervals[static_cast<std::size_t>(r)]);
      last = job.rows.begin;
      job.ends_window = last == begin;
      job.has_windows = end > window.end;
    }
  }
  return {jobs, count};
}

/// Calls emit(PanelRows) for the panels of a job of several windows: as many of them as fit a
/// vector share a panel, larger ones have panels of their own.
template <class T, class Emit>
void cut_panels(const JobRows& job, std::span<const Interval> intervals, Index group, Emit emit) {
  for (Index begin = job.rows.begin, end = begin; begin < job.rows.end; begin = end) {
    end = window_at(intervals, begin).end;
    while (end < job.rows.end) {
      const Index next = window_at(intervals, end).end;
      if ((next - begin) * group > simd::kLanes<T>) break;
      end = next;
    }
    const Index before = (begin - job.rows.begin) * group;
    for_each_panel<T>((end - begin) * group, 0,
                      [&](Index first, Index rows, int vectors, int narrow) {
                        emit(PanelRows{before + first, rows, vectors, narrow});
                      });
  }
}

/// Cuts the rows of jobs that have several windows into panels, in memory of the workspace.
template <class T>
void add_panels(Plan& plan, std::span<JobRows> cut, Index group, Workspace& workspace) {
  const auto intervals = plan.mask().intervals;
  for (JobRows& job : cut) {
    if (!job.has_windows) continue;
    Index count = 0, lanes = 0;
    cut_panels<T>(job, intervals, group, [&](const PanelRows& panel) {
      ++count;
      lanes += panel.vectors * simd::kLanes<T>;
    });
    PanelRows* panels = workspace.take<PanelRows>(count);
    job.panels = {panels, static_cast<std::size_t>(count)};
    cut_panels<T>(job, intervals, group, [&](const PanelRows& panel) { *panels++ = panel; });
    plan.max_job_lanes = (std::max)(plan.max_job_lanes, lanes);
  }
}

}  // namespace detail

CASA_NAMESPACE_END
