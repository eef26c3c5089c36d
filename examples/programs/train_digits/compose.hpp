// What is trained on: streams of pictures with handwritten digits in a grid, and their captions.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/core/memory.hpp"
#include "casa/stream/layout.hpp"
#include "casa/train/sample_order.hpp"
#include "support/digits.hpp"

namespace digits {

using casa::Index;

inline constexpr Index kDigitSide = 8, kCells = 4, kSide = kDigitSide * kCells;
inline constexpr Index kPatches = 64;  // tokens of a picture

/// Pictures of single digits.
struct DigitImages {
  casa::Matrix<std::uint8_t> images;  ///< (digits x 64), values 0..16, in raster order
  std::vector<int> labels;            ///< 0..9, of each
};

inline DigitImages load_digits(const std::string& path) {
  const casa::io::SafeTensors file = casa::io::read_safetensors(path);
  const auto& images = file.at("images");
  casa::require_equal(images.where() + ": number of axes", images.shape.size(), 3);
  images.require_shape({images.shape[0], kDigitSide, kDigitSide});
  DigitImages d{casa::Matrix<std::uint8_t>(images.shape[0], kDigitSide * kDigitSide),
                file.at("labels").to_vector<int>()};
  images.read_into(std::span(d.images.data(), static_cast<std::size_t>(d.images.size())));
  casa::require_equal(path + ": labels", static_cast<Index>(d.labels.size()), d.images.rows());
  for (const int label : d.labels)
    casa::require(label >= 0 && label < program::kRow, path, ": labels: expected 0 to 9, got ",
                  label);
  return d;
}

/// A stream to train on.
struct Stream {
  casa::Matrix<std::uint8_t> images;        ///< one a row (pictures x kSide * kSide)
  program::Ids ids;                         ///< the captions, one after the other
  program::Ids targets;                     ///< of each token the next one; after a caption: none
  std::vector<casa::Insertion> insertions;  ///< each picture before the caption that begins there
};

/// Adds the caption of the next picture. `none` is the target of a token that no loss follows.
inline void append_caption(Stream& s, const program::Ids& caption, int none) {
  s.insertions.push_back({static_cast<Index>(s.ids.size()), kPatches});
  s.ids.insert(s.ids.end(), caption.begin(), caption.end());
  s.targets.insert(s.targets.end(), caption.begin() + 1, caption.end());
  s.targets.push_back(none);
}

/// A digit as somebody else might have written it: turned by up to 14 degrees, scaled by 0.85 to
/// 1.12, sheared by up to 0.15, shifted by up to 0.9 pixels, brighter or darker by a fifth, with a
/// little noise. Into the square of `cell` whose rows are `stride` values apart.
inline void draw_digit(const std::uint8_t* digit, casa::Random& random, std::uint8_t* cell,
                       Index stride) {
  const auto within = [&](double low, double high) {
    return low + (high - low) * random.uniform();
  };
  const double angle = within(-14, 14) * std::numbers::pi / 180, scale = within(0.85, 1.12),
               shear = within(-0.15, 0.15), right = within(-0.9, 0.9), down = within(-0.9, 0.9),
               brightness = within(0.8, 1.2);
  const auto pixel = [&](Index y, Index x) {
    const bool inside = x >= 0 && x < kDigitSide && y >= 0 && y < kDigitSide;
    return inside ? static_cast<double>(digit[y * kDigitSide + x]) : 0.0;
  };
  constexpr double middle = (static_cast<double>(kDigitSide) - 1) / 2;
  for (Index y = 0; y < kDigitSide; ++y)
    for (Index x = 0; x < kDigitSide; ++x) {
      // Where this pixel comes from, and the four pixels around that place.
      const double u = (static_cast<double>(x) - middle - right) / scale,
                   v = (static_cast<double>(y) - middle - down) / scale;
      const double from_x = std::cos(angle) * u + (std::sin(angle) + shear) * v + middle,
                   from_y = -std::sin(angle) * u + std::cos(angle) * v + middle;
      const double left = std::floor(from_x), top = std::floor(from_y);
      const double fx = from_x - left, fy = from_y - top;
      const auto ix = static_cast<Index>(left), iy = static_cast<Index>(top);
      const double ink = (1 - fy) * ((1 - fx) * pixel(iy, ix) + fx * pixel(iy, ix + 1)) +
                         fy * ((1 - fx) * pixel(iy + 1, ix) + fx * pixel(iy + 1, ix + 1));
      const double value = ink * brightness * 255 / 16 + within(-8, 8);
      cell[y * stride + x] = static_cast<std::uint8_t>(std::clamp(std::round(value), 0.0, 255.0));
    }
}

/// Stream `number` of a training: 3 or 4 pictures, each with 6 to 12 digits in the 16 cells of a
/// grid. All of it follows from the seed, the number, and the digits that `next` hands out.
template <class Next>
Stream compose(const DigitImages& all, std::uint64_t seed, std::uint64_t number, Next&& next,
               int none) {
  casa::Random random = casa::random_of(seed ^ 0x5eed, number);
  const auto below = [&](std::uint64_t n) {
    return static_cast<Index>(casa::uniform_below(random, n));
  };
  Stream s;
  const Index pictures = 3 + below(2);
  s.images = casa::Matrix<std::uint8_t>(pictures, kSide * kSide);
  s.images.fill(0);
  for (Index i = 0; i < pictures; ++i) {
    std::array<bool, std::size_t{kCells * kCells}> used{};
    for (Index left = 6 + below(7); left > 0;) {
      bool& cell = used[static_cast<std::size_t>(below(used.size()))];
      left -= !std::exchange(cell, true);
    }
    program::Ids caption{program::kBegin};
    for (Index cell = 0; cell < kCells * kCells; ++cell) {
      if (cell > 0 && cell % kCells == 0) caption.push_back(program::kRow);
      if (!used[static_cast<std::size_t>(cell)]) continue;
      const Index digit = next();
      std::uint8_t* corner =
          s.images.row(i) + cell / kCells * kDigitSide * kSide + cell % kCells * kDigitSide;
      draw_digit(all.images.row(digit), random, corner, kSide);
      caption.push_back(all.labels[static_cast<std::size_t>(digit)]);
    }
    caption.push_back(program::kEnd);
    append_caption(s, caption, none);
  }
  return s;
}

}  // namespace digits
