// Whether products may use Intel's AMX: compiled in, and allowed by the system.
//
// The registers of AMX hold 8 KiB, and Linux saves them only for processes that have asked. Without
// permission the first tile instruction would end the process by SIGILL.
#pragma once

#include "casa/core/config.hpp"

#if CASA_AMX && defined(CASA_EMULATE_AMX)
#include <atomic>
#elif CASA_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

CASA_NAMESPACE_BEGIN

namespace detail {

#if CASA_AMX && defined(CASA_EMULATE_AMX)

/// What amx_error() returns: a test sets it to what a system that refuses would answer.
inline std::atomic<int> emulated_amx_error{0};
inline int amx_error() { return emulated_amx_error; }

#elif CASA_AMX

/// 0 if the system lets this process use tiles, else its error number: EINVAL or EOPNOTSUPP where
/// kernel or processor know no AMX, ENOSPC where a signal stack is too small for the registers. It
/// is asked once. The answer holds for all threads, and for children after fork().
inline int amx_error() {
  static const int error = [] {
    constexpr int request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
    constexpr long tile_data = 18;              // the registers' number among processor states
    const int before = errno;
    const int answer = syscall(SYS_arch_prctl, request_permission, tile_data) == 0 ? 0 : errno;
    errno = before;
    return answer;
  }();
  return error;
}

#else

inline int amx_error() { return 0; }

#endif

/// Whether products of many rows use tiles.
inline bool uses_amx() { return CASA_AMX && amx_error() == 0; }

}  // namespace detail

CASA_NAMESPACE_END
