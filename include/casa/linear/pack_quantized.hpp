// Weights that a checkpoint holds in 8 bits as panels: the same steps and scales in another order,
// so nothing is rounded a second time.
#pragma once

#include <cstring>

#include "casa/linear/panel_format.hpp"
#include "casa/linear/stored_view.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// 16 bytes of each of 16 rows, `from_stride` apart, as columns: to[c * to_stride + r] becomes
/// from[r * from_stride + c]. Each round pairs row i with row i + 8 byte by byte, which moves one
/// bit of a byte's row number to its column number; after four rounds all bits have moved.
inline void transpose_16_bytes(const std::int8_t* from, Index from_stride, std::int8_t* to,
                               Index to_stride) {
  typedef std::int8_t Bytes __attribute__((vector_size(16)));
  using Lanes = std::make_index_sequence<16>;
  Bytes rows[16];
  CASA_UNROLL
  for (Index r = 0; r < 16; ++r) std::memcpy(&rows[r], from + r * from_stride, sizeof(Bytes));
  CASA_UNROLL
  for (int round = 0; round < 4; ++round) {
    Bytes next[16];
    CASA_UNROLL
    for (Index r = 0; r < 8; ++r) {
      Bytes a = rows[r], b = rows[r + 8];
      simd::detail::merge_pair<1>(a, b, Lanes{});
      next[2 * r] = a;
      next[2 * r + 1] = b;
    }
    CASA_UNROLL
    for (Index r = 0; r < 16; ++r) rows[r] = next[r];
  }
  CASA_UNROLL
  for (Index c = 0; c < 16; ++c) std::memcpy(to + c * to_stride, &rows[c], sizeof(Bytes));
}

/// Rows [row, row + width) of `w`, which is of Type::int8, as one panel, in the format that packing
/// the float values would have written. Outputs from `width` on and steps after the last column are
/// zero.
inline void pack_quantized(const StoredView& w, Index row, Index width, std::byte* panel) {
  using Format = PanelFormat<float, std::int8_t>;
  constexpr Index outputs = Format::kWidth;
  static_assert(outputs % 16 == 0 && kQuantGroup % 16 == 0);
  static_assert(!simd::kLoadsPairs<std::int8_t>, "outputs of a row of a panel are in order");
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
    std::int8_t* to = Format::stored(panel + Format::row(k));
    for (Index i = 0; i < outputs; i += 16)
      for (Index c = 0; c < kQuantGroup; c += 16)
        transpose_16_bytes(from + i * stride + c, stride, to + c * outputs + i, outputs);
  }
}

}  // namespace detail

CASA_NAMESPACE_END
