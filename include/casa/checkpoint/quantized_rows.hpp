// A matrix as 8-bit steps and their scales, to be written into a file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/checkpoint_weights.hpp"
#include "casa/checkpoint/safetensors_writer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// The rows of one matrix in the format of quantize.hpp.
struct QuantizedRows {
  /// Room for that matrix; nothing is initialised.
  explicit QuantizedRows(const TensorSpec& matrix)
      : spec(matrix), steps(spec.rows, spec.cols), scales(spec.rows, quant_groups(spec.cols)) {}

  /// Rounds row r: the steps and scales that PackedWeight makes of the same values. Throws
  /// casa::error for a value that is no finite number.
  void set_row(Index r, const float* values) {
    for (Index k = 0; k < steps.cols(); k += kQuantGroup) {
      const Index end = (std::min)(k + kQuantGroup, steps.cols());
      float largest = 0;
      for (Index c = k; c < end; ++c) {
        if (!(std::abs(values[c]) <= (std::numeric_limits<float>::max)()))
          fail("tensor ", casa::quoted(spec.name), ": row ", r, " has the value ", values[c],
               ", which int8 weights cannot hold");
        largest = (std::max)(largest, std::abs(values[c]));
      }
      const bfloat16 scale = quant_scale(largest);
      scales(r, k / kQuantGroup) = scale;
      for (Index c = k; c < end; ++c) steps(r, c) = quantize(values[c], widen(scale));
    }
  }
  /// Adds the matrix and its scales, which stay here and must live until they are written.
  void append_to(std::vector<NamedTensor>& tensors) const {
    const auto values = [](const auto& m) {
      return std::span(m.data(), static_cast<std::size_t>(m.size()));
    };
    tensors.push_back(named_tensor(spec.name, spec.shape(), values(steps)));
    const TensorSpec beside = scales_of(spec);
    tensors.push_back(named_tensor(beside.name, beside.shape(), values(scales)));
  }

  TensorSpec spec;
  Matrix<std::int8_t> steps;
  Matrix<bfloat16> scales;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
