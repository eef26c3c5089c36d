// The door to the gradients of attention, for training: the backward pass of attend().
#pragma once

#include "casa/attention/gradients.hpp"
#include "casa/attention/kernel/backward.hpp"
#include "casa/attention/naive_backward.hpp"

CASA_NAMESPACE_BEGIN

/// The gradients of a loss with respect to what attend() read: queries, keys, values and sinks,
/// from result.d_out, its gradient with respect to the output. `in` and `score` are those of the
/// call of attend(), `result` has its out and lse. Weights are computed anew from lse, so that no
/// matrix of scores is kept (FlashAttention-2, arXiv 2307.08691); naive_backward.hpp has the
/// formulas. Query heads that share a key/value head add up in its gradients. The derivative of a
/// score function is found by calling it with dual numbers (score_slope.hpp).
///
///   attend(in, out, lse, context);
///   ...
///   attend_backward(in, {out, lse, d_out}, {.q = d_q, .keys = d_keys}, context);
///
/// What a gradient is not wanted of is left empty. Gradients are overwritten; they must not overlap
/// what is read, nor each other. A query that sees no key gets zeros, as does a key that no query
/// sees; NaN among keys that a row does not see does not matter to the row, nor NaN in a row to
/// keys that it does not see. Products are of full precision whatever the context says. The bits do
/// not depend on the number of threads. Throws casa::error, before anything is written, if sizes do
/// not fit.
///
/// `parameters` says where the gradients of the score function's parameters go
/// (score_gradients.hpp): AlibiGradients<float>{d_slopes}, for example.
template <Scalar T, class S, class Score, class Parameters = NoScoreGradients>
void attend_backward(const AttentionInput<T, S>& in,
                     const AttentionResult<std::type_identity_t<T>>& result,
                     const AttentionGradients<std::type_identity_t<T>>& gradients,
                     const Context& context, const Score& score,
                     const Parameters& parameters = {}) {
  if constexpr (detail::is_score<Score>()) {
    if (context.path == Path::naive)
      return naive::attend_backward(in, result, gradients, context, score, parameters);
    detail::check(in);
    detail::check_score(score, in);
    detail::check_gradients(in, result, gradients);
    detail::check_parameters(parameters, score, in);
    detail::attend_backward_fast(in, result, gradients, context, score, parameters);
  }
}
/// The same without a score function.
template <Scalar T, class S>
void attend_backward(const AttentionInput<T, S>& in,
                     const AttentionResult<std::type_identity_t<T>>& result,
                     const AttentionGradients<std::type_identity_t<T>>& gradients,
                     const Context& context = {}) {
  attend_backward(in, result, gradients, context, PlainScore{});
}

CASA_NAMESPACE_END
