// Lines of text on a page, by projection: rows that hold ink, and rows between them that do not.
#pragma once

#include <algorithm>
#include <vector>

#include "read_text/ink.hpp"

namespace read_text {

/// Rows or columns first .. last - 1.
struct Span {
  Index first = 0, last = 0;
  Index length() const { return last - first; }
  friend bool operator==(const Span&, const Span&) = default;
};

/// The longest spans of places whose values all exceed `threshold`, in order.
inline std::vector<Span> spans_above(const std::vector<Index>& profile, Index threshold) {
  std::vector<Span> spans;
  bool inside = false;
  for (std::size_t i = 0; i < profile.size(); ++i) {
    const bool now = profile[i] > threshold;
    const auto place = static_cast<Index>(i);
    if (now && !inside) spans.push_back({place, place});
    if (now) spans.back().last = place + 1;
    inside = now;
  }
  return spans;
}

/// A line of text: the box of its ink, and the height of its small letters (from the baseline to
/// the top of an x).
struct Line {
  Box box;
  Index x_height = 0;
};

/// The middle of the values. `values` must not be empty.
inline Index median(std::vector<Index> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

namespace detail {

inline std::vector<Index> row_profile(GreyView mask) {
  std::vector<Index> profile(static_cast<std::size_t>(mask.rows()));
  for (Index y = 0; y < mask.rows(); ++y)
    profile[static_cast<std::size_t>(y)] = std::count(mask.row(y), mask.row(y) + mask.cols(), 1);
  return profile;
}

// Rows from the baseline to the top of small letters hold most ink: those with at least half of the
// mean of the line's rows.
inline Index x_height(const std::vector<Index>& profile, Span rows) {
  Index sum = 0;
  for (Index y = rows.first; y < rows.last; ++y) sum += profile[static_cast<std::size_t>(y)];
  Index first = rows.last, last = rows.first;
  for (Index y = rows.first; y < rows.last; ++y) {
    if (10 * profile[static_cast<std::size_t>(y)] * rows.length() < 9 * sum) continue;
    first = (std::min)(first, y);
    last = (std::max)(last, y + 1);
  }
  return (std::max)(last - first, Index{1});
}

}  // namespace detail

/// The lines of a page from top to bottom, given its ink (as ink() makes it). A line is a span of
/// rows with two pixels of ink or more; a span of less than two fifths of the usual height (dots,
/// accents, an underlining) belongs to a line that is nearer than a third of it. Text in columns
/// makes lines across all of them.
inline std::vector<Line> find_lines(GreyView mask) {
  const std::vector<Index> profile = detail::row_profile(mask);
  std::vector<Span> rows = spans_above(profile, 1);
  if (rows.empty()) return {};
  std::vector<Index> heights;
  for (const Span r : rows) heights.push_back(r.length());
  const Index usual = median(heights);
  for (std::size_t i = 0; i + 1 < rows.size();) {
    const bool small = 5 * (std::min)(rows[i].length(), rows[i + 1].length()) < 2 * usual;
    if (small && 3 * (rows[i + 1].first - rows[i].last) < usual) {
      rows[i].last = rows[i + 1].last;
      rows.erase(rows.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    } else {
      ++i;
    }
  }
  std::vector<Line> lines;
  for (const Span r : rows) {
    Line line{{r.first, mask.cols(), r.last, 0}, detail::x_height(profile, r)};
    for (Index y = r.first; y < r.last; ++y) {
      for (Index x = 0; x < mask.cols(); ++x) {
        if (!mask(y, x)) continue;
        line.box.left = (std::min)(line.box.left, x);
        line.box.right = (std::max)(line.box.right, x + 1);
      }
    }
    lines.push_back(line);
  }
  return lines;
}

}  // namespace read_text
