#include "casa/image/jpeg.hpp"

#include <doctest/doctest.h>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::decode_jpeg;

namespace {

/// Slopes, which JPEG keeps well.
Bytes smooth(Index height, Index width, int channels) {
  Bytes pixels;
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        pixels.push_back(static_cast<std::uint8_t>(60 + y * 80 / height + x * 70 / width + 10 * c));
  return pixels;
}

int largest_difference(const Image& image, const std::vector<double>& expected) {
  double most = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    most = std::max(most, std::abs(expected[i] - image.data()[i]));
  return static_cast<int>(std::ceil(most));
}

}  // namespace

// That the pixels are Pillow's bit for bit is a matter of reference data (qwen2_vl_preprocess.cpp).
TEST_CASE("JPEG of grey, RGB and inverted CMYK, baseline and progressive, becomes RGB") {
  std::mt19937 random(3);
  for (const int channels : {1, 3, 4})
    for (const bool progressive : {false, true})
      for (int repeat = 0; repeat < 5; ++repeat) {
        const Index height = draw(70, random);
        const Index width = draw(70, random);
        CAPTURE(channels);
        CAPTURE(progressive);
        CAPTURE(height);
        CAPTURE(width);
        const Bytes pixels = smooth(height, width, channels);
        const Image image = decode_jpeg(encode_jpeg(pixels, height, width, channels, progressive));
        REQUIRE(image.height() == height);
        REQUIRE(image.width() == width);
        std::vector<double> expected;
        for (std::size_t i = 0; i < pixels.size(); i += static_cast<std::size_t>(channels))
          for (std::size_t c = 0; c < 3; ++c)
            expected.push_back(channels == 1   ? pixels[i]
                               : channels == 3 ? pixels[i + c]
                                               : pixels[i + c] * pixels[i + 3] / 255.0);
        // Quality 95 keeps slopes within some levels (3 seen for RGB: halved chroma).
        CHECK(largest_difference(image, expected) <= 6);
      }
}

TEST_CASE("a JPEG file that is cut anywhere is an error") {
  for (const bool progressive : {false, true}) {
    const Bytes file = encode_jpeg(smooth(20, 30, 3), 20, 30, 3, progressive);
    for (std::size_t size = 0; size < file.size(); ++size) {
      CAPTURE(size);
      const std::span<const std::uint8_t> cut(file.data(), size);
      CHECK(has(message_of([&] { decode_jpeg(cut, {}, "a.jpg"); }), "a.jpg: JPEG: "));
    }
  }
}

TEST_CASE("a JPEG file with a flipped bit is an error, or an image") {
  std::mt19937 random(4);
  const Bytes whole = encode_jpeg(random_bytes(33 * 35 * 3, random), 33, 35, 3, true);
  int errors = 0;
  for (int repeat = 0; repeat < 2000; ++repeat) {
    Bytes file = whole;
    file[random() % file.size()] ^= static_cast<std::uint8_t>(1u << random() % 8);
    Image image;
    const bool refused = message_of([&] { image = decode_jpeg(file); }) != "no error";
    CHECK(refused == (image.size() == 0));
    errors += refused;
  }
  CHECK(errors > 20);
}

TEST_CASE(
    "a JPEG file is refused from its header where it is too large, or too short for its size") {
  Bytes file = encode_jpeg(smooth(8, 8, 3), 8, 8, 3);
  std::size_t frame = 0;  // SOF0: marker, length, depth, height, width
  while (!(file[frame] == 0xff && file[frame + 1] == 0xc0)) ++frame;
  const auto message = [&](unsigned height, unsigned width) {
    for (const auto& [at, v] : {std::pair{frame + 5, height}, std::pair{frame + 7, width}}) {
      file[at] = static_cast<std::uint8_t>(v >> 8);
      file[at + 1] = static_cast<std::uint8_t>(v);
    }
    return message_of([&] { decode_jpeg(file, {}, "a.jpg"); });
  };
  CHECK(message(8, 8) == "no error");
  CHECK(has(message(65500, 65500), "a.jpg: an image of 65500 x 65500 is larger than 16384 a side"));
  CHECK(has(message(16384, 4097), "more than 67108864 pixels"));
  CHECK(has(message(8192, 8192), "bytes cannot hold 8192 x 8192"));
  CHECK(has(message(0, 8), "a.jpg: JPEG: "));
  CHECK(has(message(8, 0), "a.jpg: JPEG: "));
}

TEST_CASE("a JPEG file that goes over the image again and again is refused") {
  Bytes file = encode_jpeg(smooth(8, 8, 3), 8, 8, 3, false, true);
  std::size_t last = file.size() - 2;  // the last scan begins at the last SOS marker
  while (!(file[last] == 0xff && file[last + 1] == 0xda)) --last;
  const Bytes scan(file.begin() + static_cast<Index>(last), file.end() - 2);
  REQUIRE(message_of([&] { decode_jpeg(file); }) == "no error");
  for (int repeat = 0; repeat < 600; ++repeat)
    file.insert(file.begin() + static_cast<Index>(last), scan.begin(), scan.end());
  CHECK(has(message_of([&] { decode_jpeg(file); }), "more than 500 scans"));
}
