// Image files: JPEG, PNG, PPM and PGM, told apart by their first bytes. Link with libjpeg and
// libpng.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "casa/files/file.hpp"
#include "casa/image/jpeg.hpp"
#include "casa/image/png.hpp"
#include "casa/image/ppm.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// An image file in memory, decoded to RGB of 8 bits, upright unless `options` ask for the stored
/// pixels. `name` stands for it in messages. Throws casa::error if its format is not known, if it
/// is beyond the limits, or if it is cut or damaged where Pillow refuses it (`options.damaged`).
inline Image decode_image(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                          std::string_view name = "image") {
  require(!bytes.empty(), name, ": an empty file is not an image");
  require(static_cast<Index>(bytes.size()) <= options.limits.image_bytes, name, ": ", bytes.size(),
          " bytes are more than the limit of ", options.limits.image_bytes);
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()),
                               (std::min)(bytes.size(), std::size_t{8}));
  if (begin.starts_with("\xff\xd8\xff")) return decode_jpeg(bytes, options, name);
  if (begin.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(bytes, options, name);
  if (begin.starts_with("P5") || begin.starts_with("P6")) return decode_ppm(bytes, options, name);
  fail(name, ": not a JPEG, PNG, PPM (P6) or PGM (P5) image: it begins with ", quoted(begin));
}

/// The image file at `path`. Throws casa::error as decode_image, and as read_file.
inline Image read_image(const std::string& path, const DecodeOptions& options = {}) {
  const Bytes bytes = read_file(
      path, {.max_bytes = options.limits.image_bytes, .follow_links = options.limits.follow_links});
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.span().data());
  return decode_image({data, bytes.size()}, options, path);
}

}  // namespace io
CASA_NAMESPACE_END
