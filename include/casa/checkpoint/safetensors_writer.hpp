// Writes safetensors files: values aligned, header sorted, the same tensors give the same bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/checkpoint/tensor_view.hpp"
#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"
#include "casa/files/file.hpp"
#include "casa/files/limits.hpp"
#include "casa/json/json_writer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// A tensor to be written. The values stay where they are and must live until they are written.
struct NamedTensor {
  std::string name;                  ///< of the tensor in the file
  DType dtype = DType::F32;          ///< type of the values
  std::vector<Index> shape;          ///< row-major, last axis fastest
  std::span<const std::byte> bytes;  ///< the values, as many bytes as shape and dtype ask for
};

/// `values` under that name, with that shape (whose size they must have).
template <class S>
NamedTensor named_tensor(std::string name, std::vector<Index> shape, std::span<const S> values) {
  return {std::move(name), dtype_of<S>(), std::move(shape), std::as_bytes(values)};
}
/// The same for the values of a vector.
template <class S>
NamedTensor named_tensor(std::string name, std::vector<Index> shape, const std::vector<S>& values) {
  return named_tensor<S>(std::move(name), std::move(shape), std::span<const S>(values));
}
/// A matrix as [rows, cols]. casa::error if its rows do not follow each other without gaps.
template <class S>
NamedTensor named_tensor(std::string name, MatrixView<const S> m) {
  require(m.stride() == m.cols() || m.rows() <= 1, "tensor ", casa::quoted(name),
          ": rows of a matrix to write must be contiguous");
  const auto count = static_cast<std::size_t>(m.rows() * m.cols());
  return named_tensor<S>(std::move(name), {m.rows(), m.cols()},
                         std::span<const S>(m.data(), count));
}
/// A matrix as [rows, cols].
template <class S>
NamedTensor named_tensor(std::string name, const Matrix<S>& m) {
  return named_tensor<S>(std::move(name), m.view());
}
/// A tensor of a file, to be written into another.
inline NamedTensor named_tensor(const TensorView& t) {
  t.require_present();
  return {std::string(t.name), t.dtype, {t.shape.begin(), t.shape.end()}, t.bytes};
}

namespace detail {

/// Length, header and its padding; sorts the tensors into the order of the data: wide types first,
/// so that all are aligned, then by name.
inline std::string safetensors_header(std::vector<NamedTensor>& tensors, const Metadata& metadata,
                                      std::string_view file, std::size_t alignment = 8) {
  const LoadLimits limits;
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    const int x = bits_of(a.dtype), y = bits_of(b.dtype);
    return x != y ? x > y : a.name < b.name;
  });
  JsonWriter w;
  w.begin_object();
  if (!metadata.empty()) {
    w.key("__metadata__").begin_object();
    for (const auto& [key, value] : metadata) w.member(key, value);
    w.end_object();
  }
  std::int64_t at = 0;
  std::vector<std::string_view> names;
  for (const NamedTensor& t : tensors) {
    check_tensor_name(t.name, file, limits);
    const std::string where = text(file, ": tensor ", casa::quoted(t.name));
    require(t.name != "__metadata__", where, ": the name is taken by the format");
    require(static_cast<std::int64_t>(t.shape.size()) <= limits.axes, where, ": ", t.shape.size(),
            " axes are more than the limit of ", limits.axes);
    const std::int64_t bytes = checked_bytes(t.shape, t.dtype, where);
    require(bytes == static_cast<std::int64_t>(t.bytes.size()), where, ": ", to_string(t.dtype),
            " of shape ", shape_text(t.shape), " takes ", bytes, " bytes, given are ",
            t.bytes.size());
    names.push_back(t.name);
    w.key(t.name).begin_object().member("dtype", to_string(t.dtype)).key("shape").begin_array();
    for (const Index axis : t.shape) w.value(axis);
    w.end_array().key("data_offsets").begin_array().value(at).value(at + bytes).end_array();
    w.end_object();
    at += bytes;
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) fail(file, ": two tensors named ", casa::quoted(*twice));
  std::string header = w.end_object().str();
  header.append((alignment - (8 + header.size()) % alignment) % alignment, ' ');
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i)
    length[i] = static_cast<char>((header.size() >> (8 * i)) & 0xff);
  return length + header;
}

}  // namespace detail

/// The file as bytes in memory.
inline std::string safetensors_bytes(std::vector<NamedTensor> tensors,
                                     const Metadata& metadata = {}) {
  std::string bytes = detail::safetensors_header(tensors, metadata, "safetensors");
  for (const NamedTensor& t : tensors)
    bytes.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  return bytes;
}

/// Writes the file: whole, or the old one stays (casa::error). Saving over the file the tensors
/// come from is fine, mapped or not. The values begin at a multiple of `alignment` bytes, which is
/// a multiple of 8.
inline void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors,
                              const Metadata& metadata = {}, std::size_t alignment = 8) {
  const std::string header = detail::safetensors_header(tensors, metadata, path, alignment);
  AtomicFile file(path);
  file.write(header);
  for (const NamedTensor& t : tensors) file.write(t.bytes);
  file.commit();
}

}  // namespace io
CASA_NAMESPACE_END
