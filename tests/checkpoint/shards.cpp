#include "casa/checkpoint/shards.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/core/error.hpp"
#include "casa/json/json_writer.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"

using casa::error;
using casa::Index;
using casa::io::Checkpoint;
using casa::io::JsonWriter;
using casa::io::LoadOptions;
using casa::io::named_tensor;
using casa::io::read_checkpoint;
using casa::io::write_safetensors;
namespace fs = std::filesystem;

namespace {

using Places = std::vector<std::pair<std::string, std::string>>;

const std::string first = "model-00001-of-00002.safetensors";
const std::string second = "model-00002-of-00002.safetensors";
constexpr int total_bytes = 10 * 4 + 6 * 8 + 2 * 4;

std::string index_text(const Places& places, std::string_view total) {
  JsonWriter w;
  w.begin_object().key("weight_map").begin_object();
  for (const auto& [tensor, file] : places) w.member(tensor, file);
  std::string s = w.end_object().end_object().str();
  s.pop_back();
  return s + R"(,"metadata":{"total_size":)" + std::string(total) + "}}";
}

/// Two shards: a and b in the first, c in the second.
void write_shards(const std::string& folder) {
  const std::vector<float> a(10, 1.0f), c(2, 3.0f);
  const std::vector<double> b(6, 2.0);
  write_safetensors(folder + "/" + first,
                    {named_tensor("a", {2, 5}, a), named_tensor("b", {6}, b)});
  write_safetensors(folder + "/" + second, {named_tensor("c", {2}, c)});
}

void write_index(const Scratch& scratch, const Places& places,
                 std::string_view total = std::to_string(total_bytes)) {
  scratch.write("model.safetensors.index.json", index_text(places, total));
}

const Places good = {{"a", first}, {"b", first}, {"c", second}};

std::string message_of_index(const Places& places,
                             std::string_view total = std::to_string(total_bytes)) {
  const Scratch scratch;
  write_shards(scratch.path());
  write_index(scratch, places, total);
  return message_of([&] { read_checkpoint(scratch.path()); });
}

}  // namespace

TEST_CASE("shards: several files are one set of tensors") {
  const Scratch scratch;
  write_shards(scratch.path());
  write_index(scratch, good);
  for (const bool map : {false, true}) {
    const Checkpoint c = read_checkpoint(scratch.path(), {.map = map, .limits = {}});
    CHECK(c.size() == 3);
    CHECK(c.files().size() == 2);
    CHECK(c.data_bytes() == total_bytes);
    CHECK(c.at("a").to_vector<float>() == std::vector<float>(10, 1.0f));
    CHECK(c.at("c").to_vector<float>() == std::vector<float>(2, 3.0f));
    CHECK(c.names() == std::vector<std::string_view>{"a", "b", "c"});
    CHECK(c[1].name == "b");
    CHECK(c.file_of("c").name() == scratch.file(second));
    CHECK(c.file_of("a").mapped() == map);
    CHECK(c.find("d") == nullptr);
    CHECK(has(message_of([&] { c.at("d"); }), "no tensor \"d\""));
    CHECK(has(message_of([&] { c.file_of("d"); }), "no tensor \"d\""));
  }
}

TEST_CASE("shards: a folder with one model.safetensors needs no index, and prefers it") {
  const Scratch scratch;
  const std::vector<float> x(4, 1.0f);
  write_safetensors(scratch.file("model.safetensors"), {named_tensor("x", {4}, x)});
  CHECK(read_checkpoint(scratch.path()).contains("x"));
  write_shards(scratch.path());
  write_index(scratch, good);
  CHECK(read_checkpoint(scratch.path()).size() == 1);
}

TEST_CASE("shards: a folder without weights is an error that names it") {
  const Scratch scratch;
  CHECK(message_of([&] { read_checkpoint(scratch.path()); }) ==
        scratch.path() + ": no model.safetensors and no model.safetensors.index.json");
  CHECK_THROWS_AS(read_checkpoint(scratch.file("absent")), error);
}

TEST_CASE("shards: the files say where a tensor is, and total_size counts for nothing") {
  const std::string total = std::to_string(total_bytes);
  for (const std::string& any :
       {total, std::to_string(total_bytes - 1), std::string("0"), std::string("-1"), total + ".0",
        "\"" + total + "\"", std::string("18446744073709551712"), std::string("null"),
        std::string("NaN"), std::string("Infinity"), std::string("[]")}) {
    CAPTURE(any);
    CHECK(message_of_index(good, any) == "");
  }
  CHECK(message_of_index({{"a", first}, {"b", second}, {"c", first}}) == "");
  CHECK(has(message_of_index({{"a", "absent.safetensors"}, {"b", first}, {"c", second}}),
            "absent.safetensors: cannot open"));
}

TEST_CASE("shards: a tensor that the index does not list is there, as an extra") {
  const Scratch scratch;
  write_shards(scratch.path());
  write_index(scratch, {{"a", first}, {"c", second}});
  const Checkpoint c = read_checkpoint(scratch.path());
  CHECK(c.at("b").to_vector<float>() == std::vector<float>(6, 2.0f));
  CHECK(c.extra("b"));
  CHECK_FALSE(c.extra("a"));
  CHECK_FALSE(c.extra("d"));
}

