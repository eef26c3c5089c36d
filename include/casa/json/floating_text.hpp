// Floating-point numbers as text and back, whatever the locale, also where the standard library has
// std::to_chars and std::from_chars for integers alone (that of LLVM before version 20).
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN
namespace io::detail {

// The way without <charconv>: slower, for finite numbers, and with %g's choice between 1000000 and
// 1e+06. Compiled everywhere, so that it is tested everywhere.

/// The number that `token` is the whole text of, or as much of it as is one; infinity where it is
/// too large. Whether all of it was read stands in `whole`.
template <std::floating_point F>
F streamed_number(std::string_view token, bool& whole) {
  std::istringstream in{std::string(token)};
  in.imbue(std::locale::classic());
  F x{};
  in >> x;
  whole = in.eof();
  // Too large: the largest number and a failure (LLVM: infinity, and none).
  if (in.fail() && std::abs(x) == (std::numeric_limits<F>::max)())
    return x > 0 ? std::numeric_limits<F>::infinity() : -std::numeric_limits<F>::infinity();
  return x;
}

/// The text of the fewest digits that reads back as x.
template <std::floating_point F>
std::string streamed_text(F x) {
  for (int digits = 1;; ++digits) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(digits);
    out << x;
    bool whole = false;
    if (digits == std::numeric_limits<F>::max_digits10 || streamed_number<F>(out.str(), whole) == x)
      return out.str();
  }
}

/// The shortest text that reads back as x, which is finite.
template <std::floating_point F>
std::string shortest_text(F x) {
#if defined(__cpp_lib_to_chars)
  char digits[64];
  return {digits, std::to_chars(digits, digits + sizeof digits, x).ptr};
#else
  return streamed_text(x);
#endif
}

/// Whether the whole of `token` is a decimal number that is not one of double: too large, or too
/// small to be told from 0. (A platform without <charconv> may count the small ones among those of
/// double; callers ask for the large ones.)
inline bool is_out_of_range(std::string_view token) {
#if defined(__cpp_lib_to_chars)
  double x = 0;
  const char* end = token.data() + token.size();
  const auto [at, code] = std::from_chars(token.data(), end, x);
  return code == std::errc::result_out_of_range && at == end;
#else
  bool whole = false;
  return std::isinf(streamed_number<double>(token, whole)) && whole;
#endif
}

}  // namespace io::detail
CASA_NAMESPACE_END
