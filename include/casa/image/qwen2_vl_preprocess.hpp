// From an image to the input of Qwen2-VL's and Qwen2.5-VL's vision tower: a size of whole merged
// patches, bicubic resizing, normalisation, and the order of patches, all to the bit as
// transformers' processor.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "casa/core/executor.hpp"
#include "casa/core/memory.hpp"
#include "casa/image/resize.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The fields of preprocessor_config.json, with Qwen2-VL's values.
struct Qwen2VlPreprocessConfig {
  Index patch_size = 14;              ///< pixels along each side of a patch
  Index temporal_patch_size = 2;      ///< frames of a patch; a still image is repeated
  Index merge_size = 2;               ///< patches along each side of what becomes one token
  Index min_pixels = 56 * 56;         ///< smaller images are enlarged
  Index max_pixels = 28 * 28 * 1280;  ///< larger images are reduced
  /// Subtracted from red, green and blue after rescaling.
  std::array<float, 3> image_mean = {0.48145466f, 0.4578275f, 0.40821073f};
  /// Divides what remains.
  std::array<float, 3> image_std = {0.26862954f, 0.26130258f, 0.27577711f};
  double rescale_factor = 1.0 / 255.0;         ///< multiplies a byte
  PassOrder pass_order = PassOrder::pillow13;  ///< which Pillow the resizing agrees with

  friend bool operator==(const Qwen2VlPreprocessConfig&, const Qwen2VlPreprocessConfig&) = default;
};

/// How many patches an image is cut into.
struct PatchGrid {
  Index t = 0;  ///< in time; 1 for a still image
  Index h = 0;  ///< from top to bottom
  Index w = 0;  ///< from left to right
  friend bool operator==(PatchGrid, PatchGrid) = default;
};

/// One image, ready for the vision tower. `pixel_values` is (t h w, 3 temporal_patch_size
/// patch_size^2): rows by (block row, block column, row in block, column in block), blocks of
/// merge_size x merge_size patches; columns by (channel, time, y, x).
struct PreprocessedImage {
  Matrix<float> pixel_values;  ///< one row for each patch
  PatchGrid grid;              ///< how the patches lie in the image
};

/// The size that an image of height x width is resized to: both sides multiples of `factor`, the
/// aspect ratio about kept, min_pixels to max_pixels in all (a side never falls below `factor`, so
/// a narrow image can exceed max_pixels). The rule is Qwen2-VL's, in float64 with halves rounded to
/// even. Throws casa::error on an empty image, one more than 200 times longer than wide, or bad
/// bounds.
inline ImageSize smart_resize(Index height, Index width, Index factor, Index min_pixels,
                              Index max_pixels) {
  constexpr Index kMaxSide = Index{1} << 24;  // so that products below are exact in float64
  require(height > 0 && width > 0, "smart_resize: an image of ", width, " x ", height,
          " has no pixels");
  require(height <= kMaxSide && width <= kMaxSide, "smart_resize: an image of ", width, " x ",
          height, " is larger than ", kMaxSide, " a side");
  require(factor > 0 && factor <= kMaxSide, "smart_resize: factor must be in [1, ", kMaxSide,
          "], got ", factor);
  require(min_pixels > 0 && max_pixels > 0,
          "smart_resize: min_pixels and max_pixels must be positive, got ", min_pixels, " and ",
          max_pixels);
  const auto [narrow, wide] = std::minmax(height, width);
  require(wide <= 200 * narrow, "smart_resize: an image of ", width, " x ", height,
          " is more than 200 times longer than wide");

  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  const auto f = static_cast<double>(factor);
  const auto rounded = [&](double side) {  // halves to even, whatever the rounding mode
    const double n = side / f;
    const double down = std::floor(n);
    const double rest = n - down;
    const bool up = rest > 0.5 || (rest == 0.5 && std::fmod(down, 2.0) == 1.0);
    return static_cast<Index>(up ? down + 1.0 : down) * factor;
  };
  ImageSize size{rounded(h), rounded(w)};
  const Index pixels = size.height * size.width;
  if (pixels > max_pixels) {
    const double shrink = std::sqrt(h * w / static_cast<double>(max_pixels));
    const auto fit = [&](double side) {
      return (std::max)(factor, static_cast<Index>(std::floor(side / shrink / f)) * factor);
    };
    size = {fit(h), fit(w)};
  } else if (pixels < min_pixels) {
    const double grow = std::sqrt(static_cast<double>(min_pixels) / (h * w));
    const auto fill = [&](double side) {
      return static_cast<Index>(std::ceil(side * grow / f)) * factor;
    };
    size = {fill(h), fill(w)};
  }
  return size;
}

