// The keys and values of a block in the form that the kernel's tiles read: in the caller's memory,
// or copied, widened or padded to whole vectors.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "casa/attention/input.hpp"
#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/score_tiles.hpp"
#include "casa/attention/kernel/strided_rows.hpp"
#include "casa/attention/kernel/tile_policy.hpp"
#include "casa/core/workspace.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// One worker's pointers to a block's keys and values, and scratch memory for copies of them.
template <class T, class S>
class KeyRows {
  static constexpr Index lanes = simd::kLanes<T>;
  /// The type in memory of keys that tiles read as K: pairs of bfloat16 are stored as S.
  template <class K>
  using StoredAs = std::conditional_t<std::is_same_v<K, simd::bfloat16_pair>, S, K>;

 public:
  /// For the blocks of a plan. The lists of pointers end with kMaxTileKeys more that repeat the
  /// last key, so that a tile of scores may always be whole. `places`: score functions ask for
  /// them.
  KeyRows(const AttentionInput<T, S>& in, const Index* piece_begin, const Plan& plan, bool places,
          Workspace& workspace)
      : in_(in), piece_begin_(piece_begin) {
    const Index d = in.shape.head_dim, dv = in.shape.output_dim();
    const PaddedDims<T> padded(in.shape);
    padded_key_dim_ = padded.key;
    padded_value_dim_ = padded.value;
    const Index keys = (std::min)(kBlockKeys, plan.max_job_keys);
    const Index all = list_size_ = keys + kMaxTileKeys;
    const Index slots = (std::max<Index>)(1, plan.max_together);
    const bool lists = !plan.mask().offsets.empty();
    copies_.take(slots * all, lists, workspace);
    if constexpr (!std::is_same_v<S, T>) {
      stored_.take(slots * all, lists, workspace);
      k_copy_ = workspace.take<T>(keys * d);
    }
    if constexpr (simd::kMultipliesPairs<S>) pairs_.take(slots * all, lists, workspace);
    if (simd::kMultipliesPairs<S> || lists) {
      row_values_ = workspace.take<const void*>(all);
      zeros_ = workspace.take<T>(padded_value_dim_);
      std::fill_n(zeros_, padded_value_dim_, T{});
    }
    if (places) {
      places_ = workspace.take<Lane<T>>(all);
      kept_places_ = workspace.take<Lane<T>>(all);
    }
    if (!widens_in_place() && (!std::is_same_v<S, T> || padded_value_dim_ != dv))
      v_copy_ = workspace.take<T>(keys * padded_value_dim_);
  }

  Index value_dim() const { return in_.shape.output_dim(); }
  /// head_dim and value_dim, rounded up to whole vectors.
  Index padded_key_dim() const { return padded_key_dim_; }
  Index padded_value_dim() const { return padded_value_dim_; }
  /// Whether tiles widen 16-bit values in registers as they load them. Else they read widened
  /// copies.
  bool widens_in_place() const { return detail::widens_in_place<T, S>(in_.shape); }
  /// Whether tiles read padded copies of values.
  bool pads_values() const { return padded_value_dim_ != in_.shape.output_dim(); }

  /// Values of a piece from one token to the next.
  static Index value_stride(const KeyPiece<S>& piece) {
    return piece.value_token_stride == 0 ? piece.token_stride : piece.value_token_stride;
  }

  /// Keys [begin, end) of a piece, and their values, as one segment each. Read as S they are the
  /// caller's memory, except that values are padded where head_dim is not a multiple of the lanes.
  /// Read as T they are widened into this object's copies, from the block's key `at` on.
  template <class K, class V>
  std::pair<StridedRows<StoredAs<K>>, StridedRows<V>> segments(const KeyPiece<S>& piece,
                                                               Index begin, Index end, Index at,
                                                               Index kv_head) const {
    const Index d = in_.shape.head_dim, dv = in_.shape.output_dim(), count = end - begin;
    return {segment<StoredAs<K>>({piece.key(kv_head, begin), piece.token_stride, count}, false,
                                 {k_copy_, at, d, d}),
            segment<V>({piece.value(kv_head, begin), value_stride(piece), count}, pads_values(),
                       {v_copy_, at, dv, padded_value_dim_})};
  }

