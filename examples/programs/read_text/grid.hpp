// A page as a plain grid of overlapping squares, for pages whose lines a projection does not find
// (a slanted photo, say); and the text that was read from the squares, put together by where it
// stood.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "read_text/assemble.hpp"

namespace read_text {

/// A square of a page.
struct Square {
  Index row = 0, column = 0;  ///< in the grid
  Grey pixels;                ///< the page's, without lines and letters that an edge cuts
  std::vector<Span> lines;    ///< the rows of the page in which lines stand whole, from the top
};

/// A page at the size that a model reads, cut into squares, row by row; those without a whole line
/// are left out.
struct Grid {
  Index height = 0, width = 0;  ///< of the resized page
  Index x_height = 0;           ///< of its letters
  std::vector<Square> squares;
};

namespace detail {

// The square at `box` of a page with that ink. What an edge inside the page cuts is painted over:
// it stands whole in a neighbour, as the overlap is wider than letters are.
inline Square square_of(const Page& page, GreyView mask, const Box& box, Index x_height) {
  Square s;
  s.pixels = cropped(page.pixels, box);
  const Grey inked = cropped(mask, box);
  const std::uint8_t level = background(s.pixels);
  const auto paint = [&](Index top, Index left, Index bottom, Index right) {
    for (Index y = (std::max)(top, Index{0}); y < (std::min)(bottom, box.height()); ++y)
      for (Index x = (std::max)(left, Index{0}); x < (std::min)(right, box.width()); ++x)
        s.pixels(y, x) = level;
  };
  for (const Line& line : find_lines(inked)) {
    const bool cut = (line.box.top == 0 && box.top > 0) ||
                     (line.box.bottom == box.height() && box.bottom < mask.rows());
    if (cut) {
      paint(line.box.top - 1, 0, line.box.bottom + 1, box.width());
      continue;
    }
    auto spans = inked_columns(inked, line.box);
    const auto is_letter = [&](Span span) { return span.length() <= 3 * x_height; };
    if (box.left > 0 && spans.front().first == 0 && is_letter(spans.front())) {
      paint(line.box.top, 0, line.box.bottom, spans.front().last + 1);
      spans.erase(spans.begin());
    }
    if (!spans.empty() && box.right < mask.cols() && spans.back().last == box.width() &&
        is_letter(spans.back())) {
      paint(line.box.top, spans.back().first - 1, line.box.bottom, box.width());
      spans.pop_back();
    }
    if (!spans.empty()) s.lines.push_back({box.top + line.box.top, box.top + line.box.bottom});
  }
  return s;
}

}  // namespace detail

/// The page as squares of the frame's size that overlap by a quarter.
inline Grid cut_into_grid(GreyView grey, const CutOptions& options = {}) {
  const Page page = detail::scaled_page(grey, options.x_height);
  const Grey mask = ink(page.pixels);
  Grid grid{page.pixels.rows(), page.pixels.cols(), {}, {}};
  grid.x_height = (std::max)(letter_height(mask), Index{1});
  const Index step = options.side - options.side / 4;
  const auto count = [&](Index n) {
    return n <= options.side ? Index{1} : (n - options.side + step - 1) / step + 1;
  };
  for (Index r = 0; r < count(grid.height); ++r) {
    for (Index c = 0; c < count(grid.width); ++c) {
      // The last of a row or column ends where the page does.
      const Index top = (std::max)(Index{0}, (std::min)(r * step, grid.height - options.side));
      const Index left = (std::max)(Index{0}, (std::min)(c * step, grid.width - options.side));
      Square s = detail::square_of(page, mask,
                                   {top, left, (std::min)(top + options.side, grid.height),
                                    (std::min)(left + options.side, grid.width)},
                                   grid.x_height);
      s.row = r;
      s.column = c;
      if (!s.lines.empty()) grid.squares.push_back(std::move(s));
    }
  }
  return grid;
}

namespace detail {

// A line as it grows from square to square: where it stands in each column of the grid.
struct GridLine {
  std::string text;
  std::map<Index, Index> middle;  // column -> row of the page
  Index row = 0;                  // of the grid
};

inline std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = (std::min)(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix((std::min)(end + 1, text.size()));
  }
  return lines;
}

// The row of the page where line i of n stands that a model read in this square.
inline Index middle_of(const Square& s, std::size_t i, std::size_t n) {
  const std::size_t line = (std::min)(i * s.lines.size() / n, s.lines.size() - 1);
  return (s.lines[line].first + s.lines[line].last) / 2;
}

}  // namespace detail

/// The text of a page from those of its squares: pieces that stand at one height are one line, with
/// what two squares both show once. casa::error if there are not as many texts.
inline std::string assembled(const Grid& grid, const std::vector<std::string>& texts) {
  casa::require_equal("assembled: texts", texts.size(), grid.squares.size());
  std::vector<detail::GridLine> lines;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Square& s = grid.squares[i];
    const auto read = detail::lines_of(texts[i]);
    for (std::size_t k = 0; k < read.size(); ++k) {
      const Index middle = detail::middle_of(s, k, read.size());
      const auto stands_at = [&](const detail::GridLine& line, Index column) {
        const auto found = line.middle.find(column);
        return found != line.middle.end() && std::abs(found->second - middle) <= grid.x_height;
      };
      // Whole in the square above, and so read already?
      const auto above = std::ranges::find_if(
          lines, [&](const auto& line) { return line.row < s.row && stands_at(line, s.column); });
      if (above != lines.end()) continue;
      const auto left = std::ranges::find_if(lines, [&](const auto& line) {
        return line.row == s.row && stands_at(line, s.column - 1);
      });
      if (left == lines.end()) {
        lines.push_back({read[k], {{s.column, middle}}, s.row});
      } else {
        left->text = merged(left->text, read[k]);
        left->middle[s.column] = middle;
      }
    }
  }
  std::ranges::stable_sort(lines, {}, [](const auto& line) { return line.middle.begin()->second; });
  std::string text;
  for (const auto& line : lines) text += (text.empty() ? "" : "\n") + line.text;
  return text;
}

}  // namespace read_text
