#include "casa/image/qwen2_vl_preprocess.hpp"

#include <doctest/doctest.h>

#include <bit>
#include <string>
#include <vector>

#include "casa/image/image.hpp"
#include "golden.hpp"
#include "image/image_files.hpp"

using namespace image_files;
using casa::Matrix;
using casa::io::Alpha;
using casa::io::Json;
using casa::io::PassOrder;
using casa::io::qwen2_vl_patches;
using casa::io::qwen2_vl_preprocess;
using casa::io::Qwen2VlPreprocessConfig;
using casa::io::smart_resize;

namespace {

// libjpeg-turbo decodes as Pillow does, which builds on it; other libjpegs round otherwise.
#if defined(LIBJPEG_TURBO_VERSION)
constexpr int kJpegLevels = 0;
#else
constexpr int kJpegLevels = 4;
#endif

std::array<float, 3> three_floats(const Json& list) {
  std::array<float, 3> v;
  for (std::size_t c = 0; c < 3; ++c) v[c] = static_cast<float>(list.at(c).as_number());
  return v;
}

Qwen2VlPreprocessConfig config_of(const Json& about, const Json& c) {
  Qwen2VlPreprocessConfig config;
  config.patch_size = c.at("patch_size").as_int();
  config.temporal_patch_size = c.at("temporal_patch_size").as_int();
  config.merge_size = c.at("merge_size").as_int();
  config.min_pixels = c.at("min_pixels").as_int();
  config.max_pixels = c.at("max_pixels").as_int();
  config.image_mean = three_floats(about.at("image_mean"));
  config.image_std = three_floats(about.at("image_std"));
  config.rescale_factor = about.at("rescale_factor").as_number();
  return config;
}

/// The reference tensor [height, width, 3] as an image.
Image image_of(const golden::Case& outputs, const std::string& tensor) {
  const auto shape = outputs.shape(tensor);
  REQUIRE(shape.size() == 3);
  REQUIRE(shape[2] == 3);
  Image image(shape[0], shape[1]);
  const auto values = outputs.values<std::uint8_t>(tensor);
  std::copy(values.begin(), values.end(), image.data());
  return image;
}

int largest_difference(const Image& a, const Image& b) {
  REQUIRE(a.height() == b.height());
  REQUIRE(a.width() == b.width());
  int most = 0;
  for (Index i = 0; i < a.size(); ++i)
    most = std::max(most, std::abs(int{a.data()[i]} - int{b.data()[i]}));
  return most;
}

/// The number of values whose bits differ.
Index differing(const Matrix<float>& a, const Matrix<float>& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  Index n = 0;
  for (Index i = 0; i < a.size(); ++i)
    n += std::bit_cast<std::uint32_t>(a.data()[i]) != std::bit_cast<std::uint32_t>(b.data()[i]);
  return n;
}

void check_case(const std::filesystem::path& folder, const golden::Case& outputs, const Json& about,
                const Json& c) {
  const std::string name = c.at("name").as_string();
  CAPTURE(name);
  const Qwen2VlPreprocessConfig config = config_of(about, c);
  const Alpha alpha = c.at("alpha").as_string() == "dropped" ? Alpha::dropped : Alpha::white;

  const Image decoded =
      casa::io::read_image((folder / c.at("file").as_string()).string(), {.alpha = alpha});
  const Image rgb = image_of(outputs, name + ".rgb");
  const bool jpeg = c.at("format").as_string() == "JPEG";
  CHECK(largest_difference(decoded, rgb) <= (jpeg ? kJpegLevels : 0));

  const auto size = smart_resize(rgb.height(), rgb.width(), config.patch_size * config.merge_size,
                                 config.min_pixels, config.max_pixels);
  CHECK(size.height == c.at("resized_height").as_int());
  CHECK(size.width == c.at("resized_width").as_int());
  const auto resized = [&](PassOrder order) {
    return casa::io::resize_bicubic(rgb, size.height, size.width, order);
  };
  const Image expected = image_of(outputs, name + ".resized");
  CHECK(largest_difference(resized(PassOrder::pillow13), expected) == 0);
  const bool differs = outputs.has(name + ".resized_pillow12");
  CHECK(differs == c.at("vertical_first").as_bool());
  const Image expected12 = differs ? image_of(outputs, name + ".resized_pillow12") : expected;
  CHECK(largest_difference(resized(PassOrder::pillow12), expected12) == 0);

  const auto made = qwen2_vl_preprocess(rgb, config);
  CHECK(differing(made.pixel_values, outputs.matrix<float>(name + ".pixel_values")) == 0);
  CHECK(std::vector<std::int64_t>{made.grid.t, made.grid.h, made.grid.w} ==
        outputs.ints(name + ".grid_thw"));
  CHECK(made.pixel_values.rows() == c.at("num_patches").as_int());
}

}  // namespace

TEST_CASE("files become what Pillow and the reference processor make of them, bit for bit") {
  for (const auto& folder : golden::folders("preprocess")) {
    CAPTURE(folder.string());
    const golden::Case outputs(folder / "outputs.safetensors");
    const Json cases = casa::io::read_json((folder / "cases.json").string());
    REQUIRE(cases.at("cases").size() > 0);
    for (const Json& c : cases.at("cases").elements())
      check_case(folder, outputs, cases.at("about"), c);
  }
}

