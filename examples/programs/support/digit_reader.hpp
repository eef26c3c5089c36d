// How the digit readers read, and when a caption of theirs is right.
#pragma once

#include "support/digits.hpp"
#include "support/reader.hpp"

namespace program {

inline constexpr Spelling kDigitSpelling{kBegin, kEnd, 20};

/// Parts, in [0, 1].
struct DigitScore {
  double exact = 0;   ///< captions without a mistake
  double digits = 0;  ///< digits that stand where they should
};

/// How right a model was.
inline DigitScore score_digits(const Reading& reading, const Streams& streams) {
  Index exact = 0, right = 0, digits = 0;
  for (std::size_t i = 0; i < streams.captions.size(); ++i) {
    const Ids &truth = streams.captions[i], &said = reading.captions[i];
    exact += truth == said;
    for (std::size_t t = 0; t < truth.size(); ++t) {
      if (truth[t] >= kRow) continue;
      ++digits;
      right += t < said.size() && said[t] == truth[t];
    }
  }
  const auto share = [](Index part, Index all) {
    return all ? static_cast<double>(part) / static_cast<double>(all) : 0.0;
  };
  return {share(exact, static_cast<Index>(streams.captions.size())), share(right, digits)};
}

}  // namespace program
