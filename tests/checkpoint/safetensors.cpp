#include "casa/checkpoint/safetensors.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/core/error.hpp"
#include "casa/core/scalar.hpp"
#include "checkpoint/safetensors_bytes.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"

using casa::bfloat16;
using casa::error;
using casa::half;
using casa::Index;
using casa::io::Bytes;
using casa::io::DType;
using casa::io::LoadLimits;
using casa::io::named_tensor;
using casa::io::read_safetensors;
using casa::io::SafeTensors;
using casa::io::safetensors_bytes;
using casa::io::TensorView;
using casa::io::write_safetensors;

namespace {

SafeTensors parse(std::string_view bytes, const LoadLimits& limits = {}) {
  return SafeTensors(Bytes(bytes), "f.safetensors", limits);
}

std::vector<float> floats(std::size_t n) {
  std::vector<float> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = 0.37f * static_cast<float>(i) - 3.0f;
  return v;
}

}  // namespace

TEST_CASE("safetensors: every broken rule is an error that names file and fault") {
  const auto files = bad_files();
  CHECK(files.size() >= 40);
  const Scratch scratch;
  for (const BadFile& bad : files) {
    CAPTURE(bad.name);
    const std::string message = message_of([&] { parse(bad.bytes); });
    CAPTURE(message);
    CHECK(message.starts_with("f.safetensors: "));
    CHECK(has(message, bad.expected));
    CHECK(message.size() < 400);
    for (const char c : message) CHECK(static_cast<unsigned char>(c) >= 0x20);
    const std::string path = scratch.write("bad", bad.bytes);
    for (const bool map : {false, true})
      CHECK(message_of([&] { read_safetensors(path, {.map = map, .limits = {}}); }) ==
            path + message.substr(std::string_view("f.safetensors").size()));
  }
}

TEST_CASE("safetensors: what the format allows is read") {
  struct Good {
    std::string name, bytes;
    Index tensors;
  };
  const Good good[] = {
      {"no tensor", file_bytes("{}", 0), 0},
      {"spaces behind the header", file_bytes("{}      ", 0), 0},
      {"white space around the header", file_bytes("\n\t {}\r\n\n", 0), 0},
      {"null metadata", file_bytes(R"({"__metadata__":null})", 0), 0},
      {"a key of a tensor that is not read",
       file_bytes(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"packed":[true]}})", 8),
       1},
      {"metadata alone", file_bytes(R"({"__metadata__":{"format":"pt"}})", 0), 0},
      {"scalar", file_bytes("{" + entry("a", "F32", "[]", "[0,4]") + "}", 4), 1},
      {"empty axis", file_bytes("{" + entry("a", "F32", "[0,7]", "[0,0]") + "}", 0), 1},
      {"empty tensors at every border",
       file_bytes("{" + entry("z", "U8", "[0]", "[0,0]") + "," + entry("a", "U8", "[3]", "[0,3]") +
                      "," + entry("y", "F64", "[0]", "[3,3]") + "," +
                      entry("b", "U8", "[1]", "[3,4]") + "," + entry("x", "U8", "[2,0]", "[4,4]") +
                      "}",
                  4),
       5},
      {"header not in the order of the data",
       file_bytes(
           "{" + entry("a", "U8", "[3]", "[5,8]") + "," + entry("b", "U8", "[5]", "[0,5]") + "}",
           8),
       2},
      {"eight axes", file_bytes("{" + entry("a", "U8", "[1,2,1,2,1,2,1,1]", "[0,8]") + "}", 8), 1},
      {"name in UTF-8 and of 512 bytes",
       file_bytes("{" + entry(std::string(510, 'n') + "\xc3\xa9", "U8", "[8]", "[0,8]") + "}", 8),
       1},
      {"six-bit values", file_bytes("{" + entry("a", "F6_E2M3", "[4]", "[0,3]") + "}", 3), 1},
      {"four-bit values", file_bytes("{" + entry("a", "F4", "[2,3]", "[0,3]") + "}", 3), 1},
      {"keys in another order",
       file_bytes(R"({"a":{"data_offsets":[0,8],"shape":[8],"dtype":"U8"}})", 8), 1},
      {"escaped name", file_bytes("{" + entry("\\u0061", "U8", "[8]", "[0,8]") + "}", 8), 1},
  };
  for (const Good& g : good) {
    CAPTURE(g.name);
    CHECK(message_of([&] { CHECK(parse(g.bytes).size() == g.tensors); }) == "");
  }
  CHECK(parse(good[15].bytes).contains("a"));
  CHECK(parse(good[5].bytes).metadata().at("format") == "pt");
  const SafeTensors swapped = parse(good[9].bytes);
  CHECK(swapped.tensors()[0].name == "b");
  CHECK(swapped.at("a").to_vector<std::uint8_t>() == std::vector<std::uint8_t>{5, 6, 7});
}

