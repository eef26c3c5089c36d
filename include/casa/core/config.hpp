// What every header needs first: the version, the index type, and the two namespaces of all public
// names.
//
// Nearly all of them stand in an inline namespace that is tagged by the instruction set that the
// kernels see. The linker keeps one copy of each template: without the tag, two files built with
// different -m flags would share kernels and memory layouts that only one of them was compiled for.
// With it, mixing them is an undefined reference.
//
// Untagged, in CASA_COMMON_NAMESPACE, is what crosses between parts of a program that were built
// with different flags, as plug-ins are: casa::error, which a program must be able to catch whoever
// threw it, enums, and plain structs of numbers. The price is that there the linker may take either
// part's copy of an inline function, so nothing untagged may need one: members are
// CASA_COMMON_INLINE, which leaves no copy, and what owns memory, computes, or calls what does
// stays tagged. tests/house/link_tag.sh holds this.
#pragma once

#include <cstddef>

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error \
    "casa needs infinities and NaN (rows that see no key): build without -ffast-math / -ffinite-math-only"
#endif

#if __cplusplus < 202002L
#error "casa needs C++20: build with -std=c++20 or later"
#endif
#if !defined(__cpp_exceptions)
#error "casa reports errors by exceptions: build without -fno-exceptions"
#endif

#define CASA_VERSION_MAJOR 0
#define CASA_VERSION_MINOR 1
#define CASA_VERSION_PATCH 0

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CASA_TAG_WIDTH avx512
#elif defined(__AVX2__)
#define CASA_TAG_WIDTH avx2
#elif defined(__AVX__)
#define CASA_TAG_WIDTH avx
#elif defined(__SSE4_1__)
#define CASA_TAG_WIDTH sse4
#elif defined(__SSE2__)
#define CASA_TAG_WIDTH sse2
#elif defined(__ARM_NEON)
#define CASA_TAG_WIDTH neon
#else
#define CASA_TAG_WIDTH scalar
#endif
#if defined(__FMA__)
#define CASA_TAG_FMA _fma
#else
#define CASA_TAG_FMA
#endif
#if defined(__F16C__)
#define CASA_TAG_F16C _f16c
#else
#define CASA_TAG_F16C
#endif
#if defined(__AVX512BF16__)
#define CASA_TAG_BF16 _bf16
#else
#define CASA_TAG_BF16
#endif
#if defined(__AVX512VNNI__)
#define CASA_TAG_VNNI _vnni
#elif defined(__AVXVNNI__)
#define CASA_TAG_VNNI _avxvnni
#elif defined(__ARM_FEATURE_DOTPROD)
#define CASA_TAG_VNNI _dotprod
#else
#define CASA_TAG_VNNI
#endif
// Intel's AMX: -mamx-tile -mamx-bf16 -mamx-int8, or a -march that has them (core/amx.hpp). Clang
// before 16 spells the macros in one word.
#if defined(CASA_EMULATE_AMX)  // tests: its instructions in C++ (simd/amx.hpp)
#define CASA_AMX 1
#define CASA_TAG_AMX _amx_emulated
#elif defined(__linux__) &&                                                       \
    ((defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)) || \
     (defined(__AMXTILE__) && defined(__AMXBF16__) && defined(__AMXINT8__)))
#define CASA_AMX 1
#define CASA_TAG_AMX _amx
#else
#define CASA_AMX 0
#define CASA_TAG_AMX
#endif
#if defined(CASA_POISON)  // tests: fresh memory is filled with NaN bits
#define CASA_TAG_POISON _poison
#else
#define CASA_TAG_POISON
#endif

#define CASA_JOIN_(a, b, c, d, e, f, g) a##b##c##d##e##f##g
#define CASA_JOIN(a, b, c, d, e, f, g) CASA_JOIN_(a, b, c, d, e, f, g)
#define CASA_ISA                                                                       \
  CASA_JOIN(CASA_TAG_WIDTH, CASA_TAG_FMA, CASA_TAG_F16C, CASA_TAG_BF16, CASA_TAG_VNNI, \
            CASA_TAG_AMX, CASA_TAG_POISON)

#define CASA_NAMESPACE_BEGIN \
  namespace casa {           \
  inline namespace CASA_ISA {
#define CASA_NAMESPACE_END \
  }                        \
  }

#define CASA_COMMON_NAMESPACE_BEGIN namespace casa {
#define CASA_COMMON_NAMESPACE_END }
#define CASA_COMMON_INLINE [[gnu::always_inline]]
#define CASA_VISIBLE __attribute__((visibility("default")))

CASA_COMMON_NAMESPACE_BEGIN

/// Counts and places of tokens, rows, heads. Signed, so that differences are ordinary numbers.
using Index = std::ptrdiff_t;

CASA_COMMON_NAMESPACE_END
