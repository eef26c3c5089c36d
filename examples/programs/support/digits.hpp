// The vocabulary of the digit readers, and how ids are spelled.
#pragma once

#include <string>

#include "casa/core/error.hpp"
#include "support/streams.hpp"

namespace program {

// The vocabulary of the digit readers: 0..9, and
inline constexpr int kRow = 10, kEnd = 11, kBegin = 12;

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

}  // namespace program
