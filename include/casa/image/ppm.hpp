// Binary PGM and PPM (P5, P6): a text header, then samples of one or two bytes.
#pragma once

#include <cmath>
#include <cstring>
#include <span>
#include <string_view>

#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// Reads the numbers of a PNM header: separated by white space, `#` comments run to the end of a
/// line.
class PnmHeader {
 public:
  PnmHeader(std::span<const std::uint8_t> bytes, std::string_view name)
      : bytes_(bytes), name_(name) {}

  Index number(std::string_view what) {
    while (is_space(peek(what)) || peek(what) == '#') {
      if (peek(what) == '#')
        while (peek(what) != '\n' && peek(what) != '\r') ++at_;
      ++at_;
    }
    require(is_digit(peek(what)), name_, ": PNM header: ", what, " is not a number");
    Index value = 0;
    for (; is_digit(peek(what)); ++at_) {
      value = value * 10 + (bytes_[at_] - '0');
      require(value <= 1'000'000'000, name_, ": PNM header: ", what, " is too large");
    }
    return value;
  }
  /// The samples begin after the one white space that ends the header.
  std::span<const std::uint8_t> samples() {
    require(is_space(peek("maxval")), name_, ": PNM header: no white space after maxval");
    return bytes_.subspan(at_ + 1);
  }

 private:
  static bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
  static bool is_digit(int c) { return c >= '0' && c <= '9'; }
  int peek(std::string_view what) const {
    require(at_ < bytes_.size(), name_, ": PNM file is cut before its ", what, " ends");
    return bytes_[at_];
  }

  std::span<const std::uint8_t> bytes_;
  std::string_view name_;
  std::size_t at_ = 2;
};

}  // namespace detail

/// A P5 or P6 file in memory, as RGB. Samples become v / maxval * 255, to nearest; grey is
/// repeated. `name` stands for the file in messages. What follows the samples is ignored. Throws
/// casa::error on a malformed header, sizes beyond the limits, or too few samples.
inline Image decode_ppm(std::span<const std::uint8_t> bytes, const DecodeOptions& options = {},
                        std::string_view name = "image") {
  require(bytes.size() >= 2 && bytes[0] == 'P' && (bytes[1] == '5' || bytes[1] == '6'), name,
          ": not a binary PGM or PPM file (P5, P6)");
  const Index channels = bytes[1] == '5' ? 1 : 3;
  detail::PnmHeader header(bytes, name);
  const Index width = header.number("width");
  const Index height = header.number("height");
  const Index maxval = header.number("maxval");
  detail::check_image_size(name, height, width, options.limits);
  require(maxval >= 1 && maxval <= 65535, name, ": PNM maxval must be in [1, 65535], got ", maxval);

  const Index sample_bytes = maxval > 255 ? 2 : 1;
  const Index row_bytes = width * channels * sample_bytes;
  const std::span<const std::uint8_t> samples = header.samples();
  require(static_cast<Index>(samples.size()) / row_bytes >= height, name,
          ": PNM file is cut: ", height, " rows of ", row_bytes, " bytes expected, got ",
          samples.size(), " bytes");

  Buffer<std::uint8_t> scaled(maxval + 1);
  for (Index v = 0; v <= maxval; ++v) {
    const double x = static_cast<double>(v) / static_cast<double>(maxval) * 255.0;
    scaled[v] = static_cast<std::uint8_t>(std::nearbyint(x));
  }
  Image image(height, width);
  const std::uint8_t* in = samples.data();
  std::uint8_t* out = image.data();
  const auto next = [&] {
    Index v = *in++;
    if (sample_bytes == 2) v = v << 8 | *in++;
    return scaled[v < maxval ? v : maxval];
  };
  for (Index i = 0; i < height * width; ++i, out += 3) {
    out[0] = next();
    out[1] = channels == 3 ? next() : out[0];
    out[2] = channels == 3 ? next() : out[0];
  }
  return image;
}

}  // namespace io
CASA_NAMESPACE_END
