#include "casa/json/json.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/json/json_writer.hpp"
#include "support/allocations.hpp"
#include "support/messages.hpp"

using casa::error;
using casa::Index;
using casa::io::Json;
using casa::io::JsonRules;
using casa::io::JsonWriter;
using casa::io::parse_json;

namespace {

std::string nested(int depth) {
  std::string s = R"({"a":)";
  for (int i = 1; i < depth; ++i) s += '[';
  for (int i = 1; i < depth; ++i) s += ']';
  return s + '}';
}

struct CountedKeys : casa::io::detail::KeyOrder {
  static inline long long comparisons = 0;
  static bool less(const std::string& a, const std::string& b) { return ++comparisons, a < b; }
  static bool equal(const std::string& a, const std::string& b) { return ++comparisons, a == b; }
};

}  // namespace

TEST_CASE("json: every kind of value comes back as it was written") {
  const Json j = parse_json(
      R"({"n":null,"t":true,"f":false,"i":-7,"u":18446744073709551615,"r":1.5e-3,"s":"aé\n\u0000b",
          "a":[1,[],{}],"o":{"z":1,"a":2,"m":3},"":"empty key","e":""})",
      "doc");
  CHECK(j.at("n").is_null());
  CHECK(j.at("t").as_bool());
  CHECK_FALSE(j.at("f").as_bool());
  CHECK(j.at("i").as_int() == -7);
  CHECK(j.at("i").as_number() == -7.0);
  CHECK(j.at("u").as_uint() == std::numeric_limits<std::uint64_t>::max());
  CHECK(j.at("r").as_number() == 1.5e-3);
  CHECK(j.at("s").as_string() == std::string("a\xc3\xa9\n\0b", 6));
  CHECK(j.at("e").as_string().empty());
  CHECK(j.at("").as_string() == "empty key");
  CHECK(j.at("a").size() == 3);
  CHECK(j.at("a")[1].size() == 0);
  CHECK(j.at("a")[2].size() == 0);
  std::string order;
  for (const auto& [key, value] : j.at("o").items()) order += std::string(key) + value.describe();
  CHECK(order == "z1a2m3");
  std::vector<Json> elements;
  for (const Json& e : j.at("a").elements()) elements.push_back(e);
  CHECK(elements.size() == 3);
  CHECK(elements[0].as_int() == 1);
  CHECK_FALSE(j.find("absent").has_value());
  CHECK(j.find("n").has_value());
  CHECK_FALSE(j.find_set("n").has_value());
}

TEST_CASE("json: a handle keeps the document alive") {
  Json inner = parse_json(R"({"a":{"b":["deep"]}})", "doc").at("a").at("b")[0];
  CHECK(inner.as_string() == "deep");
  CHECK(inner.where() == "doc: a.b[0]");
}

TEST_CASE("json: members of a large object are found") {
  std::string s = "{";
  for (int i = 0; i < 1000; ++i) s += casa::text(i ? ",\"k" : "\"k", (i * 7919) % 1000, "\":", i);
  const Json j = parse_json(s + "}", "doc");
  for (int i = 0; i < 1000; ++i) CHECK(j.at(casa::text("k", (i * 7919) % 1000)).as_int() == i);
  CHECK_FALSE(j.contains("k1000"));
  CHECK_FALSE(j.contains(""));
}

TEST_CASE("json: an integer is never wrapped, rounded or converted") {
  const Json j = parse_json(
      R"({"v":[-1,0,1,1.5,1.0,1e3,"1",null,[],true,9223372036854775807,9223372036854775808,
          18446744073709551615,18446744073709551616,1e30]})",
      "config.json");
  const Json v = j.at("v");
  const auto accepted = [&](Index i) { return message_of([&] { v[i].as_int(0, 1000); }).empty(); };
  for (Index i = 0; i < v.size(); ++i) {
    CAPTURE(v[i].describe());
    CHECK(accepted(i) == (i == 1 || i == 2));
  }
  CHECK(v[10].as_int() == std::numeric_limits<std::int64_t>::max());
  CHECK_THROWS_AS(v[11].as_int(), error);
  CHECK(v[11].as_uint() == std::uint64_t{1} << 63);
  CHECK_THROWS_AS(v[0].as_uint(), error);
  CHECK_THROWS_AS(v[13].as_uint(), error);  // 2^64: a real number
  CHECK(v[13].as_number() == 0x1p64);
  CHECK(v[2].as_index(0, 5) == 1);
  CHECK(message_of([&] { v[2].as_index(2, 5, "Limits::x"); }) ==
        "config.json: v[2]: expected an integer in [2, 5] (Limits::x), got 1");
  CHECK(message_of([&] { v[0].as_int(1, 5); }) ==
        "config.json: v[0]: expected an integer in [1, 5], got -1");
  CHECK(message_of([&] { v[3].as_int(1, 5); }) ==
        "config.json: v[3]: expected an integer in [1, 5], got 1.5");
}

