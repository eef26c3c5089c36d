// Mutated files by the hundred thousand: each is refused by casa::error or is an object that keeps
// what it promises. Longer runs: CASA_FUZZ_RUNS=10000000.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/io/json.hpp"
#include "casa/io/json_writer.hpp"
#include "casa/io/safetensors.hpp"
#include "casa/io/safetensors_writer.hpp"
#include "io/mutations.hpp"
#include "io/safetensors_bytes.hpp"

using casa::Index;
using casa::io::Bytes;
using casa::io::DType;
using casa::io::Json;
using casa::io::JsonWriter;
using casa::io::SafeTensors;
using casa::io::TensorView;

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

/// Empty if `s` holds what SafeTensors promises, else what it breaks.
std::string broken_promise(const SafeTensors& s, std::size_t file_bytes) {
  std::int64_t sum = 0;
  const std::byte* end = nullptr;
  for (const TensorView& t : s.tensors()) {
    std::int64_t bits = bits_of(t.dtype);
    for (const Index axis : t.shape) bits *= axis;
    if (bits != static_cast<std::int64_t>(t.bytes.size()) * 8) return "shape and bytes differ";
    if (end && t.bytes.data() != end) return "tensors do not tile";
    end = t.bytes.data() + t.bytes.size();
    sum += static_cast<std::int64_t>(t.bytes.size());
    if (s.find(t.name) != &t) return "a tensor is not found by its name";
    try {
      if (t.dtype == DType::F32 || t.dtype == DType::BF16) {
        if (static_cast<Index>(t.to_vector<double>().size()) != t.count()) return "wrong count";
      } else if (t.dtype == DType::U8) {
        t.to_vector<std::int64_t>();
      }
    } catch (const casa::error&) {
      return "values of a good tensor are refused";
    }
  }
  if (sum != s.data_bytes()) return "bytes do not sum up";
  if (static_cast<std::size_t>(sum) > file_bytes) return "more bytes than the file has";
  return "";
}

/// Empty if writing what was parsed and parsing it again changes nothing.
std::string unstable(const Json& j) {
  const std::string once = JsonWriter().value(j).str();
  const Json again = casa::io::parse_json(once, "again", {.object_root = false});
  return JsonWriter().value(again).str() == once ? "" : once;
}

const std::string_view header_words[] = {"\"dtype\":\"F32\"",
                                         "\"shape\":",
                                         "\"data_offsets\":",
                                         "[0,0]",
                                         "[0,8]",
                                         "[8,16]",
                                         "[4,8]",
                                         "[]",
                                         "[2]",
                                         "[2,1]",
                                         "{}",
                                         "\"__metadata__\":",
                                         "{\"a\":\"b\"}",
                                         "F64",
                                         "BF16",
                                         "I64",
                                         "BOOL",
                                         "F4",
                                         "-1",
                                         "0",
                                         "8",
                                         "16",
                                         "1e3",
                                         "1.5",
                                         "4294967296",
                                         "18446744073709551615",
                                         "9223372036854775808",
                                         "\\u0061",
                                         "\xff",
                                         "\"",
                                         ",",
                                         ":",
                                         "{",
                                         "}",
                                         "[",
                                         "]",
                                         " ",
                                         "null",
                                         "\xef\xbb\xbf",
                                         std::string_view("\0", 1)};

const std::string_view json_words[] = {"{}",
                                       "[]",
                                       "\"a\":",
                                       "\"\"",
                                       "1",
                                       "-1",
                                       "0.5",
                                       "1e400",
                                       "-0",
                                       "18446744073709551616",
                                       "9223372036854775807",
                                       "true",
                                       "false",
                                       "null",
                                       "\\u0000",
                                       "\\ud834\\udd1e",
                                       "\\ud800",
                                       "\xc3\xa9",
                                       "\xf0\x9f\x98\x80",
                                       "\xc0\x80",
                                       "[[[[[[[[",
                                       "]]]]]]]]",
                                       ",",
                                       ":",
                                       "\"",
                                       "\\",
                                       "\n",
                                       " ",
                                       "{\"",
                                       std::string_view("\0", 1)};

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
    try {
      const SafeTensors parsed(Bytes(std::string_view(bytes.data(), bytes.size())), "f");
      ++accepted;
      const std::string fault = broken_promise(parsed, bytes.size());
      if (!fault.empty()) FAIL("run ", run, ": ", fault);
    } catch (const casa::error&) {
    }
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
    try {
      const Json j = casa::io::parse_json({bytes.data(), bytes.size()}, "f");
      ++accepted;
      const std::string fault = unstable(j);
      if (!fault.empty()) FAIL("run ", run, ": ", fault);
    } catch (const casa::error& e) {
      const std::string_view message = e.what();
      if (message.size() > 400 || !message.starts_with("f: ")) FAIL("run ", run, ": ", e.what());
    }
  }
  CHECK(accepted > runs() / 100);
}
