// Sliding windows (arXiv 2004.05150): in some blocks a row sees only the last keys up to its own.
#pragma once

#include <algorithm>

#include "casa/model/config.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The last `window` keys of an interval that ends with the row's own key.
constexpr Interval slide(Interval seen, Index window) {
  return {(std::max)(seen.begin, seen.end - window), seen.end};
}

/// The same where the stream has forgotten text between its first `sinks` tokens and the others
/// (StateOptions::text_window). The cache holds both side by side, but in positions the sinks are
/// `gap` further away. The window counts positions: a sink is seen only while it is that near.
constexpr Interval slide(Interval seen, Index window, Index sinks, Index gap) {
  const Index begin = seen.end - window;
  if (gap == 0 || begin >= sinks) return slide(seen, window);
  return {std::clamp(begin + gap, seen.begin, (std::max)(seen.begin, sinks)), seen.end};
}

/// Whether a block's sliding window bounds its fusion too. It does where fusion stands in place of
/// self-attention and its keys are those of the stream (CASA in replace, token insertion). Fusion
/// beside self-attention has a rule of its own, FusionConfig::history. (check(DecoderConfig)
/// refuses histories whose windows do not follow each other: in a cache with gaps places are no
/// distances.)
inline bool fusion_slides(const FusionConfig& f) {
  return f.placement == Placement::replace && f.keys == Keys::image_text;
}

}  // namespace detail

CASA_NAMESPACE_END