  /// The pointers that gather<K, V>() stored, one a key of the block, and the keys' places among
  /// all keys.
  template <class K>
  const K* const* keys(Index slot = 0) const {
    return pointers<K>().keys + slot * list_size_;
  }
  template <class V>
  const V* const* values(Index slot = 0) const {
    return pointers<V>().values + slot * list_size_;
  }
  const Lane<T>* places() const { return places_; }

  /// Stores a pointer to each key and value of a block, which may lie in several pieces. A list for
  /// each slot: one of the jobs that are computed together.
  template <class K, class V>
  void gather(const Job& job, Interval block, Index slot = 0) {
    const K** keys = pointers<K>().keys + slot * list_size_;
    const V** values = pointers<V>().values + slot * list_size_;
    for_each_piece(job, block, [&](const KeyPiece<S>& piece, Index begin, Index end, Index place) {
      const Index at = place - block.begin;
      const auto [k, v] = segments<K, V>(piece, begin, end, at, job.kv_head);
      for (Index j = 0; j < end - begin; ++j) {
        // This cast is safe: simd::load() copies from pointers to pairs by memcpy only.
        keys[at + j] = static_cast<const K*>(static_cast<const void*>(k.first + j * k.stride));
        values[at + j] = v.first + j * v.stride;
      }
      set_places(piece, begin, end, at);
    });
    fill_after<K, V>(keys, values, block.size());
  }
  /// Stores the places of keys [begin, end) of a piece, from the block's key `at` on.
  void set_places(const KeyPiece<S>& piece, Index begin, Index end, Index at) {
    if (places_ == nullptr) return;
    const Index first = piece_begin_[&piece - in_.keys.data()];
    for (Index j = begin; j < end; ++j) places_[at + j - begin] = static_cast<Lane<T>>(first + j);
    std::fill_n(places_ + at + end - begin, kMaxTileKeys, places_[at + end - begin - 1]);
  }

  /// Of the keys of a block from `first` on, those that `kept` lists: keys, values and places as
  /// gather() stored them, until the next call.
  template <class K, class V>
  std::pair<const K* const*, const V* const*> keep(Index first, const Index* kept, Index count) {
    const K** keys = pointers<K>().kept_keys;
    const V** values = pointers<V>().kept_values;
    for (Index j = 0; j < count; ++j) {
      keys[j] = pointers<K>().keys[first + kept[j]];
      values[j] = pointers<V>().values[first + kept[j]];
    }
    fill_after<K, V>(keys, values, count);
    if (places_) {
      for (Index j = 0; j < count; ++j) kept_places_[j] = places_[first + kept[j]];
      std::fill_n(kept_places_ + count, kMaxTileKeys, kept_places_[count - 1]);
    }
    return {keys, values};
  }
  const Lane<T>* kept_places() const { return kept_places_; }

  /// The pointers `values`, but zeros for each key j that sees(j) is false for. (Valid until the
  /// next call.)
  template <class V, class Sees>
  const V* const* only(const V* const* values, Index count, Sees sees) {
    const V** rows = static_cast<const V**>(static_cast<void*>(row_values_));
    for (Index j = 0; j < count; ++j) rows[j] = sees(j) ? values[j] : zeros<V>();
    return rows;
  }

  /// Calls f(piece, begin, end, place) for each piece that holds some of a job's `places`: its keys
  /// [begin, end) have the job's places from `place` on.
  template <class F>
  void for_each_piece(const Job& job, Interval places, F f) const {
    if (job.spans.empty()) return for_each_piece(places, 0, f);
    auto span = std::upper_bound(job.spans.begin(), job.spans.end(), places.begin,
                                 [](Index place, const KeySpan& s) { return place < s.at; }) -
                1;
    for (Index place = places.begin; place < places.end; ++span) {
      const Index end = (std::min)(places.end, span->at + span->keys.size());
      const Index shift = span->keys.begin - span->at;
      for_each_piece({place + shift, end + shift}, shift, f);
      place = end;
    }
  }

