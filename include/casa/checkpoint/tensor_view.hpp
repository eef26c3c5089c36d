// A tensor as it lies in a safetensors file: name, type, shape, bytes; and its values as C++ types.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The types of the safetensors format.
enum class DType : std::uint8_t {
  BOOL,
  F4,
  F6_E2M3,
  F6_E3M2,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  C64,
  F64,
  I64,
  U64,
};

namespace detail {

struct DTypeInfo {
  std::string_view name;
  int bits;
};

/// In the order of DType.
inline constexpr std::array<DTypeInfo, 20> dtypes{{
    {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
    {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

template <class S>
inline constexpr bool is_value = Storage<S> || (std::integral<S> && !std::same_as<S, bool> &&
                                                !std::same_as<S, char>);

}  // namespace detail

/// The name of a type as safetensors headers write it, "BF16".
inline std::string_view to_string(DType t) {
  return detail::dtypes[static_cast<std::size_t>(t)].name;
}
/// Bits of one value.
inline int bits_of(DType t) { return detail::dtypes[static_cast<std::size_t>(t)].bits; }

/// The DType that holds values of S (float, double, bfloat16, half, integers of 8 to 64 bits).
template <class S>
requires detail::is_value<S>
constexpr DType dtype_of() {
  if constexpr (std::same_as<S, float>)
    return DType::F32;
  else if constexpr (std::same_as<S, double>)
    return DType::F64;
  else if constexpr (std::same_as<S, bfloat16>)
    return DType::BF16;
  else if constexpr (std::same_as<S, half>)
    return DType::F16;
  else if constexpr (sizeof(S) == 1)
    return std::is_signed_v<S> ? DType::I8 : DType::U8;
  else if constexpr (sizeof(S) == 2)
    return std::is_signed_v<S> ? DType::I16 : DType::U16;
  else if constexpr (sizeof(S) == 4)
    return std::is_signed_v<S> ? DType::I32 : DType::U32;
  else
    return std::is_signed_v<S> ? DType::I64 : DType::U64;
}

/// A shape as errors write it: "[2, 3]".
inline std::string shape_text(std::span<const Index> shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += text(i ? ", " : "", shape[i]);
  return s + ']';
}

/// One tensor of a SafeTensors object, as views that live as long as any copy of that object.
struct TensorView {
  std::string_view file;             ///< what errors call the file
  std::string_view name;             ///< of the tensor
  DType dtype = DType::F32;          ///< type of the values as they are stored
  std::span<const Index> shape;      ///< row-major, last axis fastest
  std::span<const std::byte> bytes;  ///< the values, little endian, at any alignment
  const bool* gone = nullptr;        ///< set by SafeTensors::give_back; null: never given back

  /// "file: tensor "name"", as errors begin.
  std::string where() const { return text(file, ": tensor ", casa::quoted(name)); }
  /// Throws casa::error if the memory of the values was given back.
  void require_present() const {
    if (gone != nullptr && *gone)
      fail(where(), ": its memory was given back after it was read once, and it is read again");
  }
  /// Number of values.
  Index count() const {
    Index n = 1;
    for (const Index axis : shape) n *= axis;
    return n;
  }
  /// The last axis (1 for a scalar).
  Index cols() const { return shape.empty() ? 1 : shape.back(); }
  /// All axes but the last, flattened.
  Index rows() const {
    Index n = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
    return n;
  }

  /// Throws casa::error with both shapes unless the shape is this one.
  void require_shape(std::span<const Index> expected) const {
    if (!std::equal(shape.begin(), shape.end(), expected.begin(), expected.end()))
      fail(where(), ": expected shape ", shape_text(expected), ", got ", shape_text(shape));
  }
  /// The same for a list in braces.
  void require_shape(std::initializer_list<Index> expected) const {
    require_shape(std::span(expected.begin(), expected.size()));
  }

  /// The values in place, without a copy. casa::error if they are not of type S or not aligned for
  /// it (read_into copes with both), or were given back.
  template <class S>
  std::span<const S> as() const {
    require_present();
    require(dtype == dtype_of<S>(), where(), ": expected type ", to_string(dtype_of<S>()), ", got ",
            to_string(dtype));
    require(is_aligned<S>(), where(), ": data is not aligned for ", to_string(dtype),
            ": it must be copied");
    return {reinterpret_cast<const S*>(bytes.data()), bytes.size() / sizeof(S)};
  }
  /// as<S>() would succeed.
  template <class S>
  bool viewable_as() const {
    return dtype == dtype_of<S>() && is_aligned<S>();
  }

  /// Copies the values to `out`, of count() values. Floating T (float, double, bfloat16, half):
  /// from F64, F32, F16, BF16, rounded to nearest where T is narrower (F64 to 16 bits by way of
  /// float). Integer T: from integers and BOOL, casa::error if a value does not fit. Other types:
  /// casa::error, as for values that were given back.
  template <class T>
  requires detail::is_value<T>
  void read_into(std::span<T> out) const {
    require_present();
    require(static_cast<Index>(out.size()) == count(), where(), ": expected ", out.size(),
            " values, got shape ", shape_text(shape));
    if (dtype == dtype_of<T>()) {
      if (!bytes.empty()) std::memcpy(static_cast<void*>(out.data()), bytes.data(), bytes.size());
      return;
    }
    if constexpr (Storage<T>) {
      switch (dtype) {
        case DType::F64:
          return convert<double>(out);
        case DType::F32:
          return convert<float>(out);
        case DType::F16:
          return convert<half>(out);
        case DType::BF16:
          return convert<bfloat16>(out);
        default:
          fail(where(), ": expected a floating type, got ", to_string(dtype));
      }
    } else {
      switch (dtype) {
        case DType::BOOL:
        case DType::U8:
          return convert<std::uint8_t>(out);
        case DType::I8:
          return convert<std::int8_t>(out);
        case DType::I16:
          return convert<std::int16_t>(out);
        case DType::U16:
          return convert<std::uint16_t>(out);
        case DType::I32:
          return convert<std::int32_t>(out);
        case DType::U32:
          return convert<std::uint32_t>(out);
        case DType::I64:
          return convert<std::int64_t>(out);
        case DType::U64:
          return convert<std::uint64_t>(out);
        default:
          fail(where(), ": expected an integer type, got ", to_string(dtype));
      }
    }
  }
  /// The values as read_into gives them, rows() x cols().
  template <class T>
  Matrix<T> to_matrix() const {
    Matrix<T> m(rows(), cols());
    read_into(std::span<T>(m.data(), static_cast<std::size_t>(m.size())));
    return m;
  }
  /// The values as read_into gives them, in the order of the file.
  template <class T>
  std::vector<T> to_vector() const {
    std::vector<T> v(static_cast<std::size_t>(count()));
    read_into(std::span<T>(v));
    return v;
  }

 private:
  template <class S>
  bool is_aligned() const {
    return reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(S) == 0;
  }

  template <class S, class T>
  void convert(std::span<T> out) const {
    for (std::size_t i = 0; i < out.size(); ++i) {
      S s;
      std::memcpy(&s, bytes.data() + i * sizeof(S), sizeof(S));
      if constexpr (Storage<T>) {
        out[i] = narrow<T>(widen(s));
      } else {
        require(std::in_range<T>(s), where(), ": value ", s, " at ", i, " does not fit ",
                to_string(dtype_of<T>()));
        out[i] = static_cast<T>(s);
      }
    }
  }
};

}  // namespace io
CASA_NAMESPACE_END
