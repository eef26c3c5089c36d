// How this program was built: version, instruction set, Eigen, compiler, build type. Every program
// prints it first, since a slow or strange result often has its cause there.
#pragma once

#include <Eigen/Core>
#include <string>

#include "casa/core/amx.hpp"
#include "casa/core/config.hpp"
#include "casa/core/error.hpp"

#define CASA_STRING_(x) #x
#define CASA_STRING(x) CASA_STRING_(x)

CASA_NAMESPACE_BEGIN

/// How the including file was compiled, as text.
struct BuildInfo {
  std::string version;  ///< of casa, "0.1.0"
  std::string isa;    ///< instruction set of the kernels and tag of the namespace, "avx2_fma_f16c"
  std::string eigen;  ///< version of Eigen, "3.4.0"
  std::string compiler;    ///< "gcc 12.2.0"
  bool optimised = false;  ///< with -O1 or more
  bool asserts = false;    ///< without -DNDEBUG
  std::string
      faster_isa;  ///< a wider set that this machine has and the program does not use, or empty
  std::string amx_refusal;  ///< why the system refuses AMX to a program that was compiled for it
                            ///< (products then use AVX-512), or empty

  /// One line for a tool's stderr.
  std::string summary() const {
    return text("casa ", version, ", ", isa, ", ", optimised ? "optimised" : "NOT optimised",
                ", asserts ", asserts ? "on" : "off", ", Eigen ", eigen, ", ", compiler);
  }
  /// One more line where the program could be faster on this machine, else empty.
  std::string hint() const {
    if (!optimised) return "not optimised: build with -DCMAKE_BUILD_TYPE=Release (or -O3 -DNDEBUG)";
    if (!faster_isa.empty())
      return text("this machine has ", faster_isa, ": build the whole program with -march=native");
    if (!amx_refusal.empty())
      return text("compiled for AMX, which the system refuses (", amx_refusal,
                  "): products use vectors instead");
    return {};
  }
  /// summary(), and hint() on a line of its own where there is one: what a program prints when it
  /// starts.
  std::string report() const {
    const std::string more = hint();
    return more.empty() ? summary() : summary() + "\n" + more;
  }
};

/// How the calling file was built.
inline BuildInfo build_info() {
  BuildInfo info;
  info.version = text(CASA_VERSION_MAJOR, ".", CASA_VERSION_MINOR, ".", CASA_VERSION_PATCH);
  info.isa = CASA_STRING(CASA_ISA);
#if EIGEN_MAJOR_VERSION >= 5  // from 5 on the world version is not part of the number
  info.eigen = text(EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION);
#else
  info.eigen = text(EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION);
#endif
#if defined(__clang__)
  info.compiler = text("clang ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__);
#elif defined(__GNUC__)
  info.compiler = text("gcc ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__);
#else
  info.compiler = "unknown compiler";
#endif
#if defined(__OPTIMIZE__)
  info.optimised = true;
#endif
#if !defined(NDEBUG)
  info.asserts = true;
#endif
#if defined(__x86_64__) && !defined(__AVX512F__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"))
    info.faster_isa = "AVX-512";
#if !defined(__AVX2__) || !defined(__FMA__)
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    info.faster_isa = "AVX2 and FMA";
#endif
#endif
  if (const int error = detail::amx_error(); error != 0)
    info.amx_refusal = text("arch_prctl: ", std::strerror(error));
  return info;
}

CASA_NAMESPACE_END
