// One worker of the fast attention kernel: computes a job, block of keys by block.
//
// A job's rows (all query heads of one kv head, stacked) are cut into panels of a few vectors
// (panels.hpp). For each block of keys and each panel: scores, weights in their place, weighted
// sums. Sums are carried from block to block in scratch and written once, divided, at the end.
#pragma once

#include <algorithm>

#include "casa/attention/kernel/block_fetches.hpp"
#include "casa/attention/kernel/key_rows.hpp"
#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/row_limits.hpp"
#include "casa/attention/kernel/sum_tiles.hpp"
#include "casa/attention/state.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Where results go: the quotient and log-sum-exp, or the state (max, sum, undivided out).
template <class T>
struct Destination {
  MatrixView<T> out;  ///< (rows, num_heads * head_dim)
  T* lse = nullptr;   ///< (rows, num_heads) or null
  T* max = nullptr;   ///< (rows, num_heads); null: out is the result, else the state
  T* sum = nullptr;
};

/// The states of the parts of split jobs, for each part and each row of its job.
template <class T>
struct Parts {
  T* max = nullptr;
  T* sum = nullptr;
  T* out = nullptr;  ///< head_dim values each
  Index rows = 0;    ///< of one part
};

/// One worker: scratch memory for the largest job, and the computation of a job.
template <class T, class S>
class JobRunner {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  JobRunner(const AttentionInput<T, S>& in, const Plan& plan, const Destination<T>& to,
            const Parts<T>& parts, const Index* piece_begin, bool rounds, Workspace& workspace)
      : in_(in),
        to_(to),
        parts_(parts),
        scaling_(in.scale),
        rounds_(rounds),
        group_(in.shape.group()),
        limits_(in.intervals, group_, plan.max_job_rows, workspace),
        key_rows_(in, piece_begin, (std::min)(kBlockKeys, plan.max_job_keys), kMaxTileKeys,
                  workspace),
        fetches_(in, key_rows_) {
    const Index rows = plan.max_job_rows;
    const Index lane_rows = (rows + lanes - 1) / lanes * lanes + lanes;
    const Index keys = (std::min)(kBlockKeys, plan.max_job_keys) + kMaxTileKeys;
    q_ = workspace.take<T>(lane_rows * key_rows_.padded_dim());  // (pairs take half of it)
    carried_ = workspace.take<T>(lane_rows * key_rows_.padded_dim());
    scores_ = workspace.take<T>(keys * kMaxVectors * lanes);
    lane_values_ = workspace.take<T>(lane_rows * 3);
    factor_ = workspace.take<T>(lane_rows);
    q_rows_ = workspace.take<const T*>(lane_rows);
    result_ = workspace.take<T*>(lane_rows);
    panels_ = workspace.take<QueryPanel<T>>(lane_rows / lanes + 1);
  }

  /// Computes a job. `next` is the job that this worker computes afterwards, or null; its queries
  /// and first keys are prefetched meanwhile.
  void run(const Job& job, const Job* next) {
    job_ = &job;
    rows_ = job.rows(group_);
    limits_.set(job);
    if constexpr (simd::kMultipliesPairs<S>)
      if (rounds_ && rows_ > kFewQueries && key_rows_.widens_in_place())
        return run_as<simd::bfloat16_pair, simd::bfloat16_pair, S>(next);
    if (!key_rows_.widens_in_place())
      run_as<T, T, T>(next);
    else if (rows_ <= kNarrowRows<T>)
      run_as<T, S, S>(next);
    else  // tiles of wide panels broadcast each value of a key: widening it there would serve one
          // vector
      run_as<T, T, S>(next);
  }

 private:
  /// Whether the job waits for memory rather than for arithmetic: its rows fit one narrow panel, or
  /// keys are stored as T and at most 2 sizeof(S) rows fit one vector. Its tiles read in the order
  /// of memory and prefetch for themselves.
  bool few_rows() const {
    constexpr Index shared = 2 * static_cast<Index>(sizeof(S)) * std::is_same_v<S, T>;
    return rows_ <= (std::max)(kNarrowRows<T>, (std::min)(lanes, shared));
  }