namespace detail {

inline void check_config(const Qwen2VlPreprocessConfig& config) {
  const auto in_range = [](std::string_view what, Index value, Index last) {
    require(value >= 1 && value <= last, "Qwen2VlPreprocessConfig: ", what, " must be in [1, ",
            last, "], got ", value);
  };
  in_range("patch_size", config.patch_size, 1024);
  in_range("temporal_patch_size", config.temporal_patch_size, 64);
  in_range("merge_size", config.merge_size, 64);
  in_range("min_pixels", config.min_pixels, LoadLimits{}.image_pixels);
  in_range("max_pixels", config.max_pixels, LoadLimits{}.image_pixels);
  for (std::size_t c = 0; c < 3; ++c)
    require(std::isfinite(config.image_mean[c]) && std::isfinite(config.image_std[c]) &&
                config.image_std[c] > 0.0f,
            "Qwen2VlPreprocessConfig: image_mean must be finite and image_std positive, got ",
            config.image_mean[c], " and ", config.image_std[c]);
  require(std::isfinite(config.rescale_factor),
          "Qwen2VlPreprocessConfig: rescale_factor is not finite");
}

}  // namespace detail

/// An image whose sides are multiples of patch_size merge_size, normalised and cut into patches.
/// Each value is ((float)(p rescale_factor) - mean) / std in float; it is repeated
/// temporal_patch_size times. Throws casa::error on other sizes or a bad config.
inline PreprocessedImage qwen2_vl_patches(ImageView image,
                                          const Qwen2VlPreprocessConfig& config = {},
                                          const Executor& executor = {}) {
  detail::check_config(config);
  const Index p = config.patch_size;
  const Index merge = config.merge_size;
  const Index times = config.temporal_patch_size;
  require(image.height > 0 && image.width > 0 && image.height % (p * merge) == 0 &&
              image.width % (p * merge) == 0,
          "qwen2_vl_patches: sides must be multiples of ", p * merge, ", got ", image.width, " x ",
          image.height);
  std::array<std::array<float, 256>, 3> value;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v)
      value[c][v] = (static_cast<float>(static_cast<double>(v) * config.rescale_factor) -
                     config.image_mean[c]) /
                    config.image_std[c];

  const PatchGrid grid{1, image.height / p, image.width / p};
  PreprocessedImage out{Matrix<float>(grid.h * grid.w, 3 * times * p * p), grid};
  executor.for_each(grid.h / merge, [&](Index block_row, Index) {
    Index row = block_row * grid.w * merge;
    for (Index block_col = 0; block_col < grid.w / merge; ++block_col)
      for (Index y = 0; y < merge; ++y)
        for (Index x = 0; x < merge; ++x) {
          float* to = out.pixel_values.row(row++);
          for (std::size_t c = 0; c < 3; ++c) {
            const float* first = to;
            for (Index i = 0; i < p; ++i) {
              const std::uint8_t* from = image.row((block_row * merge + y) * p + i) +
                                         3 * (block_col * merge + x) * p + static_cast<Index>(c);
              for (Index j = 0; j < p; ++j) *to++ = value[c][from[3 * j]];
            }
            for (Index t = 1; t < times; ++t, to += p * p)
              std::memcpy(to, first, static_cast<std::size_t>(p * p) * sizeof(float));
          }
        }
  });
  return out;
}

/// The whole way: the size by smart_resize, bicubic resizing, patches. Results do not depend on the
/// number of threads. Throws casa::error as smart_resize and qwen2_vl_patches.
inline PreprocessedImage qwen2_vl_preprocess(ImageView image,
                                             const Qwen2VlPreprocessConfig& config = {},
                                             const Executor& executor = {}) {
  detail::check_config(config);
  const ImageSize size =
      smart_resize(image.height, image.width, config.patch_size * config.merge_size,
                   config.min_pixels, config.max_pixels);
  require(size.width <= LoadLimits{}.image_pixels / size.height,
          "qwen2_vl_preprocess: the new size ", size.width, " x ", size.height, " has more than ",
          LoadLimits{}.image_pixels, " pixels");
  return qwen2_vl_patches(
      resize_bicubic(image, size.height, size.width, config.pass_order, executor), config,
      executor);
}

}  // namespace io
CASA_NAMESPACE_END
