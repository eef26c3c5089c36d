// How attention's work is cut into jobs where rows belong to several sequences: each sequence by
// itself, so that neighbours in a batch change no bit of it.
#pragma once

#include <algorithm>
#include <memory>

#include "casa/attention/kernel/plan_lists.hpp"
#include "casa/attention/kernel/tile_policy.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The mask of rows [rows.begin, rows.end); its offsets lie in the workspace.
inline MaskView mask_of_rows(const MaskView& mask, Interval rows, Workspace& workspace) {
  const auto begin = static_cast<std::size_t>(rows.begin);
  const auto count = static_cast<std::size_t>(rows.size());
  if (mask.offsets.empty()) return {mask.intervals.subspan(begin, count), {}};
  if (rows.begin == 0 && rows.end == mask.num_rows()) return mask;
  const Index first = mask.offsets[begin], end = mask.offsets[begin + count];
  Index* offsets = workspace.take<Index>(rows.size() + 1);
  for (std::size_t r = 0; r <= count; ++r) offsets[r] = mask.offsets[begin + r] - first;
  return {mask.intervals.subspan(static_cast<std::size_t>(first),
                                 static_cast<std::size_t>(end - first)),
          {offsets, count + 1}};
}

/// The orders of all sequences' rows as one. Rows that see no key stay with their sequence, in the
/// mask too.
inline RowOrder join_orders(std::span<const Plan> plans, std::span<const Index> row_begin,
                            const MaskView& mask, Workspace& workspace) {
  bool lists = false, sorted = false;
  for (const Plan& plan : plans) {
    lists = lists || !plan.mask().offsets.empty();
    sorted = sorted || !plan.order.tokens.empty();
  }
  if (!sorted && lists == !mask.offsets.empty()) return {{}, mask, 0};
  const Index rows = row_begin.back();
  const auto most = (std::max)(rows, static_cast<Index>(mask.intervals.size()));
  Interval* const intervals = workspace.take<Interval>(most);
  Index* const offsets = lists ? workspace.take<Index>(rows + 1) : nullptr;
  Index* const tokens = sorted ? workspace.take<Index>(rows) : nullptr;
  Index count = 0, row = 0;
  for (std::size_t s = 0; s < plans.size(); ++s) {
    const MaskView& own = plans[s].mask();
    for (Index r = 0; r < row_begin[s + 1] - row_begin[s]; ++r, ++row) {
      const auto seen = r < own.num_rows() ? own.row(r) : std::span<const Interval>{};
      if (sorted) tokens[row] = row_begin[s] + plans[s].order[r];
      if (lists) offsets[row] = count;
      for (const Interval i : seen)
        if (i.size() > 0) intervals[count++] = i;
      if (!lists && count == row) intervals[count++] = {};
    }
  }
  if (lists) offsets[rows] = count;
  const auto span = []<class E>(const E* data, Index size) {
    return std::span<const E>(data, data == nullptr ? 0 : static_cast<std::size_t>(size));
  };
  return {span(tokens, rows), {span(intervals, count), span(offsets, rows + 1)}, 0};
}

/// The plans of all sequences as one, whose jobs are in the order of the sequences. (A plan of one
/// interval a row has jobs without spans. Beside plans of lists each of its jobs is given one span,
/// in which every key keeps its place.)
inline Plan join_plans(std::span<const Plan> plans, std::span<const Index> row_begin,
                       const MaskView& mask, Index num_keys, Workspace& workspace) {
  Plan all;
  all.order = join_orders(plans, row_begin, mask, workspace);
  Index num_jobs = 0, rows = 0;
  for (std::size_t s = 0; s < plans.size(); ++s) {
    num_jobs += static_cast<Index>(plans[s].jobs.size());
    rows = (std::max)(rows, row_begin[s + 1] - row_begin[s]);
  }
  Job* jobs = workspace.take<Job>(num_jobs);
  all.jobs = {jobs, static_cast<std::size_t>(num_jobs)};
  std::span<const KeySpan> every_key;
  const bool lists = !all.mask().offsets.empty();
  if (lists) {
    KeySpan* whole = workspace.take<KeySpan>(1);
    every_key = {std::construct_at(whole, KeySpan{{0, num_keys}, 0}), 1};
    all.max_job_intervals = rows;
  }
  for (std::size_t s = 0; s < plans.size(); ++s) {
    for (Job job : plans[s].jobs) {
      job.row_begin += row_begin[s];
      job.row_end += row_begin[s];
      if (job.part >= 0) job.part += all.num_parts;
      if (lists && job.spans.empty()) job.spans = every_key;
      *jobs++ = job;
    }
    all.num_parts += plans[s].num_parts;
    all.max_part_rows = (std::max)(all.max_part_rows, plans[s].max_part_rows);
    all.max_job_rows = (std::max)(all.max_job_rows, plans[s].max_job_rows);
    all.max_job_keys = (std::max)(all.max_job_keys, plans[s].max_job_keys);
    all.max_job_panels = (std::max)(all.max_job_panels, plans[s].max_job_panels);
    all.max_job_lanes = (std::max)(all.max_job_lanes, plans[s].max_job_lanes);
    all.max_job_intervals = (std::max)(all.max_job_intervals, plans[s].max_job_intervals);
    all.max_together = (std::max)(all.max_together, plans[s].max_together);
    all.max_together_rows = (std::max)(all.max_together_rows, plans[s].max_together_rows);
  }
  return all;
}

/// Whether the heads of a token lie side by side in memory, keys and values, in every piece.
template <class T, class S>
bool heads_side_by_side(const AttentionInput<T, S>& in) {
  return std::all_of(in.keys.begin(), in.keys.end(), [&](const KeyPiece<S>& piece) {
    const Index heads = in.shape.num_kv_heads;
    const auto beside = [&](Index head, Index token, Index size) {
      return head > 0 && head <= 2 * size && token >= heads * head;
    };
    return piece.count == 0 ||
           (beside(piece.head_stride, piece.token_stride, in.shape.head_dim) &&
            beside(piece.value_head_stride == 0 ? piece.head_stride : piece.value_head_stride,
                   piece.value_token_stride == 0 ? piece.token_stride : piece.value_token_stride,
                   in.shape.output_dim()));
  });
}

/// All jobs of a problem, in memory of the workspace, without their tiles.
template <class T, class S>
Plan make_jobs(const AttentionInput<T, S>& in, Workspace& workspace) {
  const MaskView mask = in.mask();
  const std::span<const Index> begin = in.sequence_offsets;
  const bool side_by_side = heads_side_by_side(in);
  if (begin.size() <= 2) return make_plan<T>(mask, in.shape, workspace, side_by_side);
  const std::size_t count = begin.size() - 1;
  Plan* plans = workspace.take<Plan>(static_cast<Index>(count));
  for (std::size_t s = 0; s < count; ++s)
    std::construct_at(
        plans + s, make_plan<T>(mask_of_rows(mask, {begin[s], begin[s + 1]}, workspace), in.shape,
                                workspace, side_by_side));
  return join_plans({plans, count}, begin, mask, in.num_keys(), workspace);
}

/// All jobs of a problem. `rounds`: Precision::storage.
template <class T, class S>
Plan make_plan(const AttentionInput<T, S>& in, bool rounds, Workspace& workspace) {
  const Plan plan = make_jobs(in, workspace);
  for (Job& job : plan.jobs)
    if (job.key_begin < job.key_end)
      job.tiles = choose_tiles<T, S>(job, plan.mask(), in.shape, rounds);
  return plan;
}

}  // namespace detail

CASA_NAMESPACE_END
