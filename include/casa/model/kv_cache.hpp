// The KV cache: keys and values of past tokens, head by head, in their storage type.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <variant>

#include "casa/attention/attend.hpp"
#include "casa/core/interval.hpp"
#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// How a cache stores keys and values: in the scalar type of the model, or in 16 bits (float
/// models).
enum class CacheType { native, bfloat16, half };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Keys and values of consecutive tokens as (head, token, head_dim), so that a head's keys are
/// contiguous. Tokens are added at the end. They are removed at the end (truncate), at the front
/// after the first `pinned` ones (drop), or between (erase). Memory grows by doubling and is
/// reused: a cache that drops as much as it appends stops allocating. A call that throws leaves the
/// cache as it was.
template <Storage S>
class KvCache {
 public:
  /// A cache without sizes, to be assigned to.
  KvCache() = default;
  /// An empty cache. Throws casa::error unless both are positive.
  KvCache(Index num_kv_heads, Index head_dim) : heads_(num_kv_heads), head_dim_(head_dim) {
    require(num_kv_heads > 0 && head_dim > 0,
            "KvCache: num_kv_heads and head_dim must be positive, got ", num_kv_heads, " and ",
            head_dim);
    checked_mul(2 * static_cast<Index>(sizeof(S)), checked_mul(heads_, head_dim_, "KvCache"),
                "KvCache: bytes of a token");
  }

  /// Tokens held.
  Index size() const { return pinned_ + (end_ - begin_); }
  /// Key/value heads of a token.
  Index num_kv_heads() const { return heads_; }
  /// Values of a key.
  Index head_dim() const { return head_dim_; }
  /// Bytes of the keys and values of the tokens held.
  Index bytes() const { return size() * bytes_per_token(); }
  /// Bytes allocated.
  Index capacity_bytes() const { return capacity_ * bytes_per_token(); }
  /// Bytes of one token's keys and values.
  Index bytes_per_token() const { return 2 * heads_ * head_dim_ * static_cast<Index>(sizeof(S)); }

  /// Room for `count` tokens in all, so that appending up to there allocates nothing. Throws
  /// casa::error for a negative count, or one whose bytes do not fit a number, and std::bad_alloc
  /// where there is not so much memory.
  void reserve(Index count) {
    require(count >= 0, "KvCache::reserve: count must not be negative, got ", count);
    if (count > capacity_) relocate(count);
  }

  /// k, v: (tokens, num_kv_heads * head_dim), narrowed to S; many tokens by the workers of
  /// `executor`. Throws casa::error for other sizes.
  template <Scalar T>
  void append(MatrixView<const T> k, MatrixView<const T> v, const Executor& executor = {}) {
    const Index count = k.rows();
    check("KvCache::append: k", k);
    check("KvCache::append: v", v);
    require_equal("KvCache::append: rows of v", v.rows(), count);
    make_room(count);
    constexpr Index together = 64;  // tokens of one worker at a time
    executor.for_each((count + together - 1) / together, [&](Index part, Index) {
      const Index begin = part * together, end = (std::min)(count, begin + together);
      for (Index h = 0; h < heads_; ++h) {
        for (Index t = begin; t < end; ++t) {
          copy(k.row(t) + h * head_dim_, k_.data() + offset(h, end_ + t));
          copy(v.row(t) + h * head_dim_, v_.data() + offset(h, end_ + t));
        }
      }
    });
    end_ += count;
  }

  /// Keeps the first `count` tokens from now on, whatever is dropped. Call it before the first
  /// drop(). Throws casa::error unless pinned() <= count <= size().
  void pin(Index count) {
    if (pinned_ != begin_)
      fail("KvCache::pin: tokens behind the first ", pinned_, " were dropped already");
    if (count < pinned_ || count > size())
      fail("KvCache::pin: count must be in [", pinned_, ", ", size(), "] (pinned, held), got ",
           count);
    pinned_ = begin_ = count;
  }

  /// Removes `count` tokens right after the pinned ones. Throws casa::error unless that many
  /// are held there.
  void drop(Index count) {
    if (count < 0 || count > end_ - begin_)
      fail("KvCache::drop: count must be in [0, ", end_ - begin_, "] (held and not pinned), got ",
           count);
    begin_ += count;
    if (begin_ == end_) begin_ = end_ = pinned_;
  }

  /// Removes tokens [range.begin, range.end) of those held. What comes after them moves up,
  /// unless they stand at the front (drop). Throws casa::error unless they are held and not pinned.
  void erase(Interval range) {
    if (range.begin < pinned_ || range.end < range.begin || range.end > size())
      fail("KvCache::erase: range must lie within [", pinned_, ", ", size(),
           ") (held and not pinned), got [", range.begin, ", ", range.end, ")");
    if (range.begin == pinned_) return drop(range.size());
    const Index to = place(range.begin), from = to + range.size(), count = end_ - from;
    for (Index h = 0; h < heads_ && count > 0; ++h)
      for (Buffer<S>* b : {&k_, &v_})
        std::memmove(b->data() + offset(h, to), b->data() + offset(h, from), bytes_of(count));
    end_ -= range.size();
  }

