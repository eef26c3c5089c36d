// The chunks of a PNG file, checked by Pillow's rules and passed on to libpng, which is stricter
// than Pillow: it is given only the chunks that matter for pixels and orientation, and a valid end
// where the file's own is damaged.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// One chunk in the file: `whole` with length, type and checksum.
struct PngChunk {
  std::string_view type;
  std::span<const std::uint8_t> whole;
  std::span<const std::uint8_t> data;
  bool complete = true;  ///< false: the file ends in it, and data is what there is

  std::string_view text() const {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
  }
};

/// The checksum of PNG's chunks (PNG specification, 5.5).
inline std::uint32_t png_crc(std::span<const std::uint8_t> bytes) {
  static constexpr auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t n = 0; n < 256; ++n) {
      std::uint32_t c = n;
      for (int k = 0; k < 8; ++k) c = c & 1u ? 0xedb88320u ^ (c >> 1) : c >> 1;
      table[n] = c;
    }
    return table;
  }();
  std::uint32_t c = 0xffffffffu;
  for (const std::uint8_t b : bytes) c = kTable[(c ^ b) & 255u] ^ (c >> 8);
  return ~c;
}

inline std::uint32_t png_u32(const std::uint8_t* b) {
  return std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | b[3];
}

/// The parts of one PNG file. They refer to the file's bytes.
class PngChunks {
 public:
  /// Throws casa::error if the file is cut or broken before its pixels end, or, where damaged files
  /// are refused, anywhere.
  PngChunks(std::span<const std::uint8_t> file, Damaged damaged, std::string_view name)
      : file_(file), name_(name) {
    PngChunk chunk;
    for (;;) {  // what comes before the pixels must be sound
      require(file_.size() - at_ >= 8, name_, ": PNG: the file is cut before its pixels");
      require(next(chunk), name_, ": PNG: broken chunk ", quoted(type_at(at_)));
      if (chunk.type == "IDAT") break;
      require(chunk.complete, name_, ": PNG: the file is cut in its chunk ", chunk.type);
      const bool optional = chunk.type[0] >= 'a' && damaged == Damaged::filled;
      require(optional || sound(chunk), name_, ": PNG: wrong checksum of chunk ", chunk.type,
              chunk.type[0] >= 'a' ? "; Damaged::filled takes it" : "");
      keep(chunk);
    }
    pixels_begin_ = at_ - chunk.whole.size();
    for (bool more = true; more && chunk.type == "IDAT"; more = next(chunk)) {
      if (damaged == Damaged::refused)
        require(chunk.complete && sound(chunk), name_, ": PNG: chunk IDAT is ",
                chunk.complete ? "damaged: wrong checksum" : "cut");
      if (chunk.complete) pixels_end_ = at_;
      if (!chunk.complete) cut_pixels_ = chunk.data;
    }
    if (pixels_end_ < pixels_begin_) pixels_end_ = pixels_begin_;
    for (at_ = pixels_end_; next(chunk) && chunk.type != "IEND";) {
      if (damaged == Damaged::refused)
        require(chunk.complete && sound(chunk), name_, ": PNG: chunk ", chunk.type, " is ",
                chunk.complete ? "damaged: wrong checksum" : "cut");
      if (chunk.complete) keep(chunk);
    }
    if (damaged == Damaged::refused)
      require(chunk.type == "IEND" && chunk.complete && sound(chunk), name_,
              ": PNG: the file has no sound end (IEND); Damaged::pillow takes it");
  }