TEST_CASE("json: errors name document, path, expectation and value") {
  const Json j = parse_json(R"({"rope":{"factor":"x","odd key":[0,{"y":1}]},"c":"\u0007[31m"})",
                            "config.json");
  CHECK(message_of([&] { j.at("rope").at("factor").as_number(); }) ==
        R"(config.json: rope.factor: expected a number, got "x")");
  CHECK(message_of([&] { j.at("rope").at("theta"); }) == "config.json: rope: theta is missing");
  CHECK(message_of([&] { j.at("hidden_size"); }) == "config.json: hidden_size is missing");
  CHECK(message_of([&] { j.at("rope").at("odd key")[1].at("y").as_string(); }) ==
        R"(config.json: rope."odd key"[1].y: expected a string, got 1)");
  CHECK(message_of([&] { j.as_string(); }) == "config.json: expected a string, got an object of 2");
  CHECK(message_of([&] { j.at("rope")[0]; }) ==
        "config.json: rope: expected an array, got an object of 2");
  CHECK(message_of([&] { j.at("rope").at("odd key")[2]; }) ==
        R"(config.json: rope."odd key": expected an element [2], got an array of 2)");
  CHECK(message_of([&] { j.at("c").as_bool(); }) ==
        R"(config.json: c: expected true or false, got "\x07[31m")");
  CHECK(message_of([&] { j.at("rope").at("factor").as_number(0, 1e-6); }) ==
        R"(config.json: rope.factor: expected a number in [0, 1e-06], got "x")");
  const Json deep = parse_json("{\"" + std::string(1000, 'k') + "\":" + nested(60) + "}", "f");
  Json inner = deep.items().begin().operator*().second.at("a");
  while (inner.size() > 0) inner = inner[0];
  const std::string message = message_of([&] { inner.as_bool(); });
  CHECK(has(message, "[0][0]: expected true or false"));
  CHECK(message.size() < 350);
  CHECK_THROWS_AS(j.at("c").items(), error);
  CHECK_THROWS_AS(j.at("c").elements(), error);
  CHECK_THROWS_AS(j.at("c").size(), error);
  CHECK_THROWS_AS(j.at("c").find("x"), error);
}

TEST_CASE("json: what is not strict JSON is refused") {
  struct Bad {
    std::string name, text;
  };
  const Bad bad[] = {
      {"nothing", ""},
      {"a space", " "},
      {"cut object", "{\"a\":1"},
      {"cut string", "{\"a"},
      {"trailing comma", "{\"a\":1,}"},
      {"comment", "{\"a\":1/*x*/}"},
      {"single quotes", "{'a':1}"},
      {"NaN", "{\"a\":NaN}"},
      {"Infinity", "{\"a\":Infinity}"},
      {"number out of range", "{\"a\":1e999}"},
      {"leading zero", "{\"a\":01}"},
      {"plus sign", "{\"a\":+1}"},
      {"hexadecimal", "{\"a\":0x1}"},
      {"bytes after the end", "{\"a\":1}x"},
      {"a second object", "{} {}"},
      {"byte order mark", "\xef\xbb\xbf{}"},
      {"NUL after the end", std::string("{}\0", 3)},
      {"text hidden behind a NUL", std::string("{}\0{\"a\":1}", 10)},
      {"NUL in a string", std::string("{\"a\":\"\0\"}", 9)},
      {"raw newline in a string", "{\"a\":\"\n\"}"},
      {"lone surrogate", "{\"a\":\"\\ud800\"}"},
      {"bad escape", "{\"a\":\"\\x41\"}"},
      {"UTF-8 cut", "{\"a\":\"\xc3\"}"},
      {"UTF-8 overlong", "{\"a\":\"\xc0\xaf\"}"},
      {"UTF-8 surrogate", "{\"a\":\"\xed\xa0\x80\"}"},
      {"UTF-8 beyond U+10FFFF", "{\"a\":\"\xf4\x90\x80\x80\"}"},
      {"UTF-8 in a key", "{\"\xff\":1}"},
      {"UTF-16", std::string("{\0}\0", 4)},
      {"root array", "[1]"},
      {"root number", "1"},
      {"root string", "\"a\""},
      {"root null", "null"},
      {"duplicate key", "{\"a\":1,\"a\":2}"},
      {"duplicate key by escape", "{\"a\":1,\"\\u0061\":2}"},
      {"duplicate key below", "{\"x\":[{\"b\":{},\"a\":1,\"b\":2}]}"},
      {"duplicate empty key", "{\"\":1,\"\":2}"},
      {"too deep", nested(65)},
  };
  for (const Bad& b : bad) {
    CAPTURE(b.name);
    const std::string message = message_of([&] { parse_json(b.text, "file.json"); });
    CAPTURE(message);
    CHECK(message.starts_with("file.json: "));
    CHECK(message.size() < 300);
  }
  CHECK(has(message_of([] { parse_json("{\"a\":1,\"a\":2}", "f"); }), "duplicate key \"a\""));
  CHECK(has(message_of([] { parse_json("{\"a\":1]", "f"); }), "at byte 7"));
}

TEST_CASE("json: duplicates are found among many keys") {
  std::string s = "{";
  for (int i = 0; i < 500; ++i) s += casa::text("\"k", i, "\":0,");
  CHECK(parse_json(s + "\"last\":0}", "f").size() == 501);
  CHECK(has(message_of([&] { parse_json(s + "\"k250\":0}", "f"); }), "duplicate key \"k250\""));
}

TEST_CASE("json: depth and size are limits of the call") {
  CHECK_NOTHROW(parse_json(nested(64), "f"));
  CHECK_NOTHROW(parse_json(nested(8), "f", {.max_depth = 8}));
  CHECK(message_of([] { parse_json(nested(9), "f", {.max_depth = 8}); }) ==
        "f: JSON is nested deeper than 8 (JsonRules::max_depth)");
  CHECK_THROWS_AS(parse_json("{" + std::string(100, ' ') + "}", "f", {.max_bytes = 101}), error);
  CHECK_NOTHROW(parse_json("{" + std::string(100, ' ') + "}", "f", {.max_bytes = 102}));
  CHECK(parse_json(" [1, 2] ", "f", {.object_root = false}).size() == 2);
  CHECK(parse_json("3", "f", {.object_root = false}).as_int() == 3);
  // a million brackets: an error, no overflow of the stack
  CHECK_THROWS_AS(parse_json("{\"a\":" + std::string(1'000'000, '['), "f"), error);
}

TEST_CASE("json: numbers beyond JSON are read where the rules take them, as Python's json does") {
  const JsonRules rules{.nonfinite = true};
  const std::string s =
      R"({"nan":NaN,"a":[Infinity,-Infinity, 1e999 ,-1e309],"s":"NaN, Infinity \"-Infinity","n":-1,
          "NaN":7,"small":1e-999,"big":1.5e308,"zero":0e999,"i":1)" +
      std::string(400, '0') + R"(,"tiny":0.)" + std::string(400, '0') + R"(1,"last":-Infinity})";
  const Json j = parse_json(s, "f", rules);
  CHECK(j.at("nan").describe() == "NaN");
  std::string all;
  for (const Json& v : j.at("a").elements()) {
    CHECK((v.is_number() && !v.is_finite()));
    all += v.describe() + " ";
  }
  CHECK(all == "Infinity -Infinity Infinity -Infinity ");
  CHECK(j.at("s").as_string() == "NaN, Infinity \"-Infinity");
  CHECK(j.at("NaN").as_int() == 7);
  CHECK(j.at("small").as_number() == 0);
  CHECK(j.at("big").as_number() == 1.5e308);
  CHECK(j.at("zero").as_number() == 0);
  CHECK(j.at("tiny").as_number() == 0);
  CHECK(j.at("i").describe() == "Infinity");
  CHECK(j.at("last").describe() == "-Infinity");
  // No number is made of them in silence, and a copy says what the text said.
  CHECK(message_of([&] { j.at("nan").as_number(); }) ==
        "f: nan: expected a finite number, got NaN");
  CHECK(has(message_of([&] { j.at("last").as_number(-1, 1); }), "got -Infinity"));
  CHECK_THROWS_AS(j.at("nan").as_int(), error);
  JsonWriter w;
  CHECK(JsonWriter().value(parse_json(R"({"a":[NaN,-Infinity,1e999]})", "f", rules)).str() ==
        R"({"a":[NaN,-Infinity,Infinity]})");
  // Errors name the same places; what Python refuses is refused; and nothing without the rule.
  CHECK(
      has(message_of([&] { parse_json("{\"a\":NaN,\"b\":Infinity]", "f", rules); }), "at byte 22"));
  for (const char* bad : {"{\"a\":+Infinity}", "{\"a\":-NaN}", "{\"a\":infinity}", "{\"a\":NaNs}",
                          "{\"a\":Infinity1}", "{NaN:1}", "{\"a\":1e}", "{\"a\":01e999}",
                          "{\"a\":1.e999}", "{\"a\":-.1e999}", "{\"a\":1e9+99}"})
    CHECK_THROWS_AS(parse_json(bad, "f", rules), error);
  CHECK_THROWS_AS(parse_json("{\"a\":NaN}", "f"), error);
  // A text that holds every number that could stand for them.
  std::string full = "{\"a\":[NaN";
  for (const char e : {'e', 'E'})
    for (int n = 0; n < 100; ++n) full += casa::text(",", n / 10, std::string(1, e), n % 10);
  CHECK(has(message_of([&] { parse_json(full + "]}", "f", rules); }), "NaN or Infinity beside"));
  CHECK(parse_json(full.substr(0, full.size() - 12) + "]}", "f", rules).at("a")[0].describe() ==
        "NaN");
}

TEST_CASE("json: work grows as n log n with the members of an object, allocations as log n") {
  for (const int n : {1'000, 30'000}) {
    CAPTURE(n);
    // In order, in reverse order, and keys that differ in the last of many bytes.
    for (const char* prefix : {"t", "longer than what a string holds without memory of its own "}) {
      for (const int step : {1, n - 1}) {
        std::string s = "{";
        for (int i = 0; i < n; ++i) s += casa::text("\"", prefix, i * step % n, "\":", i, ",");
        s.back() = '}';
        CountedKeys::comparisons = 0;
        const long long before = casa_test::allocation_count();
        CHECK(parse_json<CountedKeys>(s, "f").size() == n);
        const long long allocations = casa_test::allocation_count() - before;
        CHECK(CountedKeys::comparisons >= n - 1);
        CHECK(CountedKeys::comparisons < 3 * n * std::log2(n));
        if (!casa_test::kSanitized) {
          REQUIRE(casa_test::counts_allocations());
          const bool long_keys = prefix[1] != 0;  // one each, here and in the parser
          CHECK(allocations < (long_keys ? 2 * n : 0) + 100);
        }
      }
    }
  }
}

TEST_CASE("json writer: what is written reads back, in the same bytes each time") {
  const auto write = [](int indent) {
    JsonWriter w(indent);
    w.begin_object().key("captions").begin_array();
    w.begin_array().value(12).value(-1).end_array().begin_array().end_array().end_array();
    w.member("f", 0.1f).member("d", 1e-300).member("whole", 3.0).member("big", ~std::uint64_t{0});
    w.member("s", "q\"\\/\n\t\x01\x7f\xc3\xa9").member("b", true).key("n").null();
    w.key("o").begin_object().end_object();
    return w.end_object().str();
  };
  CHECK(write(0) ==
        "{\"captions\":[[12,-1],[]],\"f\":0.1,\"d\":1e-300,\"whole\":3.0,"
        "\"big\":18446744073709551615,\"s\":\"q\\\"\\\\/\\n\\t\\u0001\\u007f\xc3\xa9\","
        "\"b\":true,\"n\":null,\"o\":{}}");
  CHECK(write(2) == write(2));
  const Json j = parse_json(write(2), "f");
  CHECK(j.at("captions")[0][1].as_int() == -1);
  CHECK(j.at("s").as_string() == "q\"\\/\n\t\x01\x7f\xc3\xa9");
  CHECK(j.at("d").as_number() == 1e-300);
  CHECK_FALSE(j.at("whole").is_integer());
  JsonWriter again;
  CHECK(again.value(j).str() == write(0));
}

TEST_CASE("json writer: calls out of order and values JSON lacks are errors") {
  CHECK_THROWS_AS(JsonWriter().value(std::numeric_limits<double>::infinity()), error);
  CHECK_THROWS_AS(JsonWriter().value(std::numeric_limits<float>::quiet_NaN()), error);
  CHECK_THROWS_AS(JsonWriter().value("\xff"), error);
  CHECK_THROWS_AS(JsonWriter().key("a"), error);
  CHECK_THROWS_AS(JsonWriter().begin_object().value(1), error);
  CHECK_THROWS_AS(JsonWriter().begin_object().end_array(), error);
  CHECK_THROWS_AS(JsonWriter().begin_object().key("a").end_object(), error);
  CHECK_THROWS_AS(JsonWriter().begin_object().key("a").key("b"), error);
  CHECK_THROWS_AS(JsonWriter().value(1).value(2), error);
  CHECK_THROWS_AS(JsonWriter().begin_array().str(), error);
  CHECK_THROWS_AS(JsonWriter().str(), error);
}
