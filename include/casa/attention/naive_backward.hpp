// The gradients of attention by their definition, one row and head after the other, in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "casa/attention/gradients.hpp"
#include "casa/attention/naive.hpp"
#include "casa/attention/score_gradients.hpp"

CASA_NAMESPACE_BEGIN

namespace naive {

/// The gradients of attention: the same arguments as casa::attend_backward. With the softmax
/// weights p and the output o of a row and head, do = d loss / d o and s' = score(s), s = scale
/// q.k of key j:
///
///   d v_j += p_j do      d s'_j = p_j (do . v_j - do . o)      d s_j = d s'_j (d s'_j / d s_j)
///   d q += scale d s_j k_j      d k_j += scale d s_j q      d sink -= p_sink do . o
///
/// The weights and o are computed anew, in double; result.out and result.lse are not read.
template <Scalar T, class S, class Score = PlainScore, class Parameters = NoScoreGradients>
void attend_backward(const AttentionInput<T, S>& in, const AttentionResult<T>& result,
                     const AttentionGradients<T>& gradients, const Context& = {},
                     const Score& score = {}, const Parameters& parameters = {}) {
  constexpr bool kCollects = casa::detail::kCollects<Parameters>;
  using casa::detail::Dual;
  casa::detail::check(in);
  casa::detail::check_score(score, in);
  casa::detail::check_gradients(in, result, gradients);
  casa::detail::check_parameters(parameters, score, in);
  const Index d = in.shape.head_dim, dv = in.shape.output_dim(), heads = in.shape.num_heads;
  const Index keys = in.num_keys(), kv_heads = in.shape.num_kv_heads;
  const auto size = [](Index n) { return static_cast<std::size_t>(n); };
  std::vector<double> d_q(size(d)), d_k(size(kv_heads * keys * d)), d_v(size(kv_heads * keys * dv));
  std::vector<double> d_sinks(size(heads)), weight(size(keys)), slope(size(keys)), out(size(dv));
  std::vector<const S*> key(size(kv_heads * keys)), value(key);
  for (Index h = 0, at = 0; h < kv_heads; ++h)
    for (const auto& piece : in.keys)
      for (Index t = 0; t < piece.count; ++t, ++at) {
        key[size(at)] = piece.key(h, t);
        value[size(at)] = piece.value(h, t);
      }
  const MaskView mask = in.mask();
  std::vector<double> sums, raw(size(keys));
  if constexpr (kCollects) {
    sums.resize(size(parameters.num_sums()));
    parameters.start();
  }

  for (Index r = 0; r < in.num_rows(); ++r)
    for (Index h = 0; h < heads; ++h) {
      const Index first = h / in.shape.group() * keys;
      const T* q = in.q.row(r) + h * d;
      const T* d_out = result.d_out.row(r) + h * dv;
      const auto for_each_key = [&](auto f) {
        for (const Interval seen : mask.row(r))
          for (Index j = seen.begin; j < seen.end; ++j) f(j);
      };
      double max = -std::numeric_limits<double>::infinity();
      for_each_key([&](Index j) {
        const double s = in.scale * detail::dot(q, key[size(first + j)], d);
        raw[size(j)] = s;
        weight[size(j)] = s;
        slope[size(j)] = 1;
        if constexpr (!std::is_same_v<Score, PlainScore>) {
          const casa::detail::DualPlaces<ScalarPlace> at(ScalarPlace(r, h, j));
          const Dual<double> changed = casa::detail::apply_score(
              score, Dual<double>{s, 1}, at, casa::detail::score_rows(score, at));
          weight[size(j)] = changed.value;
          slope[size(j)] = changed.slope;
        }
        max = (std::max)(max, weight[size(j)]);
      });
      const bool has_sink = !in.sinks.empty();
      const double sink = has_sink ? static_cast<double>(in.sinks[size(h)]) : 0;
      if (has_sink) max = (std::max)(max, sink);
      std::fill(d_q.begin(), d_q.end(), 0.0);
      if (max != -std::numeric_limits<double>::infinity()) {
        double sum = has_sink ? std::exp(sink - max) : 0;
        for_each_key([&](Index j) { sum += weight[size(j)] = std::exp(weight[size(j)] - max); });
        std::fill(out.begin(), out.end(), 0.0);
        for_each_key([&](Index j) {
          weight[size(j)] /= sum;
          for (Index i = 0; i < dv; ++i)
            out[size(i)] += weight[size(j)] * static_cast<double>(widen(value[size(first + j)][i]));
        });
        const double mean = detail::dot(d_out, out.data(), dv);
        if (has_sink) d_sinks[size(h)] -= std::exp(sink - max) / sum * mean;
        for_each_key([&](Index j) {
          const double p = weight[size(j)];
          const double d_changed = p * (detail::dot(d_out, value[size(first + j)], dv) - mean);
          const double ds = d_changed * slope[size(j)];
          if constexpr (kCollects)
            parameters.add(score, d_changed, raw[size(j)], ScalarPlace(r, h, j), sums.data());
          for (Index i = 0; i < dv; ++i)
            d_v[size((first + j) * dv + i)] += p * static_cast<double>(d_out[i]);
          for (Index i = 0; i < d; ++i) {
            d_q[size(i)] += in.scale * ds * static_cast<double>(widen(key[size(first + j)][i]));
            d_k[size((first + j) * d + i)] += in.scale * ds * static_cast<double>(q[i]);
          }
        });
      }
      if (gradients.q.data() != nullptr)
        for (Index i = 0; i < d; ++i) gradients.q(r, h * d + i) = static_cast<T>(d_q[size(i)]);
    }
  for (Index h = 0, at = 0; h < kv_heads; ++h)
    for (std::size_t p = 0; p < in.keys.size(); ++p)
      for (Index t = 0; t < in.keys[p].count; ++t, ++at) {
        if (gradients.keys.empty()) continue;
        const auto& to = gradients.keys[p];
        for (Index i = 0; to.k && i < d; ++i)
          to.key(h, t)[i] = static_cast<T>(d_k[size(at * d + i)]);
        for (Index i = 0; to.v && i < dv; ++i)
          to.value(h, t)[i] = static_cast<T>(d_v[size(at * dv + i)]);
      }
  if constexpr (kCollects) parameters.finish(sums.data());
  for (std::size_t h = 0; h < gradients.sinks.size(); ++h)
    gradients.sinks[h] = static_cast<T>(d_sinks[h]);
}

}  // namespace naive

CASA_NAMESPACE_END
