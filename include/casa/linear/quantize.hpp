// The 8-bit weight format: groups of 32 along k share one scale.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN

/// Weights of one row that share a scale.
inline constexpr Index kQuantGroup = 32;

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

CASA_NAMESPACE_END
