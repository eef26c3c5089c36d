// The norm of all gradients together, with the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "casa/core/context.hpp"
#include "casa/model/tensor_set.hpp"
#include "casa/simd/elementwise.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Values that one worker takes at a time in loops over all parameters: four arrays of them in
/// float fit a second-level cache beside each other. Sums are taken of each such part and then over
/// the parts in order, so that they do not depend on who took which.
inline constexpr Index kElementsAtOnce = 16384;

/// kLanes<double> values as double.
template <Scalar T>
CASA_INLINE simd::VecD load_as_double(const T* p) {
  if constexpr (std::is_same_v<T, double>) {
    return simd::load(p);
  } else {
    typedef float Narrow __attribute__((vector_size(simd::kBytes / 2)));
    Narrow v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, simd::VecD);
  }
}

/// The sum of the squares of n values, each product and sum in double: squares of floats neither
/// overflow nor vanish there.
template <Scalar T>
double sum_of_squares_in_double(const T* x, Index n) {
  constexpr Index lanes = simd::kLanes<double>;
  simd::VecD sum[4] = {};  // independent sums, since one would wait for each addition
  Index c = 0;
  for (; c + 4 * lanes <= n; c += 4 * lanes)
    for (Index i = 0; i < 4; ++i) {
      const simd::VecD v = load_as_double(x + c + i * lanes);
      sum[i] = simd::fma(v, v, sum[i]);
    }
  double rest = 0;
  for (; c < n; ++c) rest += static_cast<double>(x[c]) * static_cast<double>(x[c]);
  return simd::reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

}  // namespace detail

/// The Euclidean norm of all values of all tensors. NaN or infinite where a value is. Its bits do
/// not depend on the number of threads.
template <Scalar T>
double global_norm(const TensorSet<T>& set, const Context& context = {}) {
  const std::span<const T> values = set.values();
  const auto size = static_cast<Index>(values.size());
  const Index parts = (size + detail::kElementsAtOnce - 1) / detail::kElementsAtOnce;
  const Workspace::Frame frame(context.workspace);
  double* sums = context.workspace.take<double>(parts);
  context.executor.for_each(parts, [&](Index part, Index) {
    const Index begin = part * detail::kElementsAtOnce;
    sums[part] = detail::sum_of_squares_in_double(
        values.data() + begin, (std::min)(detail::kElementsAtOnce, size - begin));
  });
  double sum = 0;
  for (Index part = 0; part < parts; ++part) sum += sums[part];
  return std::sqrt(sum);
}

/// The name of the first tensor with a value that is NaN or infinite; empty if there is none.
template <Scalar T>
std::string first_not_finite(const TensorSet<T>& set) {
  for (Index i = 0; i < set.size(); ++i) {
    const Interval at = set.range(i);
    const auto all = set.values().subspan(static_cast<std::size_t>(at.begin),
                                          static_cast<std::size_t>(at.size()));
    if (!std::all_of(all.begin(), all.end(), [](T v) { return std::isfinite(v); }))
      return set.specs()[static_cast<std::size_t>(i)].name;
  }
  return {};
}

/// What gradients of norm `norm` are multiplied by so that they are no longer than `most`
/// (Pascanu, Mikolov and Bengio, arXiv 1211.5063): min(1, most / norm). Infinite `most`: 1.
/// Throws casa::error unless `norm` is finite and `most` positive.
inline double clip_factor(double norm, double most) {
  require(most > 0, "clip_factor: the largest norm must be positive, got ", most);
  require(std::isfinite(norm) && norm >= 0, "clip_factor: the norm must be finite, got ", norm);
  return norm > most ? most / norm : 1.0;
}

CASA_NAMESPACE_END
