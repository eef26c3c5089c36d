// Mutated files by the hundred thousand: each is refused by casa::error or is an object that keeps
// what it promises. Longer runs: CASA_FUZZ_RUNS=10000000.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "checkpoint/safetensors_bytes.hpp"
#include "fuzz/targets.hpp"
#include "support/mutations.hpp"

namespace {

std::uint64_t runs() {
  const char* s = std::getenv("CASA_FUZZ_RUNS");
  return s ? std::strtoull(s, nullptr, 10) : 100'000;
}

/// The bytes in memory of exactly their size, so that a sanitizer sees a read beyond.
std::vector<char> exact(std::string_view s) { return {s.begin(), s.end()}; }

/// Corrects the header length, so that mutations of the header reach its parser.
void mend_length(std::string& s, std::size_t data) {
  if (s.size() < 8 + data) return;
  std::size_t length = s.size() - 8 - data;
  for (std::size_t i = 0; i < 8; ++i, length >>= 8) s[i] = static_cast<char>(length & 0xff);
}

// clang-format off
const std::string_view header_words[] = {
    "\"dtype\":\"F32\"", "\"shape\":", "\"data_offsets\":", "[0,0]", "[0,8]", "[8,16]", "[4,8]",
    "[]", "[2]", "[2,1]", "{}", "\"__metadata__\":", "{\"a\":\"b\"}", "F64", "BF16", "I64",
    "BOOL", "F4", "-1", "0", "8", "16", "1e3", "1.5", "4294967296", "18446744073709551615",
    "9223372036854775808", "\\u0061", "\xff", "\"", ",", ":", "{", "}", "[", "]", " ", "null",
    "\xef\xbb\xbf", std::string_view("\0", 1),
};
// clang-format on

// clang-format off
const std::string_view json_words[] = {
    "{}", "[]", "\"a\":", "\"\"", "1", "-1", "0.5", "1e400", "-0", "18446744073709551616",
    "9223372036854775807", "true", "false", "null", "\\u0000", "\\ud834\\udd1e", "\\ud800",
    "\xc3\xa9", "\xf0\x9f\x98\x80", "\xc0\x80", "[[[[[[[[", "]]]]]]]]", ",", ":", "\"", "\\",
    "\n", " ", "{\"", std::string_view("\0", 1),
};
// clang-format on

}  // namespace

TEST_CASE("fuzz: a mutated safetensors file is refused or keeps every promise") {
  std::vector<std::pair<std::string, std::size_t>> seeds;  // bytes, of which data
  const std::vector<float> f(6, 1.0f);
  const std::vector<std::uint8_t> u(4, 1);
  const std::string two = casa::io::safetensors_bytes(
      {casa::io::named_tensor("a", {2, 3}, f), casa::io::named_tensor("b", {4}, u)}, {{"k", "v"}});
  seeds.emplace_back(two, 28);
  seeds.emplace_back(
      file_bytes("{" + entry("x", "F32", "[2]", "[0,8]") + "," + entry("y", "U8", "[0]", "[8,8]") +
                     "," + entry("z", "BF16", "[2,2]", "[8,16]") + "}",
                 16),
      16);
  for (const BadFile& bad : bad_files())
    if (bad.bytes.size() < 1000) seeds.emplace_back(bad.bytes, 8);
  std::uint64_t accepted = 0;
  for (std::uint64_t run = 0; run < runs(); ++run) {
    Random random(run + 1);
    const auto& [seed, data] =
        seeds[random.below(4) ? random.below(2) : random.below(seeds.size())];
    std::string s = mutate(seed, random, header_words);
    if (random.below(8)) mend_length(s, data);
    const std::vector<char> bytes = exact(s);
    const fuzz::Result result = fuzz::safetensors({bytes.data(), bytes.size()});
    if (!result.fault.empty()) FAIL("run ", run, ": ", result.fault);
    accepted += result.verdict == fuzz::Verdict::accepted;
  }
  CHECK(accepted > runs() / 100);  // the mutations are not all trivial nonsense
}

TEST_CASE("fuzz: a mutated JSON text is refused or writes itself") {
  const std::string seeds[] = {
      R"({"model_type":"qwen2","hidden_size":64,"rope":{"theta":1e6,"type":null},"l":[1,2,[3]]})",
      R"({"a":"\u00e9\n\"\\","b":[true,false,-1,0.25,18446744073709551615],"":{"x":{}}})",
      R"({"k1":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6,"k7":7,"k8":8,"k9":9,"k10":10})"};
  std::uint64_t accepted = 0;
  for (std::uint64_t run = 0; run < runs(); ++run) {
    Random random(run + 1);
    const std::string s = mutate(seeds[random.below(3)], random, json_words);
    const std::vector<char> bytes = exact(s);
    const fuzz::Result result = fuzz::json({bytes.data(), bytes.size()});
    if (!result.fault.empty()) FAIL("run ", run, ": ", result.fault);
    accepted += result.verdict == fuzz::Verdict::accepted;
  }
  CHECK(accepted > runs() / 100);
}

TEST_CASE("fuzz: a mutated shard index is refused or names plain files only") {
  const std::string seed =
      R"({"metadata":{"total_size":96},"weight_map":{"a":"model-1.safetensors","b":"x.safetensors"}})";
  const std::string_view words[] = {
      "../", "/", "..", "\\u0000", "\\\\", "\\/", ".safetensors", "\"c\":\"c.safetensors\",",
      "\"",  ",", "1",  "null",    "{}",   "~"};
  std::uint64_t accepted = 0;
  for (std::uint64_t run = 0; run < runs() / 4; ++run) {
    Random random(run + 1);
    const std::vector<char> bytes = exact(mutate(seed, random, words));
    const fuzz::Result result = fuzz::shard_index({bytes.data(), bytes.size()});
    if (!result.fault.empty()) FAIL("run ", run, ": ", result.fault);
    accepted += result.verdict == fuzz::Verdict::accepted;
  }
  CHECK(accepted > runs() / 400);
}