  /// Whether keys and values are read as segments, piece by piece (StridedRows): for one or two
  /// rows, where one tile takes whole values.
  bool strided_job() const {
    constexpr Index few = (std::min)(kFewQueries, kNarrowRows<T>);
    return rows_ <= few && kSegmentVectors * lanes >= key_rows_.padded_dim();
  }

  /// Computes the job with queries and weights multiplied as Q, keys read as K and values as V.
  template <class Q, class K, class V>
  void run_as(const Job* next) {
    make_panels<Q, K>();
    const Index head = job_->kv_head;
    const Interval all{job_->key_begin, job_->key_end};
    if (!strided_job()) {
      for_each_block(all, [&](Interval block, Interval after) {
        key_rows_.template gather<K, V>(block, head);
        run_block<Q>(block, following(after, next), key_rows_.template keys<K>(),
                     key_rows_.template values<V>());
      });
    } else if constexpr (std::is_same_v<K, V>) {
      key_rows_.for_each_piece(all, [&](const auto& piece, Index begin, Index end, Index place) {
        for_each_block({place, place + end - begin}, [&](Interval block, Interval) {
          const Index from = begin + block.begin - place;
          const auto [k, v] =
              key_rows_.template segments<K, V>(piece, from, from + block.size(), 0, head);
          run_block<Q>(block, {}, k, v);
        });
      });
    }
    for (Index p = 0; p < num_panels_; ++p)
      if (panels_[p].seen.size() == 0) write_empty(panels_[p]);
  }

  /// Calls f(block, the block after it or an empty interval) for blocks of nearly equal sizes.
  template <class F>
  void for_each_block(Interval keys, F f) const {
    const Index n = keys.size(), blocks = (n + kBlockKeys - 1) / kBlockKeys;
    for (Index b = 0; b < blocks; ++b) {
      const Index end = keys.begin + n * (b + 1) / blocks;
      f(Interval{keys.begin + n * b / blocks, end},
        Interval{end, b + 1 < blocks ? keys.begin + n * (b + 2) / blocks : end});
    }
  }

  /// Calls f(row, its token, its query head) for rows [begin, end) of the job.
  template <class F>
  void for_each_row(Index begin, Index end, F f) const {
    Index token = job_->row_begin + begin / group_, head = begin % group_;
    for (Index row = begin; row < end; ++row) {
      f(row, token, job_->kv_head * group_ + head);
      if (++head == group_) head = 0, ++token;
    }
  }

  /// Cuts the job's rows into panels and packs their queries as Q, for keys read as K.
  template <class Q, class K>
  void make_panels() {
    const Index d = in_.shape.head_dim, padded = key_rows_.padded_dim();
    num_panels_ = 0;
    Index lane = 0;
    for_each_row(0, rows_, [&](Index row, Index token, Index head) {
      q_rows_[row] = in_.q.row(token) + head * d;
    });
    for_each_panel<T>(rows_, [&](Index first, Index rows, int vectors, int narrow) {
      QueryPanel<T>& p = panels_[num_panels_++];
      p = {vectors, narrow, first, rows, limits_.some(first, first + rows)};
      p.q = q_ + lane * padded;
      const Index width = vectors * lanes;
      p.max = lane_values_ + lane * 3;
      p.sum = p.max + width;
      p.rescale = p.sum + width;
      p.scores = scores_;
      lane += width;
      pack<Q, K>(p, q_rows_ + first, d, scaling_);
    });
  }

  Following following(Interval after, const Job* next) const {
    if (after.size() > 0 || next == nullptr) return {after, job_->kv_head};
    const Index end = (std::min)(next->key_end, next->key_begin + kBlockKeys);
    return {{next->key_begin, end}, next->kv_head, next};
  }

