// One worker of the fast attention kernel: computes a job, block of keys by block.
//
// A job's rows (all query heads of one kv head, stacked) are cut into panels of a few vectors
// (panels.hpp). For each block of keys and each panel: scores, weights in their place, weighted
// sums. Sums are carried from block to block in scratch and written once, divided, at the end.
#pragma once

#include <algorithm>
#include <utility>

#include "casa/attention/kernel/fetch.hpp"
#include "casa/attention/kernel/key_rows.hpp"
#include "casa/attention/kernel/panel_sums.hpp"
#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/results.hpp"
#include "casa/attention/kernel/row_limits.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// What all workers of one call share.
template <class T, class S, class Score>
struct AttentionProblem {
  const AttentionInput<T, S>& in;
  const Score& score;
  const Plan& plan;
  const Destination<T>& to;
  const Parts<T>& parts;
  const Index* piece_begin;  ///< places of the first key of each piece, and of the end
  bool streams;              ///< streams_results()
};

/// One worker: scratch memory for the largest job, and the computation of a job.
template <class T, class S, class Score>
class JobRunner {
  static constexpr Index lanes = simd::kLanes<T>;
  static constexpr bool kScored = !std::is_same_v<Score, PlainScore>;

 public:
  JobRunner(const AttentionProblem<T, S, Score>& problem, Workspace& workspace)
      : p_(problem),
        in_(problem.in),
        scaling_(in_.scale, !kScored),
        group_(in_.shape.group()),
        limits_(problem.plan, group_, workspace),
        key_rows_(in_, problem.piece_begin, problem.plan, kScored, workspace),
        fetch_(in_, key_rows_, problem.plan.order.tokens),
        sums_(key_rows_, limits_, lane_rows(problem.plan), workspace) {
    const Index rows = lane_rows(p_.plan);
    const Index keys = (std::min)(kBlockKeys, p_.plan.max_job_keys) + kMaxTileKeys;
    q_ = workspace.take<T>(rows * key_rows_.padded_key_dim());  // (pairs take half of it)
    scores_ = workspace.take<T>(keys * kMaxVectors * lanes);
    lane_values_ = workspace.take<T>(rows * 3);
    q_rows_ = workspace.take<const T*>(rows);
    not_finite_ = workspace.take<Index>(keys);
    panels_ = workspace.take<QueryPanel<T>>((std::max)(rows / lanes + 1, p_.plan.max_job_panels));
    if (kScored) places_ = workspace.take<Lane<T>>(rows * 2);
  }

  /// Computes a job. `next` is the job that this worker computes afterwards, or null; its queries
  /// and first keys are prefetched meanwhile.
  void run(const Job& job, const Job* next) {
    job_ = &job;
    rows_ = job.rows(group_);
    if (job.key_begin == job.key_end) return write_empty(0, rows_);
    limits_.set(job);
    sums_.set_streams(p_.streams && job.part < 0);
    switch (job.tiles.operands) {
      case Operands::pairs:
        if constexpr (simd::kMultipliesPairs<S>)
          run_as<simd::bfloat16_pair, simd::bfloat16_pair, S>(next);
        break;
      case Operands::copied:
        return run_as<T, T, T>(next);
      case Operands::stored:
        return run_as<T, S, S>(next);
      case Operands::copied_keys:
        return run_as<T, T, S>(next);
    }
  }

 private:
  /// The most lanes of a job's panels: rows in whole vectors and one more, or those of the plan.
  static Index lane_rows(const Plan& plan) {
    return (std::max)((plan.max_job_rows + lanes - 1) / lanes * lanes, plan.max_job_lanes) + lanes;
  }

  /// Computes the job with queries and weights multiplied as Q, keys read as K and values as V.
  template <class Q, class K, class V>
  void run_as(const Job* next) {
    make_panels<Q, K>();
    const Interval all{job_->key_begin, job_->key_end};
    if (!job_->tiles.strided) {
      for_each_block(all, [&](Interval block, Interval after) {
        key_rows_.template gather<K, V>(*job_, block);
        run_block<Q>(block, following(after, next), key_rows_.template keys<K>(),
                     key_rows_.template values<V>());
      });
    } else if constexpr (std::is_same_v<K, V>) {
      key_rows_.for_each_piece(
          *job_, all, [&](const auto& piece, Index begin, Index end, Index place) {
            for_each_block({place, place + end - begin}, [&](Interval block, Interval) {
              const Index from = begin + block.begin - place, to = from + block.size();
              const auto [k, v] =
                  key_rows_.template segments<K, V>(piece, from, to, 0, job_->kv_head);
              key_rows_.set_places(piece, from, to, 0);
              run_block<Q>(block, {}, k, v);
            });
          });
    }
    for (Index p = 0; p < num_panels_; ++p)
      if (panels_[p].seen.size() == 0)
        write_empty(panels_[p].first, panels_[p].first + panels_[p].rows);
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
    Index place = job_->row_begin + begin / group_, head = begin % group_;
    for (Index row = begin; row < end; ++row) {
      f(row, p_.plan.order[place], job_->kv_head * group_ + head);
      if (++head == group_) head = 0, ++place;
    }
  }

