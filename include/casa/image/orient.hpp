// Turning an image the way it is to be shown: the eight orientations of Exif.
#pragma once

#include <algorithm>
#include <cstring>

#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The pixels of `image`, stored in Exif orientation `orientation`, upright: 1 as it is, 2 mirrored
/// left to right, 3 turned by 180 degrees, 4 mirrored top to bottom, 5 transposed, 6 turned right
/// by 90 degrees, 7 transposed along the other diagonal, 8 turned left by 90 degrees. From 5 on
/// height and width change places. Throws casa::error on another number.
inline Image to_upright(Image image, int orientation) {
  require(orientation >= 1 && orientation <= 8, "to_upright: an orientation is 1 to 8, got ",
          orientation);
  if (orientation == 1) return image;
  const bool swapped = orientation >= 5;
  const Index height = swapped ? image.width() : image.height();
  const Index width = swapped ? image.height() : image.width();
  // Pixel (y, x) of the result is at first + y down + x right in the stored rows.
  const Index line = 3 * image.width();
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const Index by_row = from_bottom ? -line : line;
  const Index by_column = from_right ? Index{-3} : Index{3};
  const Index down = swapped ? by_column : by_row;
  const Index right = swapped ? by_row : by_column;
  const std::uint8_t* first =
      image.data() + (from_bottom ? line * (image.height() - 1) : 0) + (from_right ? line - 3 : 0);

  Image out(height, width);
  // Copied in squares: for turned images either reads or writes go down a column, and a square of
  // 32 x 32 pixels (3 KiB each way) stays in the first-level cache.
  constexpr Index kTile = 32;
  for (Index y0 = 0; y0 < height; y0 += kTile)
    for (Index x0 = 0; x0 < width; x0 += kTile)
      for (Index y = y0; y < (std::min)(height, y0 + kTile); ++y) {
        std::uint8_t* to = out.row(y) + 3 * x0;
        for (Index x = x0; x < (std::min)(width, x0 + kTile); ++x, to += 3)
          std::memcpy(to, first + y * down + x * right, 3);
      }
  return out;
}

}  // namespace io
CASA_NAMESPACE_END
