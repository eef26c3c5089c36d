// A page as tiles that fit a model's frame, in reading order: the pieces of its lines.
#pragma once

#include <algorithm>
#include <vector>

#include "read_text/lines.hpp"

namespace read_text {

/// How the text of a tile follows on that of the tile before it.
enum class Joint {
  line,       ///< begins a line
  paragraph,  ///< begins a line after an empty one
  word,       ///< goes on after a gap between words
  letter,     ///< goes on inside a word
  overlap     ///< goes on, and shows the last letters of the tile before once more
};

/// A part of a page.
struct Tile {
  Box box;
  Joint joint = Joint::line;
};

/// A page at the size that a model reads, cut into tiles.
struct Page {
  Grey pixels;       ///< the page, resized
  double scale = 1;  ///< pixels of it for one of the picture's
  std::vector<Tile> tiles;
};

/// How a page is cut.
struct CutOptions {
  Index side = 128;     ///< of the model's frame
  Index margin = 4;     ///< paper around a piece in its frame
  double x_height = 9;  ///< what small letters are made, in pixels
};

/// The height of a page's small letters; 0 where no ink is found.
inline Index letter_height(GreyView mask) {
  std::vector<Index> heights;
  for (const Line& line : find_lines(mask)) heights.push_back(line.x_height);
  return heights.empty() ? 0 : median(heights);
}

namespace detail {

inline Page scaled_page(GreyView grey, double x_height) {
  Page page;
  const Index height = letter_height(ink(grey));
  // No text is taken for letters of less than 3 or more than 400 pixels.
  page.scale = height < 3 ? 1 : std::clamp(x_height / static_cast<double>(height), 0.025, 4.0);
  const auto size = [&](Index n) {
    return (std::max)(Index{1}, static_cast<Index>(static_cast<double>(n) * page.scale + 0.5));
  };
  page.pixels = resized(grey, size(grey.rows()), size(grey.cols()));
  return page;
}

// Columns of a line that hold ink, with the gaps between them.
inline std::vector<Span> inked_columns(GreyView mask, const Box& box) {
  std::vector<Index> profile(static_cast<std::size_t>(mask.cols()));
  for (Index y = box.top; y < box.bottom; ++y)
    for (Index x = box.left; x < box.right; ++x) profile[static_cast<std::size_t>(x)] += mask(y, x);
  return spans_above(profile, 0);
}

// Gaps wider than this lie between words: gaps of up to two x-heights fall into two classes.
inline Index word_gap(const std::vector<std::vector<Span>>& lines, Index x_height) {
  std::vector<Index> count(static_cast<std::size_t>(2 * x_height + 1));
  for (const auto& spans : lines)
    for (std::size_t i = 1; i < spans.size(); ++i)
      if (const Index gap = spans[i].first - spans[i - 1].last; gap <= 2 * x_height)
        ++count[static_cast<std::size_t>(gap)];
  return (std::max)(static_cast<Index>(otsu_threshold(count)), (x_height + 3) / 4);
}

// One line as pieces of at most `most` columns. A piece ends at the last gap between words that it
// reaches; inside a word that is too long at its widest gap between letters, not before the middle;
// and where there is none it is cut through, and the next piece begins `overlap` columns earlier.
inline void cut_line(const std::vector<Span>& spans, Box box, Index most, Index gap, Index overlap,
                     Joint begins, std::vector<Tile>& tiles) {
  Index first = spans.front().first;
  Joint joint = begins;
  const auto add = [&](Index last) {
    tiles.push_back({{box.top, first, box.bottom, last}, joint});
  };
  for (std::size_t i = 0; i < spans.size();) {
    // Spans i .. next - 1 lie whole in the piece that begins at `first`.
    std::size_t next = i, word = 0, letter = 0;
    Index widest = 0;
    for (; next < spans.size() && spans[next].last - first <= most; ++next) {
      if (next == i) continue;
      const Index space = spans[next].first - spans[next - 1].last;
      if (space > gap) word = next;
      if (space >= widest && 2 * (spans[next - 1].last - first) >= most)
        letter = next, widest = space;
    }
    if (next == spans.size()) {
      add(spans.back().last);
      return;
    }
    if (next > i) {  // so may the gap after the last span that fits
      const Index space = spans[next].first - spans[next - 1].last;
      if (space > gap) word = next;
      if (space >= widest && 2 * (spans[next - 1].last - first) >= most) letter = next;
    }
    const std::size_t cut = word ? word : letter;
    if (cut) {
      add(spans[cut - 1].last);
      i = cut;
      first = spans[cut].first;
      joint = word ? Joint::word : Joint::letter;
    } else {
      add(first + most);
      first += most - overlap;
      joint = Joint::overlap;
      while (spans[i].last <= first) ++i;
    }
  }
}

}  // namespace detail

/// The page as pieces of its lines, from left to right and from top to bottom, none wider or higher
/// than the frame. No tiles where no ink is found.
inline Page cut_into_lines(GreyView grey, const CutOptions& options = {}) {
  Page page = detail::scaled_page(grey, options.x_height);
  const Grey mask = ink(page.pixels);
  const std::vector<Line> lines = find_lines(mask);
  if (lines.empty()) return page;
  std::vector<std::vector<Span>> spans;
  std::vector<Index> x_heights, pitches;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    spans.push_back(detail::inked_columns(mask, lines[i].box));
    x_heights.push_back(lines[i].x_height);
    if (i > 0) pitches.push_back(lines[i].box.bottom - lines[i - 1].box.bottom);
  }
  const Index x_height = median(x_heights), gap = detail::word_gap(spans, x_height);
  const Index pitch = pitches.empty() ? 0 : median(pitches);
  const Index room = options.side - 2 * options.margin;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    Box box = lines[i].box;
    const bool far = i > 0 && 2 * (box.bottom - lines[i - 1].box.bottom) > 3 * pitch;
    // The edges of letters, too pale to be ink, belong to them: two rows, if the neighbours are
    // farther.
    const Index above = i > 0 ? lines[i - 1].box.bottom : -2;
    const Index below = i + 1 < lines.size() ? lines[i + 1].box.top : mask.rows() + 2;
    box.top = (std::max)(box.top - (std::min)(Index{2}, (box.top - above) / 2), Index{0});
    box.bottom =
        (std::min)(box.bottom + (std::min)(Index{2}, (below - box.bottom) / 2), mask.rows());
    // A span of rows higher than a frame is a picture or a rule, and is cut like a grid would.
    for (bool first = true; box.top < box.bottom; first = false) {
      const Box part{box.top, box.left, (std::min)(box.bottom, box.top + options.side), box.right};
      const auto columns = detail::inked_columns(mask, part);
      if (!columns.empty())
        detail::cut_line(columns, part, room, gap, (std::min)(2 * x_height, room / 2),
                         first && far ? Joint::paragraph : Joint::line, page.tiles);
      box.top = part.bottom;
    }
  }
  // One column of pale edges on each side, where the frame has room for them anyway.
  for (Tile& tile : page.tiles) {
    tile.box.left = (std::max)(tile.box.left - 1, Index{0});
    tile.box.right = (std::min)(tile.box.right + 1, mask.cols());
  }
  return page;
}

}  // namespace read_text
