// How attention's work is cut into jobs. The cut depends on the problem alone, never on the
// threads, so results do not either.
#pragma once

#include <algorithm>

#include "casa/attention/input.hpp"
#include "casa/core/workspace.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

inline constexpr Index kJobRows = 288;     ///< (row, head) pairs of a job, about
inline constexpr Index kWholeRows = 32;    ///< pairs of vectors are full when rows are a multiple
inline constexpr Index kBlockKeys = 288;   ///< keys whose scores are held at once, at most
inline constexpr Index kSplitRows = 32;    ///< with at most so many rows, long key ranges are split
inline constexpr Index kSplitKeys = 1024;  ///< into parts of about so many keys

/// Rows [row_begin, row_end) of one kv head (all its query heads) over keys [key_begin, key_end),
/// which hold every key that one of the rows sees, or one part of them.
struct Job {
  Index row_begin = 0;
  Index row_end = 0;
  Index kv_head = 0;
  Index key_begin = 0;
  Index key_end = 0;
  Index part = -1;  ///< place of its partial state, -1: the job is the whole
  Index parts = 1;  ///< in the first part's job: how many follow each other

  /// (row, head) pairs: `group` query heads share a kv head.
  Index rows(Index group) const { return (row_end - row_begin) * group; }
};

struct Plan {
  std::span<const Job> jobs;
  Index num_parts = 0;      ///< partial states
  Index max_part_rows = 0;  ///< (row, head) pairs of the largest
  Index max_job_rows = 0;   ///< (row, head) pairs of the largest job
  Index max_job_keys = 0;
};

/// The smallest interval that holds both.
inline Interval hull(Interval a, Interval b) {
  if (a.size() == 0) return b;
  if (b.size() == 0) return a;
  return {(std::min)(a.begin, b.begin), (std::max)(a.end, b.end)};
}

/// What both hold; empty intervals stay empty.
inline Interval meet(Interval a, Interval b) {
  return {(std::max)(a.begin, b.begin), (std::min)(a.end, b.end)};
}

/// emit(job) for every job. Rows that follow each other and share keys form a window; a window's
/// rows are cut evenly. The heads of a window come one after the other, its rows with most keys
/// first.
template <class Emit>
void for_each_job(std::span<const Interval> intervals, const AttentionShape& shape, Emit emit) {
  const auto at = [&](Index r) { return intervals[static_cast<std::size_t>(r)]; };
  const Index rows = static_cast<Index>(intervals.size()), group = shape.group();
  for (Index begin = 0, end = 0; begin < rows; begin = end) {
    Interval seen = at(begin);
    for (end = begin + 1; end < rows; ++end) {
      const Interval next = at(end);
      if (next.size() > 0 && seen.size() > 0 && (next.begin >= seen.end || next.end <= seen.begin))
        break;
      seen = hull(seen, next);
    }
    const Index blocks = ((end - begin) * group + kJobRows - 1) / kJobRows;
    Index tokens = (end - begin + blocks - 1) / blocks;
    if (blocks > 1 && kWholeRows % group == 0)  // whole panels, but for the last
      tokens = (tokens * group + kWholeRows - 1) / kWholeRows * kWholeRows / group;
    for (Index head = 0; head < shape.num_kv_heads; ++head)
      for (Index last = end; last > begin; last -= (std::min)(tokens, last - begin)) {
        Job job{(std::max)(begin, last - tokens), last, head};
        Interval keys;
        for (Index r = job.row_begin; r < job.row_end; ++r) keys = hull(keys, at(r));
        const bool few = job.rows(group) <= kSplitRows;
        job.parts = few ? (std::max<Index>)(1, (keys.size() + kSplitKeys / 2) / kSplitKeys) : 1;
        const Index parts = job.parts;
        for (Index part = 0; part < parts; ++part) {
          job.key_begin = keys.begin + keys.size() * part / parts;
          job.key_end = keys.begin + keys.size() * (part + 1) / parts;
          job.part = parts > 1 ? part : -1;
          emit(job);
          job.parts = 0;
        }
      }
  }
}

/// The plan, in memory of the workspace.
inline Plan make_plan(std::span<const Interval> intervals, const AttentionShape& shape,
                      Workspace& workspace) {
  Index count = 0;
  for_each_job(intervals, shape, [&](const Job&) { ++count; });
  Job* jobs = workspace.take<Job>(count);
  Plan plan;
  plan.jobs = {jobs, static_cast<std::size_t>(count)};
  for_each_job(intervals, shape, [&](const Job& job) {
    const Index rows = job.rows(shape.group());
    plan.max_job_rows = (std::max)(plan.max_job_rows, rows);
    plan.max_job_keys = (std::max)(plan.max_job_keys, job.key_end - job.key_begin);
    *jobs = job;
    if (job.part >= 0) {
      jobs->part = plan.num_parts++;
      plan.max_part_rows = (std::max)(plan.max_part_rows, rows);
    }
    ++jobs;
  });
  return plan;
}

}  // namespace detail

CASA_NAMESPACE_END
