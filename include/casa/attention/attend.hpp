// The door to attention: any mask that is intervals, grouped heads, keys in pieces, log-sum-exp,
// states.
#pragma once

#include "casa/attention/input.hpp"
#include "casa/attention/kernel/fast.hpp"
#include "casa/attention/naive.hpp"
#include "casa/attention/state.hpp"
#include "casa/core/context.hpp"

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

CASA_NAMESPACE_END
