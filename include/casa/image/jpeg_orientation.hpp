// Which way up a JPEG file is to be shown: finds Exif and XMP among the segments before its pixels.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "casa/image/exif.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// 1 to 8, as Pillow finds it: several Exif segments are one block in pieces, of several XMP
/// segments the last counts, and XMP only where Exif has no orientation.
inline int jpeg_orientation(std::span<const std::uint8_t> file) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr std::string_view kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  std::span<const std::uint8_t> first_exif;
  std::vector<std::uint8_t> joined;  // only where there is more than one
  std::string_view xmp;
  for (std::size_t at = 2; at + 4 <= file.size();) {
    const std::uint8_t marker = file[at + 1];
    if (file[at] != 0xff || marker == 0xff) {  // padding, or bytes of no segment
      ++at;
      continue;
    }
    at += 2;
    const bool bare = marker < 0xc0 || marker == 0xc8 || (marker >= 0xd0 && marker <= 0xd9) ||
                      (marker >= 0xf0 && marker <= 0xfd);
    if (bare) continue;
    if (marker == 0xda) break;  // pixels
    const std::size_t length = std::size_t{file[at]} << 8 | file[at + 1];
    if (length > file.size() - at) break;
    if (marker == 0xe1 && length >= 2) {
      const auto data = file.subspan(at + 2, length - 2);
      const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
      if (text.starts_with(kXmp)) xmp = text.substr(kXmp.size());
      if (text.starts_with(kExif)) {
        if (first_exif.empty()) {
          first_exif = data;
        } else {
          if (joined.empty()) joined.assign(first_exif.begin(), first_exif.end());
          joined.insert(joined.end(), data.begin() + kExif.size(), data.end());
        }
      }
    }
    at += length < 2 ? 2 : length;
  }
  const auto exif = exif_orientation(joined.empty() ? first_exif : joined);
  return exif ? *exif : xmp_orientation(xmp);
}

}  // namespace detail

}  // namespace io
CASA_NAMESPACE_END
