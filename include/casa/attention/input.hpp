// What attention reads: queries, keys in pieces, and the intervals of keys that each row sees.
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <string_view>

#include "casa/attention/mask.hpp"
#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Query head h reads key/value head h / (num_heads / num_kv_heads).
struct AttentionShape {
  Index num_heads = 1;     ///< query heads; a multiple of num_kv_heads
  Index num_kv_heads = 1;  ///< heads of keys and values (fewer: grouped-query attention)
  Index head_dim = 1;      ///< values of one head of q and k
  Index value_dim = 0;     ///< values of one head of v and out; 0: head_dim

  /// Query heads per key/value head.
  CASA_COMMON_INLINE Index group() const { return num_heads / num_kv_heads; }
  /// Values of a head of v and of the output.
  CASA_COMMON_INLINE Index output_dim() const { return value_dim == 0 ? head_dim : value_dim; }
  CASA_COMMON_INLINE friend bool operator==(const AttentionShape& a, const AttentionShape& b) {
    return a.num_heads == b.num_heads && a.num_kv_heads == b.num_kv_heads &&
           a.head_dim == b.head_dim && a.output_dim() == b.output_dim();
  }
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// `count` keys and their values as they lie in somebody's memory: value i of token t of head h is
/// k[h * head_stride + t * token_stride + i]. Head-major memory (token_stride = head_dim) is
/// fastest. E: const S (KeyPiece), or T where gradients of them go (KeyGradients).
template <class E>
requires Storage<std::remove_const_t<E>>
struct KeyMemory {
  E* k = nullptr;                ///< value 0 of head 0 of the first key
  E* v = nullptr;                ///< the same of the values
  Index count = 0;               ///< tokens; with 0 the pointers may be null
  Index token_stride = 0;        ///< values from a token to the next of the same head
  Index head_stride = 0;         ///< values from a head to the next of the same token
  Index value_token_stride = 0;  ///< the same for v where it differs from that of k; 0: as k
  Index value_head_stride = 0;   ///< the same for v where it differs from that of k; 0: as k

  /// Where key t of head h lies. Not checked.
  E* key(Index h, Index t) const { return k + h * head_stride + t * token_stride; }
  /// Where its value lies. Not checked.
  E* value(Index h, Index t) const {
    return v + h * (value_head_stride == 0 ? head_stride : value_head_stride) +
           t * (value_token_stride == 0 ? token_stride : value_token_stride);
  }
};

/// Keys and values that attention reads, stored as S.
template <class S>
using KeyPiece = KeyMemory<const S>;

/// out[r, h] = sum_j softmax_j(scale q[r, h] . k[j]) v[j] over the keys j that row r sees. With a
/// sink the denominator of the softmax of head h has one more term, exp(sinks[h]), which has no
/// value: it takes weight from the keys (gpt-oss; "attention is off by one"). These sinks are
/// learned logits and no tokens; StateOptions::sinks are first tokens that a cache keeps.
template <Scalar T, StorageFor<T> S = T>
struct AttentionInput {
  AttentionShape shape;   ///< heads of q and of the keys
  double scale = 1;       ///< factor of q . k before the softmax; usually default_scale(head_dim)
  MatrixView<const T> q;  ///< (rows, num_heads * head_dim), heads side by side
  std::span<const KeyPiece<S>> keys;    ///< laid end to end; their places are 0, 1, 2, ...
  std::span<const Interval> intervals;  ///< the places that each row sees: one per row, or lists
  std::span<const Index> interval_offsets = {};  ///< (rows + 1) of lists, as in MaskView; else none
  std::span<const T> sinks = {};  ///< (num_heads): learned sink logits, one per head; or none
  /// (sequences + 1) of rows, from 0: rows [sequence_offsets[s], sequence_offsets[s + 1]) are
  /// computed as if they were alone, so that each sequence has the bits that it has in a call of
  /// its own. Or none: rows that see common keys are computed together. (AttentionBatch sets it.)
  std::span<const Index> sequence_offsets = {};

