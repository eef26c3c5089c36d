// What must hold for any bytes: a parser refuses them by casa::error or gives an object that keeps
// what it promises. Each function returns the broken promise, or nothing. Used by
// tests/checkpoint/fuzz.cpp (seeded mutations in ctest) and by the libFuzzer programs beside this
// file:
//
//   clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Iinclude -Itests
//     -isystem /usr/include/eigen3 tests/fuzz/safetensors.cpp -o fuzz_safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/checkpoint/shards.hpp"
#include "casa/core/error.hpp"
#include "casa/json/json.hpp"
#include "casa/json/json_writer.hpp"

namespace fuzz {

using casa::Index;
using casa::io::Bytes;
using casa::io::DType;
using casa::io::Json;
using casa::io::JsonWriter;
using casa::io::SafeTensors;
using casa::io::TensorView;

enum class Verdict { refused, accepted };
struct Result {
  Verdict verdict;
  std::string fault;  ///< the broken promise
};

/// Empty if `s` holds what SafeTensors promises, else what it breaks.
inline std::string broken_promise(const SafeTensors& s, std::size_t file_bytes) {
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
inline std::string unstable(const Json& j) {
  const std::string once = JsonWriter().value(j).str();
  const Json again = casa::io::parse_json(once, "again", {.object_root = false});
  return JsonWriter().value(again).str() == once ? "" : once;
}

inline bool is_good_message(std::string_view message) {
  return message.starts_with("f: ") && message.size() <= 500;
}

inline Result safetensors(std::string_view bytes) {
  try {
    return {Verdict::accepted, broken_promise(SafeTensors(Bytes(bytes), "f"), bytes.size())};
  } catch (const casa::error& e) {
    return {Verdict::refused, is_good_message(e.what()) ? "" : e.what()};
  }
}

inline Result json(std::string_view bytes) {
  try {
    return {Verdict::accepted, unstable(casa::io::parse_json(bytes, "f"))};
  } catch (const casa::error& e) {
    return {Verdict::refused, is_good_message(e.what()) ? "" : e.what()};
  }
}

/// An index of shards: every name it yields is one plain file name.
inline Result shard_index(std::string_view bytes) {
  try {
    const Json index = casa::io::parse_json(bytes, "f");
    for (const auto& [file, tensors] : casa::io::detail::read_shard_map(index, {}))
      if (file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || tensors.empty())
        return {Verdict::accepted, file};
    return {Verdict::accepted, ""};
  } catch (const casa::error& e) {
    return {Verdict::refused, is_good_message(e.what()) ? "" : e.what()};
  }
}

}  // namespace fuzz
