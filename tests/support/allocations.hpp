// Counts what operator new hands out, in the whole program: for tests that a warm step allocates
// nothing.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CASA_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define CASA_TEST_SANITIZED 1
#endif
#endif
#ifndef CASA_TEST_SANITIZED
#define CASA_TEST_SANITIZED 0
#endif

namespace casa_test {

inline constexpr bool kSanitized = CASA_TEST_SANITIZED;

inline std::atomic<long long> allocations{0};

inline void* counted(void* p) {
  ++allocations;
  return p != nullptr ? p : throw std::bad_alloc();
}

/// Allocations by operator new so far, of every form (the array and nothrow forms call these).
inline long long allocation_count() { return allocations.load(); }

/// Whether the counting forms are the ones in use.
inline bool counts_allocations() {
  const long long before = allocation_count();
  ::operator delete(::operator new(1));
  return allocation_count() == before + 1;
}

/// What a test that counts begins with. False, which is said, in a sanitizer's program, which must
/// keep its own operator new; anywhere else allocations must be counted.
inline bool must_count() {
  if (kSanitized) {
    MESSAGE("skipped: under a sanitizer allocations are not counted");
    return false;
  }
  REQUIRE(counts_allocations());
  return true;
}

/// How often f allocates once two calls have warmed what it keeps.
template <class F>
long long warm_allocations(F f) {
  f();
  f();
  const long long before = allocation_count();
  f();
  return allocation_count() - before;
}

}  // namespace casa_test

#if !CASA_TEST_SANITIZED
// Weak, so that every test file may include this.
__attribute__((weak)) void* operator new(std::size_t bytes) {
  return casa_test::counted(std::malloc(bytes == 0 ? 1 : bytes));
}
__attribute__((weak)) void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  const std::size_t padded = (bytes / align + 1) * align;  // aligned_alloc wants a multiple
  return casa_test::counted(padded < bytes ? nullptr : std::aligned_alloc(align, padded));
}
__attribute__((weak)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((weak)) void operator delete(void* p, std::size_t) noexcept { std::free(p); }
__attribute__((weak)) void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
__attribute__((weak)) void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
#endif
