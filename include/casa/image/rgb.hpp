// What a picture is here: RGB, 8 bits, rows without gaps; how it becomes grey; and the limits that
// every decoder keeps.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"
#include "casa/files/limits.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Height and width in pixels.
struct ImageSize {
  Index height = 0;  ///< rows
  Index width = 0;   ///< columns
  friend bool operator==(ImageSize, ImageSize) = default;
};

/// RGB pixels in somebody else's memory: pixel (y, x) is the 3 bytes at data + y * stride + 3 * x.
struct ImageView {
  const std::uint8_t* data = nullptr;  ///< the first pixel of the top row
  Index height = 0;                    ///< rows
  Index width = 0;                     ///< columns
  Index stride = 0;                    ///< bytes from row to row, at least 3 * width

  /// The first pixel of row y, which is not checked.
  const std::uint8_t* row(Index y) const { return data + y * stride; }
};

/// An RGB image (height, width, 3), 8 bits a channel, row by row from the top, no gaps.
/// Fresh pixels are not initialised.
class Image {
 public:
  Image() = default;
  /// Throws casa::error for a negative size or one whose bytes overflow.
  Image(Index height, Index width)
      : height_(height),
        width_(width),
        pixels_(checked_mul(checked_mul(height, width, "Image"), 3, "Image")) {}

  /// Rows.
  Index height() const { return height_; }
  /// Columns.
  Index width() const { return width_; }
  /// Bytes: 3 * height * width.
  Index size() const { return pixels_.size(); }
  /// The bytes, first pixel first.
  std::uint8_t* data() { return pixels_.data(); }
  /// The bytes, first pixel first.
  const std::uint8_t* data() const { return pixels_.data(); }
  /// The first byte of row y, which is not checked.
  std::uint8_t* row(Index y) { return data() + y * 3 * width_; }
  /// The first byte of row y, which is not checked.
  const std::uint8_t* row(Index y) const { return data() + y * 3 * width_; }
  /// The whole image; valid as long as it is not moved from.
  ImageView view() const { return {data(), height_, width_, 3 * width_}; }
  /// The same as view().
  operator ImageView() const { return view(); }

 private:
  Index height_ = 0;
  Index width_ = 0;
  Buffer<std::uint8_t> pixels_;
};

/// The grey of a pixel (3 bytes), by Pillow's weights of red, green and blue ("L"), in 2^-16. A
/// pixel that is grey already stays as it is.
inline std::uint8_t luma(const std::uint8_t* rgb) {
  return static_cast<std::uint8_t>((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >>
                                   16);
}

/// What becomes of transparency: composited on white (transformers from 5.23 on) or ignored
/// (before).
enum class Alpha { white, dropped };

/// Which way round the pixels come: as the picture is to be shown (what Exif or XMP say is applied,
/// as by Pillow's exif_transpose, which transformers calls), or as the file stores them.
enum class Orientation { upright, stored };

/// What becomes of a file whose pixels are not all there.
enum class Damaged {
  refused,  ///< every fault of the pixels' data is an error: lost marks, bad checksums, no end
  pillow,   ///< taken where Pillow takes it, with Pillow's pixels; a cut before the last row is not
  filled    ///< cut files too: what they lack is grey in JPEG, zero in PNG (LOAD_TRUNCATED_IMAGES)
};

/// How image files are decoded.
struct DecodeOptions {
  Alpha alpha = Alpha::white;                      ///< what becomes of transparency
  Orientation orientation = Orientation::upright;  ///< which way round the pixels come
  Damaged damaged = Damaged::pillow;               ///< what becomes of damaged files
  int jpeg_scans = 500;  ///< the most scans of a progressive JPEG; each walks over the whole image
  /// Told, with the file's name, when a damaged file is taken and pixels may be wrong.
  std::function<void(const std::string&)> warn = {};
  LoadLimits limits = {};  ///< image_bytes, image_side, image_pixels (of the stored image)
};

namespace detail {

/// Sides and pixels, known from a header, before any memory is taken for them.
inline void check_image_size(std::string_view name, Index height, Index width,
                             const LoadLimits& limits) {
  require(height > 0 && width > 0, name, ": an image of ", width, " x ", height, " has no pixels");
  require(height <= limits.image_side && width <= limits.image_side, name, ": an image of ", width,
          " x ", height, " is larger than ", limits.image_side, " a side");
  require(width <= limits.image_pixels / height, name, ": an image of ", width, " x ", height,
          " has more than ", limits.image_pixels, " pixels");
}

/// One channel of opacity `alpha` on white: (v alpha + 255 (255 - alpha)) / 255 to nearest.
inline std::uint8_t on_white(unsigned v, unsigned alpha) {
  return static_cast<std::uint8_t>((v * alpha + 255u * (255u - alpha) + 127u) / 255u);
}

/// `width` pixels of RGBA to RGB.
inline void drop_alpha(const std::uint8_t* rgba, Index width, Alpha alpha, std::uint8_t* rgb) {
  for (Index x = 0; x < width; ++x, rgba += 4, rgb += 3)
    for (int c = 0; c < 3; ++c)
      rgb[c] = alpha == Alpha::white ? on_white(rgba[c], rgba[3]) : rgba[c];
}

}  // namespace detail

}  // namespace io
CASA_NAMESPACE_END
