// How attention's work is cut into jobs. The cut depends on the problem alone, never on the number
// of threads, so results do not either. The kernel's words:
//
//   row      one query head of one query token: what has a softmax of its own
//   job      rows of one kv head and the keys they see; what a worker takes at a time
//   span     neighbouring keys that a job sees. Where rows see lists of intervals, a job's keys are
//            what all its rows see together, its spans laid end to end: places of a job count
//            these, so that what no row sees costs nothing
//   part     one of several key ranges of a job that has few rows and many keys; each gives a
//            state, and fast.hpp merges them
//   block    up to kBlockKeys keys of a job, whose scores are held at once (FlashAttention's block)
//   piece    keys and values that the caller gave as one array (KeyPiece)
//   segment  keys of one piece at equal distances in memory (StridedRows)
//   panel    up to three vectors of a job's rows, packed side by side (QueryPanel); in linear/, the
//            outputs of a weight that are packed side by side
//   wide     a panel whose lanes are rows: one value of a key is broadcast to all of them
//   narrow   a panel of few rows whose lanes are dimensions; a dot product ends as a sum of lanes
//   tile     keys x panel (scores) or rows x columns (sums) that accumulate in registers at once
//   lane     one of the values of a vector register; their order is drawn in simd/lane_order.hpp
//   unit     what one lane multiplies at once: a value, or a pair of bfloat16
#pragma once

#include <algorithm>

#include "casa/attention/input.hpp"
#include "casa/core/workspace.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows of a job, about, and keys of a block, at most. In a prototype of the kernel 128 to 384 keys
/// by 192 to 512 rows were within 1 % of each other, 96 keys lost 1.5 %, and windows of 276 keys
/// (an image and its text) gained 1 % as one block. More rows reuse a block more; the packed
/// queries, their sums and the blocks in flight must fit the second-level cache together.
inline constexpr Index kJobRows = 288;
inline constexpr Index kBlockKeys = 288;
/// A job's rows are rounded up to a multiple of this where possible, two vectors of 16 floats, so
/// that only a window's last job has panels that are not full.
inline constexpr Index kWholeRows = 32;
/// Jobs of at most kSplitRows rows are split into parts of about kSplitKeys keys: decode over a
/// long cache has one job for each kv head, which may be fewer than threads. Shorter parts would
/// give threads more even shares, but each part costs a state (head_dim values a row) and a merge.
inline constexpr Index kSplitRows = 32;
inline constexpr Index kSplitKeys = 1024;

/// Keys that a job sees and that lie side by side.
struct KeySpan {
  Interval keys;  ///< their places among all keys
  Index at = 0;   ///< the job's place of the first
};

/// Query tokens [row_begin, row_end) of all query heads of one kv head, over the job's places
/// [key_begin, key_end): every key that one of them sees, or one part of those.
struct Job {
  Index row_begin = 0;
  Index row_end = 0;
  Index kv_head = 0;
  Index key_begin = 0;
  Index key_end = 0;
  Index part = -1;  ///< index of the part's state among all; -1: the job is not split
  Index parts = 1;  ///< in the job of a first part: the number of parts, else 0; 1: not split
  std::span<const KeySpan> spans = {};  ///< ascending; none: a job's places are those of all keys

  /// (row, head) pairs: `group` query heads share a kv head.
  Index rows(Index group) const { return (row_end - row_begin) * group; }
};

struct Plan {
  std::span<const Job> jobs;
  MaskView mask;            ///< without offsets where no row has more than one interval
  Index num_parts = 0;      ///< partial states
  Index max_part_rows = 0;  ///< (row, head) pairs of the largest
  Index max_job_rows = 0;   ///< (row, head) pairs of the largest job
  Index max_job_keys = 0;
  Index max_job_intervals = 0;  ///< of all tokens of a job
};

/// The smallest interval that holds both.
inline Interval hull(Interval a, Interval b) {
  if (a.size() == 0) return b;
  if (b.size() == 0) return a;
  return {(std::min)(a.begin, b.begin), (std::max)(a.end, b.end)};
}

/// Their intersection (empty, begin >= end, where they have no key in common).
inline Interval meet(Interval a, Interval b) {
  return {(std::max)(a.begin, b.begin), (std::min)(a.end, b.end)};
}

/// Calls emit(job) for each part of a job whose places are `keys`.
template <class Emit>
void emit_parts(Job job, Interval keys, Index group, Emit emit) {
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

/// Calls emit(job) for every job where each row sees one interval. Consecutive rows whose intervals
/// overlap form a window, which is cut into jobs of equally many rows. All heads of a window
/// precede the next window, so that its memory is shared; under a causal mask the rows that see
/// most keys come first, so that the last jobs are short and threads end together.
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
        const Job job{(std::max)(begin, last - tokens), last, head};
        Interval keys;
        for (Index r = job.row_begin; r < job.row_end; ++r) keys = hull(keys, at(r));
        emit_parts(job, keys, group, emit);
      }
  }
}

/// Stores the jobs that `generate` emits in memory of the workspace: a first pass counts them, a
/// second stores them.
template <class Generate>
Plan store_jobs(const MaskView& mask, Index group, Workspace& workspace, Generate generate) {
  Index count = 0;
  generate([&](const Job&) { ++count; });
  Job* jobs = workspace.take<Job>(count);
  Plan plan;
  plan.mask = mask;
  plan.jobs = {jobs, static_cast<std::size_t>(count)};
  generate([&](const Job& job) {
    const Index rows = job.rows(group);
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
