#include "casa/image/qwen2_vl_preprocess_config.hpp"

#include <doctest/doctest.h>

#include <string>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::Qwen2VlPreprocessConfig;

namespace {

Qwen2VlPreprocessConfig parse(std::string_view json) {
  return casa::io::parse_qwen2_vl_preprocess_config(casa::io::parse_json(json, "p.json"));
}

std::string parse_error(std::string_view json) {
  return message_of([&] { parse(json); });
}

}  // namespace

TEST_CASE("a published preprocessor_config.json gives its settings, an empty one Qwen2-VL's") {
  const auto config = parse(R"({
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 16, "temporal_patch_size": 3,
    "merge_size": 4, "image_mean": [0.5, 0.25, 0], "image_std": [1, 2, 0.5],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
    "do_resize": true, "resample": 3, "rescale_factor": 0.5})");
  Qwen2VlPreprocessConfig expected;
  expected.patch_size = 16;
  expected.temporal_patch_size = 3;
  expected.merge_size = 4;
  expected.min_pixels = 3136;
  expected.max_pixels = 12845056;
  expected.image_mean = {0.5f, 0.25f, 0.0f};
  expected.image_std = {1.0f, 2.0f, 0.5f};
  expected.rescale_factor = 0.5;
  CHECK(config == expected);
  CHECK(parse("{}") == Qwen2VlPreprocessConfig{});
  CHECK(parse(R"({"patch_size": null, "size": null})") == Qwen2VlPreprocessConfig{});
}

TEST_CASE("the bounds stand at top level or in size, the former win") {
  const auto sized = parse(R"({"size": {"shortest_edge": 784, "longest_edge": 9408}})");
  CHECK(sized.min_pixels == 784);
  CHECK(sized.max_pixels == 9408);
  const auto both =
      parse(R"({"max_pixels": 50000, "size": {"shortest_edge": 784, "longest_edge": 1}})");
  CHECK(both.min_pixels == 784);
  CHECK(both.max_pixels == 50000);
}

TEST_CASE("what is not done or not right is an error that names the key") {
  CHECK(has(parse_error(R"({"do_resize": false})"), "p.json: do_resize: only true is supported"));
  CHECK(has(parse_error(R"({"do_normalize": 1})"), "p.json: do_normalize: "));
  CHECK(has(parse_error(R"({"resample": 2})"), "p.json: resample: only 3 (bicubic)"));
  CHECK(has(parse_error(R"({"patch_size": 0})"), "p.json: patch_size: "));
  CHECK(has(parse_error(R"({"merge_size": 2.0})"), "p.json: merge_size: "));
  CHECK(has(parse_error(R"({"size": {"longest_edge": -1}})"), "p.json: size.longest_edge: "));
  CHECK(has(parse_error(R"({"size": 448})"), "p.json: size: "));
  CHECK(has(parse_error(R"({"max_pixels": 1000000000000})"), "p.json: max_pixels: "));
  CHECK(has(parse_error(R"({"image_mean": [1, 2]})"), "p.json: image_mean: expected 3 numbers"));
  CHECK(has(parse_error(R"({"image_std": [1, 0, 1]})"), "image_std positive"));
}