  /// Cuts the job's rows into panels, unless the plan did, and packs their queries as Q, for keys
  /// read as K.
  template <class Q, class K>
  void make_panels() {
    const Index d = in_.shape.head_dim, padded = key_rows_.padded_key_dim();
    num_panels_ = 0;
    Index lane = 0;
    for_each_row(0, rows_, [&](Index row, Index token, Index head) {
      q_rows_[row] = in_.q.row(token) + head * d;
    });
    const auto add_panel = [&](Index first, Index rows, int vectors, int narrow) {
      QueryPanel<T>& p = panels_[num_panels_++];
      p = {vectors, narrow, first, rows, limits_.some(first, first + rows), d};
      p.q = q_ + lane * padded;
      const Index width = vectors * lanes;
      p.max = lane_values_ + lane * 3;
      p.sum = p.max + width;
      p.rescale = p.sum + width;
      p.scores = scores_;
      if constexpr (kScored) set_lane_places(p, places_ + lane * 2, width);
      lane += width;
      pack<Q, K>(p, q_rows_ + first, d, scaling_);
    };
    for (const PanelRows& p : job_->panels) add_panel(p.first, p.rows, p.vectors, p.narrow);
    if (job_->panels.empty()) for_each_panel<T>(rows_, kTwoNarrowRows<T, Q, K>, add_panel);
  }
  /// Which row of q and which head each lane of a panel is, for score functions.
  void set_lane_places(QueryPanel<T>& panel, Lane<T>* places, Index width) const {
    panel.lane_rows = places;
    panel.lane_heads = places + width;
    for (Index l = 0; l < width; ++l) {
      const Index row = panel.first + (std::min)(l % panel.width(), panel.rows - 1);
      places[l] = static_cast<Lane<T>>(p_.plan.order[job_->row_begin + row / group_]);
      places[width + l] = static_cast<Lane<T>>(job_->kv_head * group_ + row % group_);
    }
  }

  Following following(Interval after, const Job* next) const {
    if (after.size() > 0 || next == nullptr || next->key_begin == next->key_end)
      return {job_, after};
    const Index end = (std::min)(next->key_end, next->key_begin + kBlockKeys);
    return {next, {next->key_begin, end}, true};
  }

  /// A block of the job's keys: for each panel scores, weights in their place, weighted sums.
  template <class Q, class Keys, class Values>
  void run_block(Interval block, const Following& after, Keys keys, Values values) {
    const bool copied = !std::is_same_v<Value<Values>, S> || key_rows_.pads_values();
    bool begun = false;
    std::span<const Index> not_finite;
    fetch_.clear();
    for (Index p = 0; p < num_panels_; ++p) {
      const QueryPanel<T>& panel = panels_[p];
      const auto [panel_keys, part] = see(panel, block, keys, values);
      if (part.keys.count == 0) continue;
      if (!begun)
        fetch_.plan({job_, block}, {panels_ + p, panels_ + num_panels_}, kUnit<Q>, copied, after);
      softmax_block<Q>(panel, panel_keys, part.keys, p_.score, fetch_.prefetcher());
      if (!begun) {
        fetch_.plan_after_first_scores();
        // Rows that see different keys may share a tile: a key that a row does not see has weight
        // 0, and 0 times its value is 0 unless the value is infinite or NaN. Looked for only now,
        // after the first scores, because the values have been prefetched meanwhile.
        not_finite = not_finite_where_rows_differ(block, values);
        begun = true;
      }
      if (part.keys.last) prepare_result(panel);
      const bool mix = may_share_tiles(panel, part.places, not_finite);
      sums_.template add<Q>(panel, part, job_->tiles, mix, fetch_.prefetcher());
    }
  }

