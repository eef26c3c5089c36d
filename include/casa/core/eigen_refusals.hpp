// Which Eigen objects are read where they lie, and the one sentence that a compiler says of others.
#pragma once

#include <Eigen/Core>
#include <type_traits>
#include <utility>

#include "casa/core/scalar.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Anything of Eigen's: matrices, arrays, maps, blocks, expressions.
template <class E>
concept EigenObject =
    std::is_base_of_v<Eigen::EigenBase<std::remove_cvref_t<E>>, std::remove_cvref_t<E>>;

/// Has memory of its own, or shows somebody's: not a sum, a product, a transposed copy.
template <class E>
concept WithMemory = requires(std::remove_cvref_t<E>& e) {
  e.data();
  e.outerStride();
  e.innerStride();
};

/// An object with memory whose rows may be read as T* without a copy.
template <class E, class T>
concept RowsOf = WithMemory<E> &&(std::remove_cvref_t<E>::IsRowMajor != 0) &&
                 std::is_convertible_v<decltype(std::declval<E&>().data()), T*>;

template <class E>
struct EigenScalar {
  using type = void;
};
template <EigenObject E>
struct EigenScalar<E> {
  using type = typename std::remove_cvref_t<E>::Scalar;
};

/// Fails to compile, by one sentence with advice, unless E is read where it lies as rows of T
/// (void: of any type that casa stores). Returns whether it is: what depends on it need not be
/// compiled, so that no further errors bury the sentence.
template <class E, class T = void>
constexpr bool can_be_viewed() {
  using Scalar = typename EigenScalar<E>::type;
  using Value = std::conditional_t<std::is_void_v<T>, Scalar, std::remove_const_t<T>>;
  constexpr bool memory = WithMemory<E>;
  static_assert(
      memory,
      "casa: this is an Eigen expression, which has no memory to read; evaluate it first: "
      "casa::RowMatrix<float> m = expression;");
  if constexpr (memory) {
    constexpr bool same = std::is_same_v<Scalar, Value>;
    constexpr bool stored = Storage<Scalar> || (same && !std::is_void_v<T>);
    constexpr bool row_major = std::remove_cvref_t<E>::IsRowMajor != 0;
    constexpr bool writable =
        std::is_void_v<T> || std::is_const_v<T> ||
        std::is_convertible_v<decltype(std::declval<std::remove_reference_t<E>&>().data()), T*>;
    static_assert(stored,
                  "casa: this Eigen object holds a type that is not read: float, double, "
                  "casa::bfloat16 and casa::half are; of Eigen::bfloat16 or Eigen::half x make "
                  "casa's own: casa::RowMatrix<casa::bfloat16> m = x.cast<float>().unaryExpr("
                  "[](float v) { return casa::narrow<casa::bfloat16>(v); });");
    static_assert(!stored || same,
                  "casa: this Eigen object holds another scalar type than the view of it; convert "
                  "it first: casa::RowMatrix<float> m = other.cast<float>();");
    static_assert(!stored || !same || row_major,
                  "casa: this Eigen object is column-major (Eigen's default), and casa reads rows; "
                  "declare it casa::RowMatrix<float>, or copy it into one: "
                  "casa::RowMatrix<float> m = other;");
    static_assert(!stored || !same || !row_major || writable,
                  "casa: this Eigen object is const; view it as MatrixView<const T>");
    return stored && same && row_major && writable;
  }
  return false;
}

/// Whether E is one row or one column with memory, of a type that casa stores.
template <class E>
constexpr bool is_eigen_vector() {
  if constexpr (WithMemory<E>)
    return Storage<typename EigenScalar<E>::type> && std::remove_cvref_t<E>::IsVectorAtCompileTime;
  else
    return false;
}

}  // namespace detail

CASA_NAMESPACE_END
