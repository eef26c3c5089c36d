// The door to attention: any mask that is intervals, any function of scores, grouped heads, keys in
// pieces, log-sum-exp, states; of an AttentionInput, or of matrices and options.
#pragma once

#include <optional>

#include "casa/attention/input.hpp"
#include "casa/attention/kernel/fast.hpp"
#include "casa/attention/naive.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/context.hpp"
#include "casa/core/list_view.hpp"

CASA_NAMESPACE_BEGIN

/// out (rows, num_heads * value_dim) = softmax(score(scale q k^T)) v over the keys that each row
/// sees; lse, unless null, (rows, num_heads) row-major = ln sum exp(score(scale q.k)). A row that
/// sees no key gives zeros and -inf (with a sink: zeros and the sink). What lies outside a row's
/// intervals never matters to that row, not even NaN. A score that overflows to -inf weighs
/// nothing; one that overflows to +inf gives NaN in its row and head. `out` may be q itself where
/// it has its size; any other overlap of out with what is read is not allowed. Throws casa::error,
/// before anything is written, if sizes do not fit, an interval leaves the keys or a list of them
/// is not in order.
///
/// `score` changes scores before the softmax: scores.hpp has some by name, score_place.hpp says how
/// to write another.
template <Scalar T, class S, class Score>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse, const Context& context, const Score& score) {
  if constexpr (detail::is_score<Score>()) {
    if (context.path == Path::naive) return naive::attend(in, out, lse, context, score);
    detail::check(in);
    detail::check_score(score, in);
    detail::check_output<T, S>(in, out);
    detail::attend_fast(in, {out, lse}, context, score);
  }
}
/// The same without a score function.
template <Scalar T, class S>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& context = {}) {
  attend(in, out, lse, context, PlainScore{});
}

/// As attend(), but `state` becomes the state over the keys, which can be merged with the state
/// over other keys. A state of the right size keeps its memory, so that a call allocates nothing
/// once the context is warm; any other gets new memory. It includes the sinks, if there are any: of
/// several states to be merged, one may be given them. Throws casa::error, before `state` is
/// touched, if the input does not fit.
template <Scalar T, class S, class Score>
void attend_state(const AttentionInput<T, S>& in, AttentionState<std::type_identity_t<T>>& state,
                  const Context& context, const Score& score) {
  if constexpr (detail::is_score<Score>()) {
    if (context.path == Path::naive) {
      state = naive::attend_state(in, context, score);
      return;
    }
    detail::check(in);
    detail::check_score(score, in);
    detail::resize_state(state, in.num_rows(), in.shape);
    detail::attend_fast(in, {state.out.view(), nullptr, state.max.data(), state.sum.data()},
                        context, score);
  }
}
/// The same without a score function.
template <Scalar T, class S>
void attend_state(const AttentionInput<T, S>& in, AttentionState<std::type_identity_t<T>>& state,
                  const Context& context = {}) {
  attend_state(in, state, context, PlainScore{});
}
/// The same as a value, in memory of its own.
template <Scalar T, class S, class Score>
AttentionState<T> attend_state(const AttentionInput<T, S>& in, const Context& context,
                               const Score& score) {
  AttentionState<T> state;
  attend_state(in, state, context, score);
  return state;
}
/// The same as a value, without a score function.
template <Scalar T, class S>
AttentionState<T> attend_state(const AttentionInput<T, S>& in, const Context& context = {}) {
  return attend_state(in, context, PlainScore{});
}

/// What attend(q, k, v, ...) and varlen() may be told; everything has a usual value.
template <Scalar T>
struct AttendOptions {
  Index num_heads = 1;               ///< query heads, side by side in a row of q and out
  Index num_kv_heads = 1;            ///< divides num_heads; heads side by side in rows of k and v
  std::optional<double> scale = {};  ///< 1 / sqrt(head_dim) unless given
  T* lse = nullptr;                  ///< (rows, num_heads), written unless null
  const Context* context = nullptr;  ///< threads and scratch memory; one thread unless given
  Index value_dim = 0;               ///< of a head of v and of the result; 0: head_dim
  std::span<const T> sinks = {};     ///< (num_heads): learned sink logits (AttentionInput); or none
  /// k and v are head-major, which few query rows read 1.1 to 2 times as fast: (num_kv_heads *
  /// keys, head_dim) and (num_kv_heads * keys, value_dim), key t of kv head h in row h * keys + t.
  bool head_major = false;
};