TEST_CASE("safetensors: every type of the format has its size") {
  for (std::size_t i = 0; i < casa::io::detail::dtypes.size(); ++i) {
    const auto dtype = static_cast<DType>(i);
    CAPTURE(std::string(to_string(dtype)));
    const int bytes = bits_of(dtype);  // of eight values
    const std::string offsets = casa::text("[0,", bytes, "]");
    const std::string s = file_bytes("{" + entry("a", to_string(dtype), "[2,4]", offsets) + "}",
                                     static_cast<std::size_t>(bytes));
    CHECK(parse(s).at("a").dtype == dtype);
    CHECK_THROWS_AS(parse(s + "x"), error);
  }
}

TEST_CASE("safetensors: cut at any byte, a file is refused") {
  const std::string whole = safetensors_bytes(
      {named_tensor("weight", {3, 5}, floats(15)), named_tensor("bias", {3}, floats(3))},
      {{"format", "pt"}});
  CHECK_NOTHROW(parse(whole));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    // a copy of its own, so that a read behind the end is seen by the sanitizer
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
    CHECK_THROWS_AS(parse({cut.data(), cut.size()}), error);
  }
  CHECK_THROWS_AS(parse(whole + '\0'), error);
}

TEST_CASE("safetensors: limits are those of the caller") {
  const std::string s = file_bytes(
      "{" + entry("long", "U8", "[2,4]", "[0,8]") + "," + entry("b", "U8", "[1]", "[8,9]") + "}",
      9);
  CHECK_NOTHROW(parse(s));
  struct Tight {
    LoadLimits limits;
    std::string expected;
  };
  const Tight tight[] = {
      {{.header_bytes = 20}, "header length"}, {{.header_depth = 2}, "deeper than 2"},
      {{.tensors = 1}, "2 tensors"},           {{.name_bytes = 3}, "longer than the limit of 3"},
      {{.axes = 1}, "at most 1 axes"},         {{.axis = 3}, "in [0, 3] (LoadLimits::axis), got 4"},
  };
  for (const Tight& t : tight) {
    CAPTURE(t.expected);
    const std::string message = message_of([&] { parse(s, t.limits); });
    CHECK(has(message, t.expected));
    CHECK(has(message, "LoadLimits::"));  // the option that would take it
  }
  const std::string name = file_bytes("{" + entry("a\\nb", "U8", "[1]", "[0,1]") + "}", 1);
  CHECK(has(message_of([&] { parse(name); }), "LoadLimits::control_characters"));
  CHECK(parse(name, {.control_characters = true}).contains("a\nb"));
}

TEST_CASE("safetensors: written tensors come back, in the same bytes each time") {
  const Scratch scratch;
  const std::string path = scratch.file("f.safetensors");
  const auto f = floats(15);
  const std::vector<double> d{1e300, -0.0, std::numeric_limits<double>::infinity()};
  const std::vector<std::int64_t> i{std::numeric_limits<std::int64_t>::min(), 0, 7};
  const std::vector<std::uint8_t> u{1, 2, 3};
  const std::vector<bfloat16> b{{0x3f80}, {0xc000}, {0x7f80}};
  const auto tensors = [&] {
    return std::vector{
        named_tensor("u", {3}, u),        named_tensor("f", {3, 5}, f),
        named_tensor("b", {3, 1}, b),     named_tensor("d", {1, 3}, d),
        named_tensor("i", {3}, i),        named_tensor("none", {0, 4}, std::vector<half>{}),
        named_tensor("f.second", {15}, f)};
  };
  write_safetensors(path, tensors(), {{"description", "{\"a\": \"\\n\"}"}, {"b", ""}});
  for (const bool map : {false, true}) {
    const SafeTensors s = read_safetensors(path, {.map = map, .limits = {}});
    CHECK(s.mapped() == map);
    CHECK(s.size() == 7);
    CHECK(s.metadata().at("description") == "{\"a\": \"\\n\"}");
    CHECK(s.at("f").to_vector<float>() == f);
    CHECK(s.at("i").to_vector<std::int64_t>() == i);
    CHECK(s.at("u").to_vector<std::uint8_t>() == u);
    CHECK(s.at("b").to_vector<bfloat16>() == b);
    CHECK(std::memcmp(s.at("d").bytes.data(), d.data(), 24) == 0);
    CHECK(s.at("none").count() == 0);
    CHECK(s.at("none").rows() == 0);
    CHECK(s.at("none").cols() == 4);
    CHECK(s.at("f").to_matrix<double>()(2, 4) == static_cast<double>(f[14]));
    std::string names;
    for (const auto name : s.names()) names += std::string(name) + " ";
    CHECK(names == "b d f f.second i none u ");
    for (const TensorView& t : s.tensors()) {  // all aligned: the views need no copy
      CAPTURE(std::string(t.name));
      CHECK(reinterpret_cast<std::uintptr_t>(t.bytes.data()) %
                static_cast<std::uintptr_t>(bits_of(t.dtype) / 8) ==
            0);
    }
    CHECK(s.at("f").as<float>()[14] == f[14]);
    CHECK(s.find("g") == nullptr);
    CHECK(message_of([&] { s.at("g"); }) == path + ": no tensor \"g\"");
    CHECK(has(message_of([&] { s.at("f").as<double>(); }), "\"f\": expected type F64, got F32"));
  }
  CHECK(scratch.read("f.safetensors") ==
        safetensors_bytes(tensors(), {{"b", ""}, {"description", "{\"a\": \"\\n\"}"}}));
}

