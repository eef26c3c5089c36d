// JPEG through libjpeg-turbo, with its defaults (accurate integer DCT, smooth chroma upsampling),
// which are also Pillow's, so that the pixels are Pillow's too, those of damaged files among them.
// Link with libjpeg.
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

#include <algorithm>
#include <csetjmp>
#include <span>
#include <string_view>
#include <utility>

#include "casa/image/jpeg_orientation.hpp"
#include "casa/image/orient.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// One decompression of a JPEG file that lies in memory.
class JpegDecoder {
 public:
  JpegDecoder(std::span<const std::uint8_t> bytes, Damaged damaged, int most_scans)
      : damaged_(damaged), most_scans_(most_scans) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) { give_up(info); };
    errors_.emit_message = [](j_common_ptr info, int level) {
      if (level >= 0 || !spoils_pixels(info->err->msg_code)) return;
      JpegDecoder& decoder = self(info);
      if (decoder.damaged_ == Damaged::refused) give_up(info);
      if (!decoder.warning_[0]) info->err->format_message(info, decoder.warning_);
    };
    errors_.output_message = [](j_common_ptr) {};
    progress_.progress_monitor = [](j_common_ptr info) {
      // A progressive file may hold any number of scans, each a walk over the whole image.
      JpegDecoder& decoder = self(info);
      if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= decoder.most_scans_)
        return;
      std::snprintf(decoder.message_, sizeof decoder.message_,
                    "more than %d scans; DecodeOptions::jpeg_scans allows more",
                    decoder.most_scans_);
      std::longjmp(decoder.jump_, 1);
    };
    source_.next_input_byte = bytes.data();
    source_.bytes_in_buffer = bytes.size();
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.resync_to_restart = jpeg_resync_to_restart;
    // Without more input libjpeg stops where it is ("suspends"), as it does in Pillow: a row is
    // given only if bytes follow it. An end mark in place of the missing bytes makes the rest grey.
    source_.fill_input_buffer = [](j_decompress_ptr info) -> boolean {
      static constexpr JOCTET kEnd[2] = {0xff, JPEG_EOI};
      JpegDecoder& decoder = self(reinterpret_cast<j_common_ptr>(info));
      decoder.ran_out_ = true;
      if (decoder.damaged_ != Damaged::filled) return FALSE;
      info->src->next_input_byte = kEnd;
      info->src->bytes_in_buffer = sizeof kEnd;
      return TRUE;
    };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      const auto skipped = (std::min)(static_cast<std::size_t>(count), info->src->bytes_in_buffer);
      info->src->next_input_byte += skipped;
      info->src->bytes_in_buffer -= skipped;
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
    for (;;) {  // tables may come as a file of their own before the image
      const int found = jpeg_read_header(&info_, FALSE);
      if (found == JPEG_HEADER_OK) return true;
      if (found == JPEG_SUSPENDED || ran_out_) return cut("in its header");
    }
  }
  /// All rows, each `channels()` bytes a pixel, the first at `out`.
  bool read_rows(std::uint8_t* out) {
    if (setjmp(jump_)) return false;
    info_.out_color_space = channels() == 4 ? JCS_CMYK : JCS_RGB;
    if (!jpeg_start_decompress(&info_))
      return cut("before its last scan ends; Damaged::filled takes it");
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = out + Index{info_.output_scanline} * width() * channels();
      if (jpeg_read_scanlines(&info_, &row, 1) == 0) {
        char where[96];
        std::snprintf(where, sizeof where, "in row %u of %u; Damaged::filled takes it",
                      info_.output_scanline + 1, info_.output_height);
        return cut(where);
      }
    }
    // Bytes after undamaged rows are ignored: cameras often append data of their own. After
    // damaged rows they are checked, since damage may mean that the file is cut and another one
    // follows; Pillow accepts an end that is missing.
    rows_read_ = true;
    const bool strict = damaged_ == Damaged::refused;
    if ((strict || (damaged_ == Damaged::pillow && warning_[0])) &&
        !jpeg_finish_decompress(&info_) && strict)
      return cut("before its end mark; Damaged::pillow takes it");
    if (ran_out_ && !warning_[0]) std::snprintf(warning_, sizeof warning_, "the file is cut");
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
  /// The first damage that was passed over, or nothing.
  std::string_view warning() const { return warning_; }

 private:
  static JpegDecoder& self(j_common_ptr info) {
    return *static_cast<JpegDecoder*>(info->client_data);
  }

  [[noreturn]] static void give_up(j_common_ptr info) {
    JpegDecoder& decoder = self(info);
    char fault[JMSG_LENGTH_MAX];
    info->err->format_message(info, fault);
    if (decoder.rows_read_ && decoder.damaged_ == Damaged::pillow) {
      std::snprintf(decoder.message_, sizeof decoder.message_,
                    "%s; and behind the rows: %s; Damaged::filled takes it", decoder.warning_,
                    fault);
    } else {
      std::snprintf(decoder.message_, sizeof decoder.message_, "%s", fault);
    }
    std::longjmp(decoder.jump_, 1);
  }
  /// Warnings after which libjpeg continues with pixels that the file does not hold.
  static bool spoils_pixels(int code) {
    return code != JWRN_EXTRANEOUS_DATA && code != JWRN_ADOBE_XFORM && code != JWRN_JFIF_MAJOR &&
           code != JWRN_TOO_MUCH_DATA && code != JWRN_BOGUS_ICC;
  }
  bool cut(const char* where) {
    std::snprintf(message_, sizeof message_, "the file is cut %s", where);
    return false;
  }

  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  jpeg_source_mgr source_ = {};
  jpeg_progress_mgr progress_ = {};
  std::jmp_buf jump_ = {};
  char message_[2 * JMSG_LENGTH_MAX + 100] = {};
  char warning_[JMSG_LENGTH_MAX] = {};
  Damaged damaged_;
  int most_scans_;
  bool created_ = false;
  bool ran_out_ = false;
  bool rows_read_ = false;
};

