// 64-byte aligned storage and views of matrices. Public structs hold these and no Eigen member, so
// that their layout does not depend on the vector flags of a translation unit.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "casa/core/bits.hpp"
#include "casa/core/config.hpp"
#include "casa/core/eigen_refusals.hpp"
#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN

static_assert(
    std::is_same_v<Eigen::Index, Index>,
    "casa needs Eigen's index type to be std::ptrdiff_t (EIGEN_DEFAULT_DENSE_INDEX_TYPE)");

/// Alignment of all memory that casa allocates, in bytes: a cache line, and the widest vector.
inline constexpr std::size_t kAlignment = 64;

namespace detail {

/// Asks for 2 MiB pages for those parts of fresh memory that are whole pages of that size. Fresh
/// memory then has fewer page faults, and weights and caches, which are read in one sweep, wait
/// less often for the first lines of a page: their read rate was 10 to 25 % higher.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr auto page = std::uintptr_t{1} << 21;
  const auto begin = (detail::bit_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const auto end = (detail::bit_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (begin < end) {  // a hint that may be refused
    [[maybe_unused]] const int refused =
        madvise(detail::bit_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

}  // namespace detail

/// `size` values of a trivially copyable T, 64-byte aligned. Fresh values are not initialised
/// (NaN bits where CASA_POISON is defined). A copy has memory of its own; what was moved from is
/// empty.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  /// Throws casa::error for a size that is negative or too large, std::bad_alloc without memory.
  explicit Buffer(Index size) : size_(size) {
    require(size >= 0 && size <= max_size(), "Buffer: size ", size, " is negative or too large");
    if (size == 0) return;
    data_ = static_cast<T*>(::operator new (bytes(), std::align_val_t{kAlignment}));
    detail::prefer_huge_pages(data_, bytes());
#if defined(CASA_POISON)
    std::memset(static_cast<void*>(data_), 0xff, bytes());
#endif
  }
  /// A copy of all values, in memory of its own. Throws std::bad_alloc without memory.
  Buffer(const Buffer& other) : Buffer(other.size_) {
    if (size_ > 0) std::memcpy(static_cast<void*>(data_), other.data_, bytes());
  }
  /// Takes over the memory; `other` is empty afterwards.
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  /// Copies or moves, as `other` was made.
  Buffer& operator=(Buffer other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_) ::operator delete (data_, std::align_val_t{kAlignment});
  }

  Index size() const { return size_; }                     ///< values held
  T* data() { return data_; }                              ///< null when size() is 0
  const T* data() const { return data_; }                  ///< the same, to read
  T& operator[](Index i) { return data_[i]; }              ///< value i, not checked
  const T& operator[](Index i) const { return data_[i]; }  ///< the same, to read
  /// All values; valid until the buffer is assigned to, moved from or destroyed.
  std::span<T> span() { return {data_, static_cast<std::size_t>(size_)}; }
  /// The same, to read.
  std::span<const T> span() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  static constexpr Index max_size() {
    return (std::numeric_limits<Index>::max)() / static_cast<Index>(sizeof(T)) - 64;
  }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  T* data_ = nullptr;
  Index size_ = 0;
};

/// The row-major Eigen matrix, as which all matrices are stored.
template <class T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A row-major matrix that lies in somebody else's memory: row r starts at data + r * stride.
/// MatrixView<const T> reads, MatrixView<T> also writes. Made without a copy from Matrix and from
/// any Eigen row-major object whose rows are contiguous. Other Eigen objects (column-major ones,
/// expressions, another scalar type) do not compile, and the compiler says why; an inner stride
/// other than 1 throws casa::error.
template <class T>
class MatrixView {
 public:
  using Value = std::remove_const_t<T>;  ///< T without const

  /// No rows, no columns, no memory.
  MatrixView() = default;
  /// rows x cols values, row r from data + r * stride on. Nothing is checked here: functions that
  /// take views do (require_memory).
  MatrixView(T* data, Index rows, Index cols, Index stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
  /// Rows without gaps: the stride is cols.
  MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}
  /// A writable view reads, too. (A template, since a plain constructor would be the copy
  /// constructor of MatrixView<Value>.)
  template <class U>
  requires(std::is_const_v<T>&& std::is_same_v<U, Value>) MatrixView(const MatrixView<U>& v)
      : MatrixView(v.data(), v.rows(), v.cols(), v.stride()) {}
  // NOLINTBEGIN(bugprone-forwarding-reference-overload): a view is no Eigen object
  /// The memory of a row-major Eigen object of T (matrix, block, map), which must outlive the view.
  /// Throws casa::error if neighbours in a row do not lie side by side.
  template <detail::RowsOf<T> E>
  MatrixView(E&& e) : MatrixView(e.data(), e.rows(), e.cols(), e.outerStride()) {
    require(e.innerStride() == 1 || e.cols() <= 1, "MatrixView: rows are not contiguous");
  }
  /// Refuses every other Eigen object while compiling, with a sentence that says why.
  template <detail::EigenObject E>
  requires(!detail::RowsOf<E, T>) MatrixView(E&&) {
    static_cast<void>(detail::can_be_viewed<E, T>());  // never: says why not
  }
  // NOLINTEND(bugprone-forwarding-reference-overload)

  T* data() const { return data_; }         ///< the first value of row 0
  Index rows() const { return rows_; }      ///< as given
  Index cols() const { return cols_; }      ///< as given; at most stride() when rows() > 1
  Index stride() const { return stride_; }  ///< values from one row's begin to the next one's
  /// The first value of row r. Not checked.
  T* row(Index r) const { return data_ + r * stride_; }
  /// Row r, column c. Not checked.
  T& operator()(Index r, Index c) const { return data_[r * stride_ + c]; }
  /// Rows [begin, begin + count).
  MatrixView middle_rows(Index begin, Index count) const {
    return {data_ + begin * stride_, count, cols_, stride_};
  }
  /// Columns [begin, begin + count).
  MatrixView middle_cols(Index begin, Index count) const {
    return {data_ + begin, rows_, count, stride_};
  }
  /// The same memory as an Eigen::Map.
  auto eigen() const {
    using Plain = std::conditional_t<std::is_const_v<T>, const RowMatrix<Value>, RowMatrix<Value>>;
    return Eigen::Map<Plain, Eigen::Unaligned, Eigen::OuterStride<>>(data_, rows_, cols_,
                                                                     Eigen::OuterStride<>(stride_));
  }

 private:
  T* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = 0;
  Index stride_ = 0;
};

/// Throws casa::error, naming `what`, unless a view has a size, memory for it, and rows that do not
/// overlap.
template <class T>
void require_memory(std::string_view what, const MatrixView<T>& m) {
  const bool empty = m.rows() == 0 || m.cols() == 0;
  if (m.rows() >= 0 && m.cols() >= 0 && (empty || m.data() != nullptr) &&
      (m.rows() <= 1 || m.stride() >= m.cols()))
    return;
  fail(what, ": a view of ", m.rows(), " x ", m.cols(), " values must have memory and a stride of ",
       m.cols(), " or more, got a stride of ", m.stride(), m.data() ? "" : " and no memory");
}

/// A row-major matrix that owns its memory, rows without gaps. Fresh values are not initialised.
template <class T>
class Matrix {
 public:
  /// No rows, no columns.
  Matrix() = default;
  /// Throws casa::error for a size that is negative or too large, std::bad_alloc without memory.
  Matrix(Index rows, Index cols)
      : rows_(rows), cols_(cols), buffer_(checked_mul(rows, cols, "Matrix")) {}

  Index rows() const { return rows_; }                        ///< as given
  Index cols() const { return cols_; }                        ///< as given: values of a row
  Index size() const { return rows_ * cols_; }                ///< rows() * cols()
  T* data() { return buffer_.data(); }                        ///< size() values, row after row
  const T* data() const { return buffer_.data(); }            ///< the same, to read
  T* row(Index r) { return data() + r * cols_; }              ///< row r: cols() values. Not checked
  const T* row(Index r) const { return data() + r * cols_; }  ///< the same, to read
  /// Row r, column c. Not checked.
  T& operator()(Index r, Index c) { return data()[r * cols_ + c]; }
  /// The same, to read.
  const T& operator()(Index r, Index c) const { return data()[r * cols_ + c]; }
  /// Sets every value.
  void fill(T value) { std::fill_n(data(), size(), value); }
  /// The same memory as a view, valid until the matrix is assigned to, moved from or destroyed.
  MatrixView<T> view() { return {data(), rows_, cols_, cols_}; }
  /// The same, to read.
  MatrixView<const T> view() const { return {data(), rows_, cols_, cols_}; }
  /// A matrix can be given where a function asks for a view.
  operator MatrixView<T>() { return view(); }
  /// The same, to read.
  operator MatrixView<const T>() const { return view(); }
  /// The same memory as an Eigen::Map.
  auto eigen() { return view().eigen(); }
  /// The same, to read.
  auto eigen() const { return view().eigen(); }

 private:
  Index rows_ = 0;
  Index cols_ = 0;
  Buffer<T> buffer_;
};

CASA_NAMESPACE_END
