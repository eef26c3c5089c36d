// The keys and values of a block in the form that the kernel's tiles read: in the caller's memory,
// or copied, widened or padded to whole vectors.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "casa/attention/input.hpp"
#include "casa/attention/kernel/strided_rows.hpp"
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
  /// For blocks of up to `keys` keys. The lists of pointers end with up to `behind` more that
  /// repeat the last key, so that a tile of scores may always be whole.
  KeyRows(const AttentionInput<T, S>& in, const Index* piece_begin, Index keys, Index behind,
          Workspace& workspace)
      : in_(in), piece_begin_(piece_begin), behind_(behind) {
    const Index d = in.shape.head_dim;
    padded_dim_ = (d + lanes - 1) / lanes * lanes;
    copies_.take(keys + behind, workspace);
    if constexpr (!std::is_same_v<S, T>) {
      stored_.take(keys + behind, workspace);
      k_copy_ = workspace.take<T>(keys * d);
    }
    if constexpr (simd::kMultipliesPairs<S>) {
      pairs_.take(keys + behind, workspace);
      row_values_ = workspace.take<const S*>(keys + behind);
      zeros_ = workspace.take<S>(padded_dim_);
      std::fill_n(zeros_, padded_dim_, S{});
    }
    if (!widens_in_place() && (!std::is_same_v<S, T> || padded_dim_ != d))
      v_copy_ = workspace.take<T>(keys * padded_dim_);
  }

  Index padded_dim() const { return padded_dim_; }
  /// Whether tiles widen 16-bit values in registers as they load them. Else they read widened
  /// copies.
  bool widens_in_place() const { return simd::kWidensFast<S> && padded_dim_ == in_.shape.head_dim; }

  /// Keys [begin, end) of a piece, and their values, as one segment each. Read as S they are the
  /// caller's memory, except that values are padded where head_dim is not a multiple of the lanes.
  /// Read as T they are widened into this object's copies, from the block's key `at` on.
  template <class K, class V>
  std::pair<StridedRows<StoredAs<K>>, StridedRows<V>> segments(const KeyPiece<S>& piece,
                                                               Index begin, Index end, Index at,
                                                               Index kv_head) const {
    const Index d = in_.shape.head_dim, count = end - begin;
    const Index from = kv_head * piece.head_stride + begin * piece.token_stride;
    const bool pads = padded_dim_ != d;
    return {
        segment<StoredAs<K>>({piece.k + from, piece.token_stride, count}, false, k_copy_, at, d),
        segment<V>({piece.v + from, piece.token_stride, count}, pads, v_copy_, at, padded_dim_)};
  }

  /// The pointers that gather<K, V>() stored, one a key of the block.
  template <class K>
  const K* const* keys() const {
    return pointers<K>().keys;
  }
  template <class V>
  const V* const* values() const {
    return pointers<V>().values;
  }

  /// Stores a pointer to each key and value of a block, which may lie in several pieces.
  template <class K, class V>
  void gather(Interval block, Index kv_head) {
    const K** keys = pointers<K>().keys;
    const V** values = pointers<V>().values;
    for_each_piece(block, [&](const KeyPiece<S>& piece, Index begin, Index end, Index place) {
      const Index at = place - block.begin;
      const auto [k, v] = segments<K, V>(piece, begin, end, at, kv_head);
      for (Index j = 0; j < end - begin; ++j) {
        // This cast is safe: simd::load() copies from pointers to pairs by memcpy only.
        keys[at + j] = static_cast<const K*>(static_cast<const void*>(k.first + j * k.stride));
        values[at + j] = v.first + j * v.stride;
      }
    });
    std::fill_n(keys + block.size(), behind_, keys[block.size() - 1]);
    if constexpr (kUnit<K> == 2)
      values[block.size()] = zeros_;  // the partner of the last of an odd number of keys
  }

  /// The pointers `values`, but those outside [begin, end) point at zeros. (Valid until the next
  /// call.)
  const S* const* only(const S* const* values, Index count, Index begin, Index end) {
    if (begin == 0 && end == count) return values;
    std::copy_n(values, count, row_values_);
    std::fill_n(row_values_, begin, zeros_);
    std::fill(row_values_ + end, row_values_ + count, zeros_);
    return row_values_;
  }

  /// Calls f(piece, begin, end, place) for each piece that holds some of `places`: its keys [begin,
  /// end) have the places from `place` on.
  template <class F>
  void for_each_piece(Interval places, F f) const {
    const Index count = static_cast<Index>(in_.keys.size());
    Index p = std::upper_bound(piece_begin_, piece_begin_ + count, places.begin) - piece_begin_ - 1;
    for (Index place = places.begin; place < places.end; ++p) {
      const auto& piece = in_.keys[static_cast<std::size_t>(p)];
      const Index begin = place - piece_begin_[p];
      const Index end = (std::min)(piece.count, places.end - piece_begin_[p]);
      if (begin < end) f(piece, begin, end, place);
      place = (std::max)(place, piece_begin_[p] + end);
    }
  }

 private:
  template <class E>
  struct Pointers {
    const E** keys = nullptr;
    const E** values = nullptr;

    void take(Index count, Workspace& workspace) {
      keys = workspace.take<const E*>(count);
      values = workspace.take<const E*>(count);
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

  /// Rows read as E: the caller's memory, or a copy with rows of `size` values at row `at` of `to`.
  template <class E>
  StridedRows<E> segment(StridedRows<S> rows, [[maybe_unused]] bool copies, [[maybe_unused]] T* to,
                         [[maybe_unused]] Index at, [[maybe_unused]] Index size) const {
    if constexpr (!std::is_same_v<E, T>) {
      return rows;
    } else {
      if constexpr (std::is_same_v<S, T>)
        if (!copies) return rows;
      to += at * size;
      for (Index j = 0; j < rows.count; ++j)
        copy_row(rows.first + j * rows.stride, to + j * size, in_.shape.head_dim, size);
      return {to, size, rows.count};
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
  Index behind_, padded_dim_;
  Pointers<T> copies_;
  Pointers<S> stored_;
  Pointers<simd::bfloat16_pair> pairs_;
  S* zeros_ = nullptr;
  const S** row_values_ = nullptr;
  T *k_copy_ = nullptr, *v_copy_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
