// Weights that a checkpoint holds in 8 bits as panels: the same steps and scales in another order,
// so nothing is rounded a second time.
#pragma once

#include <cstring>

#include "casa/linear/panel_format.hpp"
#include "casa/linear/stored_view.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows [row, row + width) of `w`, which is of Type::int8, as one panel, in the format that packing
/// the float values would have written. Outputs from `width` on and steps after the last column are
/// zero.
inline void pack_quantized(const StoredView& w, Index row, Index width, std::byte* panel) {
  using Format = PanelFormat<float, std::int8_t>;
  constexpr Index outputs = Format::kWidth;
  alignas(64) std::int8_t partial[std::size_t{outputs * kQuantGroup}];
  for (Index k = 0, g = 0; k < w.cols(); k += kQuantGroup, ++g) {
    std::byte* group = panel + Format::group(k);
    for (Index i = 0; i < outputs; ++i)
      Format::scales(group)[i] = i < width ? w.scales(row + i)[g] : bfloat16{};
    const Index count = (std::min)(kQuantGroup, w.cols() - k);
    const std::int8_t* from = w.steps(row) + k;
    Index stride = width > 1 ? w.steps(row + 1) - w.steps(row) : 0;
    if (width < outputs || count < kQuantGroup) {
      std::memset(partial, 0, sizeof partial);
      for (Index i = 0; i < width; ++i)
        std::memcpy(partial + i * kQuantGroup, w.steps(row + i) + k,
                    static_cast<std::size_t>(count));
      from = partial;
      stride = kQuantGroup;
    }
    for (Index q = 0; q < kQuantGroup; q += Format::kUnit) {
      simd::WeightQuad* to = Format::stored(panel + Format::row(k + q));
      for (Index i = 0; i < outputs; ++i) to[i] = simd::weight_quad(from + i * stride + q);
    }
  }
}

}  // namespace detail

CASA_NAMESPACE_END