/// Adobe's CMYK (stored inverted, as all writers do) to RGB.
inline void cmyk_to_rgb(const std::uint8_t* cmyk, Index pixels, std::uint8_t* rgb) {
  for (Index i = 0; i < pixels; ++i, cmyk += 4, rgb += 3)
    for (int c = 0; c < 3; ++c)
      rgb[c] = static_cast<std::uint8_t>((unsigned{cmyk[c]} * cmyk[3] + 127u) / 255u);
}

}  // namespace detail

/// A JPEG file in memory, as RGB: baseline or progressive, 8 bits; grey is repeated, CMYK
/// converted. Turned as Exif or XMP say, unless `options.orientation` is stored. What Pillow reads
/// is read, with its pixels; `options.damaged` takes less or more, and `options.warn` is told of
/// damage. `name` stands for the file in messages. Throws casa::error on anything else, or beyond
/// the limits.
inline Image decode_jpeg(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                         std::string_view name = "image") {
  detail::JpegDecoder decoder(bytes, options.damaged, options.jpeg_scans);
  if (!decoder.read_header()) fail(name, ": JPEG: ", decoder.message());
  const Index height = decoder.height();
  const Index width = decoder.width();
  detail::check_image_size(name, height, width, options.limits);
  require(decoder.components() != 2, name, ": JPEG: 2 colour components are not supported");
  // A block of 8 x 8 pixels takes at least one bit. So a file that is too short for its size is
  // refused before memory is allocated for the pixels.
  const Index blocks = ((height + 7) / 8) * ((width + 7) / 8);
  require(decoder.arithmetic() || options.damaged == Damaged::filled ||
              static_cast<Index>(bytes.size()) >= blocks / 8,
          name, ": JPEG: the file is cut: ", bytes.size(), " bytes cannot hold ", width, " x ",
          height, "; Damaged::filled takes it");

  Image image(height, width);
  if (decoder.channels() == 3) {
    if (!decoder.read_rows(image.data())) fail(name, ": JPEG: ", decoder.message());
  } else {
    Buffer<std::uint8_t> cmyk(height * width * 4);
    if (!decoder.read_rows(cmyk.data())) fail(name, ": JPEG: ", decoder.message());
    detail::cmyk_to_rgb(cmyk.data(), height * width, image.data());
  }
  if (options.warn && !decoder.warning().empty())
    options.warn(text(name, ": JPEG: ", decoder.warning()));
  if (options.orientation == Orientation::stored) return image;
  return to_upright(std::move(image), detail::jpeg_orientation(bytes));
}

}  // namespace io
CASA_NAMESPACE_END
