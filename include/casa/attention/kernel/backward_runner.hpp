// One worker of the backward pass: computes a job, panel by panel.
//
// For each panel and each block of the job's keys: scores and weights anew from the log-sum-exp,
// the gradients of scores, and three products that add to the gradients of values, keys and
// queries (FlashAttention-2, arXiv 2307.08691, appendix B). Scores are never in memory for more
// than one panel times one block.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "casa/attention/gradients.hpp"
#include "casa/attention/kernel/backward_plan.hpp"
#include "casa/attention/kernel/backward_tiles.hpp"
#include "casa/attention/kernel/panels.hpp"
#include "casa/attention/score_gradients.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// What all workers of one call share.
template <class T, class S, class Score, class Parameters>
struct BackwardProblem {
  const AttentionInput<T, S>& in;
  const AttentionResult<T>& result;
  const AttentionGradients<T>& gradients;
  const T* means;  ///< output_means()
  const Score& score;
  const Parameters& parameters;  ///< gradients of the score function's
  double* sums;                  ///< (ranges, parameters.num_sums()), 0
  const BackwardPlan& plan;
  /// (num_kv_heads, panels): ranges whose gradients of the panel's queries have been added
  std::atomic<Index>* turns;
};

/// One worker: scratch memory for the largest job, and the computation of a job.
template <class T, class S, class Score, class Parameters>
class BackwardRunner {
  using Problem = BackwardProblem<T, S, Score, Parameters>;
  using V = simd::Vec<T>;
  static constexpr Index lanes = simd::kLanes<T>;
  static constexpr bool kScored = !std::is_same_v<Score, PlainScore>;
  /// Keys of a block: weights and gradients of scores of a panel fit the first-level cache.
  static constexpr Index kBlock = 64;

 public:
  BackwardRunner(const Problem& problem, Workspace& workspace)
      : p_(problem),
        in_(problem.in),
        group_(in_.shape.group()),
        head_dim_(in_.shape.head_dim),
        value_dim_(in_.shape.output_dim()),
        key_width_((head_dim_ + lanes - 1) / lanes * lanes),
        value_width_((value_dim_ + lanes - 1) / lanes * lanes) {
    const Index keys = p_.plan.max_range_keys + kBackwardRows, pairs = kBackwardPairs<T>;
    keys_ = workspace.take<T>(keys * key_width_);
    values_ = workspace.take<T>(keys * value_width_);
    d_keys_ = workspace.take<T>(keys * key_width_);
    d_values_ = workspace.take<T>(keys * value_width_);
    q_ = workspace.take<T>(pairs * key_width_);
    d_out_ = workspace.take<T>(pairs * value_width_);
    d_q_ = workspace.take<T>((pairs + kBackwardRows) * key_width_);
    rows_ = workspace.take<const T*>(2 * pairs);
    bits_ = workspace.take<LaneBits>(kBlock + kBackwardRows + 1);
    packed_.q = workspace.take<T>(pairs * head_dim_);
    packed_.d_out = workspace.take<T>(pairs * value_dim_);
    packed_.lse = workspace.take<T>(pairs);
    packed_.mean = workspace.take<T>(pairs);
    // (The last tile of queries reads lanes after the last key's.)
    const Index scores = (kBlock + kBackwardRows) * pairs + kBackwardRows;
    packed_.weights = workspace.take<T>(scores);
    packed_.d_scores = workspace.take<T>(scores);
    std::fill_n(packed_.d_scores, scores, T(0));
    packed_.bits = bits_;
    if (!kScored) return;
    packed_.slopes = workspace.take<T>(scores);
    if (kCollects<Parameters>) {
      packed_.raw = workspace.take<T>(scores);
      packed_.d_changed = workspace.take<T>(scores);
    }
    places_ = workspace.take<Lane<T>>(2 * pairs + kBlock + kBackwardRows);
    packed_.lane_rows = places_;
    packed_.lane_heads = places_ + pairs;
    packed_.places = places_ + 2 * pairs;
  }