  /// What a panel sees of a block (perhaps no key), with those keys and values: the block's from
  /// the first such key on, or, under lists of intervals, only those that some row sees.
  template <class Keys, class Values>
  CASA_INLINE std::pair<Keys, PanelBlock<T, Values>> see(const QueryPanel<T>& panel, Interval block,
                                                         Keys keys, Values values) {
    const Interval places = meet(panel.seen, block);
    if (places.size() <= 0) return {keys, {values, {}, places}};
    PanelKeys<T> seen = limits_.visible(panel, places);
    seen.first = places.begin == panel.seen.begin;
    seen.last = places.end == panel.seen.end;
    const Index skipped = places.begin - block.begin;
    if constexpr (kScored) seen.places = key_rows_.places() + skipped;
    if constexpr (!kIsStrided<Values>)
      if (seen.kept != nullptr && seen.count > 0) {
        const auto kept =
            key_rows_.template keep<Value<Keys>, Value<Values>>(skipped, seen.kept, seen.count);
        seen.places = key_rows_.kept_places();
        return {kept.first, {kept.second, seen, places}};
      }
    return {keys + skipped, {values + skipped, seen, places}};
  }

  /// The places of a block's keys whose values are not all finite, of those that some rows of the
  /// job see and others do not. Valid until the next call.
  template <class Values>
  std::span<const Index> not_finite_where_rows_differ(Interval block, Values values) const {
    constexpr int together = 4;  // sums that do not wait for each other
    const Interval all = meet(block, limits_.every(0, rows_));
    // 0 times the values of keys [begin, end), added.
    const auto zero = [&](Index begin, Index end) {
      Row<simd::Vec<T>, together> sum = {};
      for (Index j = begin; j < end; j += together) {
        Row<const Value<Values>*, together> value;
        for (int k = 0; k < together; ++k) value[k] = values[(std::min)(j + k, end - 1)];
        for (Index i = 0; i < key_rows_.padded_value_dim(); i += lanes) {
          CASA_UNROLL
          for (int k = 0; k < together; ++k)
            sum[k] = simd::fma(simd::load(value[k] + i), simd::Vec<T>{}, sum[k]);
        }
      }
      return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
    };
    std::size_t count = 0;
    const auto add = [&](Index begin, Index end) {
      if (zero(begin - block.begin, end - block.begin) == T(0)) return;
      for (Index place = begin; place < end; ++place)
        if (zero(place - block.begin, place + 1 - block.begin) != T(0))
          not_finite_[count++] = place;
    };
    if (all.size() == 0) {
      add(block.begin, block.end);
    } else {
      add(block.begin, all.begin);
      add(all.end, block.end);
    }
    return {not_finite_, count};
  }

  /// Whether rows of a panel that see different keys of `places` may share a tile: all of them see
  /// each key whose value is not finite, or none of their tiles reads it. (Pairs of keys may read
  /// one before and one after.)
  bool may_share_tiles(const QueryPanel<T>& panel, Interval places,
                       std::span<const Index> not_finite) const {
    return std::all_of(not_finite.begin(), not_finite.end(), [&](Index place) {
      return place < places.begin - 1 || place > places.end ||
             limits_.all_see(panel.first, panel.first + panel.rows, place);
    });
  }

  /// Where the weighted values of a row go, and what they are multiplied by.
  struct RowResult {
    T* out;
    T factor;
  };
  /// Ends a row: writes its lse, or the state's max and sum.
  RowResult end_row(Index row, Index token, Index head, const RowState<T>& state) const {
    const Index d = in_.shape.output_dim();
    if (job_->part < 0)
      return {p_.to.out.row(token) + head * d, finish_row(in_, p_.to, token, head, state)};
    const Index at = job_->part * p_.parts.rows + row;
    p_.parts.max[at] = state.max;
    p_.parts.sum[at] = state.sum;
    return {p_.parts.out + at * d, T(1)};
  }
  /// For a panel that sees no further block.
  void prepare_result(const QueryPanel<T>& panel) {
    for_each_row(panel.first, panel.first + panel.rows, [&](Index row, Index token, Index head) {
      const Index lane = row - panel.first;
      const auto result = end_row(row, token, head, {panel.max[lane], panel.sum[lane]});
      sums_.set_result(row, result.out, result.factor);
    });
  }
  /// The results of rows [begin, end) of the job, which see no key.
  void write_empty(Index begin, Index end) const {
    for_each_row(begin, end, [&](Index row, Index token, Index head) {
      std::fill_n(end_row(row, token, head, {}).out, in_.shape.output_dim(), T(0));
    });
  }

  const AttentionProblem<T, S, Score>& p_;
  const AttentionInput<T, S>& in_;
  Scaling<T> scaling_;
  Index group_;
  RowLimits<T> limits_;
  KeyRows<T, S> key_rows_;
  Fetch<T, S> fetch_;
  PanelSums<T, S> sums_;
  const Job* job_ = nullptr;
  Index rows_ = 0, num_panels_ = 0;
  T *q_, *scores_, *lane_values_;
  const T** q_rows_;
  Index* not_finite_;
  QueryPanel<T>* panels_;
  Lane<T>* places_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
