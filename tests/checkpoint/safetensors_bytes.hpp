// Safetensors files as bytes, right and wrong, for tests of the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Length (little-endian), header, `data` bytes of data with the values 0, 1, 2, ...
inline std::string file_bytes(std::string_view header, std::size_t data,
                              std::uint64_t length = ~std::uint64_t{0}) {
  if (length == ~std::uint64_t{0}) length = header.size();
  std::string s;
  for (int i = 0; i < 8; ++i) s += static_cast<char>((length >> (8 * i)) & 0xff);
  s += header;
  for (std::size_t i = 0; i < data; ++i) s += static_cast<char>(i & 0x7f);
  return s;
}

/// One tensor as it stands in a header.
inline std::string entry(std::string_view name, std::string_view dtype, std::string_view shape,
                         std::string_view offsets) {
  std::string s = "\"";
  s += name;
  s += R"(":{"dtype":")";
  s += dtype;
  s += R"(","shape":)";
  s += shape;
  s += R"(,"data_offsets":)";
  s += offsets;
  return s + '}';
}

struct BadFile {
  std::string name;
  std::string bytes;
  std::string expected;  ///< a part of the message
};

/// A file for each rule of the format, broken; the ones marked "accepted by" passed in other
/// readers.
inline std::vector<BadFile> bad_files() {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets,
                      std::size_t data) {
    return file_bytes("{" + entry("a", dtype, shape, offsets) + "}", data);
  };
  const auto two = [](std::string_view first, std::string_view second, std::size_t data) {
    return file_bytes(
        "{" + entry("a", "U8", "[8]", first) + "," + entry("b", "U8", "[8]", second) + "}", data);
  };
  const std::string good = entry("a", "U8", "[8]", "[0,8]");
  std::string many_axes = "[";
  for (int i = 0; i < 9; ++i) many_axes += i ? ",1" : "1";
  many_axes += "]";
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  deep += '}';
  const std::string lfs =
      "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 123456\n";

  return {
      // the header and its length
      {"empty file", "", "too short"},
      {"seven bytes", std::string(7, '\0'), "too short"},
      {"header of no bytes", file_bytes("", 0), "not valid JSON"},
      {"header beyond the file", file_bytes("{}", 0, 3), "ends beyond the file"},
      {"header length 2^63", file_bytes("{}", 0, std::uint64_t{1} << 63), "header length"},
      {"header length 2^64 - 1", file_bytes("{}", 0, ~std::uint64_t{0} - 1), "header length"},
      {"header length 2^64 - 8: its sum wraps", file_bytes("{}", 0, ~std::uint64_t{0} - 7),
       "header length"},
      {"header length over the limit", file_bytes("{}", 0, (std::uint64_t{16} << 20) + 1),
       "larger than the limit of 16777216"},
      {"Git LFS pointer", lfs, "Git LFS pointer"},
      {"a web page", "<!DOCTYPE html><html></html>", "header length"},
      // the header as JSON
      {"root is an array", file_bytes("[]", 0), "expected a JSON object"},
      {"root is an array of an object, accepted by safetensors-cpp",
       file_bytes("[{" + good + "}]", 8), "expected a JSON object"},
      {"root is a string", file_bytes("\"{}\"", 0), "expected a JSON object"},
      {"root is null", file_bytes("null", 0), "expected a JSON object"},
      {"begins with a byte order mark, accepted by nlohmann", file_bytes("\xef\xbb\xbf{}", 0),
       "byte order mark"},
      {"ends in NUL, accepted by nlohmann", file_bytes(std::string_view("{}\0\0", 4), 0), "NUL"},
      {"hides text behind a NUL", file_bytes(std::string("{}\0", 3) + "{" + good + "}", 0), "NUL"},
      {"ends in a vertical tab", file_bytes("{}\v", 0), "not valid JSON"},
      {"NaN, accepted by Python's json",
       file_bytes(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":NaN}})", 8),
       "not valid JSON"},
      {"metadata named twice",
       file_bytes(R"({"__metadata__":{"a":"b"},"__metadata__":{"a":"b"}})", 0), "duplicate key"},
      {"two objects", file_bytes("{}{}", 0), "not valid JSON"},
      {"not closed", file_bytes("{" + good, 8), "not valid JSON"},
      {"not UTF-8", file_bytes("{" + entry("\xc3(", "U8", "[8]", "[0,8]") + "}", 8),
       "not valid JSON"},
      {"100,000 levels deep", file_bytes(deep, 0), "deeper than 8"},
      {"tensor named twice, accepted by safetensors-cpp",
       file_bytes("{" + good + "," + good + "}", 8), "duplicate key"},
      {"tensor named twice, once with an escape",
       file_bytes("{" + good + "," + entry("\\u0061", "U8", "[8]", "[0,8]") + "}", 8),
       "duplicate key"},
      {"dtype twice",
       file_bytes(R"({"a":{"dtype":"U8","dtype":"I8","shape":[8],"data_offsets":[0,8]}})", 8),
       "duplicate key"},
      // names
      {"name of 513 bytes",
       file_bytes("{" + entry(std::string(513, 'n'), "U8", "[8]", "[0,8]") + "}", 8),
       "longer than the limit of 512"},
      {"name with a NUL", file_bytes("{" + entry("a\\u0000b", "U8", "[8]", "[0,8]") + "}", 8),
       "control character"},
      {"name with an escape sequence",
       file_bytes("{" + entry("\\u001b[2J", "U8", "[8]", "[0,8]") + "}", 8), "control character"},
      // entries
      {"entry is a number", file_bytes(R"({"a":1})", 0), "expected an object, got 1"},
      {"entry is null", file_bytes(R"({"a":null})", 0), "expected an object, got null"},
      {"no dtype", file_bytes(R"({"a":{"shape":[8],"data_offsets":[0,8]}})", 8),
       "dtype is missing"},
      {"no shape", file_bytes(R"({"a":{"dtype":"U8","data_offsets":[0,8]}})", 8),
       "shape is missing"},
      {"no data_offsets", file_bytes(R"({"a":{"dtype":"U8","shape":[8]}})", 8),
       "data_offsets is missing"},
      {"unknown dtype, skipped by others", one("F31", "[8]", "[0,8]", 8),
       "a.dtype: expected a type"},
      {"dtype in small letters", one("f32", "[2]", "[0,8]", 8), "a.dtype: expected a type"},
      {"dtype is a number", file_bytes(R"({"a":{"dtype":1,"shape":[8],"data_offsets":[0,8]}})", 8),
       "expected a string, got 1"},
      {"shape is a number", one("U8", "8", "[0,8]", 8), "expected an array of at most 8 axes"},
      {"shape of nine axes", one("U8", many_axes, "[0,1]", 1),
       "expected an array of at most 8 axes"},
      {"axis -1, accepted by nlohmann get", one("U8", "[-1]", "[0,8]", 8), "got -1"},
      {"axis -1 twice: their product is positive", one("U8", "[-1,-8]", "[0,8]", 8), "got -1"},
      {"axis 2.9, accepted by safetensors-cpp", one("F32", "[2.9]", "[0,8]", 8), "got 2.9"},
      {"axis 8.0", one("U8", "[8.0]", "[0,8]", 8), "got 8"},
      {"axis 1e30, accepted by safetensors-cpp", one("U8", "[1e30]", "[0,8]", 8), "got 1e+30"},
      {"axis is a string", one("U8", "[\"8\"]", "[0,8]", 8), "got \"8\""},
      {"axis is null", one("U8", "[null]", "[0,8]", 8), "got null"},
      {"axis 2^40 + 1", one("U8", "[1099511627777]", "[0,8]", 8), "got 1099511627777"},
      {"axis 2^64", one("U8", "[18446744073709551616]", "[0,8]", 8), "got 1"},
      {"[2^32, 2^32] wraps to 0, accepted by safetensors-cpp",
       one("U8", "[4294967296,4294967296]", "[0,0]", 0), "size overflows"},
      {"2^62 + 2 floats wrap to 8 bytes, accepted by safetensors-cpp",
       one("F32", "[4611686018427387906]", "[0,8]", 8), "got 4611686018427387906"},
      {"the same by three axes", one("F64", "[1099511627776,1099511627776,4]", "[0,0]", 0),
       "size overflows"},
      {"half a byte", one("F4", "[3]", "[0,1]", 1), "no whole number of bytes"},
      // offsets
      {"data_offsets is a number", one("U8", "[8]", "0", 8), "an array of begin and end"},
      {"data_offsets of one", one("U8", "[8]", "[8]", 8), "an array of begin and end"},
      {"data_offsets of three", one("U8", "[8]", "[0,8,8]", 8), "an array of begin and end"},
      {"offset -8", one("U8", "[8]", "[-8,0]", 8), "got -8"},
      {"offset 0.0", one("U8", "[8]", "[0.0,8]", 8), "got 0"},
      {"offset 2^64 - 8", one("U8", "[8]", "[18446744073709551608,18446744073709551616]", 8),
       "got 18446744073709551608"},
      {"end before begin",
       file_bytes(
           "{" + entry("a", "U8", "[0]", "[8,0]") + "," + entry("b", "U8", "[8]", "[0,8]") + "}",
           8),
       "end before they begin"},
      {"end beyond the file", one("U8", "[9]", "[0,9]", 8), "in [0, 8], got 9"},
      {"8 axes and offset 1,000,000 in 16 bytes, accepted by safetensors-cpp",
       one("U8", "[1,1,1,1,1,1,1,16]", "[1000000,1000016]", 16), "got 1000000"},
      {"shape larger than its bytes", one("F32", "[3]", "[0,8]", 8), "takes 12 bytes"},
      {"shape smaller than its bytes", one("F32", "[1]", "[0,8]", 8), "takes 4 bytes"},
      {"scalar with eight bytes", one("F32", "[]", "[0,8]", 8), "takes 4 bytes"},
      {"empty shape with bytes", one("F32", "[0,2]", "[0,8]", 8), "takes 0 bytes"},
      {"the same bytes twice, accepted by safetensors-cpp", two("[0,8]", "[0,8]", 8),
       "\"b\": begins at 0, inside of or before tensor \"a\""},
      {"overlap, accepted by safetensors-cpp", two("[0,8]", "[7,15]", 15),
       "\"b\": begins at 7, inside of or before tensor \"a\", which ends at 8"},
      {"hole, accepted by safetensors-cpp", two("[0,8]", "[9,17]", 17),
       "\"b\": begins at 9, which leaves a hole after tensor \"a\", which ends at 8"},
      {"hole at the begin", two("[1,9]", "[9,17]", 17), "\"a\": begins at 1, which leaves a hole"},
      {"data behind the last tensor", two("[0,8]", "[8,16]", 17), "end at byte 16 of 17"},
      {"data without a tensor", file_bytes("{}", 1), "end at byte 0 of 1"},
      {"empty tensor inside of another",
       file_bytes("{" + good + "," + entry("b", "U8", "[0]", "[4,4]") + "}", 8),
       "\"b\": begins at 4, inside of or before tensor \"a\""},
      // metadata
      {"metadata is an array", file_bytes(R"({"__metadata__":[]})", 0), "expected an object"},
      {"metadata of a number", file_bytes(R"({"__metadata__":{"a":1}})", 0), "expected a string"},
      {"metadata of an object", file_bytes(R"({"__metadata__":{"a":{}}})", 0), "expected a string"},
  };
}
