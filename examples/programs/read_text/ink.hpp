// What is ink on a page: pixels that differ from the paper around them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "read_text/picture.hpp"

namespace read_text {

/// Otsu's threshold (A threshold selection method from gray-level histograms, 1979): values above
/// it are one class, the others the other, and the classes differ most between and least within.
inline std::size_t otsu_threshold(const std::vector<Index>& count) {
  double all = 0, sum = 0;
  for (std::size_t v = 0; v < count.size(); ++v) {
    all += static_cast<double>(count[v]);
    sum += static_cast<double>(count[v]) * static_cast<double>(v);
  }
  std::size_t best = 0;
  double most = -1, below = 0, sum_below = 0;
  for (std::size_t v = 0; v + 1 < count.size(); ++v) {
    below += static_cast<double>(count[v]);
    sum_below += static_cast<double>(count[v]) * static_cast<double>(v);
    if (below == 0 || below == all) continue;
    const double apart = sum_below / below - (sum - sum_below) / (all - below);
    const double between = below * (all - below) * apart * apart;
    if (between <= most) continue;
    most = between;
    best = v;
  }
  return best;
}

/// The paper's grey at every pixel: medians of blocks of 64 x 64 pixels, and between the middles of
/// the blocks linear, so that a shadow over a photo is paper and not ink.
inline Grey paper(GreyView grey) {
  constexpr Index block = 64;
  const Index down = (grey.rows() + block - 1) / block, across = (grey.cols() + block - 1) / block;
  casa::Matrix<double> median(down, across);
  for (Index by = 0; by < down; ++by) {
    for (Index bx = 0; bx < across; ++bx) {
      std::array<Index, 256> count{};
      const Index bottom = (std::min)(grey.rows(), (by + 1) * block);
      const Index right = (std::min)(grey.cols(), (bx + 1) * block);
      for (Index y = by * block; y < bottom; ++y)
        for (Index x = bx * block; x < right; ++x) ++count[grey(y, x)];
      const Index half = (bottom - by * block) * (right - bx * block) / 2;
      Index below = count[0];
      std::size_t level = 0;
      while (below <= half) below += count[++level];
      median(by, bx) = static_cast<double>(level);
    }
  }
  struct Place {
    Index low, high;
    double share;
  };
  const auto place = [](Index pixel, Index blocks) {
    const double at = (static_cast<double>(pixel) + 0.5) / block - 0.5;
    const double inside = std::clamp(at, 0.0, static_cast<double>(blocks - 1));
    const auto low = static_cast<Index>(inside);
    return Place{low, (std::min)(low + 1, blocks - 1), inside - static_cast<double>(low)};
  };
  Grey result(grey.rows(), grey.cols());
  for (Index y = 0; y < grey.rows(); ++y) {
    const Place v = place(y, down);
    for (Index x = 0; x < grey.cols(); ++x) {
      const Place h = place(x, across);
      const double top = median(v.low, h.low) * (1 - h.share) + median(v.low, h.high) * h.share;
      const double low = median(v.high, h.low) * (1 - h.share) + median(v.high, h.high) * h.share;
      result(y, x) = static_cast<std::uint8_t>(top * (1 - v.share) + low * v.share + 0.5);
    }
  }
  return result;
}

/// 1 where a pixel is ink, else 0 (height x width). Letters may be darker or lighter than the
/// paper. Where nothing differs from the paper by 24 levels, nothing is ink.
inline Grey ink(GreyView grey) {
  Grey mask = paper(grey);
  std::vector<Index> count(256);
  for (Index y = 0; y < grey.rows(); ++y) {
    for (Index x = 0; x < grey.cols(); ++x) {
      mask(y, x) = static_cast<std::uint8_t>(std::abs(int{grey(y, x)} - int{mask(y, x)}));
      ++count[mask(y, x)];
    }
  }
  const std::size_t threshold = (std::max)(otsu_threshold(count), std::size_t{23});
  for (Index i = 0; i < mask.size(); ++i) mask.data()[i] = mask.data()[i] > threshold;
  return mask;
}

}  // namespace read_text
