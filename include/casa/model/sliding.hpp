// Sliding windows (arXiv 2004.05150): in some blocks a row sees only the last keys up to its own.
#pragma once

#include <algorithm>
#include <span>

#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN

/// What is left of an interval whose last key is the row itself.
constexpr Interval slide(Interval seen, Index window) {
  return {(std::max)(seen.begin, seen.end - window), seen.end};
}

/// The same in the cache of a stream that has forgotten text: its first `sinks` keys stand `gap`
/// positions further from the others than their places in the cache say. Distances count, so that
/// sinks are seen only where they stand within the window.
constexpr Interval slide(Interval seen, Index window, Index sinks, Index gap) {
  const Index begin = seen.end - window;
  if (gap == 0 || begin >= sinks) return slide(seen, window);
  return {std::clamp(begin + gap, seen.begin, (std::max)(seen.begin, sinks)), seen.end};
}

/// Whether a block's window holds for its fusion too: where fusion stands in place of the block's
/// self-attention and its keys are the stream's (CASA in replace, token insertion). A fusion beside
/// self-attention has its own rule, FusionConfig::history.
inline bool fusion_slides(const FusionConfig& f) {
  return f.placement == Placement::replace && f.keys == Keys::image_text;
}

CASA_NAMESPACE_END