  /// The job of one kv head and one range.
  void run(Index kv_head, Index range_index) {
    const BackwardRange& range = p_.plan.ranges[static_cast<std::size_t>(range_index)];
    if constexpr (kCollects<Parameters>) sums_ = p_.sums + range_index * p_.parameters.num_sums();
    kv_head_ = kv_head;
    range_ = range.keys;
    load_keys();
    for (Index i = range.panels.begin; i < range.panels.end; ++i) {
      panel_ = &p_.plan.panels[static_cast<std::size_t>(i)];
      if (!panel_->ranges.contains(range_index)) continue;
      bool packed = false;
      for (Index begin = range_.begin; begin < range_.end; begin += kBlock) {
        const Interval block = meet({begin, (std::min)(begin + kBlock, range_.end)}, panel_->keys);
        if (block.size() <= 0 || !mark(block)) continue;
        if (!packed) pack();
        packed = true;
        add_block(block);
      }
      add_queries(i, range_index - panel_->ranges.begin, packed);
    }
    store_keys();
  }

 private:
  /// Calls f(piece, first token of the piece, its place among all keys, tokens) for the keys of the
  /// range.
  template <class F>
  void for_each_piece(F f) const {
    Index place = 0;
    for (std::size_t p = 0; p < in_.keys.size(); place += in_.keys[p++].count) {
      const Interval part = meet(range_, {place, place + in_.keys[p].count});
      if (part.size() > 0) f(p, part.begin - place, part.begin - range_.begin, part.size());
    }
  }

  /// Copies `count` values, widened, with zeros after them up to whole vectors. Returns 0, or NaN
  /// where one is not finite.
  template <class From>
  static V copy_row(const From* from, Index count, T* to) {
    V bad{};
    Index i = 0;
    for (; i + lanes <= count; i += lanes) {
      const V x = simd::load(from + i);
      bad += x * T(0);
      simd::store(to + i, x);
    }
    if (i == count) return bad;
    T rest[static_cast<std::size_t>(lanes)] = {};
    for (Index r = 0; i + r < count; ++r) rest[r] = static_cast<T>(widen(from[i + r]));
    const V x = simd::load(rest);
    simd::store(to + i, x);
    return bad + x * T(0);
  }
  static bool is_finite(V bad) { return simd::reduce_add(bad) == T(0); }

  /// Keys and values of the range, and gradients of 0.
  void load_keys() {
    V bad{};
    for_each_piece([&](std::size_t p, Index token, Index at, Index count) {
      for (Index t = 0; t < count; ++t) {
        bad += copy_row(in_.keys[p].key(kv_head_, token + t), head_dim_,
                        keys_ + (at + t) * key_width_);
        bad += copy_row(in_.keys[p].value(kv_head_, token + t), value_dim_,
                        values_ + (at + t) * value_width_);
      }
    });
    keys_are_finite_ = is_finite(bad);
    const Index count = range_.size(), all = count + kBackwardRows;
    std::fill(keys_ + count * key_width_, keys_ + all * key_width_, T(0));
    std::fill(values_ + count * value_width_, values_ + all * value_width_, T(0));
    std::fill(d_keys_, d_keys_ + all * key_width_, T(0));
    std::fill(d_values_, d_values_ + all * value_width_, T(0));
  }
  void store_keys() const {
    if (p_.gradients.keys.empty()) return;
    const T scale = static_cast<T>(in_.scale);
    for_each_piece([&](std::size_t p, Index token, Index at, Index count) {
      const KeyGradients<T>& to = p_.gradients.keys[p];
      for (Index t = 0; t < count; ++t) {
        if (to.k)
          store_row(d_keys_ + (at + t) * key_width_, head_dim_, scale, to.key(kv_head_, token + t));
        if (to.v)
          store_row(d_values_ + (at + t) * value_width_, value_dim_, T(1),
                    to.value(kv_head_, token + t));
      }
    });
  }
  static void store_row(const T* from, Index count, T factor, T* to) {
    for (Index i = 0; i < count; ++i) to[i] = from[i] * factor;
  }

  Index pair(Index lane) const { return panel_->first + lane; }
  Index row_of(Index lane) const { return pair(lane) / group_; }
  Index head_of(Index lane) const { return kv_head_ * group_ + pair(lane) % group_; }