TEST_CASE("safetensors: values are converted exactly or by rounding to nearest") {
  const std::vector<float> f{1.0f, -2.5f, 1.00390625f, 65504.0f, 0x1p-24f};
  const std::vector<double> d{0.1, -1e-300, 1e39};
  const std::vector<half> h{{0x3c00}, {0x0001}, {0xfc00}};
  const std::vector<bfloat16> b{{0x3f80}, {0x0001}, {0x7fc0}};
  const std::string bytes =
      safetensors_bytes({named_tensor("f", {5}, f), named_tensor("d", {3}, d),
                         named_tensor("h", {3}, h), named_tensor("b", {3}, b)});
  const SafeTensors s = parse(bytes);
  CHECK(s.at("f").to_vector<double>()[3] == 65504.0);
  CHECK(s.at("f").to_vector<bfloat16>()[2] == casa::narrow<bfloat16>(1.00390625f));
  CHECK(s.at("f").to_vector<half>()[4] == half{0x0001});
  CHECK(s.at("d").to_vector<float>()[0] == 0.1f);
  CHECK(s.at("d").to_vector<float>()[1] == 0.0f);
  CHECK(std::isinf(s.at("d").to_vector<float>()[2]));
  CHECK(s.at("h").to_vector<float>() ==
        std::vector<float>{1.0f, 0x1p-24f, -std::numeric_limits<float>::infinity()});
  CHECK(s.at("b").to_vector<double>()[1] == 0x1p-133);
  CHECK(std::isnan(s.at("b").to_vector<float>()[2]));
  CHECK_THROWS_AS(s.at("f").to_vector<std::int64_t>(), error);
}

TEST_CASE("safetensors: an integer that does not fit is an error, not another integer") {
  const std::vector<std::int64_t> i{-1, 255, 1 << 20};
  const std::vector<std::uint64_t> u{1, std::uint64_t{1} << 63};
  const std::vector<std::uint8_t> bytes_of_bool{0, 1, 1};
  casa::io::NamedTensor flags = named_tensor("flags", {3}, bytes_of_bool);
  flags.dtype = DType::BOOL;
  const std::string bytes =
      safetensors_bytes({named_tensor("i", {3}, i), named_tensor("u", {2}, u), flags});
  const SafeTensors s = parse(bytes);
  CHECK(s.at("i").to_vector<std::int32_t>() == std::vector<std::int32_t>{-1, 255, 1 << 20});
  CHECK(has(message_of([&] { s.at("i").to_vector<std::uint64_t>(); }), "value -1 at 0"));
  CHECK(has(message_of([&] { s.at("i").to_vector<std::int16_t>(); }), "value 1048576 at 2"));
  CHECK(has(message_of([&] { s.at("u").to_vector<std::int64_t>(); }), "at 1 does not fit I64"));
  CHECK(s.at("flags").to_vector<std::int64_t>() == std::vector<std::int64_t>{0, 1, 1});
  CHECK_THROWS_AS(s.at("i").to_vector<float>(), error);
  std::vector<float> wrong(2);
  CHECK_THROWS_AS(s.at("i").read_into(std::span(wrong)), error);
}

