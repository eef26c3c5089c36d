// PNG through libpng: every colour type and depth, as RGB of 8 bits. Link with libpng.
//
// As for JPEG, libpng reports errors by longjmp: it jumps back into the function that made the
// call, and that function holds no object with a destructor.
#pragma once

#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/image/exif.hpp"
#include "casa/image/orient.hpp"
#include "casa/image/png_chunks.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// One read of a PNG file that lies in memory, in pieces.
class PngDecoder {
 public:
  explicit PngDecoder(std::vector<std::span<const std::uint8_t>> pieces)
      : pieces_(std::move(pieces)) {
    for (const auto& piece : pieces_) left_ += piece.size();
  }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  /// Sizes, kind and texts. Profiles and the like are passed over unread, gamma is ignored.
  bool read_header() {
    png_ = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, this, [](png_structp png, png_const_charp m) { give_up(png, m); },
        [](png_structp, png_const_charp) {});
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) return note("libpng cannot start");
    if (setjmp(jump_)) return false;
    png_set_read_fn(png_, this, [](png_structp png, png_bytep out, std::size_t count) {
      auto& self = *static_cast<PngDecoder*>(png_get_io_ptr(png));
      if (!self.take(out, count)) give_up(png, "the file is cut");
    });
    png_set_user_limits(png_, PNG_UINT_31_MAX,
                        PNG_UINT_31_MAX);                  // the caller checks, before prepare
    png_set_chunk_malloc_max(png_, std::size_t{1} << 20);  // of a text, unpacked
    // PngChunks has checked what Pillow checks; a wrong sum of pixels is found by zlib's own.
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
    // Some writers name a smaller window than they use.
    png_set_option(png_, PNG_MAXIMUM_INFLATE_WINDOW, PNG_OPTION_ON);
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    static constexpr png_byte kTexts[] = "tEXt\0zTXt\0iTXt";
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, kTexts, 3);
    png_read_info(png_, info_);
    find_zero();
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
    // libpng looks for the end of the zlib stream together with the last row: pixels that are all
    // there do not suffer from an end that is lost.
    if (setjmp(jump_)) return all_rows_read();
    png_read_row(png_, out, nullptr);
    return true;
  }

  Index height() const { return static_cast<Index>(png_get_image_height(png_, info_)); }
  Index width() const { return static_cast<Index>(png_get_image_width(png_, info_)); }
  /// After read_header: as stored; after prepare: 3 (RGB) or 4 (RGBA).
  Index channels() const { return static_cast<Index>(png_get_channels(png_, info_)); }
  Index row_bytes() const { return static_cast<Index>(png_get_rowbytes(png_, info_)); }
  int passes() const { return passes_; }
  /// The text of the one text chunk with this key, unpacked; empty if there is none.
  std::string_view text(std::string_view key) const {
    png_textp texts = nullptr;
    const int count = png_get_text(png_, info_, &texts, nullptr);
    for (int i = 0; i < count; ++i)
      if (texts[i].key && key == texts[i].key && texts[i].text)
        return {texts[i].text, (std::max)(texts[i].text_length, texts[i].itxt_length)};
    return {};
  }
  /// Red, green, blue and opacity of samples that are all zero: what lost pixels become.
  const std::array<std::uint8_t, 4>& zero() const { return zero_; }
  /// What went wrong, after a function returned false.
  std::string_view message() const { return message_; }

 private:
  bool all_rows_read() const {
    return passes_ > 1 ? png_get_current_pass_number(png_) >= passes_
                       : png_get_current_row_number(png_) >= png_get_image_height(png_, info_);
  }
  bool take(std::uint8_t* out, std::size_t count) {
    if (count > left_) return false;
    left_ -= count;
    while (count > 0) {
      auto& piece = pieces_[piece_];
      const std::size_t n = (std::min)(count, piece.size());
      std::memcpy(out, piece.data(), n);
      piece = piece.subspan(n);
      out += n;
      count -= n;
      if (piece.empty()) ++piece_;
    }
    return true;
  }
  void find_zero() {
    const int kind = png_get_color_type(png_, info_);
    png_colorp palette = nullptr;
    png_bytep alphas = nullptr;
    png_color_16p transparent = nullptr;
    int count = 0;
    if (png_get_tRNS(png_, info_, &alphas, &count, &transparent) == 0) count = 0;
    if (kind == PNG_COLOR_TYPE_PALETTE) {
      int colours = 0;
      if (png_get_PLTE(png_, info_, &palette, &colours) != 0 && colours > 0)
        zero_ = {palette[0].red, palette[0].green, palette[0].blue, 255};
      if (count > 0) zero_[3] = alphas[0];
    } else if ((kind & PNG_COLOR_MASK_ALPHA) != 0) {
      zero_[3] = 0;
    } else if (count > 0) {
      const png_color_16& t = *transparent;
      const bool grey = kind == PNG_COLOR_TYPE_GRAY;
      if (grey ? t.gray == 0 : (t.red | t.green | t.blue) == 0) zero_[3] = 0;
    }
  }
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
  std::vector<std::span<const std::uint8_t>> pieces_;
  std::size_t piece_ = 0;  // the next to be read
  std::size_t left_ = 0;   // bytes of all pieces
  std::array<std::uint8_t, 4> zero_ = {0, 0, 0, 255};
  std::jmp_buf jump_ = {};
  int passes_ = 1;
  char message_[160] = {};
};