  /// Marks which lanes see which keys of a block, count of them rounded up to whole tiles; false if
  /// none sees any.
  bool mark(Interval block) {
    const MaskView mask = in_.mask();
    const Index count = block.size();
    std::fill_n(bits_, count + kBackwardRows + 1, LaneBits{0});
    bool some = false;
    for (Index lane = 0; lane < panel_->rows;) {
      const Index row = row_of(lane);
      const Index end = (std::min)(panel_->rows, (row + 1) * group_ - panel_->first);
      const LaneBits of_row = bit(end) - bit(lane);
      for (const Interval i : mask.row(row)) {
        const Interval part = meet(i, block);
        if (part.size() <= 0) continue;
        some = true;
        bits_[part.begin - block.begin] ^= of_row;
        bits_[part.end - block.begin] ^= of_row;
      }
      lane = end;
    }
    LaneBits state = 0;
    for (Index j = 0; j < count; ++j) bits_[j] = state ^= bits_[j];
    bits_[count] = 0;
    return some;
  }
  static LaneBits bit(Index lane) { return LaneBits{1} << lane; }

  /// Packs the panel's queries and gradients of outputs.
  void pack() {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const Index rows = panel_->rows, heads = in_.shape.num_heads;
    const Index vectors = (rows + lanes - 1) / lanes;
    packed_.width = vectors * lanes;
    packed_.rows = rows;
    V bad{};
    for (Index l = 0; l < rows; ++l) {
      const Index row = row_of(l), head = head_of(l);
      rows_[l] = in_.q.row(row) + head * head_dim_;
      rows_[kBackwardPairs<T> + l] = p_.result.d_out.row(row) + head * value_dim_;
      bad += copy_row(rows_[l], head_dim_, q_ + l * key_width_);
      bad += copy_row(rows_[kBackwardPairs<T> + l], value_dim_, d_out_ + l * value_width_);
      packed_.mean[l] = p_.means[row * heads + head];
      const double lse = static_cast<double>(p_.result.lse[row * heads + head]);
      // A row whose keys all have scores of -inf has seen none. (+inf stands for NaN weights.)
      packed_.lse[l] = lse == -std::numeric_limits<double>::infinity() ? infinity
                       : lse == std::numeric_limits<double>::infinity()
                           ? std::numeric_limits<T>::quiet_NaN()
                           : static_cast<T>(1.44269504088896340736 * lse);
      if constexpr (kScored) {
        places_[l] = static_cast<Lane<T>>(row);
        places_[kBackwardPairs<T> + l] = static_cast<Lane<T>>(head);
      }
    }
    rows_are_finite_ = is_finite(bad);
    for (Index l = rows; l < packed_.width; ++l) {
      packed_.mean[l] = T(0);
      packed_.lse[l] = infinity;
      if constexpr (kScored) {
        places_[l] = places_[rows - 1];
        places_[kBackwardPairs<T> + l] = places_[kBackwardPairs<T> + rows - 1];
      }
    }
    QueryPanel<T> panel;
    panel.vectors = static_cast<int>(vectors);
    panel.rows = rows;
    panel.q = packed_.q;
    pack_wide<T>(panel, rows_, head_dim_, Scaling<T>(in_.scale, !kScored));
    panel.q = packed_.d_out;
    pack_wide<T>(panel, rows_ + kBackwardPairs<T>, value_dim_, Scaling<T>(1.0, false));
    std::fill_n(d_q_, (packed_.width + kBackwardRows) * key_width_, T(0));
  }
  /// Weights and gradients of scores of a block, and what they add to the three gradients.
  void add_block(Interval block) {
    const Index first = block.begin - range_.begin, count = block.size();
    if constexpr (kScored)
      for (Index j = 0; j < count + kBackwardRows; ++j)
        places_[2 * kBackwardPairs<T> + j] =
            static_cast<Lane<T>>((std::min)(block.begin + j, range_.end - 1));
    const auto scores = [&]<int N>() {
      backward_scores<N>(packed_, keys_ + first * key_width_, key_width_, head_dim_,
                         values_ + first * value_width_, value_width_, value_dim_, count, p_.score);
    };
    if (packed_.width == 3 * lanes)
      scores.template operator()<3>();
    else if (packed_.width == 2 * lanes)
      scores.template operator()<2>();
    else
      scores.template operator()<1>();
    if constexpr (kCollects<Parameters>) add_parameters(block);
    if (!keys_are_finite_ || !rows_are_finite_) return add_seen(first, count);
    const Index width = packed_.width, rows = packed_.rows;
    add_product<T>({packed_.weights, width, 1}, d_out_, d_values_ + first * value_width_,
                   value_width_, count, rows);
    add_product<T>({packed_.d_scores, width, 1}, q_, d_keys_ + first * key_width_, key_width_,
                   count, rows);
    add_product<T>({packed_.d_scores, 1, width}, keys_ + first * key_width_, d_q_, key_width_, rows,
                   count);
  }
  /// What the pairs of a block add to the gradients of the score function's parameters.
  void add_parameters(Interval block) {
    for (Index lane = 0; lane < packed_.rows; ++lane)
      for (Index j = 0; j < block.size(); ++j) {
        if ((bits_[j] >> lane & 1) == 0) continue;
        const Index at = j * packed_.width + lane;
        p_.parameters.add(p_.score, static_cast<double>(packed_.d_changed[at]),
                          static_cast<double>(packed_.raw[at]),
                          ScalarPlace(row_of(lane), head_of(lane), block.begin + j), sums_);
      }
  }
  /// The same products of those pairs alone of which the row sees the key: 0 times NaN is NaN. Sums
  /// are in the order of add_product(), so that rows and keys that see no NaN have the same bits.
  void add_seen(Index first, Index count) {
    const Index width = packed_.width;
    const auto sees = [&](Index key, Index lane) { return (bits_[key] >> lane & 1) != 0; };
    const auto add = [&](const T* factors, Index steps, auto at, auto skip, const T* b, Index size,
                         T* to) {
      for (Index i = 0; i < size; i += lanes) {
        V sum = simd::load(to + i);
        for (Index k = 0; k < steps; ++k)
          if (!skip(k))
            sum = simd::fma(simd::broadcast(factors[at(k)]), simd::load(b + k * size + i), sum);
        simd::store(to + i, sum);
      }
    };
    for (Index key = 0; key < count; ++key) {
      const auto at = [&](Index lane) { return key * width + lane; };
      const auto skip = [&](Index lane) { return !sees(key, lane); };
      add(packed_.weights, packed_.rows, at, skip, d_out_, value_width_,
          d_values_ + (first + key) * value_width_);
      add(packed_.d_scores, packed_.rows, at, skip, q_, key_width_,
          d_keys_ + (first + key) * key_width_);
    }
    for (Index lane = 0; lane < packed_.rows; ++lane)
      add(
          packed_.d_scores, count, [&](Index key) { return key * width + lane; },
          [&](Index key) { return !sees(key, lane); }, keys_ + first * key_width_, key_width_,
          d_q_ + lane * key_width_);
  }