  /// A file for libpng, in pieces that follow each other, ends with IEND always. Refers to this.
  std::vector<std::span<const std::uint8_t>> stream() const {
    std::vector<std::span<const std::uint8_t>> pieces = {file_.first(8)};
    for (const PngChunk* chunk : {&header_, &palette_, &transparency_, &profile_, &xmp_})
      if (!chunk->whole.empty()) pieces.push_back(chunk->whole);
    pieces.push_back(file_.subspan(pixels_begin_, pixels_end_ - pixels_begin_));
    if (!cut_pixels_.empty()) {
      const auto size = static_cast<std::uint32_t>(cut_pixels_.size());
      for (int i = 0; i < 4; ++i)
        cut_head_[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(size >> (24 - 8 * i));
      for (const auto piece : {std::span<const std::uint8_t>(cut_head_), cut_pixels_,
                               std::span<const std::uint8_t>(kNoChecksum)})
        pieces.push_back(piece);
    }
    pieces.push_back(kEnd);
    return pieces;
  }
  /// The Exif block: of the last chunk eXIf, or of a text called "exif". `has_exif` is false where
  /// there is none.
  std::span<const std::uint8_t> exif() const { return exif_; }
  bool has_exif() const { return has_exif_; }

 private:
  static constexpr std::array<std::uint8_t, 12> kEnd = {0,   0,   0,    0,    'I',  'E',
                                                        'N', 'D', 0xae, 0x42, 0x60, 0x82};
  static constexpr std::array<std::uint8_t, 4> kNoChecksum = {};

  std::string_view type_at(std::size_t at) const {
    return {reinterpret_cast<const char*>(file_.data()) + at + 4, 4};
  }
  /// The chunk that begins here; false if none does.
  bool next(PngChunk& chunk) {
    if (file_.size() - at_ < 8) return false;
    const std::string_view type = type_at(at_);
    for (const char c : type)
      if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'))
        return false;
    const std::size_t length = png_u32(file_.data() + at_);
    const std::size_t there = file_.size() - at_ - 8;
    chunk.type = type;
    chunk.complete = length <= there && there - length >= 4;
    chunk.data = file_.subspan(at_ + 8, (std::min)(length, there));
    chunk.whole = file_.subspan(at_, chunk.complete ? length + 12 : file_.size() - at_);
    at_ += chunk.whole.size();
    return true;
  }
  static bool sound(const PngChunk& chunk) {
    return png_crc(chunk.whole.subspan(4, chunk.whole.size() - 8)) ==
           png_u32(chunk.whole.last(4).data());
  }
  /// Of each kind the last counts.
  void keep(const PngChunk& chunk) {
    if (pixels_begin_ == 0) {
      if (chunk.type == "IHDR") header_ = chunk;
      if (chunk.type == "PLTE") palette_ = chunk;
      if (chunk.type == "tRNS") transparency_ = chunk;
    }
    if (chunk.type == "eXIf") set_exif(chunk.data);
    if (chunk.type != "tEXt" && chunk.type != "zTXt" && chunk.type != "iTXt") return;
    const std::string_view text = chunk.text();
    const std::string_view key = text.substr(0, text.find('\0'));
    if (key == "exif" && chunk.type == "tEXt")
      set_exif(chunk.data.subspan((std::min)(key.size() + 1, chunk.data.size())));
    if (key == "Raw profile type exif") profile_ = chunk;
    if (key == "XML:com.adobe.xmp") xmp_ = chunk;
  }
  void set_exif(std::span<const std::uint8_t> bytes) {
    exif_ = bytes;
    has_exif_ = true;
  }

  std::span<const std::uint8_t> file_;
  std::string_view name_;
  std::size_t at_ = 8;  // of the next chunk
  std::size_t pixels_begin_ = 0;
  std::size_t pixels_end_ = 0;
  std::span<const std::uint8_t> cut_pixels_;  // of an IDAT in which the file ends
  mutable std::array<std::uint8_t, 8> cut_head_ = {0, 0, 0, 0, 'I', 'D', 'A', 'T'};
  PngChunk header_, palette_, transparency_, profile_, xmp_;
  std::span<const std::uint8_t> exif_;
  bool has_exif_ = false;
};

}  // namespace detail

}  // namespace io
CASA_NAMESPACE_END