  /// Removes all but the first `first` and the last `last` tokens. Pass the same `first` at every
  /// call. Throws casa::error if one is negative, and if a pinned token would have to be removed or
  /// a dropped one kept.
  void keep(Index first, Index last) {
    require(first >= 0 && last >= 0, "KvCache::keep: first and last must not be negative, got ",
            first, " and ", last);
    if (last >= size() || size() - last <= first) return;
    require(first >= pinned_, "KvCache::keep: first must be at least the ", pinned_,
            " tokens that are pinned, got ", first);
    if (pinned_ < first) pin(first);
    drop(size() - first - last);
  }

  /// Removes all but the first `count` tokens held. Throws casa::error if fewer are held.
  void truncate(Index count) {
    if (count < 0 || count > size())
      fail("KvCache::truncate: count must be in [0, ", size(), "] (held), got ", count);
    if (count < pinned_) pinned_ = begin_ = end_ = count;
    end_ = begin_ + (count - pinned_);
    if (begin_ == end_) begin_ = end_ = pinned_;
  }

  /// Removes all tokens; memory is kept.
  void clear() { pinned_ = begin_ = end_ = 0; }

  /// The tokens held, in order, as one or two pieces: the pinned ones, if any, and the others. The
  /// split depends only on how many are pinned, not on where they lie in memory, so that attention
  /// over a restored cache sums in the same order and gives the same bits.
  struct Pieces {
    std::array<KeyPiece<S>, 2> piece;  ///< head-major: (head, token, head_dim)
    std::size_t count;                 ///< how many of `piece` are in use: 1 or 2
    /// As AttentionInput::keys takes them; valid as long as this object and the cache's memory are.
    operator std::span<const KeyPiece<S>>() const { return {piece.data(), count}; }
  };
  /// The tokens held, valid until the cache is changed.
  Pieces pieces() const {
    if (begin_ == end_) return {{range(0, pinned_), {}}, 1};
    if (pinned_ == 0) return {{range(begin_, end_), {}}, 1};
    return {{range(0, pinned_), range(begin_, end_)}, 2};
  }

  /// Overwrites the keys of the first k.rows() tokens. k: (tokens, num_kv_heads * head_dim),
  /// narrowed to S. Throws casa::error for other sizes, or more tokens than are held.
  template <Scalar T>
  void replace_keys(MatrixView<const T> k) {
    check("KvCache::replace_keys: k", k);
    require(k.rows() <= size(), "KvCache::replace_keys: ", k.rows(), " tokens of ", size(),
            " that are held");
    for (Index h = 0; h < heads_; ++h)
      for (Index t = 0; t < k.rows(); ++t)
        copy(k.row(t) + h * head_dim_, k_.data() + offset(h, place(t)));
  }

  /// How many tokens at the front no drop() removes.
  Index pinned() const { return pinned_; }
  /// All keys and all values held, as (head, token, head_dim): half of bytes() each. Throws
  /// casa::error for a null pointer, unless nothing is held.
  void save(S* k, S* v) const {
    require(size() == 0 || (k != nullptr && v != nullptr), "KvCache::save: k or v is null");
    for (Index h = 0; h < heads_; ++h) {
      for (const Interval part : {Interval{0, pinned_}, Interval{begin_, end_}}) {
        if (part.size() == 0) continue;
        std::memcpy(k, k_.data() + offset(h, part.begin), bytes_of(part.size()));
        std::memcpy(v, v_.data() + offset(h, part.begin), bytes_of(part.size()));
        k += part.size() * head_dim_;
        v += part.size() * head_dim_;
      }
    }
  }
  /// Becomes the cache of `count` tokens, `pinned` of them pinned, that save() wrote: count *
  /// num_kv_heads * head_dim keys and as many values. Throws casa::error for a null pointer, unless
  /// count is 0, a negative count, more tokens pinned than there are, or tokens for a cache that
  /// was made without sizes.
  void restore(const S* k, const S* v, Index count, Index pinned) {
    require(0 <= pinned && pinned <= count,
            "KvCache::restore: pinned must be in [0, count = ", count, "], got ", pinned);
    require(count == 0 || (k != nullptr && v != nullptr),
            "KvCache::restore: k or v is null, count is ", count);
    require(count == 0 || heads_ > 0, "KvCache::restore: ", count,
            " tokens for a cache that was made without sizes");
    reserve(count);
    clear();
    for (Index h = 0; h < heads_ && count > 0; ++h) {
      std::memcpy(k_.data() + offset(h, 0), k + h * count * head_dim_, bytes_of(count));
      std::memcpy(v_.data() + offset(h, 0), v + h * count * head_dim_, bytes_of(count));
    }
    pinned_ = begin_ = pinned;
    end_ = count;
  }