  /// Adds the gradients of the panel's queries, after those of earlier ranges. Without `packed` the
  /// panel sees no key of the range.
  void add_queries(Index panel, Index turn, bool packed) {
    if (p_.gradients.q.data() == nullptr) return;
    auto& turns = p_.turns[kv_head_ * static_cast<Index>(p_.plan.panels.size()) + panel];
    for (Index now = turns.load(std::memory_order_acquire); now != turn;
         now = turns.load(std::memory_order_acquire))
      turns.wait(now, std::memory_order_acquire);
    const T scale = static_cast<T>(in_.scale);
    for (Index l = 0; l < panel_->rows; ++l) {
      T* const to = p_.gradients.q.row(row_of(l)) + head_of(l) * head_dim_;
      if (turn == 0 && !packed) std::fill_n(to, head_dim_, T(0));
      if (!packed) continue;
      const T* const from = d_q_ + l * key_width_;
      if (turn == 0)
        store_row(from, head_dim_, scale, to);
      else
        for (Index i = 0; i < head_dim_; ++i) to[i] += from[i] * scale;
    }
    if (turn + 1 == panel_->ranges.size()) return;
    turns.store(turn + 1, std::memory_order_release);
    turns.notify_all();
  }

  const Problem& p_;
  const AttentionInput<T, S>& in_;
  Index group_, head_dim_, value_dim_, key_width_, value_width_;
  Index kv_head_ = 0;
  Interval range_;
  const BackwardPanel* panel_ = nullptr;
  double* sums_ = nullptr;
  bool keys_are_finite_ = true, rows_are_finite_ = true;
  T *keys_, *values_, *d_keys_, *d_values_;  // of the range: (keys, padded width)
  T *q_, *d_out_, *d_q_;                     // of the panel: (rows, padded width)
  const T** rows_;                           // of the panel: queries, then gradients of outputs
  LaneBits* bits_;
  BackwardLanes<T> packed_;
  Lane<T>* places_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