  template <class Q, class Keys, class Values>
  void run_block(Interval block, const Following& after, Keys keys, Values values) {
    const Index d = in_.shape.head_dim;
    const bool copied = !std::is_same_v<Value<Values>, S> || d != key_rows_.padded_dim();
    bool begun = false, tiles_mix = false;
    fetches_.clear();  // jobs of few rows keep it so
    for (Index p = 0; p < num_panels_; ++p) {
      const QueryPanel<T>& panel = panels_[p];
      const Interval seen = meet(panel.seen, block);
      if (seen.size() == 0) continue;
      const bool first = seen.begin == panel.seen.begin, last = seen.end == panel.seen.end;
      if (!begun && !few_rows())
        fetches_.plan(block, job_->kv_head, {panels_ + p, panels_ + num_panels_}, kUnit<Q>, copied,
                      after);
      softmax_block<Q>(panel, keys + (seen.begin - block.begin), seen.size(), d,
                       limits_.visible(panel, seen), first, fetches_.prefetcher());
      if (!begun) {
        fetches_.plan_after_first_scores();
        // Rows that see different keys may share a tile: a key that a row does not see has weight
        // 0, and 0 times its value is 0 unless the value is infinite or NaN. Checked only now,
        // after the first scores, because the values have been prefetched meanwhile.
        tiles_mix = all_finite_where_rows_differ(block, values);
        begun = true;
      }
      if (last) prepare_result(panel);
      sum_values<Q>(panel, seen, values + (seen.begin - block.begin), first, last, tiles_mix);
    }
  }

  /// Whether all values are finite that some rows of the job see and others do not.
  template <class Values>
  bool all_finite_where_rows_differ(Interval block, Values values) const {
    const Interval all = meet(block, limits_.every(0, rows_));
    simd::Vec<T> nan{};
    const auto add = [&](Index begin, Index end) {
      for (Index j = begin - block.begin; j < end - block.begin; ++j)
        for (Index i = 0; i < key_rows_.padded_dim(); i += lanes)
          nan = simd::fma(simd::load(values[j] + i), simd::Vec<T>{}, nan);
    };
    if (all.size() == 0) {
      add(block.begin, block.end);
    } else {
      add(block.begin, all.begin);
      add(all.end, block.end);
    }
    return simd::reduce_add(nan) == T(0);
  }

  /// Adds the weighted values of a block to the sums of a panel's rows. `first`, `last`: the block
  /// is the first or last that the panel sees. Decides how many rows share a tile, and into which
  /// parts the block's keys are cut so that the tiles of a part find its values in the first-level
  /// cache.
  template <class W, class Values>
  void sum_values(const QueryPanel<T>& panel, Interval seen, Values values, bool first, bool last,
                  bool tiles_mix) {
    SumShape shape{panel.width(), in_.shape.head_dim, key_rows_.padded_dim()};
    const Index near = kNearBytes / (shape.padded_dim * static_cast<Index>(sizeof(Value<Values>)));
    const Index near_keys = (std::max<Index>)(near / kUnit<W>, 1) * kUnit<W>;
    Index most = tiles_mix ? kSumRows : 1, part = seen.size();
    if constexpr (kIsStrided<Values>) {
      if (panel.rows > most) part = near_keys;
      shape.near = segment_distance(values, seen.size(), shape.head_dim);
    } else if (few_rows()) {
      // Where one tile takes whole values, the rows are split over two tiles: the second reads from
      // the first-level cache, and a line that is prefetched twice measured faster than one that is
      // prefetched once. Not for 16-bit values, which both tiles would widen: 4 rows of bfloat16
      // read 34 GB/s in one tile, 32 in two.
      constexpr bool widens = kUnit<W> == 1 && !std::is_same_v<Value<Values>, T>;
      const Index half = (panel.rows + 1) / 2;
      if (!widens && sum_vectors(half) * lanes >= shape.padded_dim) most = (std::min)(most, half);
      part = near_keys;
      shape.near = near_distance(values, seen.size(), near_keys);
    }
    for (Index begin = seen.begin; begin < seen.end; begin += part) {
      const Index end = (std::min)(begin + part, seen.end);
      sum_part<W>(panel, seen, {begin, end}, first && begin == seen.begin, last && end == seen.end,
                  most, values, shape);
      if (end < seen.end) std::fill_n(panel.rescale, panel.width(), T(1));
    }
  }
  /// The sums over one part of a block's keys, in tiles of at most `most` rows and nearly equal
  /// sizes, each over the keys that its rows see. With pairs of keys the range is widened to whole
  /// pairs, and the key that is not seen has weight 0.
  template <class W, class Values>
  void sum_part(const QueryPanel<T>& panel, Interval seen, Interval part, bool first, bool last,
                Index most, Values values, const SumShape& shape) {
    constexpr Index unit = kUnit<W>;
    const auto tile_of = [&](Index r, Index end) {
      const Index row = panel.first + r;
      Interval keys = meet(limits_.some(row, panel.first + end), part);
      if (keys.size() == 0) keys = {seen.begin, seen.begin};
      const Index begin = keys.begin - seen.begin, behind = keys.end - seen.begin;
      const Index skipped = begin / unit * unit;
      const Index count = (behind + unit - 1) / unit * unit - skipped;
      SumRows<T, W, Values> tile{end - r,
                                 panel.template weights<W>() + skipped / unit * panel.width() + r,
                                 values + skipped,
                                 count,
                                 carried_ + row * shape.padded_dim,
                                 first ? nullptr : panel.rescale + r,
                                 last ? result_ + row : nullptr,
                                 factor_ + row};
      if constexpr (unit ==
                    2)  // a row by itself: the pair's other value may be NaN, so it is replaced
        if (most == 1)
          tile.values = key_rows_.only(tile.values, count, begin - skipped, behind - skipped);
      return tile;
    };
    if (unit == 2 && most == 1) {
      for (Index r = 0; r < panel.rows; ++r) {
        const auto tile = tile_of(r, r + 1);
        sum_panel<T, W, Values>({&tile, 1}, shape, fetches_.prefetcher());
      }
      return;
    }
    const Index tiles = (panel.rows + most - 1) / most;
    Row<SumRows<T, W, Values>, kMaxVectors* static_cast<int>(lanes)> rows;
    for (Index t = 0; t < tiles; ++t)
      rows[t] = tile_of(panel.rows * t / tiles, panel.rows * (t + 1) / tiles);
    sum_panel<T, W, Values>({rows, static_cast<std::size_t>(tiles)}, shape, fetches_.prefetcher());
  }