TEST_CASE("sizes are those of the reference rule, its errors are errors") {
  for (const auto& folder : golden::folders("preprocess")) {
    CAPTURE(folder.string());
    const Json cases = casa::io::read_json((folder / "cases.json").string());
    REQUIRE(cases.at("smart_resize").size() > 0);
    for (const Json& row : cases.at("smart_resize").elements()) {
      const Index h = row.at(0).as_int(), w = row.at(1).as_int();
      CAPTURE(h);
      CAPTURE(w);
      const auto resize = [&] {
        return smart_resize(h, w, 28, row.at(2).as_int(), row.at(3).as_int());
      };
      if (row.at(4).is_null()) {
        CHECK_THROWS_AS(resize(), casa::error);
      } else {
        CHECK(resize().height == row.at(4).as_int());
        CHECK(resize().width == row.at(5).as_int());
      }
    }
  }
}

TEST_CASE("a size halfway between two multiples goes to the even one") {
  CHECK(smart_resize(42, 70, 28, 1, 1 << 20) == casa::io::ImageSize{56, 56});
  CHECK(smart_resize(98, 126, 28, 1, 1 << 20) == casa::io::ImageSize{112, 112});
}

TEST_CASE("sizes that no rule covers are errors") {
  const auto message = [](Index h, Index w, Index factor, Index least, Index most) {
    return message_of([&] { smart_resize(h, w, factor, least, most); });
  };
  CHECK(message(1, 200, 28, 1, 1) == "no error");
  CHECK(has(message(1, 201, 28, 1, 1), "201 x 1 is more than 200 times longer than wide"));
  CHECK(has(message(0, 5, 28, 1, 1), "5 x 0 has no pixels"));
  CHECK(has(message(5, -5, 28, 1, 1), "has no pixels"));
  CHECK(has(message(5, 5, 0, 1, 1), "factor must be"));
  CHECK(has(message(5, 5, 28, 0, 1), "must be positive, got 0 and 1"));
  CHECK(has(message(Index{1} << 40, Index{1} << 40, 28, 1, 1), "is larger than"));
}

TEST_CASE("each value stands where the patch order says, normalised, once for each time") {
  std::mt19937 random(21);
  for (int repeat = 0; repeat < 12; ++repeat) {
    Qwen2VlPreprocessConfig config;
    config.patch_size = draw(6, random);
    config.merge_size = draw(3, random);
    config.temporal_patch_size = draw(3, random);
    config.image_mean = {0.5f, 0.25f, -1.0f};
    config.image_std = {0.5f, 3.0f, 0.1f};
    const Index p = config.patch_size, merge = config.merge_size,
                times = config.temporal_patch_size;
    CAPTURE(p);
    CAPTURE(merge);
    CAPTURE(times);
    const Index blocks_down = draw(3, random), blocks_across = draw(3, random);
    const Image image = random_image(blocks_down * merge * p, blocks_across * merge * p, random);
    const auto made = qwen2_vl_patches(image, config);
    CHECK(made.grid == casa::io::PatchGrid{1, blocks_down * merge, blocks_across * merge});
    REQUIRE(made.pixel_values.rows() == made.grid.h * made.grid.w);
    REQUIRE(made.pixel_values.cols() == 3 * times * p * p);
    int wrong = 0;
    for (Index y = 0; y < image.height(); ++y)
      for (Index x = 0; x < image.width(); ++x)
        for (Index c = 0; c < 3; ++c)
          for (Index t = 0; t < times; ++t) {
            const Index row = y / p, col = x / p;
            const Index block = row / merge * blocks_across + col / merge;
            const Index patch = (block * merge + row % merge) * merge + col % merge;
            const auto k = static_cast<std::size_t>(c);
            const auto unit = static_cast<float>(image.row(y)[3 * x + c] * (1.0 / 255.0));
            const float value = (unit - config.image_mean[k]) / config.image_std[k];
            wrong += made.pixel_values(patch, ((c * times + t) * p + y % p) * p + x % p) != value;
          }
    CHECK(wrong == 0);
  }
}

TEST_CASE("preprocessing does not depend on the number of threads") {
  std::mt19937 random(22);
  casa::ThreadPool pool(4);
  const Image image = random_image(131, 277, random);
  const auto serial = qwen2_vl_preprocess(image);
  const auto parallel = qwen2_vl_preprocess(image, {}, pool);
  CHECK(parallel.grid == serial.grid);
  CHECK(differing(parallel.pixel_values, serial.pixel_values) == 0);
}

TEST_CASE("a bad config or size is an error that names it") {
  const Image image(28, 28);
  const auto message = [&](auto change) {
    Qwen2VlPreprocessConfig config;
    change(config);
    return message_of([&] { qwen2_vl_preprocess(image, config); });
  };
  using Config = Qwen2VlPreprocessConfig;
  CHECK(
      has(message([](Config& c) { c.patch_size = 0; }), "patch_size must be in [1, 1024], got 0"));
  CHECK(
      has(message([](Config& c) { c.merge_size = 65; }), "merge_size must be in [1, 64], got 65"));
  CHECK(has(message([](Config& c) { c.temporal_patch_size = -2; }), "temporal_patch_size"));
  CHECK(has(message([](Config& c) { c.min_pixels = 0; }), "min_pixels must be in"));
  CHECK(has(message([](Config& c) { c.max_pixels = Index{1} << 40; }), "max_pixels must be in"));
  CHECK(has(message([](Config& c) { c.image_std[1] = 0.0f; }), "image_std positive"));
  CHECK(has(message([](Config& c) { c.image_mean[2] = std::numeric_limits<float>::infinity(); }),
            "image_mean must be finite"));
  CHECK(has(message_of([] { qwen2_vl_patches(Image(28, 30)); }), "multiples of 28, got 30 x 28"));
  CHECK(has(message_of([] { qwen2_vl_preprocess(Image()); }), "has no pixels"));
}
