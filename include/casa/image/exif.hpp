// The orientation that a camera wrote into Exif or XMP, read as Pillow reads it (ImageOps.
// exif_transpose), from bytes that may hold anything.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// The TIFF directory inside an Exif block: numbers of either byte order, each read checked.
class TiffReader {
 public:
  explicit TiffReader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  /// Does it begin as TIFF does? Then the byte order is known.
  bool read_header() {
    if (bytes_.size() < 8) return false;
    const std::string_view mark(reinterpret_cast<const char*>(bytes_.data()), 4);
    const auto is = [&](const char(&other)[5]) { return mark == std::string_view(other, 4); };
    // Some writers swap the two bytes of the version; Pillow takes them, and 43 in big endian too.
    // NOLINTBEGIN(bugprone-string-literal-with-embedded-nul): is() takes all four bytes
    little_ = is("II\x2a\0") || is("II\0\x2a");
    return little_ || is("MM\0\x2a") || is("MM\x2a\0") || is("MM\0\x2b");
    // NOLINTEND(bugprone-string-literal-with-embedded-nul)
  }
  /// The unsigned number of `size` bytes at `at`; nothing if it does not lie inside.
  std::optional<std::uint64_t> number(std::uint64_t at, std::uint64_t size) const {
    if (!holds(at, size)) return {};
    std::uint64_t value = 0;
    for (std::uint64_t i = 0; i < size; ++i)
      value = value << 8 | bytes_[static_cast<std::size_t>(at + (little_ ? size - 1 - i : i))];
    return value;
  }
  bool holds(std::uint64_t at, std::uint64_t size) const {
    return at <= bytes_.size() && size <= bytes_.size() - at;
  }
  std::uint64_t size() const { return bytes_.size(); }

 private:
  std::span<const std::uint8_t> bytes_;
  bool little_ = false;
};

/// Bytes of one value of a TIFF type; 0 for a type that TIFF does not know.
inline std::uint64_t tiff_type_size(std::uint64_t type) {
  constexpr std::uint8_t kSizes[17] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};
  return type < 17 ? kSizes[type] : 0;
}

/// The first value at `at` if it is a whole number of 1 to 8 in any of TIFF's numeric types, else 1
/// (which is upright).
inline int tiff_orientation(const TiffReader& tiff, std::uint64_t type, std::uint64_t at) {
  const std::uint64_t size = tiff_type_size(type);
  const auto whole = [](auto value) {
    for (int o = 1; o <= 8; ++o)
      if (value == static_cast<decltype(value)>(o)) return o;
    return 1;
  };
  switch (type) {
    case 3:  // integers; a negative one read as unsigned is not 1 to 8 either
    case 4:
    case 6:
    case 8:
    case 9:
    case 13:
    case 16:
      return whole(tiff.number(at, size).value_or(1));
    case 5:
    case 10: {  // a fraction
      auto n = static_cast<std::int64_t>(tiff.number(at, 4).value_or(1));
      auto d = static_cast<std::int64_t>(tiff.number(at + 4, 4).value_or(1));
      if (type == 10) {
        n = static_cast<std::int32_t>(n);
        d = static_cast<std::int32_t>(d);
      }
      return d != 0 && n % d == 0 ? whole(n / d) : 1;
    }
    case 11: {
      const auto bits = static_cast<std::uint32_t>(tiff.number(at, 4).value_or(0));
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return whole(value);
    }
    case 12: {
      const std::uint64_t bits = tiff.number(at, 8).value_or(0);
      double value;
      std::memcpy(&value, &bits, sizeof value);
      return whole(value);
    }
    default:
      return 1;  // text and plain bytes
  }
}

/// The orientation in an Exif block, with or without its "Exif" mark: 1 to 8; 1 if the tag holds
/// another value or the block is not Exif; nullopt if there is no tag. What is damaged ends the
/// search, as in Pillow: entries after a value that lies outside the block are not seen.
inline std::optional<int> exif_orientation(std::span<const std::uint8_t> exif) {
  constexpr std::string_view kMark("Exif\0\0", 6);
  for (int repeat = 0; repeat < 2; ++repeat)
    if (exif.size() >= 6 && std::memcmp(exif.data(), kMark.data(), 6) == 0) exif = exif.subspan(6);
  TiffReader tiff(exif);
  if (exif.empty()) return {};
  if (!tiff.read_header()) return 1;
  const std::uint64_t directory = *tiff.number(4, 4);
  const std::uint64_t entries = tiff.number(directory, 2).value_or(0);
  std::uint64_t far_bytes = 0;  // of values that lie outside their entry
  for (std::uint64_t i = 0; i < entries; ++i) {
    const std::uint64_t entry = directory + 2 + 12 * i;
    if (!tiff.holds(entry, 12)) return {};
    const std::uint64_t tag = *tiff.number(entry, 2);
    const std::uint64_t type = *tiff.number(entry + 2, 2);
    const std::uint64_t size = *tiff.number(entry + 4, 4) * tiff_type_size(type);
    std::uint64_t at = entry + 8;
    if (size > 4) {
      far_bytes += size;
      if (far_bytes > tiff.size()) continue;
      at = *tiff.number(at, 4);
      if (!tiff.holds(at, size)) return {};
    }
    constexpr std::uint64_t kOrientation = 274;
    if (tag == kOrientation && size > 0) return tiff_orientation(tiff, type, at);
  }
  return {};
}

/// The first tiff:Orientation of an XMP text, as attribute or element: its digit if 1 to 8, else 1.
inline int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view kTag = "tiff:Orientation";
  for (std::size_t at = xmp.find(kTag); at != xmp.npos; at = xmp.find(kTag, at + 1)) {
    std::string_view rest = xmp.substr(at + kTag.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (rest.empty() || rest[0] < '0' || rest[0] > '9') continue;
    return rest[0] >= '1' && rest[0] <= '8' ? rest[0] - '0' : 1;
  }
  return 1;
}

/// The bytes of a PNG text "Raw profile type exif": hexadecimal digits after three line ends.
/// Empty if the text is anything else.
inline std::vector<std::uint8_t> raw_profile_bytes(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const std::size_t end = text.find('\n');
    if (end == text.npos) return {};
    text.remove_prefix(end + 1);
  }
  std::vector<std::uint8_t> bytes;
  int high = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) {
      const bool space = c == '\n' || (high < 0 && (c == ' ' || (c >= '\t' && c <= '\r')));
      if (!space) return {};
    } else if (high < 0) {
      high = digit;
    } else {
      bytes.push_back(static_cast<std::uint8_t>(high << 4 | digit));
      high = -1;
    }
  }
  if (high >= 0) bytes.clear();
  return bytes;
}

}  // namespace detail

}  // namespace io
CASA_NAMESPACE_END