TEST_CASE("safetensors: data at odd addresses is read, but not viewed") {
  const auto f = floats(6);
  const std::vector<std::int64_t> i{-5, 6};
  std::string data(reinterpret_cast<const char*>(f.data()), 24);
  data.append(reinterpret_cast<const char*>(i.data()), 16);
  for (std::size_t pad = 0; pad < 8; ++pad) {
    CAPTURE(pad);
    const std::string header = "{" + entry("f", "F32", "[2,3]", "[0,24]") + "," +
                               entry("i", "I64", "[2]", "[24,40]") + "}" + std::string(pad, ' ');
    const std::string bytes = file_bytes(header, 0) + data;
    const Scratch scratch;
    const SafeTensors s = read_safetensors(scratch.write("f", bytes));
    CHECK(s.at("f").to_vector<float>() == f);
    CHECK(s.at("f").to_matrix<double>()(1, 2) == static_cast<double>(f[5]));
    CHECK(s.at("f").to_vector<bfloat16>()[1] == casa::narrow<bfloat16>(f[1]));
    CHECK(s.at("i").to_vector<std::int64_t>() == i);
    CHECK(s.at("i").to_vector<std::int16_t>() == std::vector<std::int16_t>{-5, 6});
    const bool aligned = (8 + header.size()) % 4 == 0;
    CHECK(s.at("f").viewable_as<float>() == aligned);
    if (aligned)
      CHECK(s.at("f").as<float>()[5] == f[5]);
    else
      CHECK(has(message_of([&] { s.at("f").as<float>(); }), "not aligned"));
  }
}

TEST_CASE("safetensors: views live as long as any copy of the object") {
  const Scratch scratch;
  const auto f = floats(1000);
  write_safetensors(scratch.file("f"), {named_tensor("a", {1000}, f)});
  auto first = std::make_unique<SafeTensors>(read_safetensors(scratch.file("f")));
  const TensorView view = first->at("a");
  const SafeTensors copy = *first;
  first.reset();
  CHECK(view.to_vector<float>() == f);
  CHECK(view.where() == scratch.file("f") + ": tensor \"a\"");
}

TEST_CASE("safetensors: shapes are compared by name, expected and actual") {
  const auto f = floats(6);
  const std::string bytes = safetensors_bytes({named_tensor("f", {2, 3}, f)});
  const SafeTensors s = parse(bytes);
  CHECK_NOTHROW(s.at("f").require_shape({2, 3}));
  CHECK(message_of([&] {
          s.at("f").require_shape({3, 2});
        }) == "f.safetensors: tensor \"f\": expected shape [3, 2], got [2, 3]");
  CHECK_THROWS_AS(s.at("f").require_shape({2, 3, 1}), error);
  CHECK_THROWS_AS(s.at("f").require_shape({}), error);
}

TEST_CASE("safetensors: what cannot be written is refused, the old file stays") {
  const Scratch scratch;
  const std::string path = scratch.write("f", "old");
  const auto f = floats(6);
  using Tensors = std::vector<casa::io::NamedTensor>;
  const Tensors bad[] = {
      {named_tensor("a", {7}, f)},
      {named_tensor("a", {-6}, f)},
      {named_tensor("a", {2, -3, -1}, f)},
      {named_tensor("a", {6}, f), named_tensor("a", {6}, f)},
      {named_tensor("__metadata__", {6}, f)},
      {named_tensor("a\nb", {6}, f)},
      {named_tensor("a\xff", {6}, f)},
      {named_tensor(std::string(513, 'a'), {6}, f)},
      {named_tensor("a", {6, 1, 1, 1, 1, 1, 1, 1, 1}, f)},
      {named_tensor("a", {Index{1} << 62, 4}, f)},
  };
  for (const Tensors& tensors : bad) {
    CAPTURE(tensors[0].name);
    CHECK_THROWS_AS(write_safetensors(path, tensors), error);
  }
  CHECK_THROWS_AS(write_safetensors(path, {}, {{"k", "\xff"}}), error);
  CHECK(scratch.read("f") == "old");
  CHECK(scratch.list().size() == 1);
  casa::Matrix<float> m(4, 6);
  m.fill(1.0f);
  CHECK_THROWS_AS(named_tensor<float>("part", casa::MatrixView<const float>(m).middle_cols(0, 3)),
                  error);
  CHECK(named_tensor("all", m).shape == std::vector<Index>{4, 6});
}

TEST_CASE("safetensors: saving over the file just loaded, mapped or not, keeps every value") {
  const Scratch scratch;
  const auto f = floats(5000);
  for (const bool map : {false, true}) {
    const std::string path = scratch.file("f");
    write_safetensors(path, {named_tensor("a", {50, 100}, f), named_tensor("b", {5000}, f)});
    const SafeTensors s = read_safetensors(path, {.map = map, .limits = {}});
    std::vector<casa::io::NamedTensor> again;
    for (const TensorView& t : s.tensors()) again.push_back(named_tensor(t));
    write_safetensors(path, again);
    CHECK(s.at("a").to_vector<float>() == f);
    const SafeTensors t = read_safetensors(path);
    CHECK(t.at("a").to_vector<float>() == f);
    CHECK(t.at("b").to_vector<float>() == f);
    CHECK(t.at("a").shape[1] == 100);
  }
}
