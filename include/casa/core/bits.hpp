// The bits of a value as another type.
#pragma once

#include <type_traits>

#include "casa/core/config.hpp"

CASA_NAMESPACE_BEGIN
namespace detail {

/// std::bit_cast, which the C++ library of LLVM has from version 14 on (Debian's Emscripten comes
/// with 13). Both compilers have it built in.
template <class To, class From>
requires(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<To> &&
         std::is_trivially_copyable_v<From>) constexpr To bit_cast(const From& from) noexcept {
  return __builtin_bit_cast(To, from);
}

}  // namespace detail
CASA_NAMESPACE_END
