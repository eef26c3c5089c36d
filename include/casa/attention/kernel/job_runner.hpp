// One worker of the fast attention kernel: computes a job, block of keys by block.
//
// A job's rows (all query heads of one kv head, stacked) are cut into panels of a few vectors
// (panels.hpp). For each block of keys and each panel: scores, weights in their place, weighted
// sums. Sums are carried from block to block in scratch and written once, divided, at the end.
#pragma once

#include <algorithm>
#include <utility>

#include "casa/attention/kernel/fetch.hpp"
#include "casa/attention/kernel/head_scores.hpp"
#include "casa/attention/kernel/key_rows.hpp"
#include "casa/attention/kernel/not_finite.hpp"
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
        sums_(key_rows_, limits_, all_lane_rows(problem.plan), workspace) {
    const Index rows = all_lane_rows(p_.plan);
    const Index keys = (std::min)(kBlockKeys, p_.plan.max_job_keys) + kMaxTileKeys;
    q_ = workspace.take<T>(rows * key_rows_.padded_key_dim());  // (pairs take half of it)
    const Index heads = p_.plan.max_together;
    scores_stride_ = keys * lanes;
    scores_ = workspace.take<T>((std::max<Index>)(kMaxVectors, heads) * scores_stride_);
    lane_values_ = workspace.take<T>(rows * 3);
    q_rows_ = workspace.take<const T*>(rows);
    not_finite_ = workspace.take<Index>(keys);
    panels_ = workspace.take<QueryPanel<T>>((std::max)(rows / lanes + 1, p_.plan.max_job_panels));
    if (kScored) places_ = workspace.take<Lane<T>>(rows * 2);
  }

  /// Computes a job, or several of the same rows and keys in other heads. `next` is the job that
  /// this worker computes afterwards, or null; its queries and first keys are prefetched meanwhile.
  void run(std::span<const Job> jobs, const Job* next) {
    jobs_ = jobs;
    job_ = jobs.data();
    rows_ = job_->rows(group_);
    if (job_->key_begin == job_->key_end) {
      for (const Job& job : jobs) job_ = &job, write_empty(0, rows_);
      return;
    }
    limits_.set(*job_);
    sums_.set_streams(p_.streams && job_->part < 0);
    switch (job_->tiles.operands) {
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
  /// The same of the jobs that are computed together.
  static Index all_lane_rows(const Plan& plan) {
    const Index rows = (plan.max_together_rows + lanes - 1) / lanes * lanes + lanes;
    return (std::max)(lane_rows(plan), plan.max_together * rows);
  }

  /// Computes the job with queries and weights multiplied as Q, keys read as K and values as V.
  template <class Q, class K, class V>
  void run_as(const Job* next) {
    num_panels_ = lane_ = 0;
    for (const Job& job : jobs_) make_panels<Q, K>(job);
    job_ = jobs_.data();
    const Interval all{job_->key_begin, job_->key_end};
    if (!job_->tiles.strided) {
      for_each_block(all, [&](Interval block, Interval after) {
        if (alternates(block)) {
          for (Index h = 0; h < num_panels_; ++h)
            key_rows_.template gather<K, V>(jobs_[static_cast<std::size_t>(h)], block, h);
          return run_heads<Q>(
              block, [&](Index h) { return key_rows_.template keys<K>(h); },
              [&](Index h) { return key_rows_.template values<V>(h); });
        }
        for_each_job([&] {
          key_rows_.template gather<K, V>(*job_, block);
          run_block<Q>(block, following(after, next), key_rows_.template keys<K>(),
                       key_rows_.template values<V>());
        });
      });
    } else if constexpr (std::is_same_v<K, V>) {
      key_rows_.for_each_piece(
          *job_, all, [&](const auto& piece, Index begin, Index end, Index place) {
            for_each_block({place, place + end - begin}, [&](Interval block, Interval) {
              const Index from = begin + block.begin - place, to = from + block.size();
              key_rows_.set_places(piece, from, to, 0);
              const auto segments = [&](Index head) {
                return key_rows_.template segments<K, V>(piece, from, to, 0, head);
              };
              if (alternates(block))
                return run_heads<Q>(
                    block, [&](Index h) { return segments(job_->kv_head + h).first; },
                    [&](Index h) { return segments(job_->kv_head + h).second; });
              for_each_job([&] {
                const auto [k, v] = segments(job_->kv_head);
                run_block<Q>(block, {}, k, v);
              });
            });
          });
    }
    for_each_job([&] {
      for (const QueryPanel<T>& p : job_panels_)
        if (p.seen.size() == 0) write_empty(p.first, p.first + p.rows);
    });
  }

  /// Calls f() with each of the jobs as the one that is computed.
  template <class F>
  void for_each_job(F f) {
    const std::size_t panels = static_cast<std::size_t>(num_panels_) / jobs_.size();
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      job_ = &jobs_[j];
      job_panels_ = {panels_ + j * panels, panels};
      f();
    }
    job_ = jobs_.data();
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

  /// Whether the jobs' heads alternate in a block, which all their rows see: where each is one
  /// narrow panel that reads the caller's memory.
  bool alternates(Interval block) const {
    const Index jobs = static_cast<Index>(jobs_.size());
    const bool copies =
        key_rows_.pads_values() || (!std::is_same_v<S, T> && !key_rows_.widens_in_place());
    return jobs > 1 && !kScored && !copies && num_panels_ == jobs && panels_[0].narrow > 0 &&
           job_->tiles.few_rows && meet(limits_.every(0, rows_), block).size() == block.size();
  }

  /// run_block() of the jobs together.
  template <class Q, class KeysOf, class ValuesOf>
  void run_heads(Interval block, KeysOf keys_of, ValuesOf values_of) {
    using Values = decltype(values_of(Index{}));
    const std::span<const QueryPanel<T>> panels{panels_, jobs_.size()};
    PanelKeys<T> seen = limits_.visible(panels[0], block);
    seen.first = block.begin == panels[0].seen.begin;
    seen.last = block.end == panels[0].seen.end;
    fetch_.clear();
    const auto ahead = [&](auto rows, Index size) {
      using E = Value<decltype(rows)>;
      const Index row = size * static_cast<Index>(sizeof(E)),
                  token = near_distance(rows, seen.count, 1);
      return HeadsAhead{row, token, token == static_cast<Index>(jobs_.size()) * row};
    };
    const auto keys = keys_of(0);
    const auto values = values_of(0);
    const Index group = keys_of_group(near_distance(keys, seen.count, 1));
    const HeadsAhead keys_ahead = ahead(keys, in_.shape.head_dim / kUnit<Q>);
    const HeadsAhead values_ahead = ahead(values, in_.shape.output_dim());
    const void* const after =
        static_cast<const char*>(static_cast<const void*>(keys[0])) + seen.count * keys_ahead.token;
    if constexpr (!kScored)
      softmax_heads<Q>(HeadPanels<T, KeysOf>{panels, keys_of, seen, keys_ahead, values[0], group},
                       fetch_.prefetcher());
    if (seen.last) for_each_job([&] { prepare_result(job_panels_[0]); });
    for (Index begin = 0; begin < seen.count; begin += group) {
      const Index end = (std::min)(begin + group, seen.count);
      const void* const next = end < seen.count ? values[end] : after;
      for (Index h = 0; h < num_panels_; ++h) {
        const PanelBlock<T, Values> panel_block{values_of(h), seen, block};
        sums_.template add_some<Q>(panels_[h], panel_block, {begin, end}, job_->tiles,
                                   values_ahead.of(h, group, panel_block.values[begin], next),
                                   fetch_.prefetcher());
      }
    }
  }

  /// Cuts a job's rows into panels, unless the plan did, and packs their queries as Q, for keys
  /// read as K.
  template <class Q, class K>
  void make_panels(const Job& job) {
    job_ = &job;
    const Index d = in_.shape.head_dim, padded = key_rows_.padded_key_dim();
    const Index sums = (&job - jobs_.data()) * rows_;
    for_each_row(0, rows_, [&](Index row, Index token, Index head) {
      q_rows_[row] = in_.q.row(token) + head * d;
    });
    const auto add_panel = [&](Index first, Index rows, int vectors, int narrow) {
      QueryPanel<T>& p = panels_[num_panels_++];
      p = {vectors, narrow, first, rows, sums + first, limits_.some(first, first + rows), d};
      p.q = q_ + lane_ * padded;
      const Index width = vectors * lanes;
      p.max = lane_values_ + lane_ * 3;
      p.sum = p.max + width;
      p.rescale = p.sum + width;
      p.scores = scores_ + (vectors == 1 ? &job - jobs_.data() : 0) * scores_stride_;
      if constexpr (kScored) set_lane_places(p, places_ + lane_ * 2, width);
      lane_ += width;
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
    for (const QueryPanel<T>& panel : job_panels_) {
      const auto [panel_keys, part] = see(panel, block, keys, values);
      if (part.keys.count == 0) continue;
      if (!begun)
        fetch_.plan({job_, block}, {&panel, job_panels_.data() + job_panels_.size()}, kUnit<Q>,
                    copied, after);
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
    NotFinite<T, Values> found{values, block.begin, key_rows_.padded_value_dim(), not_finite_};
    found.add_all_but(meet(block, limits_.every(0, rows_)), block);
    return found.places();
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
      sums_.set_result(panel.sums + lane, result.out, result.factor);
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
  std::span<const Job> jobs_;  ///< computed together
  const Job* job_ = nullptr;   ///< one of them
  std::span<const QueryPanel<T>> job_panels_;
  Index rows_ = 0, num_panels_ = 0, lane_ = 0;
  Index scores_stride_;  ///< from the scores of a panel of one vector to another's
  T *q_, *scores_, *lane_values_;
  const T** q_rows_;
  Index* not_finite_;
  QueryPanel<T>* panels_;
  Lane<T>* places_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
