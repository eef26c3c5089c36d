// The exception type, and helpers that throw it with what was expected and what was given.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "casa/core/config.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Thrown at every public door for a wrong shape, index, value or file. The message names the
/// thing, the expected and the actual value. What was being built or changed is as it was before
/// the call.
///
/// Access to single values is not checked, as in std::vector: operator(), operator[], row(), and
/// functions that say so. Nor can a function know how much memory a pointer has, or whether what it
/// writes overlaps what it reads. tests/*/contracts.cpp try every other wrong call.
/// One type in all of a program, also where its parts (plug-ins) were built with
/// different -m flags or hide their symbols.
class CASA_VISIBLE error : public std::runtime_error {
 public:
  /// `message` is what what() gives.
  CASA_COMMON_INLINE explicit error(const std::string& message) : std::runtime_error(message) {}
  /// The same from a literal; null is not allowed.
  CASA_COMMON_INLINE explicit error(const char* message) : std::runtime_error(message) {}
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {

inline void append_text(std::string& s, std::string_view t) { s += t; }
template <class N>
requires std::is_integral_v<N>
void append_text(std::string& s, N n) { s += std::to_string(n); }
// (std::to_string would give 0.000000 for 1e-40.)
template <class N>
requires std::is_floating_point_v<N>
void append_text(std::string& s, N n) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(n));
  s += digits;
}

}  // namespace detail

/// The parts (strings and numbers) joined to one string.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::string s;
  (detail::append_text(s, parts), ...);
  return s;
}

/// Throws casa::error with the joined parts.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw error(text(parts...));
}

/// Throws casa::error with the joined parts unless `ok`.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

/// Throws unless actual == expected: "<what>: expected <expected>, got <actual>".
template <class A, class B>
void require_equal(std::string_view what, const A& actual, const B& expected) {
  if (!(actual == static_cast<A>(expected))) fail(what, ": expected ", expected, ", got ", actual);
}

/// A name from a file, made safe to print: control and non-ASCII bytes escaped, cut to 80
/// characters.
inline std::string quoted(std::string_view name) {
  constexpr char hex[] = "0123456789abcdef";
  std::string s = "\"";
  for (const char c : name) {
    if (s.size() > 80) return s + "...\"";
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u > 0x7e || c == '"' || c == '\\') {
      s += "\\x";
      s += hex[u >> 4];
      s += hex[u & 15];
    } else {
      s += c;
    }
  }
  return s + '"';
}

/// a * b, or casa::error naming `what` when the product does not fit an Index (or the type of a or
/// b, if that is wider) or a factor is negative.
template <std::signed_integral A, std::signed_integral B>
std::common_type_t<A, B, Index> checked_mul(A a, B b, std::string_view what) {
  std::common_type_t<A, B, Index> r = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r))
    fail(what, ": size overflows: ", a, " * ", b);
  return r;
}

/// a + b, or casa::error naming `what` when the sum does not fit an Index (or the type of a or b,
/// if that is wider) or a term is negative.
template <std::signed_integral A, std::signed_integral B>
std::common_type_t<A, B, Index> checked_add(A a, B b, std::string_view what) {
  std::common_type_t<A, B, Index> r = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &r))
    fail(what, ": size overflows: ", a, " + ", b);
  return r;
}

CASA_NAMESPACE_END
