// The task of the digit readers: its vocabulary, how ids are spelled, and when a caption is right.
#pragma once

#include <string>

#include "casa/core/error.hpp"
#include "support/reader.hpp"

namespace program {

// The vocabulary of the digit readers: 0..9, and
inline constexpr int kRow = 10, kEnd = 11, kBegin = 12;
inline constexpr Spelling kDigitSpelling{kBegin, kEnd, 20};

inline std::string spelled_digits(const Ids& ids) {
  static const char* const names[] = {"0", "1", "2",   "3", "4", "5", "6", "7",
                                      "8", "9", " / ", "",  "",  "?", "?", "?"};
  std::string s;
  for (const int id : ids) {
    casa::require(id >= 0 && id < 16, "caption: id ", id,
                  " is none of the 16 of the digit readers");
    s += names[static_cast<std::size_t>(id)];
  }
  return s;
}

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
