// What parsing a file may allocate: at most 64 MiB + 20 times the file, whatever the file says.
// This file replaces operator new for its test program, to count.
#include <doctest/doctest.h>
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/json/json.hpp"
#include "checkpoint/safetensors_bytes.hpp"
#include "support/scratch.hpp"

namespace {

std::atomic<std::int64_t> bytes_now{0};
std::atomic<std::int64_t> bytes_peak{0};

// Allocations that may still succeed; negative: all.
std::atomic<std::int64_t> allocations_left{-1};

bool may_allocate() {
  if (allocations_left < 0) return true;
  if (allocations_left == 0) return false;
  --allocations_left;
  return true;
}

void* counted(void* p) {
  if (!p) throw std::bad_alloc();
  const std::int64_t now = bytes_now += static_cast<std::int64_t>(malloc_usable_size(p));
  std::int64_t peak = bytes_peak;
  while (peak < now && !bytes_peak.compare_exchange_weak(peak, now)) {
  }
  return p;
}

void uncounted(void* p) noexcept {
  if (p) bytes_now -= static_cast<std::int64_t>(malloc_usable_size(p));
  std::free(p);
}

/// The most bytes held at once since it was made, beyond those held then.
class PeakBytes {
 public:
  PeakBytes() : before_(bytes_now) { bytes_peak = before_; }
  std::int64_t bytes() const { return bytes_peak - before_; }

 private:
  std::int64_t before_;
};

}  // namespace

void* operator new(std::size_t n) {
  if (!may_allocate()) throw std::bad_alloc();
  return counted(std::malloc(n));
}
void* operator new(std::size_t n, std::align_val_t a) {
  const auto align = static_cast<std::size_t>(a);
  if (n > SIZE_MAX - align || !may_allocate()) throw std::bad_alloc();
  return counted(std::aligned_alloc(align, (n + align - 1) / align * align));
}
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t) noexcept { uncounted(p); }
void operator delete(void* p, std::align_val_t) noexcept { uncounted(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { uncounted(p); }

using casa::io::parse_json;

TEST_CASE("json: parsing stays below 64 MiB + 20 x text for the most wasteful texts") {
  struct Unit {
    std::string name, text;
  };
  const Unit units[] = {
      {"numbers", "0,"},
      {"empty strings", "\"\","},
      {"strings", "\"a\","},
      {"arrays", "[],"},
      {"objects", "{},"},
      {"arrays of one", "[0],"},
      {"objects of one", "{\"\":0},"},
      {"deep",
       "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"
       "]]]]]]]]]]]]]]]]]]]]],"},
      {"16 letters", "\"abcdefghijklmnop\","},
  };
  for (const Unit& unit : units) {
    CAPTURE(unit.name);
    constexpr std::size_t bytes = 3'000'000;
    std::string s = "{\"a\":[";
    while (s.size() < bytes) s += unit.text;
    s.back() = ']';
    s += '}';
    constexpr std::int64_t spare = 1'000'000;
    const std::int64_t allowed = spare + 20 * static_cast<std::int64_t>(s.size());
    PeakBytes peak;
    try {
      parse_json(s, "f", {.spare_bytes = spare});
    } catch (const casa::error& e) {  // refused before it takes more
      CAPTURE(e.what());
      CHECK(std::string_view(e.what()).find("asks for more memory") != std::string_view::npos);
      CHECK(peak.bytes() > allowed / 2);
    }
    CHECK(peak.bytes() > 0);
    CHECK(peak.bytes() <= allowed);
  }
  std::string keys = "{";
  for (int i = 0; i < 300'000; ++i) keys += casa::text("\"", i, "\":0,");
  keys.back() = '}';
  PeakBytes peak;
  CHECK(parse_json(keys, "f").size() == 300'000);
  CHECK(peak.bytes() <= 20 * static_cast<std::int64_t>(keys.size()));
}

TEST_CASE(
    "safetensors: a bad file allocates at most 20 x its size, and a small one next to nothing") {
  const Scratch scratch;
  for (const BadFile& bad : bad_files()) {
    CAPTURE(bad.name);
    const std::string path = scratch.write("bad", bad.bytes);
    const auto size = static_cast<std::int64_t>(bad.bytes.size());
    PeakBytes peak;
    CHECK_THROWS_AS(casa::io::read_safetensors(path), casa::error);
    CHECK(peak.bytes() <= 100'000 + 20 * size);
  }
}

TEST_CASE("safetensors: a header full of the smallest tensors stays within the bound") {
  std::string header = "{";
  for (int i = 0; i < 60'000; ++i)
    header += casa::text(i ? "," : "", entry(std::to_string(i), "U8", "[0]", "[0,0]"));
  const std::string bytes = file_bytes(header + "}", 0);
  const Scratch scratch;
  const std::string path = scratch.write("many", bytes);
  PeakBytes peak;
  CHECK(casa::io::read_safetensors(path).size() == 60'000);
  CHECK(peak.bytes() <= 20 * static_cast<std::int64_t>(bytes.size()));
}

TEST_CASE("safetensors: when memory runs out at any allocation, loading fails without a leak") {
  const std::string bytes =
      file_bytes("{\"__metadata__\":{\"a long enough key\":\"a long enough value\"}," +
                     entry("a tensor with a long name", "F32", "[2]", "[0,8]") + "," +
                     entry("b", "U8", "[2,4]", "[8,16]") + "}",
                 16);
  const Scratch scratch;
  const std::string path = scratch.write("f", bytes);
  int failures = 0;
  bool loaded = false;
  for (std::int64_t n = 0; !loaded && n < 10'000; ++n) {
    const std::int64_t before = bytes_now;
    try {
      allocations_left = n;
      const casa::io::SafeTensors s = casa::io::read_safetensors(path);
      allocations_left = -1;
      loaded = s.size() == 2;
    } catch (const std::bad_alloc&) {
      allocations_left = -1;
      ++failures;
    } catch (const casa::error&) {  // "no memory for ... bytes"
      allocations_left = -1;
      ++failures;
    }
    if (bytes_now != before) FAIL("allocation ", n, " leaks ", bytes_now - before, " bytes");
  }
  CHECK(loaded);
  CHECK(failures > 20);
}