  /// For a panel that sees no further block: sets where its rows' sums go (result_) and what they
  /// are multiplied by (factor_), and writes its lse or the state's max and sum.
  void prepare_result(const QueryPanel<T>& panel) {
    const Index d = in_.shape.head_dim;
    for_each_row(panel.first, panel.first + panel.rows, [&](Index row, Index token, Index head) {
      const T max = panel.max[row - panel.first], sum = panel.sum[row - panel.first];
      factor_[row] = T(1);
      if (job_->part >= 0) {
        const Index at = job_->part * parts_.rows + row;
        result_[row] = parts_.out + at * d;
        parts_.max[at] = max;
        parts_.sum[at] = sum;
        return;
      }
      result_[row] = to_.out.row(token) + head * d;
      const Index at = token * in_.shape.num_heads + head;
      if (to_.max != nullptr) {
        to_.max[at] = max;
        to_.sum[at] = sum;
      } else {
        factor_[row] = sum == T(0) ? T(0) : T(1) / sum;
        if (to_.lse != nullptr) to_.lse[at] = log_sum_exp(max, sum);
      }
    });
  }
  void write_empty(const QueryPanel<T>& panel) {
    std::fill_n(panel.max, panel.rows, -std::numeric_limits<T>::infinity());
    std::fill_n(panel.sum, panel.rows, T(0));
    prepare_result(panel);
    for (Index r = panel.first; r < panel.first + panel.rows; ++r)
      std::fill_n(result_[r], in_.shape.head_dim, T(0));
  }

  const AttentionInput<T, S>& in_;
  const Destination<T>& to_;
  const Parts<T>& parts_;
  Scaling<T> scaling_;
  bool rounds_;
  Index group_;
  RowLimits<T> limits_;
  KeyRows<T, S> key_rows_;
  BlockFetches<T, S> fetches_;
  const Job* job_ = nullptr;
  Index rows_ = 0, num_panels_ = 0;
  T *q_, *carried_, *scores_, *lane_values_, *factor_;
  const T** q_rows_;
  T** result_;
  QueryPanel<T>* panels_;
};

}  // namespace detail

CASA_NAMESPACE_END
