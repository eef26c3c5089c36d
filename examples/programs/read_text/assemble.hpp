// Texts of tiles, put together to the text of the page.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "read_text/tiles.hpp"

namespace read_text {

/// `left` and what `right` adds to it, where the end of the one shows the same letters as the
/// beginning of the other. One letter at either side of the cut may be half a letter, misread; of
/// the common letters a quarter may differ. Where nothing is common the two follow each other.
inline std::string merged(std::string_view left, std::string_view right) {
  constexpr std::size_t most_common = 32;
  std::size_t best_score = 0, keep = left.size(), skip = 0;
  for (std::size_t off_left = 0; off_left <= (std::min)(left.size(), std::size_t{1}); ++off_left) {
    const std::string_view a = left.substr(0, left.size() - off_left);
    for (std::size_t off_right = 0; off_right <= (std::min)(right.size(), std::size_t{1});
         ++off_right) {
      const std::string_view b = right.substr(off_right);
      for (std::size_t n = 1; n <= std::min({a.size(), b.size(), most_common}); ++n) {
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < n; ++i) wrong += a[a.size() - n + i] != b[i];
        // A letter that differs counts more than one that is dropped as half a letter.
        const std::size_t against = 3 * wrong + off_left + off_right;
        if (4 * wrong > n || n <= against || n - against <= best_score) continue;
        best_score = n - against;
        keep = a.size();
        skip = off_right + n;
      }
    }
  }
  return std::string(left.substr(0, keep)) + std::string(right.substr(skip));
}

/// The text of a page from those of the pieces of its lines, one a tile. casa::error if there are
/// not as many.
inline std::string assembled(const Page& page, const std::vector<std::string>& texts) {
  casa::require_equal("assembled: texts", texts.size(), page.tiles.size());
  std::string text, line;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::string piece = texts[i];
    std::ranges::replace(piece, '\n', ' ');  // a piece is of one line
    const Joint joint = page.tiles[i].joint;
    if (joint == Joint::line || joint == Joint::paragraph) {
      if (i > 0) text += line + (joint == Joint::paragraph ? "\n\n" : "\n");
      line = piece;
    } else if (joint == Joint::overlap) {
      line = merged(line, piece);
    } else {
      line += (joint == Joint::word ? " " : "") + piece;
    }
  }
  return text + line;
}

}  // namespace read_text
