// The learning rate of each update: a warm-up, then constant or falling.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// How the learning rate goes on after the warm-up: as it is, on a line, or on half a period of a
/// cosine (Loshchilov and Hutter, SGDR, arXiv 1608.03983, without restarts).
enum class Decay { constant, linear, cosine };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// A learning rate over the updates 0, 1, .. of a training run, of which W = warmup and N = total.
///
///   s < W:       peak (s + 1) / W, so that the first update is not lost to a rate of 0
///   W <= s < N:  with p = (s - W) / (N - W)
///                constant  peak
///                linear    peak (1 - p (1 - floor))
///                cosine    peak (floor + (1 - floor) (1 + cos(pi p)) / 2)
///   s >= N:      constant: peak; the others: peak floor
struct Schedule {
  double peak = 1e-3;             ///< the largest rate
  std::int64_t warmup = 0;        ///< updates until it is reached
  std::int64_t total = 0;         ///< updates in all; not read with Decay::constant
  Decay decay = Decay::constant;  ///< what follows the warm-up
  double floor = 0;               ///< what is left in the end, as a part of the peak, in [0, 1]

  friend bool operator==(const Schedule&, const Schedule&) = default;
};

/// Throws casa::error naming what is out of range.
inline void check(const Schedule& s) {
  require(std::isfinite(s.peak) && s.peak >= 0,
          "Schedule: peak must be finite and not negative, got ", s.peak);
  require(s.warmup >= 0, "Schedule: warmup must not be negative, got ", s.warmup);
  require(s.floor >= 0 && s.floor <= 1, "Schedule: floor must be in [0, 1], got ", s.floor);
  require(s.decay == Decay::constant || s.total > s.warmup,
          "Schedule: total must exceed warmup, got ", s.total, " and ", s.warmup);
}

/// The rate of update `step`, counted from 0. Throws casa::error for a step that is negative and
/// for a schedule out of range.
inline double learning_rate(const Schedule& s, std::int64_t step) {
  check(s);
  require(step >= 0, "learning_rate: step must not be negative, got ", step);
  if (step < s.warmup)
    return s.peak * (static_cast<double>(step) + 1) / static_cast<double>(s.warmup);
  if (s.decay == Decay::constant) return s.peak;
  const double p = (std::min)(
      1.0, static_cast<double>(step - s.warmup) / static_cast<double>(s.total - s.warmup));
  if (p >= 1) return s.peak * s.floor;
  const double left = s.decay == Decay::linear ? 1 - p : (1 + std::cos(std::numbers::pi * p)) / 2;
  return s.peak * (s.floor + (1 - s.floor) * left);
}

CASA_NAMESPACE_END
