// Bicubic resizing with antialiasing, bit for bit as Pillow does it on 8 bits.
//
// A pass along one axis turns n samples into m. With scale = n / m and s = max(scale, 1), output i
// is centred at (i + 0.5) scale and takes taps t in [trunc(centre - 2 s + 0.5), trunc(centre + 2 s
// + 0.5)), cut to [0, n), with weights f((t - centre + 0.5) / s) over their sum; f is the cubic
// with a = -0.5 (Keys, Cubic convolution interpolation, 1981). Weights are rounded to 22 binary
// digits, half away from zero, and each pass is rounded and clamped to 8 bits.
#pragma once

#include <cmath>
#include <vector>

#include "casa/core/executor.hpp"
#include "casa/image/resize_rows.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Which axis is resized first. The two differ by the rounding between the passes.
/// pillow13: vertical where that is cheaper, as Pillow does since 13.0; pillow12: as Pillow did
/// before, horizontal unless the image is more than 100 times higher than wide and becomes lower.
enum class PassOrder { pillow13, pillow12 };

namespace detail::resample {

inline double keys_cubic(double x) {
  x = std::abs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
  return 0.0;
}

/// The taps of all m outputs of a pass over n samples.
inline ResampleTaps bicubic_taps(Index n, Index m) {
  const double scale = static_cast<double>(n) / static_cast<double>(m);
  const double stretch = (std::max)(scale, 1.0);
  const double support = 2.0 * stretch;
  const double inverse = 1.0 / stretch;
  ResampleTaps taps;
  std::vector<double> weights;
  std::vector<std::int32_t> fixed;
  for (Index i = 0; i < m; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    // NOLINTBEGIN(bugprone-incorrect-roundings): Pillow's rounding, which cuts towards zero
    const Index first = (std::max)(static_cast<Index>(centre - support + 0.5), Index{0});
    const Index last = (std::min)(static_cast<Index>(centre + support + 0.5), n);
    // NOLINTEND(bugprone-incorrect-roundings)
    double sum = 0.0;
    weights.clear();
    for (Index t = first; t < last; ++t) {
      weights.push_back(keys_cubic((static_cast<double>(t) - centre + 0.5) * inverse));
      sum += weights.back();
    }
    fixed.clear();
    for (const double w : weights)
      fixed.push_back(static_cast<std::int32_t>(w / sum * 0x1p22 + (w / sum < 0.0 ? -0.5 : 0.5)));
    taps.append(first, fixed);
  }
  return taps;
}

inline bool starts_vertically(ImageSize from, ImageSize to, PassOrder order) {
  if (from.height <= to.height) return false;
  if (order == PassOrder::pillow12) return from.height > 100 * from.width;
  return from.height - to.height > 2 * (from.width - to.width);
}

/// Rows [begin, end) of the output. Each is blended from rows that the horizontal pass makes as
/// they come into reach, kRowGroup at a time; a ring holds as many as one output needs.
inline void resize_horizontal_first(ImageView in, const ResampleTaps& across,
                                    const ResampleTaps& down, Index begin, Index end, Image& out) {
  const Index ring_rows = down.max_taps() + kRowGroup;
  const Index row_bytes = 3 * out.width();
  RowResampler resampler(in.width, across);
  Buffer<std::uint8_t> ring(ring_rows * row_bytes);
  std::vector<const std::uint8_t*> rows;
  const auto ring_row = [&](Index y) { return ring.data() + y % ring_rows * row_bytes; };
  Index made = down.first(begin);
  for (Index y = begin; y < end; ++y) {
    for (const Index last = (std::min)(down.last(y), in.height); made < last; made += kRowGroup) {
      for (Index r = 0; r < kRowGroup; ++r)
        resampler.set_row(r, in.row((std::min)(made + r, in.height - 1)));
      resampler.run([&](Index r) { return ring_row(made + r); });
    }
    rows.clear();
    for (Index t = down.first(y); t < down.last(y); ++t)
      rows.push_back(ring_row((std::min)(t, in.height - 1)));
    blend_rows(down.pairs(y), rows.data(), row_bytes, out.row(y));
  }
}

/// Rows [begin, end) of the output, kRowGroup at a time: blended from input rows, then resampled.
inline void resize_vertical_first(ImageView in, const ResampleTaps& across,
                                  const ResampleTaps& down, Index begin, Index end, Image& out) {
  RowResampler resampler(in.width, across);
  Buffer<std::uint8_t> blended(3 * in.width);
  std::vector<const std::uint8_t*> rows;
  for (Index y0 = begin; y0 < end; y0 += kRowGroup) {
    for (Index r = 0; r < kRowGroup; ++r) {
      const Index y = (std::min)(y0 + r, end - 1);
      rows.clear();
      for (Index t = down.first(y); t < down.last(y); ++t)
        rows.push_back(in.row((std::min)(t, in.height - 1)));
      blend_rows(down.pairs(y), rows.data(), 3 * in.width, blended.data());
      resampler.set_row(r, blended.data());
    }
    resampler.run([&](Index r) { return out.row((std::min)(y0 + r, end - 1)); });
  }
}

}  // namespace detail::resample

/// The image at height x width, by Pillow's bicubic filter: the same bytes, on any number of
/// threads. Throws casa::error if an image has no pixels.
inline Image resize_bicubic(ImageView in, Index height, Index width,
                            PassOrder order = PassOrder::pillow13, const Executor& executor = {}) {
  require(in.height > 0 && in.width > 0, "resize_bicubic: the image has no pixels: ", in.width,
          " x ", in.height);
  require(height > 0 && width > 0, "resize_bicubic: the new size has no pixels: ", width, " x ",
          height);
  Image out(height, width);
  using namespace detail::resample;
  const ResampleTaps across = bicubic_taps(in.width, width);
  const ResampleTaps down = bicubic_taps(in.height, height);
  const bool vertical_first = starts_vertically({in.height, in.width}, {height, width}, order);
  // A band of output rows a worker: bands share the few input rows at their edges.
  const Index bands = (std::min)(executor.num_workers(), (height + 15) / 16);
  executor.for_each(bands, [&](Index band, Index) {
    const Index begin = height * band / bands;
    const Index end = height * (band + 1) / bands;
    (vertical_first ? resize_vertical_first : resize_horizontal_first)(in, across, down, begin, end,
                                                                       out);
  });
  return out;
}

}  // namespace io
CASA_NAMESPACE_END