  /// Key of token t, head h: head_dim values. Not checked.
  const S* key(Index h, Index t) const { return k_.data() + offset(h, place(t)); }
  /// Value of token t, head h: head_dim values. Not checked.
  const S* value(Index h, Index t) const { return v_.data() + offset(h, place(t)); }

 private:
  Index place(Index t) const { return t < pinned_ ? t : t - pinned_ + begin_; }
  Index offset(Index h, Index t) const { return (h * capacity_ + t) * head_dim_; }
  KeyPiece<S> range(Index begin, Index end) const {
    return {k_.data() + begin * head_dim_, v_.data() + begin * head_dim_, end - begin, head_dim_,
            capacity_ * head_dim_};
  }
  template <class T>
  void check(std::string_view what, const MatrixView<T>& m) const {
    if (m.cols() != heads_ * head_dim_ || heads_ == 0)
      fail(what, ": expected num_kv_heads * head_dim = ", heads_, " * ", head_dim_,
           " columns, got ", m.cols(), heads_ == 0 ? " (the cache was made without sizes)" : "");
    require_memory(what, m);
  }
  template <Scalar T>
  void copy(const T* from, S* to) const {
    if constexpr (std::is_same_v<T, S>) {
      std::memcpy(to, from, static_cast<std::size_t>(head_dim_) * sizeof(S));
    } else {
      for (Index i = 0; i < head_dim_; ++i) to[i] = narrow<S>(from[i]);
    }
  }

  void make_room(Index count) {
    if (count <= capacity_ - end_) return;
    // If moving the tokens held to the front frees half of the memory or more, move them; otherwise
    // grow. Each move is then paid for by at least as many dropped tokens.
    const Index needed = checked_add(size(), count, "KvCache: tokens");
    const Index doubled = checked_mul(2, capacity_, "KvCache: tokens");
    relocate(needed <= capacity_ / 2 ? capacity_ : (std::max)(needed, doubled));
  }

  void relocate(Index capacity) {
    const Index live = end_ - begin_;
    if (capacity == capacity_) {
      for (Index h = 0; h < heads_; ++h)
        for (Buffer<S>* b : {&k_, &v_})
          std::memmove(b->data() + offset(h, pinned_), b->data() + offset(h, begin_),
                       bytes_of(live));
    } else {
      const Index size =
          checked_mul(checked_mul(capacity, heads_, "KvCache"), head_dim_, "KvCache");
      Buffer<S> k(size), v(size);
      for (Index h = 0; h < heads_; ++h) {
        for (auto [from, to] : {std::pair{&k_, &k}, std::pair{&v_, &v}}) {
          S* start = to->data() + h * capacity * head_dim_;
          if (pinned_ > 0) std::memcpy(start, from->data() + offset(h, 0), bytes_of(pinned_));
          if (live > 0)
            std::memcpy(start + pinned_ * head_dim_, from->data() + offset(h, begin_),
                        bytes_of(live));
        }
      }
      k_ = std::move(k);
      v_ = std::move(v);
      capacity_ = capacity;
    }
    begin_ = pinned_;
    end_ = pinned_ + live;
  }
  std::size_t bytes_of(Index tokens) const {
    return static_cast<std::size_t>(tokens * head_dim_) * sizeof(S);
  }

  Index heads_ = 0;
  Index head_dim_ = 0;
  Index capacity_ = 0;
  Index pinned_ = 0;  // tokens [0, pinned_) and [begin_, end_) of each head are held
  Index begin_ = 0;
  Index end_ = 0;
  Buffer<S> k_, v_;
};

namespace detail {
template <Scalar T>
struct CacheVariant {
  using Type = std::variant<KvCache<double>>;
};
template <>
struct CacheVariant<float> {
  using Type = std::variant<KvCache<float>, KvCache<bfloat16>, KvCache<half>>;
};
}  // namespace detail

/// A KvCache whose storage type is chosen at run time.
template <Scalar T>
using AnyKvCache = typename detail::CacheVariant<T>::Type;

/// An empty cache that stores `type`. Throws casa::error for a 16-bit type where T is double, and
/// unless the sizes are positive.
template <Scalar T>
AnyKvCache<T> make_cache(CacheType type, Index num_kv_heads, Index head_dim) {
  if constexpr (std::is_same_v<T, float>) {
    if (type == CacheType::bfloat16) return KvCache<bfloat16>(num_kv_heads, head_dim);
    if (type == CacheType::half) return KvCache<half>(num_kv_heads, head_dim);
  }
  require(type == CacheType::native, "cache type: a double model stores double, got a 16-bit type");
  return KvCache<T>(num_kv_heads, head_dim);
}

CASA_NAMESPACE_END
