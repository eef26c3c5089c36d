// A contact sheet of attention maps: the picture once for each letter, what was looked at for it as
// heat over the picture, the letter beneath. And the sheet as a PNG file.
#pragma once

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "casa/files/file.hpp"
#include "casa/stream/positions.hpp"
#include "read_text/picture.hpp"
#include "read_text/tiny_letters.hpp"

namespace read_text {

/// A picture whose pixels are grey, with heat: (height x width) numbers, level + kGreys * heat.
/// Few colours make small files.
using HeatPicture = casa::Matrix<std::uint8_t>;
inline constexpr int kGreys = 28, kHeats = 9;

/// Red, green and blue of a pixel of a HeatPicture: heat stains the grey orange.
constexpr std::array<std::uint8_t, 3> colour(std::uint8_t pixel) {
  const int grey = pixel % kGreys * 255 / (kGreys - 1), heat = pixel / kGreys;
  const auto mix = [&](int stained) {
    return static_cast<std::uint8_t>(grey + (stained - grey) * heat * 17 / (20 * (kHeats - 1)));
  };
  return {mix(255), mix(80 + grey / 4), mix(grey / 8)};
}

/// The value between the middles of the patches, bilinear, of a map of grid.rows x grid.cols
/// weights; 0 <= y, x < 1 across the picture.
inline double weight_at(std::span<const float> map, casa::ImageGrid grid, double y, double x) {
  const auto clamped = [](double v, Index n) {
    return std::clamp(v * static_cast<double>(n) - 0.5, 0.0, static_cast<double>(n - 1));
  };
  const double fy = clamped(y, grid.rows), fx = clamped(x, grid.cols);
  const auto r = static_cast<Index>(fy), c = static_cast<Index>(fx);
  const double v = fy - static_cast<double>(r), u = fx - static_cast<double>(c);
  const auto at = [&](Index row, Index col) {
    return static_cast<double>(map[static_cast<std::size_t>(
        (std::min)(row, grid.rows - 1) * grid.cols + (std::min)(col, grid.cols - 1))]);
  };
  return (1 - v) * ((1 - u) * at(r, c) + u * at(r, c + 1)) +
         v * ((1 - u) * at(r + 1, c) + u * at(r + 1, c + 1));
}

/// The picture with one map over it; the map's largest weight is the strongest heat. casa::error
/// unless the map has a weight for each place of the grid.
inline HeatPicture heated(GreyView picture, std::span<const float> map, casa::ImageGrid grid) {
  casa::require(grid.rows > 0 && grid.cols > 0, "heated: the grid has no places");
  casa::require_equal("heated: weights of the map", static_cast<Index>(map.size()),
                      grid.rows * grid.cols);
  const double most = static_cast<double>(*std::max_element(map.begin(), map.end()));
  HeatPicture out(picture.rows(), picture.cols());
  for (Index y = 0; y < out.rows(); ++y)
    for (Index x = 0; x < out.cols(); ++x) {
      const double w =
          weight_at(map, grid, (static_cast<double>(y) + 0.5) / static_cast<double>(out.rows()),
                    (static_cast<double>(x) + 0.5) / static_cast<double>(out.cols()));
      const auto heat =
          most > 0
              ? std::clamp(static_cast<int>(std::lround(w / most * (kHeats - 1))), 0, kHeats - 1)
              : 0;
      out(y, x) =
          static_cast<std::uint8_t>((picture(y, x) * (kGreys - 1) + 127) / 255 + kGreys * heat);
    }
  return out;
}

/// Draws text in black, its letters `scale` times 5 x 7 pixels, one pixel times scale between them;
/// what leaves the sheet is cut off.
inline void draw_text(HeatPicture& sheet, Index top, Index left, std::string_view text,
                      Index scale) {
  for (std::size_t i = 0; i < text.size(); ++i)
    for (Index y = 0; y < 7 * scale; ++y)
      for (Index x = 0; x < 5 * scale; ++x) {
        const Index row = top + y, col = left + static_cast<Index>(i) * 6 * scale + x;
        if (row < sheet.rows() && col < sheet.cols() &&
            inked(text[i], static_cast<int>(x / scale), static_cast<int>(y / scale)))
          sheet(row, col) = 0;
      }
}

/// What was looked at for one letter.
struct LetterMap {
  char letter = ' ';
  std::vector<float> weights;  ///< of the picture's patches, row by row
};

/// The sheet, its title above, a row of at most `columns` letters below another. casa::error for a
/// map that does not fit the grid.
inline HeatPicture attention_sheet(GreyView picture, casa::ImageGrid grid,
                                   std::span<const LetterMap> letters, std::string_view title,
                                   Index columns = 8) {
  constexpr Index margin = 6, header = 20, label = 22;
  const auto count = static_cast<Index>(letters.size());
  columns = std::clamp(count, Index{1}, columns);
  const Index rows = (count + columns - 1) / columns;
  const Index cell_height = picture.rows() + label + margin, cell_width = picture.cols() + margin;
  HeatPicture sheet(header + rows * cell_height, margin + columns * cell_width);
  std::fill_n(sheet.data(), sheet.size(), static_cast<std::uint8_t>(kGreys - 1));
  draw_text(sheet, margin, margin, title, 1);
  for (Index n = 0; n < count; ++n) {
    const LetterMap& one = letters[static_cast<std::size_t>(n)];
    const HeatPicture cell = heated(picture, one.weights, grid);
    const Index top = header + n / columns * cell_height, left = margin + n % columns * cell_width;
    for (Index y = 0; y < cell.rows(); ++y)
      std::copy_n(cell.row(y), cell.cols(), sheet.row(top + y) + left);
    const char label_letter = one.letter == ' ' ? kOpenBox : one.letter;
    draw_text(sheet, top + picture.rows() + 4, left + picture.cols() / 2 - 5, {&label_letter, 1},
              2);
  }
  return sheet;
}

/// Writes a PNG file with a palette; whole or not at all. casa::error with libpng's reason.
inline void write_png(const std::string& path, const HeatPicture& picture) {
  std::array<png_byte, 3 * kGreys * kHeats> palette{};
  for (int i = 0; i < kGreys * kHeats; ++i) {
    const auto rgb = colour(static_cast<std::uint8_t>(i));
    std::copy(rgb.begin(), rgb.end(), palette.begin() + 3 * i);
  }
  casa::require(picture.rows() < 1 << 15 && picture.cols() < 1 << 15, path, ": a sheet of ",
                picture.cols(), " x ", picture.rows(), " pixels is larger than 32767 a side");
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.cols());
  image.height = static_cast<png_uint_32>(picture.rows());
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = kGreys * kHeats;
  const auto write = [&](void* to, png_alloc_size_t& size) {
    if (png_image_write_to_memory(&image, to, &size, 0, picture.data(), 0, palette.data())) return;
    const std::string why = image.message;
    png_image_free(&image);
    casa::fail(path, ": libpng: ", why);
  };
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  write(bytes.data(), size);
  bytes.resize(size);
  casa::io::write_file(path, bytes);
}

}  // namespace read_text
