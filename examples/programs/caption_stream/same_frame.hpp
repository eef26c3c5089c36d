// Whether a frame shows the picture that the model was shown last.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "casa/image/image.hpp"

/// How far two pictures differ where they differ most: the largest mean absolute difference of the
/// values of a square of `patch` x `patch` pixels, as a share of the full range; 1 where sizes
/// differ. A mean over the whole picture does not tell a letter that changed from the noise of a
/// video codec: squares as large as the model's own patches do.
inline double largest_patch_difference(const casa::io::Image& a, const casa::io::Image& b,
                                       casa::Index patch) {
  using casa::Index;
  if (a.width() != b.width() || a.height() != b.height()) return 1;
  double largest = 0;
  for (Index top = 0; top < a.height(); top += patch) {
    for (Index left = 0; left < a.width(); left += patch) {
      const Index rows = std::min(patch, a.height() - top);
      const Index values = 3 * std::min(patch, a.width() - left);
      std::int64_t sum = 0;
      for (Index y = top; y < top + rows; ++y) {
        const std::uint8_t* in_a = a.row(y) + 3 * left;
        const std::uint8_t* in_b = b.row(y) + 3 * left;
        for (Index i = 0; i < values; ++i) sum += std::abs(int{in_a[i]} - int{in_b[i]});
      }
      const double count = static_cast<double>(rows) * static_cast<double>(values);
      largest = std::max(largest, static_cast<double>(sum) / (255 * count));
    }
  }
  return largest;
}

/// A frame is the same where no patch differs by more than this. Measured at 8 x 8 pixels of grey
/// 128 x 128, over still slides of 512 x 512 that x264 encoded: at its defaults it moved a patch by
/// up to 0.004, at -crf 28 by up to 0.009, at -crf 35 by up to 0.015 (then a slide is now and then
/// read again, to the same text). One letter for another moved a patch by 0.065 and more, and by
/// 0.016 where letters and ground were a fifth of the range apart.
inline constexpr double kSameFrame = 0.01;