/// 1 to 8, as Pillow finds it: in a chunk eXIf, else in ImageMagick's text of hexadecimal digits;
/// where neither has one, in XMP.
inline int png_orientation(const PngChunks& chunks, const PngDecoder& decoder) {
  const std::vector<std::uint8_t> profile = raw_profile_bytes(
      chunks.has_exif() ? std::string_view() : decoder.text("Raw profile type exif"));
  const auto exif = exif_orientation(chunks.has_exif() ? chunks.exif() : profile);
  return exif ? *exif : xmp_orientation(decoder.text("XML:com.adobe.xmp"));
}

}  // namespace detail

/// A PNG file in memory, as RGB: grey is repeated, palettes are looked up, of 16 bits the high byte
/// stays; transparency (alpha or tRNS) as `options.alpha` says. Turned as Exif or XMP say, unless
/// `options.orientation` is stored. What Pillow reads is read, with its pixels, but for two kinds:
/// grey of 16 bits, which Pillow cuts off at 255, and pixels that end early just after a row,
/// which it fills with zeros in silence. `options.damaged` takes less or more, `options.warn` is
/// told of damage. `name` stands for the file in messages. Throws casa::error on anything else, or
/// beyond the limits.
inline Image decode_png(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                        std::string_view name = "image") {
  static constexpr std::string_view kSignature = "\x89PNG\r\n\x1a\n";
  require(bytes.size() >= 8 && std::memcmp(bytes.data(), kSignature.data(), 8) == 0, name,
          ": PNG: no PNG signature");
  const detail::PngChunks chunks(bytes, options.damaged, name);
  detail::PngDecoder decoder(chunks.stream());
  if (!decoder.read_header()) fail(name, ": PNG: ", decoder.message());
  const Index height = decoder.height();
  const Index width = decoder.width();
  detail::check_image_size(name, height, width, options.limits);
  // Deflate packs at most 1032 bytes into one. So a file that is too short for its size is refused
  // before memory is allocated for the pixels.
  require(options.damaged == Damaged::filled ||
              static_cast<Index>(bytes.size()) >= height * decoder.row_bytes() / 1032,
          name, ": PNG: the file is cut: ", bytes.size(), " bytes cannot hold ", width, " x ",
          height, "; Damaged::filled takes it");
  if (!decoder.prepare()) fail(name, ": PNG: ", decoder.message());

  Image image(height, width);
  const bool alpha = decoder.channels() == 4;
  const auto fill = [&](std::uint8_t* row) {
    for (Index x = 0; x < width; ++x, row += decoder.channels())
      std::memcpy(row, decoder.zero().data(), static_cast<std::size_t>(decoder.channels()));
  };
  // RGBA rows pass through one row of scratch, unless interlacing goes over them many times.
  const bool whole = decoder.passes() > 1;
  Buffer<std::uint8_t> rgba(alpha ? (whole ? height : 1) * width * 4 : 0);
  const auto row = [&](Index y) {
    return alpha ? rgba.data() + (whole ? y * width * 4 : 0) : image.row(y);
  };
  if (whole)
    for (Index y = 0; y < height; ++y) fill(row(y));
  bool good = true;
  for (int pass = 0; pass < decoder.passes(); ++pass)
    for (Index y = 0; y < height; ++y) {
      if (good && !decoder.read_row(row(y))) {
        good = false;
        require(options.damaged == Damaged::filled, name, ": PNG: ", decoder.message(), " (in row ",
                y + 1, " of ", height, "); Damaged::filled takes it");
        if (options.warn)
          options.warn(text(name, ": PNG: ", decoder.message(), " (in row ", y + 1, " of ", height,
                            "); what is lost is zero"));
      }
      if (!good && !whole) fill(row(y));
      if (alpha && pass + 1 == decoder.passes())
        detail::drop_alpha(row(y), width, options.alpha, image.row(y));
    }
  if (options.orientation == Orientation::stored) return image;
  return to_upright(std::move(image), detail::png_orientation(chunks, decoder));
}

}  // namespace io
CASA_NAMESPACE_END
