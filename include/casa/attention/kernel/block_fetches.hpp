// Which memory the attention kernel prefetches while it computes a block.
#pragma once

#include <span>

#include "casa/attention/kernel/key_rows.hpp"
#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/prefetcher.hpp"
#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// What a worker computes after a block: its job's next block, or the first block of its next job.
struct Following {
  const Job* job = nullptr;
  Interval block = {};
  bool another = false;  ///< it is another job
};

/// One worker's schedule of prefetches for jobs with many rows. They are spread evenly over the
/// arithmetic. A block's values are fetched during the scores of its first panel, and the keys of
/// the following block during the rest: fetched a whole block ahead, both had partly left the
/// second-level cache when they were read (windows that come from memory gained 1 to 7 %). Only
/// where values are copied when their block begins must both come a block ahead. A worker's very
/// first keys are not prefetched.
///
/// For each block: clear(), then plan() before the first scores and plan_after_first_scores() after
/// them. Without plan() the object stays idle, and tiles prefetch for themselves.
template <class T, class S>
class BlockFetches {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  /// `order`: the tokens of the plan's rows (RowOrder).
  BlockFetches(const AttentionInput<T, S>& in, const KeyRows<T, S>& rows,
               std::span<const Index> order)
      : in_(in), rows_(rows), order_(order) {}

  /// Forgets the schedule: tiles prefetch what they read themselves.
  void clear() {
    prefetcher_.clear();
    after_ = {};
  }

  /// Call after clear() and before the scores of panels[0], the job's first panel that sees some of
  /// the block `now`. `unit`: values that a lane multiplies at once. `copied`: tiles read copies of
  /// values.
  void plan(const Following& now, std::span<const QueryPanel<T>> panels, Index unit, bool copied,
            const Following& after) {
    const Interval block = now.block;
    Index all = 0,
          tiles = 0;  // without the scores of narrow panels, which take nothing from the schedule
    const Index scores = panels[0].narrow == 0 ? multiply_adds(panels[0], block, unit) : 0;
    for (const QueryPanel<T>& p : panels) {
      const bool wide = p.narrow == 0;
      all += (wide ? 2 : 1) * multiply_adds(p, block, unit);
      tiles += wide ? meet(p.seen, block).size() / score_tile_keys(p) : 0;
    }
    if (after.another) {
      const Index row = in_.shape.group() * in_.shape.head_dim, first = after.job->row_begin;
      prefetcher_.add_rows(
          {in_.q.data() + after.job->kv_head * row, bytes<T>(in_.q.stride()), bytes<T>(row),
           after.job->row_end - first, first, order_.empty() ? nullptr : order_.data() + first},
          tiles);
    }
    if (copied) {
      add_keys(after);
      add_values(after);
      prefetcher_.spread(all);
    } else {
      add_values(now);
      prefetcher_.spread(scores);
      after_ = after;
      work_after_ = all - scores;
    }
  }
  /// Call after the scores of the first panel: schedules the following block's keys.
  void plan_after_first_scores() {
    if (after_.block.size() == 0) return;
    add_keys(after_);
    prefetcher_.spread(work_after_);
  }

  Prefetcher& prefetcher() { return prefetcher_; }

 private:
  template <class E>
  static constexpr Index bytes(Index count) {
    return count * static_cast<Index>(sizeof(E));
  }
  /// Multiply-adds of vectors in a panel's scores of a block; its sums take about as many.
  Index multiply_adds(const QueryPanel<T>& panel, Interval block, Index unit) const {
    return meet(panel.seen, block).size() * panel.width() * in_.shape.head_dim / (unit * lanes);
  }
  // Keys and values are scheduled, except where each is farther apart than two head_dim: there most
  // of the lines between belong to other heads.
  void add_keys(const Following& what) {
    rows_.for_each_piece(*what.job, what.block,
                         [&](const KeyPiece<S>& piece, Index begin, Index end, Index) {
                           add(piece.key(what.job->kv_head, begin), piece.token_stride,
                               in_.shape.head_dim, end - begin);
                         });
  }
  void add_values(const Following& what) {
    rows_.for_each_piece(*what.job, what.block,
                         [&](const KeyPiece<S>& piece, Index begin, Index end, Index) {
                           add(piece.value(what.job->kv_head, begin), rows_.value_stride(piece),
                               in_.shape.output_dim(), end - begin);
                         });
  }
  void add(const S* first, Index stride, Index dim, Index count) {
    if (stride >= 0 && stride <= 2 * dim) prefetcher_.add(first, bytes<S>(count * stride));
  }

  const AttentionInput<T, S>& in_;
  const KeyRows<T, S>& rows_;
  std::span<const Index> order_;
  Prefetcher prefetcher_;
  Following after_;
  Index work_after_ = 0;
};

}  // namespace detail

CASA_NAMESPACE_END
