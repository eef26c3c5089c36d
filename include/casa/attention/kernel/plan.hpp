// How attention's work is cut into jobs. The cut depends on the problem alone, never on the number
// of threads, so results do not either. The kernel's words:
//
//   row      one query head of one query token: what has a softmax of its own. Jobs count tokens in
//            the order of the plan (plan_order.hpp), of which row_begin and row_end are places
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
#include "casa/attention/kernel/interval_sets.hpp"
#include "casa/attention/kernel/plan_order.hpp"
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
/// Jobs of more rows are split into parts of twice as many keys or more, and only where there are
/// fewer than kFewJobs jobs, into about so many.
inline constexpr Index kSplitRows = 32;
inline constexpr Index kSplitKeys = 1024;
inline constexpr Index kFewJobs = 32;

/// Rows of a job that are one panel.
struct PanelRows {
  Index first = 0;  ///< (row, head) pair of the job
  Index rows = 0;
  int vectors = 1;
  int narrow = 0;  ///< rows of a narrow panel, a power of two; 0: a wide one
};

/// Keys that a job sees and that lie side by side.
struct KeySpan {
  Interval keys;  ///< their places among all keys
  Index at = 0;   ///< the job's place of the first
};

/// As what tiles multiply queries and weights, and how they read keys and values: T is the type
/// that is computed in, S the stored one.
enum class Operands {
  pairs,        ///< pairs of bfloat16, of keys and values where they are
  copied,       ///< T; of copies of keys and values, widened or padded
  stored,       ///< T; of keys and values where they are, widened in registers
  copied_keys,  ///< T; of widened copies of keys, and values where they are
};

/// How the tiles of a job are cut and what they read: see choose_tiles() in tile_policy.hpp.
struct TilePolicy {
  Operands operands = Operands::copied;
  bool few_rows = false;  ///< the job waits for memory rather than for arithmetic
  bool strided = false;   ///< keys and values are read as segments (StridedRows)
  Index most_rows = 1;    ///< of a tile of sums, where rows may share one
  Index near_keys = 1;    ///< keys whose values stay in the first-level cache: a part of a block
};

/// Rows [row_begin, row_end) of the plan, in all query heads of one kv head, over the job's places
/// [key_begin, key_end): every key that one of them sees, or one part of those. A job without keys
/// writes the results of rows that see nothing.
struct Job {
  Index row_begin = 0;
  Index row_end = 0;
  Index kv_head = 0;
  Index key_begin = 0;
  Index key_end = 0;
  Index part = -1;     ///< index of the part's state among all; -1: the job is not split
  Index parts = 1;     ///< in the job of a first part: the number of parts, else 0; 1: not split
  Index together = 0;  ///< this and the next jobs, so many, are the same rows and keys in the heads
                       ///< from kv_head on, whose keys lie side by side; 0: they do not
  std::span<const KeySpan> spans = {};  ///< ascending; none: a job's places are those of all keys
  std::span<const PanelRows> panels = {};  ///< if several windows share the job; else none
  TilePolicy tiles = {};

  /// (row, head) pairs: `group` query heads share a kv head.
  Index rows(Index group) const { return (row_end - row_begin) * group; }

  /// Calls f(interval of the job's places) for each part of the job that a row with this list of
  /// keys sees. Intervals of the list whose places lie side by side are one.
  template <class F>
  void for_each_seen(std::span<const Interval> list, F f) const {
    Interval last;
    auto span = spans.begin();
    for (const Interval i : list) {
      while (span->keys.end <= i.begin) ++span;  // (an interval lies in one)
      const Index shift = span->at - span->keys.begin;
      const Interval seen{(std::max)(i.begin + shift, key_begin),
                          (std::min)(i.end + shift, key_end)};
      if (seen.size() <= 0) continue;
      if (last.size() > 0 && last.end != seen.begin) f(last);
      last = {last.size() > 0 && last.end == seen.begin ? last.begin : seen.begin, seen.end};
    }
    if (last.size() > 0) f(last);
  }
};

struct Plan {
  std::span<Job> jobs;
  RowOrder order;           ///< with the mask of the plan's rows
  Index num_parts = 0;      ///< partial states
  Index max_part_rows = 0;  ///< (row, head) pairs of the largest
  Index max_job_rows = 0;   ///< (row, head) pairs of the largest job
  Index max_job_keys = 0;
  Index max_job_intervals = 0;  ///< of all rows of a job
  Index max_job_panels = 0;     ///< of the jobs that have them
  Index max_job_lanes = 0;      ///< of all panels of such a job
  Index max_together = 0;       ///< of all jobs
  Index max_together_rows = 0;  ///< (row, head) pairs of the largest of these