 private:
  template <class E>
  struct Pointers {
    const E** keys = nullptr;
    const E** values = nullptr;
    const E** kept_keys = nullptr;
    const E** kept_values = nullptr;

    void take(Index count, bool lists, Workspace& workspace) {
      keys = workspace.take<const E*>(count);
      values = workspace.take<const E*>(count);
      if (!lists) return;
      kept_keys = workspace.take<const E*>(count);
      kept_values = workspace.take<const E*>(count);
    }
  };
  template <class E>
  const Pointers<E>& pointers() const {
    if constexpr (std::is_same_v<E, T>)
      return copies_;
    else if constexpr (std::is_same_v<E, S>)
      return stored_;
    else
      return pairs_;
  }
  /// Zeros in place of a value.
  template <class V>
  const V* zeros() const {
    return static_cast<const V*>(static_cast<const void*>(zeros_));
  }
  template <class K, class V>
  void fill_after(const K** keys, [[maybe_unused]] const V** values, Index count) const {
    std::fill_n(keys + count, kMaxTileKeys, keys[count - 1]);
    if constexpr (kUnit<K> == 2)
      values[count] = zeros<V>();  // the partner of the last of an odd number of keys
  }

  /// The same where the places are those among all keys, less `shift` when they are handed to f.
  template <class F>
  void for_each_piece(Interval places, Index shift, F f) const {
    const Index count = static_cast<Index>(in_.keys.size());
    Index p = std::upper_bound(piece_begin_, piece_begin_ + count, places.begin) - piece_begin_ - 1;
    for (Index place = places.begin; place < places.end; ++p) {
      const auto& piece = in_.keys[static_cast<std::size_t>(p)];
      const Index begin = place - piece_begin_[p];
      const Index end = (std::min)(piece.count, places.end - piece_begin_[p]);
      if (begin < end) f(piece, begin, end, place - shift);
      place = (std::max)(place, piece_begin_[p] + end);
    }
  }

  /// Where copies of rows of `size` values go: to row `at` of a matrix with rows of `padded`.
  struct Copies {
    T* first;
    Index at, size, padded;
  };
  /// Rows read as E: the caller's memory, or copies.
  template <class E>
  static StridedRows<E> segment(StridedRows<S> rows, [[maybe_unused]] bool copies,
                                [[maybe_unused]] const Copies& to) {
    if constexpr (!std::is_same_v<E, T>) {
      return rows;
    } else {
      if constexpr (std::is_same_v<S, T>)
        if (!copies) return rows;
      T* const first = to.first + to.at * to.padded;
      for (Index j = 0; j < rows.count; ++j)
        copy_row(rows.first + j * rows.stride, first + j * to.padded, to.size, to.padded);
      return {first, to.padded, rows.count};
    }
  }

  static void copy_row(const S* from, T* to, Index d, Index padded) {
    Index i = 0;
    for (; i + lanes <= d; i += lanes) simd::store(to + i, simd::load(from + i));
    if (i < d) {
      const auto rest = simd::load_partial(from + i, d - i);
      if (padded > d)
        simd::store(to + i, rest);
      else
        simd::store_partial(to + i, rest, d - i);
    }
  }

  const AttentionInput<T, S>& in_;
  const Index* piece_begin_;
  Index padded_key_dim_, padded_value_dim_;
  Index list_size_;
  Pointers<T> copies_;
  Pointers<S> stored_;
  Pointers<simd::bfloat16_pair> pairs_;
  T* zeros_ = nullptr;  ///< as many bytes as a value of any type takes
  const void** row_values_ = nullptr;
  Lane<T>*places_ = nullptr, *kept_places_ = nullptr;
  T *k_copy_ = nullptr, *v_copy_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
