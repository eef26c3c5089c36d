// Grey pictures: from image files, and into the square frame that a model reads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "casa/core/memory.hpp"
#include "casa/image/resize.hpp"
#include "casa/image/rgb.hpp"

namespace read_text {

using casa::Index;
/// A grey picture: (height x width) pixels, 0 black.
using Grey = casa::Matrix<std::uint8_t>;
using GreyView = casa::MatrixView<const std::uint8_t>;

/// Grey of an RGB picture, with Pillow's weights of the three colours.
inline Grey to_grey(casa::io::ImageView image) {
  Grey grey(image.height, image.width);
  for (Index y = 0; y < image.height; ++y)
    for (Index x = 0; x < image.width; ++x) grey(y, x) = casa::io::luma(image.row(y) + 3 * x);
  return grey;
}

/// The picture at height x width, by an antialiasing bicubic filter.
inline Grey resized(GreyView grey, Index height, Index width) {
  casa::io::Image rgb(grey.rows(), grey.cols());
  for (Index y = 0; y < grey.rows(); ++y)
    for (Index x = 0; x < grey.cols(); ++x) std::fill_n(rgb.row(y) + 3 * x, 3, grey(y, x));
  return to_grey(casa::io::resize_bicubic(rgb, height, width));
}

/// The median of a picture's pixels: its background, as letters cover less than half of it.
inline std::uint8_t background(GreyView grey) {
  std::vector<Index> count(256);
  for (Index y = 0; y < grey.rows(); ++y)
    for (Index x = 0; x < grey.cols(); ++x) ++count[grey(y, x)];
  Index below = 0;
  for (std::size_t level = 0; level < 256; ++level)
    if (2 * (below += count[level]) >= grey.rows() * grey.cols())
      return static_cast<std::uint8_t>(level);
  return 255;
}

/// Part of a picture: rows top .. bottom - 1, columns left .. right - 1.
struct Box {
  Index top = 0, left = 0, bottom = 0, right = 0;
  Index height() const { return bottom - top; }
  Index width() const { return right - left; }
  friend bool operator==(const Box&, const Box&) = default;
};

/// The part of a picture that `box` marks, as a picture of its own. The box must lie inside.
inline Grey cropped(GreyView grey, const Box& box) {
  Grey part(box.height(), box.width());
  for (Index y = 0; y < part.rows(); ++y)
    std::copy_n(grey.row(box.top + y) + box.left, part.cols(), part.row(y));
  return part;
}

/// A picture in the middle of a square of side x side pixels, around it `level`. It must fit.
inline Grey framed(GreyView grey, Index side, std::uint8_t level) {
  Grey frame(side, side);
  std::fill_n(frame.data(), frame.size(), level);
  const Index top = (side - grey.rows()) / 2, left = (side - grey.cols()) / 2;
  for (Index y = 0; y < grey.rows(); ++y)
    std::copy_n(grey.row(y), grey.cols(), frame.row(top + y) + left);
  return frame;
}

/// A picture as a model reads it, and how it became that.
struct Framed {
  Grey pixels;       ///< (side x side)
  std::string done;  ///< for people; empty if nothing was done
};

/// The whole picture in one frame: made smaller where it does not fit, never larger, in its own
/// proportions, with its background around it.
inline Framed in_frame(GreyView grey, Index side) {
  Index height = grey.rows(), width = grey.cols();
  const Index longest = (std::max)(height, width);
  const std::uint8_t level = background(grey);
  Framed f;
  Grey smaller;
  if (longest > side) {
    height = (std::max)(Index{1}, (height * side + longest / 2) / longest);
    width = (std::max)(Index{1}, (width * side + longest / 2) / longest);
    smaller = resized(grey, height, width);
    f.done = casa::text("made ", width, " x ", height);
    grey = smaller;
  }
  if (height != side || width != side)
    f.done += casa::text(f.done.empty() ? "" : ", ", "padded to ", side, " x ", side, " with grey ",
                         int{level});
  f.pixels = framed(grey, side, level);
  return f;
}

}  // namespace read_text
