// PNG through libpng: every colour type and depth, as RGB of 8 bits. Link with libpng.
//
// As for JPEG: libpng's errors jump back into the phase that called it, which holds nothing with a
// destructor.
#pragma once

#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>

#include "casa/io/image_rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// One read of a PNG file that lies in memory.
class PngDecoder {
 public:
  explicit PngDecoder(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  /// Sizes and kind. Text, profiles and the like are passed over unread, gamma is ignored.
  bool read_header() {
    png_ = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, this, [](png_structp png, png_const_charp m) { give_up(png, m); },
        [](png_structp, png_const_charp) {});
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) return note("libpng cannot start");
    if (setjmp(jump_)) return false;
    png_set_read_fn(png_, this, [](png_structp png, png_bytep out, std::size_t count) {
      auto& rest = static_cast<PngDecoder*>(png_get_io_ptr(png))->rest_;
      if (count > rest.size()) give_up(png, "the file is cut");
      std::memcpy(out, rest.data(), count);
      rest = rest.subspan(count);
    });
    png_set_user_limits(png_, PNG_UINT_31_MAX,
                        PNG_UINT_31_MAX);  // the caller checks, before prepare
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
    return true;
  }
  /// Asks for 8 bits (of 16 the high byte), for RGB, and for alpha where the file has it.
  bool prepare() {
    if (setjmp(jump_)) return false;
    png_set_expand(png_);
    png_set_strip_16(png_);
    png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  /// The next row, `channels()` bytes a pixel; in each of `passes()` passes over the image once
  /// more.
  bool read_row(std::uint8_t* out) {
    if (setjmp(jump_)) return false;
    png_read_row(png_, out, nullptr);
    return true;
  }
  /// The rest of the file: checks that it has an end.
  bool finish() {
    if (setjmp(jump_)) return false;
    png_read_end(png_, nullptr);
    return true;
  }

  Index height() const { return static_cast<Index>(png_get_image_height(png_, info_)); }
  Index width() const { return static_cast<Index>(png_get_image_width(png_, info_)); }
  /// After read_header: as stored; after prepare: 3 (RGB) or 4 (RGBA).
  Index channels() const { return static_cast<Index>(png_get_channels(png_, info_)); }
  Index row_bytes() const { return static_cast<Index>(png_get_rowbytes(png_, info_)); }
  int passes() const { return passes_; }
  /// What went wrong, after a function returned false.
  std::string_view message() const { return message_; }

 private:
  [[noreturn]] static void give_up(png_structp png, const char* message) {
    auto& self = *static_cast<PngDecoder*>(png_get_error_ptr(png));
    self.note(message);
    std::longjmp(self.jump_, 1);
  }
  bool note(const char* message) {
    std::snprintf(message_, sizeof message_, "%s", message);
    return false;
  }

  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::span<const std::uint8_t> rest_;
  std::jmp_buf jump_ = {};
  int passes_ = 1;
  char message_[160] = {};
};

}  // namespace detail

/// A PNG file in memory, as RGB: grey is repeated, palettes are looked up, of 16 bits the high byte
/// stays; transparency (alpha or tRNS) as `options.alpha` says. `name` stands for the file in
/// messages. Throws casa::error on anything but a whole, sound file within the limits.
inline Image decode_png(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                        std::string_view name = "image") {
  detail::PngDecoder decoder(bytes);
  const auto check = [&](bool ok) {
    if (!ok) fail(name, ": PNG: ", decoder.message());
  };
  check(decoder.read_header());
  const Index height = decoder.height();
  const Index width = decoder.width();
  detail::check_image_size(name, height, width, options.limits);
  // Deflate packs 1032 bytes into one at most: no memory for a file that is too short.
  require(static_cast<Index>(bytes.size()) >= height * decoder.row_bytes() / 1032, name,
          ": PNG: the file is cut: ", bytes.size(), " bytes cannot hold ", width, " x ", height);
  check(decoder.prepare());

  Image image(height, width);
  const bool alpha = decoder.channels() == 4;
  // RGBA rows pass through one row of scratch, unless interlacing goes over them many times.
  const bool whole = decoder.passes() > 1;
  Buffer<std::uint8_t> rgba(alpha ? (whole ? height : 1) * width * 4 : 0);
  for (int pass = 0; pass < decoder.passes(); ++pass) {
    for (Index y = 0; y < height; ++y) {
      if (!alpha) {
        check(decoder.read_row(image.row(y)));
        continue;
      }
      std::uint8_t* row = rgba.data() + (whole ? y * width * 4 : 0);
      check(decoder.read_row(row));
      if (pass + 1 == decoder.passes()) detail::drop_alpha(row, width, options.alpha, image.row(y));
    }
  }
  check(decoder.finish());
  return image;
}

}  // namespace io
CASA_NAMESPACE_END
