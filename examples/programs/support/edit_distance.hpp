// How far a text that was read is from the true one: the edit distance (Levenshtein, Binary codes
// capable of correcting deletions, insertions, and reversals, 1966), and where the two differ.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

namespace program {

/// The fewest letters to put in, take out or replace that make one text the other. Letters are
/// bytes. Time is the product of the lengths, memory the length of `b`.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  // row[j] is the distance of the first i letters of a and the first j of b.
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

/// Where a reading differs from the truth, along one of the shortest ways from one to the other.
struct Differences {
  std::size_t distance = 0;  ///< as edit_distance
  /// Of each letter of the reading, and one more for its end: whether it is wrong, does not belong
  /// there, or follows on letters that are missing.
  std::vector<bool> marked;
};

/// Compares `read` with `truth`. Time and memory are the product of the lengths.
inline Differences differences(std::string_view truth, std::string_view read) {
  const std::size_t n = truth.size(), m = read.size(), stride = m + 1;
  std::vector<std::size_t> table((n + 1) * stride);
  const auto at = [&](std::size_t i, std::size_t j) -> std::size_t& {
    return table[i * stride + j];
  };
  for (std::size_t i = 0; i <= n; ++i) {
    for (std::size_t j = 0; j <= m; ++j) {
      if (i == 0 || j == 0)
        at(i, j) = i + j;
      else
        at(i, j) = std::min(
            {at(i - 1, j - 1) + (truth[i - 1] != read[j - 1]), at(i - 1, j) + 1, at(i, j - 1) + 1});
    }
  }
  Differences d{at(n, m), std::vector<bool>(m + 1)};
  for (std::size_t i = n, j = m; i > 0 || j > 0;) {
    if (i > 0 && j > 0 && at(i, j) == at(i - 1, j - 1) + (truth[i - 1] != read[j - 1])) {
      if (truth[i - 1] != read[j - 1]) d.marked[j - 1] = true;
      --i, --j;
    } else if (j > 0 && at(i, j) == at(i, j - 1) + 1) {
      d.marked[--j] = true;
    } else {
      d.marked[j] = true;
      --i;
    }
  }
  return d;
}

}  // namespace program