  const MaskView& mask() const { return order.mask; }
};

/// Rows of the plan that are one job of each kv head, or several, of parts of the keys.
struct JobRows {
  Interval rows;
  Interval keys;  ///< the job's places
  std::span<const KeySpan> spans = {};
  bool ends_window = true;   ///< the next JobRows are of other keys
  bool has_windows = false;  ///< several windows, all of them whole
  std::span<const PanelRows> panels = {};
};

/// Parts that the keys of a job of `rows` (row, head) pairs are split into, of `jobs` before any is
/// split.
inline Index count_parts(Index rows, Index keys, Index jobs) {
  if (rows <= kSplitRows) return (std::max<Index>)(1, (keys + kSplitKeys / 2) / kSplitKeys);
  return std::clamp<Index>(kFewJobs / jobs, 1, (std::max<Index>)(1, keys / (2 * kSplitKeys)));
}

/// Makes the jobs of a plan from rows that are cut. All heads of a window precede the next window,
/// so that its memory is shared.
inline void add_jobs(Plan& plan, std::span<const JobRows> cut, const AttentionShape& shape,
                     bool side_by_side, Workspace& workspace) {
  const Index group = shape.group(), heads = shape.num_kv_heads;
  const Index whole = static_cast<Index>(cut.size()) * heads;
  const auto parts_of = [&](const JobRows& job) {
    return count_parts(job.rows.size() * group, job.keys.size(), whole);
  };
  const Index empty_tokens = (std::max<Index>)(1, kJobRows / group);
  const Index empty_jobs = (plan.order.num_empty + empty_tokens - 1) / empty_tokens;
  Index count = empty_jobs;
  for (const JobRows& rows : cut) count += parts_of(rows);
  Job* job = workspace.take<Job>(count * heads);
  plan.jobs = {job, static_cast<std::size_t>(count * heads)};
  for (std::size_t begin = 0, end = 0; begin < cut.size(); begin = end) {
    while (!cut[end++].ends_window) {
    }
    const auto window = cut.subspan(begin, end - begin);
    const auto add = [&](const JobRows& rows, Index head, Index part, Index parts) {
      const Index keys = rows.keys.size();
      *job = {rows.rows.begin, rows.rows.end, head, rows.keys.begin + keys * part / parts,
              rows.keys.begin + keys * (part + 1) / parts};
      job->spans = rows.spans;
      job->panels = rows.panels;
      job->parts = part == 0 ? parts : 0;
      plan.max_job_keys = (std::max)(plan.max_job_keys, job->key_end - job->key_begin);
      return job++;
    };
    for (const JobRows& rows : window) {
      const Index pairs = rows.rows.size() * group;
      plan.max_job_rows = (std::max)(plan.max_job_rows, pairs);
      if (parts_of(rows) > 1) plan.max_part_rows = (std::max)(plan.max_part_rows, pairs);
      plan.max_job_panels = (std::max)(plan.max_job_panels, static_cast<Index>(rows.panels.size()));
    }
    if (side_by_side && heads > 1 && window.size() == 1 && window[0].panels.empty() &&
        window[0].rows.size() * group <= kSplitRows) {
      const Index parts = parts_of(window[0]);
      for (Index part = 0; part < parts; ++part)
        for (Index head = 0; head < heads; ++head) {
          Job& added = *add(window[0], head, part, parts);
          added.together = heads - head;
          added.part = parts > 1 ? plan.num_parts + head * parts + part : -1;
        }
      if (parts > 1) plan.num_parts += heads * parts;
      plan.max_together = heads;
      plan.max_together_rows = (std::max)(plan.max_together_rows, window[0].rows.size() * group);
      continue;
    }
    for (Index head = 0; head < heads; ++head)
      for (const JobRows& rows : window) {
        const Index parts = parts_of(rows);
        for (Index part = 0; part < parts; ++part)
          add(rows, head, part, parts)->part = parts > 1 ? plan.num_parts++ : -1;
      }
  }
  const Index first = plan.order.mask.num_rows(), rows = first + plan.order.num_empty;
  for (Index begin = first; begin < rows; begin += empty_tokens)
    for (Index head = 0; head < heads; ++head)
      *job++ = {begin, (std::min)(begin + empty_tokens, rows), head};
}

}  // namespace detail

CASA_NAMESPACE_END
