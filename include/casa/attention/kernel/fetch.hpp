// What the attention kernel prefetches: the one place that decides it (how, prefetcher.hpp says).
//
//   planned  jobs of many rows: the schedule of Fetch, a share of it in each tile
//   run      one or two rows, and keys that lie side by side: what the tile itself reads
//            simd::kReadAhead bytes later
//   near     few rows, whose values several tiles read in parts: the next part
//   none     what the tile reads next is not known
//
// Measured by leaving one out (a Zen 5, processor time, two builds in turn; a stream is 64 windows
// of 276 keys, few rows are over 16,384 keys; float, bfloat16, double):
//
//   planned                   a stream 1.24, 1.33, 1.13 times the time, 8 frames of 256 1.04,
//                             1.05, 1.01, causal rows 1.00
//     a block's values        a stream 1.23, 1.19, 1.12
//     the next block's keys   a stream 1.16, 1.15, 1.14; 1,000 sequences of 40 1.12, 1.05, 1.09
//     the next job's queries  a stream 1.04, 1.05, 0.97; the sequences 1.10, 1.10, 1.05
//   run, of keys and values   2 rows 1.15, 2.19, 1.04; of values alone 1.08, 1.20, 1.01
//   near, of values           4 rows 1.32, 1.78, 1.48; 8 rows 1.98, 1.95, 1.89
//     in memory's order       8 rows of float 1.10
//   run, of wide panels       16 rows of pairs of bfloat16 1.35
//
// The rows that sums are carried in and written to are not prefetched: that gained nothing
// anywhere, and large results are streamed past the caches (results.hpp).
#pragma once

#include <span>

#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/prefetcher.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

template <class T>
struct QueryPanel;
template <class T, class S>
class KeyRows;

/// How many bytes ahead tiles of scores prefetch keys of `units` values or pairs; 0: none or
/// planned. With a schedule the keys are in cache already; tiles of wide panels prefetch only keys
/// that are contiguous, as else what follows a key are other heads.
template <class Rows>
Index keys_ahead(const Prefetcher& prefetcher, Rows keys, Index count, Index units, bool narrow) {
  const bool ahead = prefetcher.idle() && (narrow || side_by_side(keys, count, units));
  return ahead ? segment_distance(keys, count, units) : 0;
}

/// What a tile of scores of M keys and N vectors prefetches in each turn of kScoreSteps units.
/// `near`: keys_ahead(). `q`: the queries, which it reads anyway.
template <int M, int N, int Steps, class Q>
FetchCursor score_cursor(Prefetcher& prefetcher, const Q* key, Index near, const Q* q,
                         Index units) {
  return near != 0 ? segment_cursor<M * Steps>(key, near)
                   : prefetcher.take(units / Steps, Steps * M * N, kScoreLines, q);
}

/// What a tile of sums of M rows prefetches in each turn of two keys, or two pairs of them; it
/// reads `Columns` values of each key from `column` on. Near: shape.near bytes ahead; where that
/// is contiguous, the tiles of all columns together prefetch the next part in memory's order, each
/// its share, instead of each its own columns.
template <int M, Index Columns, class Rows, class Shape>
FetchCursor sum_cursor(Prefetcher& prefetcher, const Rows& rows, const Shape& shape, Index column) {
  using E = Value<decltype(rows.values)>;
  using W = std::remove_cvref_t<decltype(*rows.weights)>;
  constexpr Index size = static_cast<Index>(sizeof(E)), vectors = Columns / Rows::kLanes;
  if (shape.near == 0 || rows.count <= 1)
    return prefetcher.take(rows.count / 2, 2 * M * vectors / kUnit<W>, kSumLines<M>, rows.weights);
  const bool in_order =
      shape.near_per_key != 0 || side_by_side(rows.values, rows.count, shape.padded_dim);
  const Index key = in_order ? Columns * size : bytes_between(rows.values[0], rows.values[1]);
  const char* at = static_cast<const char*>(static_cast<const void*>(rows.values[0])) + shape.near +
                   column * size * (in_order ? rows.count : 1);
  return {at, at + 2 * key, 4 * key, key};
}

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
/// them. In jobs of few rows the schedule stays empty, and tiles prefetch for themselves.
template <class T, class S>
class Fetch {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  /// `order`: the tokens of the plan's rows (RowOrder).
  Fetch(const AttentionInput<T, S>& in, const KeyRows<T, S>& rows, std::span<const Index> order)
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
    if (now.job->tiles.few_rows) return;
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
