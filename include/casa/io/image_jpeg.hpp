// JPEG through libjpeg-turbo, with its defaults (accurate integer DCT, smooth chroma upsampling),
// which are also Pillow's, so that the pixels are Pillow's too. Link with libjpeg.
//
// libjpeg reports errors by a function that must not return, and C++ exceptions must not cross its
// C frames. So each phase is one function that holds nothing with a destructor: errors jump back
// into it, and it returns false with the message kept.
#pragma once

// jpeglib.h needs FILE and size_t before it.
#include <cstddef>
#include <cstdio>
//
#include <jpeglib.h>
// jerror.h needs jpeglib.h before it.
#include <jerror.h>

#include <csetjmp>
#include <span>
#include <string_view>

#include "casa/io/image_rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// One decompression of a JPEG file that lies in memory.
class JpegDecoder {
 public:
  explicit JpegDecoder(std::span<const std::uint8_t> bytes) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) { give_up(info); };
    errors_.emit_message = [](j_common_ptr info, int level) {
      if (level < 0 && spoils_pixels(info->err->msg_code)) give_up(info);
    };
    errors_.output_message = [](j_common_ptr) {};
    progress_.progress_monitor = [](j_common_ptr info) {
      // A progressive file may hold any number of scans, each a walk over the whole image.
      if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > 500) {
        self(info).note("more than 500 scans");
        std::longjmp(self(info).jump_, 1);
      }
    };
    source_.next_input_byte = bytes.data();
    source_.bytes_in_buffer = bytes.size();
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      self(reinterpret_cast<j_common_ptr>(info)).note("the file is cut");
      std::longjmp(self(reinterpret_cast<j_common_ptr>(info)).jump_, 1);
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      if (static_cast<std::size_t>(count) > info->src->bytes_in_buffer)
        info->src->fill_input_buffer(info);
      info->src->next_input_byte += count;
      info->src->bytes_in_buffer -= static_cast<std::size_t>(count);
    };
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() {
    if (created_) jpeg_destroy_decompress(&info_);
  }

  /// Sizes and kind; nothing is decoded.
  bool read_header() {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&info_);
    created_ = true;
    info_.src = &source_;
    info_.progress = &progress_;
    jpeg_read_header(&info_, TRUE);
    return true;
  }
  /// All rows, each `channels()` bytes a pixel, the first at `out`.
  bool read_rows(std::uint8_t* out) {
    if (setjmp(jump_)) return false;
    info_.out_color_space = channels() == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = out + Index{info_.output_scanline} * width() * channels();
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

  Index height() const { return static_cast<Index>(info_.image_height); }
  Index width() const { return static_cast<Index>(info_.image_width); }
  /// Of the decoded rows: 4 (CMYK) or 3 (RGB; grey is repeated).
  Index channels() const { return info_.num_components == 4 ? 4 : 3; }
  int components() const { return info_.num_components; }
  bool arithmetic() const { return info_.arith_code != 0; }
  /// What went wrong, after a function returned false.
  std::string_view message() const { return message_; }

 private:
  static JpegDecoder& self(j_common_ptr info) {
    return *static_cast<JpegDecoder*>(info->client_data);
  }

  [[noreturn]] static void give_up(j_common_ptr info) {
    info->err->format_message(info, self(info).message_);
    std::longjmp(self(info).jump_, 1);
  }
  /// Warnings after which libjpeg goes on with pixels that the file does not hold.
  static bool spoils_pixels(int code) {
    return code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR &&
           code != JWRN_TOO_MUCH_DATA && code != JWRN_BOGUS_ICC;
  }
  void note(const char* message) { std::snprintf(message_, sizeof message_, "%s", message); }

  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  jpeg_source_mgr source_ = {};
  jpeg_progress_mgr progress_ = {};
  std::jmp_buf jump_ = {};
  char message_[JMSG_LENGTH_MAX] = {};
  bool created_ = false;
};

/// Adobe's CMYK (stored inverted, as all writers do) to RGB.
inline void cmyk_to_rgb(const std::uint8_t* cmyk, Index pixels, std::uint8_t* rgb) {
  for (Index i = 0; i < pixels; ++i, cmyk += 4, rgb += 3)
    for (int c = 0; c < 3; ++c)
      rgb[c] = static_cast<std::uint8_t>((unsigned{cmyk[c]} * cmyk[3] + 127u) / 255u);
}

}  // namespace detail

/// A JPEG file in memory, as RGB: baseline or progressive, 8 bits; grey is repeated, CMYK
/// converted. The Exif orientation is not applied. `name` stands for the file in messages. Throws
/// casa::error on anything but a whole, sound file within the limits.
inline Image decode_jpeg(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                         std::string_view name = "image") {
  detail::JpegDecoder decoder(bytes);
  if (!decoder.read_header()) fail(name, ": JPEG: ", decoder.message());
  const Index height = decoder.height();
  const Index width = decoder.width();
  detail::check_image_size(name, height, width, options.limits);
  require(decoder.components() != 2, name, ": JPEG: 2 colour components are not supported");
  // A Huffman code takes a bit or more for each block of 8 x 8: no memory for a file that is too
  // short.
  const Index blocks = ((height + 7) / 8) * ((width + 7) / 8);
  require(decoder.arithmetic() || static_cast<Index>(bytes.size()) >= blocks / 8, name,
          ": JPEG: the file is cut: ", bytes.size(), " bytes cannot hold ", width, " x ", height);

  Image image(height, width);
  if (decoder.channels() == 3) {
    if (!decoder.read_rows(image.data())) fail(name, ": JPEG: ", decoder.message());
    return image;
  }
  Buffer<std::uint8_t> cmyk(height * width * 4);
  if (!decoder.read_rows(cmyk.data())) fail(name, ": JPEG: ", decoder.message());
  detail::cmyk_to_rgb(cmyk.data(), height * width, image.data());
  return image;
}

}  // namespace io
CASA_NAMESPACE_END