  /// Query rows; out has as many.
  Index num_rows() const { return q.rows(); }
  /// Keys of all pieces together: the intervals lie in [0, num_keys()].
  Index num_keys() const {
    Index n = 0;
    for (const auto& piece : keys) n += piece.count;
    return n;
  }
  /// The intervals of every row.
  MaskView mask() const { return {intervals, interval_offsets}; }
};

/// The usual scale: 1 / sqrt(head_dim).
inline double default_scale(Index head_dim) {
  return 1.0 / std::sqrt(static_cast<double>(head_dim));
}

namespace detail {

inline void check_shape(const AttentionShape& s) {
  require(s.num_heads >= 1 && s.num_kv_heads >= 1 && s.head_dim >= 1,
          "attention: num_heads, num_kv_heads and head_dim must be positive, got ", s.num_heads,
          ", ", s.num_kv_heads, ", ", s.head_dim);
  require(s.num_heads % s.num_kv_heads == 0, "attention: num_kv_heads must divide num_heads, got ",
          s.num_heads, " heads and ", s.num_kv_heads, " key/value heads");
  require(s.value_dim >= 0, "attention: value_dim must not be negative, got ", s.value_dim);
}

/// Throws casa::error unless the counts and pointers of `keys` make sense; else gives how many keys
/// they are. Without kReadsValues the values may be null.
template <bool kReadsValues = true, class S>
Index check_pieces(std::span<const KeyPiece<S>> keys) {
  Index num_keys = 0;
  for (std::size_t p = 0; p < keys.size(); ++p) {
    const auto& piece = keys[p];
    require(piece.count >= 0, "attention: keys[", p, "].count is negative: ", piece.count);
    require(piece.count == 0 || (piece.k != nullptr && (!kReadsValues || piece.v != nullptr)),
            "attention: keys[", p, "] has ", piece.count, " keys but a null k",
            kReadsValues ? " or v" : "");
    require(piece.count <= 1 || piece.token_stride != 0, "attention: keys[", p,
            "].token_stride is 0, so that each of its ", piece.count,
            " keys would be the first: expected the values from one token to the next");
    num_keys = checked_add(num_keys, piece.count, "attention: keys");
  }
  return num_keys;
}

inline void check_sequences(std::span<const Index> offsets, Index rows) {
  if (offsets.empty()) return;
  require_equal("attention: sequence_offsets[0]", offsets[0], 0);
  for (std::size_t s = 1; s < offsets.size(); ++s)
    require(offsets[s] >= offsets[s - 1], "attention: sequence_offsets must not decrease, got ",
            offsets[s - 1], " and ", offsets[s], " for sequence ", s - 1);
  require_equal("attention: the last of sequence_offsets (rows of q)", offsets.back(), rows);
}

/// Throws casa::error unless every sink is -inf or a number that is still one in base 2. `what`
/// begins the message.
template <Scalar T>
void check_sinks(std::string_view what, std::span<const T> sinks) {
  constexpr T most = (std::numeric_limits<T>::max)() / T(1.5);  // (a bit below max / log2(e))
  for (std::size_t h = 0; h < sinks.size(); ++h)
    if (!(sinks[h] <= most))
      fail(what, ": sinks[", h, "] must be at most ", most, ", got ", sinks[h]);
}

/// Throws casa::error unless every size fits, every interval that is not empty lies within the
/// keys, and lists are in order. Without kReadsValues the values of the keys may be null.
template <bool kReadsValues = true, Scalar T, class S>
void check(const AttentionInput<T, S>& in) {
  check_shape(in.shape);
  const Index rows = in.q.rows();
  require(std::isfinite(in.scale), "attention: scale must be finite, got ", in.scale);
  require(rows >= 0, "attention: q has a negative number of rows: ", rows);
  if (rows > 0) {
    require_equal("attention: columns of q (num_heads * head_dim)", in.q.cols(),
                  checked_mul(in.shape.num_heads, in.shape.head_dim, "attention: q"));
    require(in.q.data() != nullptr, "attention: q is null, expected ", rows, " rows");
    require(in.q.stride() >= in.q.cols() || rows == 1, "attention: stride of q must be at least ",
            in.q.cols(), ", got ", in.q.stride());
  }
  check_mask("attention", in.mask(), rows, check_pieces<kReadsValues>(in.keys));
  check_sequences(in.sequence_offsets, rows);
  if (in.sinks.empty()) return;
  require_equal("attention: sinks (one per head)", static_cast<Index>(in.sinks.size()),
                in.shape.num_heads);
  check_sinks("attention", in.sinks);
}

template <Scalar T, class S>
void check_output(const AttentionInput<T, S>& in, MatrixView<T> out) {
  require_equal("attention: rows of out", out.rows(), in.num_rows());
  if (in.num_rows() == 0) return;
  require_equal("attention: columns of out", out.cols(),
                checked_mul(in.shape.num_heads, in.shape.output_dim(), "attention: out"));
  require(out.data() != nullptr, "attention: out is null, expected ", out.rows(), " rows");
  require(out.stride() >= out.cols() || out.rows() == 1,
          "attention: stride of out must be at least ", out.cols(), ", got ", out.stride());
}

}  // namespace detail

CASA_NAMESPACE_END
