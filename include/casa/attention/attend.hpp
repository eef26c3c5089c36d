// The door to attention: any mask that is intervals, grouped heads, keys in pieces, log-sum-exp,
// states; of an AttentionInput, or of matrices and options.
#pragma once

#include <optional>

#include "casa/attention/input.hpp"
#include "casa/attention/kernel/fast.hpp"
#include "casa/attention/naive.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/context.hpp"
#include "casa/core/list_view.hpp"

CASA_NAMESPACE_BEGIN

/// out (rows, num_heads * head_dim) = softmax(scale q k^T) v over the keys that each row sees; lse,
/// unless null, (rows, num_heads) row-major = ln sum exp(scale q.k). A row that sees no key gives
/// zeros and -inf. What lies outside a row's interval never matters to that row, not even NaN. A
/// score that overflows to -inf weighs nothing; one that overflows to +inf gives NaN in its row and
/// head. `out` may be q itself; any other overlap of out with what is read is not allowed. Throws
/// casa::error, before anything is written, if sizes do not fit or an interval leaves the keys.
template <Scalar T, class S>
void attend(const AttentionInput<T, S>& in, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& context = {}) {
  if (context.path == Path::naive) return naive::attend(in, out, lse, context);
  detail::check(in);
  detail::check_output<T, S>(in, out);
  detail::attend_fast(in, {out, lse}, context);
}

/// As attend(), but gives the state, which can be merged with the state over other keys.
template <Scalar T, class S>
AttentionState<T> attend_state(const AttentionInput<T, S>& in, const Context& context = {}) {
  if (context.path == Path::naive) return naive::attend_state(in, context);
  detail::check(in);
  const Index heads = in.shape.num_heads;
  AttentionState<T> state{
      {in.num_rows(), heads}, {in.num_rows(), heads}, {in.num_rows(), in.q.cols()}};
  detail::attend_fast(in, {state.out.view(), nullptr, state.max.data(), state.sum.data()}, context);
  return state;
}

/// What attend(q, k, v, ...) and varlen() may be told; everything has a usual value.
template <Scalar T>
struct AttendOptions {
  Index num_heads = 1;               ///< query heads, side by side in a row of q and out
  Index num_kv_heads = 1;            ///< divides num_heads; heads side by side in rows of k and v
  std::optional<double> scale = {};  ///< 1 / sqrt(head_dim) unless given
  T* lse = nullptr;                  ///< (rows, num_heads), written unless null
  const Context* context = nullptr;  ///< threads and scratch memory; one thread unless given
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

template <class T, class S>
RowMatrix<T> attend_matrices(MatrixView<const T> q, MatrixView<const S> k, MatrixView<const S> v,
                             std::span<const Interval> intervals, const AttendOptions<T>& options) {
  require(options.num_heads >= 1 && q.cols() % options.num_heads == 0,
          "attend: columns of q must be a multiple of num_heads = ", options.num_heads, ", got ",
          q.cols());
  const AttentionShape shape{options.num_heads, options.num_kv_heads, q.cols() / options.num_heads};
  check_shape(shape);
  require_equal("attend: columns of k", k.cols(), shape.num_kv_heads * shape.head_dim);
  require_equal("attend: columns of v", v.cols(), k.cols());
  require_equal("attend: rows of v", v.rows(), k.rows());
  require_equal("attend: stride of v", v.stride(), k.stride());
  const KeyPiece<S> piece{k.data(), v.data(), k.rows(), k.stride(), shape.head_dim};
  const AttentionInput<T, S> in{
      shape, options.scale.value_or(default_scale(shape.head_dim)), q, {&piece, 1}, intervals};
  RowMatrix<T> out(q.rows(), q.cols());
  if (options.context)
    attend(in, out, options.lse, *options.context);
  else
    attend(in, out, options.lse);
  return out;
}

}  // namespace detail

/// q (rows, num_heads * head_dim), k and v (keys, num_kv_heads * head_dim), a row per token, heads
/// side by side: row-major Eigen objects, Matrix, or MatrixView<const T>(data, rows, cols, stride).
/// Row r sees the keys of intervals[r]: a vector, a span, or braces, `{{0, 14}}` for one row that
/// sees 14 keys. Returns RowMatrix (rows, num_heads * head_dim). k and v hold q's float or double,
/// or casa::bfloat16 or casa::half beside float. Throws casa::error if sizes do not fit.
template <class Q, class K, class V>
auto attend(const Q& q, const K& k, const V& v, ListView<Interval> intervals,
            const detail::OptionsFor<Q>& options = {}) {
  using T = detail::ComputeType<Q>;
  if constexpr (detail::are_attention_matrices<Q, K, V>()) {
    using S = detail::ValueOf<K>;
    return detail::attend_matrices<T, S>(q, k, v, intervals.span(), options);
  } else {
    return RowMatrix<T>();
  }
}

CASA_NAMESPACE_END