TEST_CASE("shards: a listed tensor that no file holds is an error, or passed over by its option") {
  const Places stale = {{"a", first}, {"b", first}, {"c", second}, {"d", second}};
  const std::string message = message_of_index(stale);
  CHECK(has(message, "tensor \"d\" is not in " + second));
  CHECK(has(message, "LoadLimits::stale_index"));
  const Scratch scratch;
  write_shards(scratch.path());
  write_index(scratch, stale);
  LoadOptions options;
  options.limits.stale_index = true;
  CHECK(read_checkpoint(scratch.path(), options).size() == 3);
}

TEST_CASE("shards: copies of a tensor are one, other values under one name an error or the last") {
  const Scratch scratch;
  const std::vector<float> x(4, 1.0f), other(4, 2.0f);
  write_safetensors(scratch.file("p.safetensors"), {named_tensor("x", {4}, x)});
  write_index(scratch, {{"x", "p.safetensors"}, {"y", "q.safetensors"}});
  const auto second_file = [&](const std::vector<float>& values) {
    write_safetensors(scratch.file("q.safetensors"),
                      {named_tensor("x", {4}, values), named_tensor("y", {4}, x)});
  };
  second_file(x);
  CHECK(read_checkpoint(scratch.path()).size() == 2);
  second_file(other);
  const std::string message = message_of([&] { read_checkpoint(scratch.path()); });
  CHECK(has(message, "tensor \"x\" is also in " + scratch.file("q.safetensors")));
  CHECK(has(message, "LoadLimits::repeated_tensors"));
  LoadOptions last;
  last.limits.repeated_tensors = true;
  CHECK(read_checkpoint(scratch.path(), last).at("x").to_vector<float>() == other);
  CHECK(read_checkpoint(scratch.path(), last).size() == 2);
}

TEST_CASE("shards: a name that is not one plain file name is refused") {
  const std::string long_name = std::string(300, 'a') + ".safetensors";
  for (const std::string& bad :
       {std::string("../x.safetensors"), std::string("/etc/x.safetensors"),
        std::string("a/b.safetensors"), std::string("a\\b.safetensors"),
        std::string("a\0.safetensors", 14), long_name, std::string("."), std::string(".."),
        std::string(""), std::string("model.bin"), std::string("model.safetensors/"),
        std::string("a b.safetensors"), std::string("\xc3\xa9.safetensors"),
        std::string("~.safetensors"), std::string("a.safetensors\n")}) {
    CAPTURE(bad);
    const std::string message = message_of_index({{"a", bad}, {"b", first}, {"c", second}});
    CAPTURE(message);
    CHECK(has(message, "weight_map.a: expected one file name"));
    CHECK(message.size() < 400);
  }
}

TEST_CASE("shards: the number of files is limited") {
  const Scratch scratch;
  Places many;
  for (int i = 0; i < 1025; ++i)
    many.emplace_back(casa::text("t", i), casa::text("s", i, ".safetensors"));
  write_index(scratch, many);
  CHECK(has(message_of([&] { read_checkpoint(scratch.path()); }), "more than 1024 files"));
}

TEST_CASE("shards: an index that is no index is refused") {
  for (const char* text : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                           R"({"weight_map":{"a":"x.safetensors","a":"y.safetensors"}})",
                           R"({"weight_map":null})", R"({"weight_map":{},"metadata":3})"}) {
    CAPTURE(text);
    const Scratch scratch;
    scratch.write("model.safetensors.index.json", text);
    CHECK(
        has(message_of([&] { read_checkpoint(scratch.path()); }), "model.safetensors.index.json"));
  }
}

TEST_CASE("shards: the link layout of the Hugging Face cache loads, unless links are forbidden") {
  const Scratch scratch;
  const std::string blobs = scratch.file("blobs"), snapshot = scratch.file("snapshots/0123");
  fs::create_directories(blobs);
  fs::create_directories(snapshot);
  write_shards(blobs);
  fs::rename(blobs + "/" + first, blobs + "/aaaa");
  fs::rename(blobs + "/" + second, blobs + "/bbbb");
  scratch.write("blobs/cccc", index_text(good, std::to_string(total_bytes)));
  fs::create_symlink("../../blobs/aaaa", snapshot + "/" + first);
  fs::create_symlink("../../blobs/bbbb", snapshot + "/" + second);
  fs::create_symlink("../../blobs/cccc", snapshot + "/model.safetensors.index.json");
  CHECK(read_checkpoint(snapshot).size() == 3);
  LoadOptions strict;
  strict.limits.follow_links = false;
  CHECK_THROWS_AS(read_checkpoint(snapshot, strict), error);
}

TEST_CASE("shards: a shard that is a FIFO or a folder is refused without blocking") {
  const Scratch scratch;
  write_shards(scratch.path());
  write_index(scratch, good);
  fs::remove(scratch.file(second));
  REQUIRE(::mkfifo(scratch.file(second).c_str(), 0600) == 0);
  CHECK(has(message_of([&] { read_checkpoint(scratch.path()); }), "not a regular file"));
  fs::remove(scratch.file(second));
  fs::create_directory(scratch.file(second));
  CHECK(has(message_of([&] { read_checkpoint(scratch.path()); }), "not a regular file"));
}
