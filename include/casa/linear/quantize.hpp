// The 8-bit formats: groups of 32 weights along k share one scale, groups of 64 values of a row
// too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN

/// Weights of one row that share a scale.
inline constexpr Index kQuantGroup = 32;
/// Scales of a row of `values` weights.
inline Index quant_groups(Index values) { return (values + kQuantGroup - 1) / kQuantGroup; }

/// The scale of a group whose largest magnitude is `largest`: largest / 127 as bfloat16, rounded
/// up, so that no value needs more than 127 steps and the step exceeds largest / 127 by less than
/// one part in 128 (normal numbers). A value's error is at most half a step.
inline bfloat16 quant_scale(float largest) {
  const float exact = largest / 127.0f;
  bfloat16 scale = narrow<bfloat16>(exact);
  if (widen(scale) * 127.0f < largest) ++scale.bits;
  return scale;
}

/// The nearest multiple of the scale, ties to even. The weight it stands for is q * scale, which is
/// exact in float (8 bits times 8 bits).
inline std::int8_t quantize(float w, float scale) {
  if (scale == 0) return 0;
  return static_cast<std::int8_t>(std::clamp(std::nearbyint(w / scale), -127.0f, 127.0f));
}

/// Values of a row of x that share a scale under Precision::int8: two groups of weights.
inline constexpr Index kRowGroup = 2 * kQuantGroup;

/// The scale of a group of a row of x whose largest magnitude is `largest`: largest / 127. It is 0,
/// and the group counts as zeros, where that is not a normal number (all are below 1.5e-36); NaN
/// where `largest` is NaN or infinite, so that every output of the row is NaN.
inline float row_scale(float largest) {
  using Limits = std::numeric_limits<float>;
  const float scale = largest / 127.0f;
  return !(largest <= (Limits::max)()) ? Limits::quiet_NaN() : scale < (Limits::min)() ? 0 : scale;
}

/// What the values of such a group are multiplied by before they are rounded to whole numbers, ties
/// to even: none becomes more than 127. A value's error is at most largest / 254, apart from 2^-14
/// of that for the rounding of the scale and of the quotient.
inline float row_factor(float scale) { return scale > 0 ? 1.0f / scale : 0.0f; }

/// The rows of x as Precision::int8 sees them, exactly: whole numbers times scales.
inline RowMatrix<double> rounded_rows(MatrixView<const float> x) {
  RowMatrix<double> rounded(x.rows(), x.cols());
  for (Index r = 0; r < x.rows(); ++r)
    for (Index g = 0; g < x.cols(); g += kRowGroup) {
      const Index end = (std::min)(x.cols(), g + kRowGroup);
      float largest = 0;
      for (Index c = g; c < end; ++c)
        if (!(std::abs(x(r, c)) <= largest)) largest = std::abs(x(r, c));
      const float scale = row_scale(largest), factor = row_factor(scale);
      for (Index c = g; c < end; ++c)
        rounded(r, c) =
            static_cast<double>(std::nearbyint(x(r, c) * factor)) * static_cast<double>(scale);
    }
  return rounded;
}

CASA_NAMESPACE_END
