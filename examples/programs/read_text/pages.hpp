// A picture of any size, read by one model: cut into tiles where it is larger than the frame, one
// window a tile, the texts put together.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "read_text/grid.hpp"
#include "read_text/vocabulary.hpp"

namespace read_text {

/// How a picture comes into frames.
struct PageOptions {
  /// auto: none if it fits, else lines, else (no line found) grid.
  std::string tiles = "auto";
  /// Pixels that small letters are made, in tiles; 0: 9 for lines and 10 for a grid, at which the
  /// small models read most of pages that are not among the test data.
  double x_height = 0;
  /// After so many tiles the model begins anew: the small models were trained on streams of four.
  Index tiles_per_stream = 4;
};

/// A picture as frames, in reading order.
struct Frames {
  std::vector<Grey> pixels;
  Page page;         ///< if it was cut into pieces of lines
  Grid grid;         ///< if it was cut into squares
  std::string done;  ///< for people

  /// The text of the picture from those of its frames.
  std::string text(const std::vector<std::string>& texts) const {
    if (!page.tiles.empty()) return assembled(page, texts);
    if (!grid.squares.empty()) return assembled(grid, texts);
    return texts.empty() ? "" : texts.front();
  }
};

/// Cuts a picture for a model that reads side x side pixels.
inline Frames frames_of(GreyView grey, Index side, const PageOptions& options) {
  Frames f;
  const auto cut = [&](double usual) {
    return CutOptions{.side = side, .x_height = options.x_height > 0 ? options.x_height : usual};
  };
  const bool fits = grey.rows() <= side && grey.cols() <= side;
  const bool by_itself = options.tiles == "auto";
  if (options.tiles == "none" || (by_itself && fits)) {
    Framed whole = in_frame(grey, side);
    f.done = whole.done;
    f.pixels.push_back(std::move(whole.pixels));
    return f;
  }
  if (options.tiles == "lines" || by_itself) {
    f.page = cut_into_lines(grey, cut(9));
    for (const Tile& tile : f.page.tiles) {
      const Grey part = cropped(f.page.pixels, tile.box);
      f.pixels.push_back(framed(part, side, background(part)));
    }
    f.done = casa::text("made ", f.page.pixels.cols(), " x ", f.page.pixels.rows(), ", cut into ",
                        f.pixels.size(), " pieces of lines");
  }
  if (options.tiles == "grid" || (by_itself && f.pixels.empty())) {
    f.grid = cut_into_grid(grey, cut(10));
    for (const Square& square : f.grid.squares)
      f.pixels.push_back(framed(square.pixels, side, background(square.pixels)));
    f.done = casa::text("made ", f.grid.width, " x ", f.grid.height, ", cut into ", f.pixels.size(),
                        " squares with text");
  }
  return f;
}

/// What a model read on a picture.
struct PageText {
  std::string text;
  program::Reading reading;
};

/// Reads the frames of a picture in their order.
inline PageText read_frames(const TextReader& model, const Frames& frames,
                            const PageOptions& options, const casa::Context& context) {
  const Index side = model.reader.side(), count = static_cast<Index>(frames.pixels.size());
  program::Streams streams;
  streams.height = streams.width = side;
  streams.images = casa::Matrix<std::uint8_t>(count, side * side);
  for (Index i = 0; i < count; ++i) {
    const Grey& frame = frames.pixels[static_cast<std::size_t>(i)];
    std::copy_n(frame.data(), frame.size(), streams.images.row(i));
    if (i % options.tiles_per_stream == 0) streams.begin.push_back(i);
  }
  streams.begin.push_back(count);
  PageText result{"", program::read(model.reader, streams, context)};
  result.text = frames.text(model.texts(result.reading));
  return result;
}

}  // namespace read_text
