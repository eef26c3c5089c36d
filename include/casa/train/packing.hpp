// Packing: how many samples go through the model at once.
#pragma once

#include <span>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/core/interval.hpp"

CASA_NAMESPACE_BEGIN

/// Cuts samples, in their order, into parts of at most `most` tokens, each as long as it can be:
/// part i holds the samples of interval i. The samples of a part go through the model in one pass,
/// each as a stream of its own (a StreamInput), so that none sees another and no row is padding;
/// the parts of a step add their gradients up. Throws casa::error for a sample with a negative
/// number of tokens or with more than `most`.
inline std::vector<Interval> pack_samples(std::span<const Index> tokens, Index most) {
  std::vector<Interval> parts;
  Index held = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto sample = static_cast<Index>(i);
    require(tokens[i] >= 0 && tokens[i] <= most, "pack_samples: sample ", sample,
            ": tokens must be in [0, ", most, "], got ", tokens[i]);
    if (parts.empty() || tokens[i] > most - held) {
      parts.push_back({sample, sample});
      held = 0;
    }
    held += tokens[i];
    parts.back().end = sample + 1;
  }
  return parts;
}

CASA_NAMESPACE_END
