// Rows of x as int8, in the order in which the int8 micro-kernel reads them.
#pragma once

#include <cstddef>

#include "casa/linear/quantize.hpp"
#include "casa/simd/elementwise.hpp"
#include "casa/simd/quads.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Quads of a group of weights.
inline constexpr Index kGroupQuads = kQuantGroup / 4;

/// kQuantGroup values of a row of x, rounded to whole numbers of steps of `scale`. After the last
/// value of the row they are 0.
struct QuantizedValues {
  simd::ValueQuad quads[std::size_t{kGroupQuads}];
  float scale;         ///< of the kRowGroup values that these belong to
  std::int32_t start;  ///< what the sums begin from: -kQuadOffset times the sum of the values
};

}  // namespace detail

namespace simd {
template <>
inline constexpr Index kUnit<casa::detail::QuantizedValues> = kQuantGroup;
}  // namespace simd

namespace detail {

/// The kRowGroup values at x, of which `count` are there, as the groups first and second; the
/// second only where there are more than kQuantGroup.
inline void quantize_row_group(const float* x, Index count, QuantizedValues& first,
                               QuantizedValues* second) {
  constexpr Index lanes = simd::kLanes<float>, vectors = kRowGroup / lanes;
  using Bits = simd::VecI;
  simd::VecF v[std::size_t{vectors}];
  Bits largest{};
  for (Index i = 0; i < vectors; ++i) {
    v[i] = load_n(x + (std::min)(i * lanes, count), std::clamp<Index>(count - i * lanes, 0, lanes));
    // Magnitudes compare as integers, where NaN is the largest.
    const Bits magnitude = simd::bits_as<Bits>(v[i]) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  const std::int32_t most = simd::reduce(largest, [](Bits a, Bits b) { return a > b ? a : b; })[0];
  const float scale = row_scale(casa::detail::bit_cast<float>(most));
  const simd::VecF factor = simd::broadcast(row_factor(scale));
  for (Index half = 0; half < (second ? 2 : 1); ++half) {
    QuantizedValues& to = half == 0 ? first : *second;
    simd::VecF sum{};
    for (Index i = 0; i < vectors / 2; ++i) {
      // Kept apart from the rounding, which would else become one operation with it.
      simd::VecF steps = v[half * (vectors / 2) + i] * factor;
      simd::keep(steps);
      const auto is_number = steps == steps;  // NOLINT(misc-redundant-expression): NaN is not
      const simd::VecF whole = simd::select(is_number, simd::detail::round(steps), simd::VecF{});
      if constexpr (simd::kQuadOffset != 0) sum += whole;
      simd::store_quads(to.quads + i * lanes / 4, whole);
    }
    to.scale = scale;
    to.start = simd::kQuadOffset == 0
                   ? 0
                   : -simd::kQuadOffset * static_cast<std::int32_t>(simd::reduce_add(sum));
  }
}

}  // namespace detail

CASA_NAMESPACE_END