namespace detail {

/// What a matrix (Eigen's or ours) holds; void for what is no matrix.
template <class M>
struct ValueOfMatrix {
  using type = void;
};
template <EigenObject M>
struct ValueOfMatrix<M> {
  using type = typename M::Scalar;
};
template <class T>
struct ValueOfMatrix<Matrix<T>> {
  using type = T;
};
template <class T>
struct ValueOfMatrix<MatrixView<T>> {
  using type = std::remove_const_t<T>;
};
template <class M>
using ValueOf = typename ValueOfMatrix<M>::type;

/// A matrix, whatever it holds.
template <class M>
concept AttentionMatrix = !std::is_void_v<ValueOf<M>>;
/// Neither one interval a row nor lists of them.
template <class M>
concept NoMask = !std::is_convertible_v<const M&, MaskView> &&
                 !std::is_constructible_v<ListView<Interval>, const M&>;

/// The scalar computed in for queries Q; float stands in where that is refused.
template <class Q>
using ComputeType = std::conditional_t<std::is_same_v<ValueOf<Q>, double>, double, float>;
template <class Q>
using OptionsFor = AttendOptions<ComputeType<Q>>;

/// Whether M can be read where it lies; if not, one sentence says why.
template <class M>
constexpr bool is_readable_matrix() {
  constexpr bool is_matrix = !std::is_void_v<ValueOf<M>>;
  static_assert(is_matrix,
                "casa: q, k and v are matrices: casa::RowMatrix, casa::Matrix, a row-major Eigen "
                "object, or casa::MatrixView<const T>(data, rows, cols) of your own memory");
  if constexpr (EigenObject<M>) return can_be_viewed<M>();
  return is_matrix;
}

/// Whether q, k and v fit each other; if not, one sentence says what to do.
template <class Q, class K, class V>
constexpr bool are_attention_matrices() {
  constexpr bool readable =
      is_readable_matrix<Q>() && is_readable_matrix<K>() && is_readable_matrix<V>();
  if constexpr (readable) {
    using T = ValueOf<Q>;
    using S = ValueOf<K>;
    constexpr bool computes = Scalar<T>, same = std::is_same_v<S, ValueOf<V>>;
    constexpr bool stored = StorageFor<S, ComputeType<Q>>;
    static_assert(computes,
                  "casa: q is what attention computes in, float or double; only k and v "
                  "may be casa::bfloat16 or casa::half");
    static_assert(!computes || same, "casa: k and v must hold the same scalar type");
    static_assert(
        !computes || !same || stored,
        "casa: k and v must hold q's scalar type (or casa::bfloat16 or casa::half beside a "
        "float q); convert one of them: casa::RowMatrix<float> m = other.cast<float>();");
    return computes && same && stored;
  }
  return false;
}

template <class T, class S, class Score>
RowMatrix<T> attend_matrices(MatrixView<const T> q, MatrixView<const S> k, MatrixView<const S> v,
                             const MaskView& mask, const AttendOptions<T>& options,
                             const Score& score) {
  require(options.num_heads >= 1, "attend: num_heads must be positive, got ", options.num_heads);
  require(q.cols() % options.num_heads == 0,
          "attend: columns of q must be a multiple of num_heads = ", options.num_heads, ", got ",
          q.cols());
  const AttentionShape shape{options.num_heads, options.num_kv_heads, q.cols() / options.num_heads,
                             options.value_dim};
  check_shape(shape);
  const Index heads = shape.num_kv_heads, side_by_side = options.head_major ? 1 : heads;
  if (k.cols() != checked_mul(side_by_side, shape.head_dim, "attend: k")) {
    if (options.head_major)
      fail("attend: columns of head-major k: expected head_dim = ", shape.head_dim, ", got ",
           k.cols());
    fail("attend: columns of k: expected num_kv_heads * head_dim = ", heads, " * ", shape.head_dim,
         shape.num_heads == 1 ? " (num_heads is 1: set AttendOptions::num_heads?)" : "", ", got ",
         k.cols());
  }
  require_equal("attend: columns of v", v.cols(),
                checked_mul(side_by_side, shape.output_dim(), "attend: v"));
  require_equal("attend: rows of v", v.rows(), k.rows());
  require(!options.head_major || k.rows() % heads == 0,
          "attend: rows of head-major k must be a multiple of num_kv_heads = ", heads, ", got ",
          k.rows());
  const Index keys = options.head_major ? k.rows() / heads : k.rows();
  const KeyPiece<S> piece{
      .k = k.data(),
      .v = v.data(),
      .count = keys,
      .token_stride = k.stride(),
      .head_stride = options.head_major ? keys * k.stride() : shape.head_dim,
      .value_token_stride = v.stride(),
      .value_head_stride = options.head_major ? keys * v.stride() : shape.output_dim()};
  const AttentionInput<T, S> in{.shape = shape,
                                .scale = options.scale.value_or(default_scale(shape.head_dim)),
                                .q = q,
                                .keys = {&piece, 1},
                                .intervals = mask.intervals,
                                .interval_offsets = mask.offsets,
                                .sinks = options.sinks};
  RowMatrix<T> out(q.rows(), checked_mul(shape.num_heads, shape.output_dim(), "attend: out"));
  const Context serial;
  attend(in, out, options.lse, options.context ? *options.context : serial, score);
  return out;
}

}  // namespace detail

