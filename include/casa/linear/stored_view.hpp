// A matrix of any stored type, seen without a copy: what weights are made from.
#pragma once

#include <algorithm>
#include <span>

#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"
#include "casa/linear/quantize.hpp"
#include "casa/simd/simd.hpp"

CASA_NAMESPACE_BEGIN

/// A read-only row-major matrix (or one row) whose element type is known at run time only: a tensor
/// of a checkpoint. Made without a copy from MatrixView, Matrix, span (one row) and row-major Eigen
/// objects of any Storage; an Eigen vector, also a column, is one row (a bias). Of other Eigen
/// objects the compiler says why not. Values in 8 bits come with their scales. What it was made
/// from must outlive it.
class StoredView {
 public:
  /// The types that a value may have.
  enum class Type { float32, float64, bfloat16, half, int8 };

  /// No values.
  StoredView() = default;
  /// Throws casa::error for a view without memory.
  template <Storage S>
  StoredView(MatrixView<const S> m)
      : data_(m.data()),
        rows_(m.rows()),
        cols_(m.cols()),
        stride_(m.stride()),
        type_(type_of<S>()) {
    require_memory("StoredView", m);
  }
  /// A writable view is read. Throws casa::error for a view without memory.
  template <Storage S>
  StoredView(MatrixView<S> m) : StoredView(MatrixView<const S>(m)) {}
  /// All of a matrix.
  template <Storage S>
  StoredView(const Matrix<S>& m) : StoredView(m.view()) {}
  /// One row.
  template <Storage S>
  StoredView(std::span<const S> v)
      : StoredView(MatrixView<const S>(v.data(), 1, static_cast<Index>(v.size()))) {}
  /// One row.
  template <Storage S>
  StoredView(std::span<S> v) : StoredView(std::span<const S>(v)) {}
  /// Values in 8 bits, as quantize.hpp describes them: the value of row r, column c is steps(r, c)
  /// * scales(r, c / kQuantGroup). No step may be -128 and every scale must be finite, which is not
  /// checked here. Throws casa::error for a view without memory and for another number of scales.
  StoredView(MatrixView<const std::int8_t> steps, MatrixView<const casa::bfloat16> scales)
      : data_(steps.data()),
        rows_(steps.rows()),
        cols_(steps.cols()),
        stride_(steps.stride()),
        type_(Type::int8),
        scales_(scales.data()),
        scale_stride_(scales.stride()) {
    require_memory("StoredView", steps);
    require_memory("StoredView: scales", scales);
    require_equal("StoredView: rows of scales", scales.rows(), rows_);
    require_equal("StoredView: scales of a row", scales.cols(), quant_groups(cols_));
  }
  /// A row-major Eigen matrix, or an Eigen vector as one row. Throws casa::error if values of a row
  /// do not lie side by side.
  template <detail::EigenObject E>
  StoredView(const E& e) : StoredView(view_of(e)) {}

  Index rows() const { return rows_; }                     ///< 1 if made from a span or a vector
  Index cols() const { return cols_; }                     ///< values of a row
  bool empty() const { return rows_ == 0 || cols_ == 0; }  ///< whether it has no values
  Type type() const { return type_; }                      ///< of every value

  /// Values [begin, begin + count) of row r as T. Widening is exact; float64 to float rounds to
  /// nearest. Throws casa::error unless the row has them.
  template <Scalar T>
  void copy(Index r, Index begin, Index count, T* dst) const {
    if (r < 0 || r >= rows_ || begin < 0 || count < 0 || count > cols_ - begin)
      fail("StoredView: values [", begin, ", ", begin + count, ") of row ", r, " of a matrix of ",
           rows_, " x ", cols_);
    switch (type_) {
      case Type::float32:
        return copy_from<float>(r, begin, count, dst);
      case Type::float64:
        return copy_from<double>(r, begin, count, dst);
      case Type::bfloat16:
        return copy_from<bfloat16>(r, begin, count, dst);
      case Type::half:
        return copy_from<half>(r, begin, count, dst);
      case Type::int8:
        for (Index c = 0; c < count; ++c)
          dst[c] = static_cast<T>(static_cast<float>(steps(r)[begin + c]) *
                                  widen(scales(r)[(begin + c) / kQuantGroup]));
        return;
    }
  }
  /// Row r as T: dst has cols() values.
  template <Scalar T>
  void copy_row(Index r, T* dst) const {
    copy(r, 0, cols_, dst);
  }
  /// The steps of row r, cols() of them. Of Type::int8 alone; not checked, as below.
  const std::int8_t* steps(Index r) const {
    return static_cast<const std::int8_t*>(data_) + r * stride_;
  }
  /// The scales of row r: quant_groups(cols()) of them.
  const casa::bfloat16* scales(Index r) const { return scales_ + r * scale_stride_; }

 private:
  template <class E>
  static auto view_of(const E& e) {
    if constexpr (detail::is_eigen_vector<E>()) {
      require(e.innerStride() == 1 || e.size() <= 1, "StoredView: a vector's values lie apart");
      return MatrixView<const typename E::Scalar>(e.data(), 1, e.size());
    } else if constexpr (detail::can_be_viewed<E>()) {
      return MatrixView<const typename E::Scalar>(e);
    } else {
      return MatrixView<const float>();
    }
  }
  template <Storage S>
  static constexpr Type type_of() {
    if constexpr (std::same_as<S, float>) return Type::float32;
    if constexpr (std::same_as<S, double>) return Type::float64;
    if constexpr (std::same_as<S, bfloat16>) return Type::bfloat16;
    if constexpr (std::same_as<S, half>) return Type::half;
  }
  template <Storage S, Scalar T>
  void copy_from(Index r, Index begin, Index count, T* dst) const {
    const S* src = static_cast<const S*>(data_) + r * stride_ + begin;
    Index c = 0;
    if constexpr (sizeof(S) == 2 && std::same_as<T, float>)
      for (; c + simd::kLanes<float> <= count; c += simd::kLanes<float>)
        simd::store(dst + c, simd::load(src + c));
    for (; c < count; ++c) dst[c] = static_cast<T>(widen(src[c]));
  }

  const void* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = 0;
  Index stride_ = 0;
  Type type_ = Type::float32;
  const casa::bfloat16* scales_ = nullptr;  // of Type::int8
  Index scale_stride_ = 0;
};

CASA_NAMESPACE_END
