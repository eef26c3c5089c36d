// What is reused of the frame before (vision_frames.hpp), and what became of it.
#pragma once

#include <cmath>
#include <cstdint>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// What a tower reuses of the frame before.
enum class PatchReuse {
  none,        ///< nothing
  exact,       ///< what has the same bits as computed anew
  approximate  ///< all that is kept of windows that did not change
};

/// How VisionFrames reuses what it has computed.
struct FrameReuse {
  PatchReuse reuse = PatchReuse::exact;  ///< what is kept
  /// Approximate: a patch whose values differ by no more than this, in the mean, from those that it
  /// was computed from has not changed. (Values are what the tower reads: preprocessing divides a
  /// share of the range by about 0.27.) 0: any bit is a change.
  double largest_difference = 0;
  /// Approximate: after so many frames that were computed in part, one is computed as a whole, so
  /// that what was neglected does not stay. 0: never.
  Index refresh_every = 0;
  /// Frames for which more bytes would have to be kept are computed as a whole; nothing is kept.
  Index most_bytes = Index{1} << 30;
  /// Approximate: each frame that is computed in part is also computed as a whole, and the
  /// difference stands in FrameReuseCounts. Costs what it tries to save: to find out what a video
  /// of yours loses.
  bool measure_error = false;
};

/// What VisionFrames has done.
struct FrameReuseCounts {
  std::int64_t frames = 0;     ///< frames (or batches of images) that were encoded
  std::int64_t unchanged = 0;  ///< of these, those of which nothing was computed
  std::int64_t in_part = 0;    ///< of these, those of which some windows were computed
  std::int64_t patches = 0;    ///< of all frames
  std::int64_t computed = 0;   ///< of these, those whose window was computed
  std::int64_t measured = 0;   ///< frames in error_sum
  /// Of FrameReuse::measure_error, for each frame the root of (sum of squared differences of tokens
  /// / sum of squared tokens of the frame computed as a whole): their sum and the largest.
  double error_sum = 0;
  double largest_error = 0;  ///< see error_sum
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Throws casa::error naming what is out of range.
inline void check(const FrameReuse& o) {
  require(o.largest_difference >= 0 && std::isfinite(o.largest_difference),
          "FrameReuse: largest_difference must be finite and not negative, got ",
          o.largest_difference);
  require(o.largest_difference == 0 || o.reuse == PatchReuse::approximate,
          "FrameReuse: largest_difference is of approximate reuse, and must be 0 without, got ",
          o.largest_difference);
  require(o.refresh_every >= 0, "FrameReuse: refresh_every must not be negative, got ",
          o.refresh_every);
  require(o.most_bytes >= 0, "FrameReuse: most_bytes must not be negative, got ", o.most_bytes);
}

CASA_NAMESPACE_END