/// q (rows, num_heads * head_dim), k and v (keys, num_kv_heads * head_dim), a row per token, heads
/// side by side: row-major Eigen objects, Matrix, or MatrixView<const T>(data, rows, cols, stride).
/// Row r sees the keys of intervals[r]: a vector, a span, or braces, `{{0, 14}}` for one row that
/// sees 14 keys. Returns RowMatrix (rows, num_heads * head_dim). k and v hold q's float or double,
/// or casa::bfloat16 or casa::half beside float. v and what is returned have options.value_dim
/// columns a head instead, if that is given. With options.head_major a row of k and v is a key of
/// one head instead, all keys of a head before the next head's. `score` is a score function
/// (scores.hpp). Throws casa::error if sizes do not fit.
template <class Q, class K, class V, class Score = PlainScore>
auto attend(const Q& q, const K& k, const V& v, ListView<Interval> intervals,
            const detail::OptionsFor<Q>& options = {}, const Score& score = {}) {
  using T = detail::ComputeType<Q>;
  if constexpr (detail::are_attention_matrices<Q, K, V>()) {
    using S = detail::ValueOf<K>;
    return detail::attend_matrices<T, S>(q, k, v, MaskView{intervals.span(), {}}, options, score);
  } else {
    return RowMatrix<T>();
  }
}
/// The same with lists of intervals: a Mask or a MaskView.
template <class Q, class K, class V, std::convertible_to<MaskView> M, class Score = PlainScore>
auto attend(const Q& q, const K& k, const V& v, const M& mask,
            const detail::OptionsFor<Q>& options = {}, const Score& score = {}) {
  using T = detail::ComputeType<Q>;
  if constexpr (detail::are_attention_matrices<Q, K, V>()) {
    using S = detail::ValueOf<K>;
    return detail::attend_matrices<T, S>(q, k, v, MaskView(mask), options, score);
  } else {
    return RowMatrix<T>();
  }
}
/// Refused by one sentence: a call without a mask.
template <detail::AttentionMatrix Q, class K, class V>
auto attend(const Q&, const K&, const V&) {
  constexpr bool has_mask = std::is_void_v<detail::ValueOf<Q>>;  // false
  static_assert(has_mask,
                "casa: attend needs a mask: casa::masks::causal(rows) of attention/masks.hpp, or "
                "one casa::Interval{0, keys} a row where every row sees every key");
  return RowMatrix<detail::ComputeType<Q>>();
}
/// Refused by one sentence: a mask of another type.
template <detail::AttentionMatrix Q, class K, class V, detail::NoMask M, class Score = PlainScore>
auto attend(const Q&, const K&, const V&, const M&, const detail::OptionsFor<Q>& = {},
            const Score& = {}) {
  constexpr bool is_mask = std::is_void_v<detail::ValueOf<Q>>;  // false
  static_assert(is_mask,
                "casa: after q, k and v attend takes the mask: a list of casa::Interval, one a row "
                "(std::vector<casa::Interval>, a span, or braces), or a casa::Mask");
  return RowMatrix<detail::ComputeType<Q>>();
}

CASA_NAMESPACE_END
