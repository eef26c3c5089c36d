#include "casa/image/image.hpp"

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::decode_image;
using casa::io::read_image;

namespace {

/// A file that is gone when the test ends.
class TemporaryFile {
 public:
  explicit TemporaryFile(const Bytes& content) {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             casa::text("casa-image-", ::getpid(), "-", count++))
                .string();
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()), static_cast<Index>(content.size()));
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string decode_error(const Bytes& bytes) {
  return message_of([&] { decode_image(bytes, {}, "x"); });
}

}  // namespace

TEST_CASE("the kind of an image file is told by its first bytes, not its name") {
  const Bytes pixels(5 * 4 * 3, 100);
  Png png{.height = 4, .width = 5};
  png.samples.assign(60, 100);
  const Bytes samples(60, 100);
  Bytes ppm = of_text("P6 5 4 255\n");
  ppm.insert(ppm.end(), samples.begin(), samples.end());
  for (const Bytes& file : {encode_jpeg(pixels, 4, 5, 3), encode_png(png), ppm}) {
    const TemporaryFile on_disk(file);
    for (const Image& image : {decode_image(file), read_image(on_disk.path())}) {
      REQUIRE(image.height() == 4);
      REQUIRE(image.width() == 5);
      for (Index i = 0; i < image.size(); ++i) CHECK(std::abs(int{image.data()[i]} - 100) <= 1);
    }
  }
}

TEST_CASE("what is no image is an error that names the file and shows how it begins") {
  CHECK(decode_error({}) == "x: an empty file is not an image");
  CHECK(has(decode_error(of_text("GIF89a\x01\x02...")),
            "x: not a JPEG, PNG, PPM (P6) or PGM (P5) image"));
  CHECK(has(decode_error(of_text("GIF89a\x01\x02...")), "\"GIF89a\\x01\\x02\""));
  CHECK(has(decode_error({0xff}), "it begins with \"\\xff\""));
  CHECK(has(decode_error(of_text("{\"a\": 1}")), "not a JPEG"));
  CHECK(has(decode_error({0xff, 0xd8, 0xff}), "x: JPEG: "));
  CHECK(has(decode_error(png_signature()), "x: PNG: "));
}

TEST_CASE("a file that cannot be read is an error that names it") {
  CHECK(has(message_of([] { read_image("/nonexistent/a.png"); }), "/nonexistent/a.png: "));
  CHECK(has(message_of([] { read_image("/"); }), "/: not a regular file"));
  const TemporaryFile text(of_text("not an image"));
  CHECK(has(message_of([&] { read_image(text.path()); }), text.path() + ": not a JPEG"));
  const TemporaryFile empty(Bytes{});
  CHECK(has(message_of([&] { read_image(empty.path()); }), "an empty file is not an image"));
  casa::io::DecodeOptions small;
  small.limits.image_bytes = 11;
  CHECK(has(message_of([&] { read_image(text.path(), small); }), "larger than the limit of 11"));
  CHECK(has(message_of([&] { decode_image(of_text("not an image"), small); }), "limit of 11"));
}

TEST_CASE("limits are options") {
  casa::io::DecodeOptions options;
  const Bytes file = of_text("P5 3 2 255\n......");
  options.limits.image_side = 3;
  options.limits.image_pixels = 6;
  CHECK(decode_image(file, options).size() == 18);
  options.limits.image_pixels = 5;
  CHECK(has(message_of([&] { decode_image(file, options); }), "more than 5 pixels"));
  options.limits.image_side = 2;
  CHECK(has(message_of([&] { decode_image(file, options); }), "larger than 2 a side"));
}

TEST_CASE("a small file that claims a huge image is refused before memory is taken") {
  std::vector<Bytes> bombs;
  for (const auto& [width, height] :
       {std::pair{1'000'000'000u, 1'000'000'000u}, std::pair{20'000u, 20'000u},
        std::pair{16'384u, 16'384u}, std::pair{8'192u, 8'192u}, std::pair{1u, 1'000'000'000u}}) {
    for (const int colour_type : {0, 2, 6}) {
      Bytes png = png_signature();
      append_chunk(png, "IHDR",
                   ihdr(width, height, 16 / (colour_type == 0 ? 2 : 1), colour_type, 1));
      append_chunk(png, "IDAT", stored_zlib(Bytes(100)));
      bombs.push_back(png);
    }
    bombs.push_back(of_text(casa::text("P6 ", width, " ", height, " 255\n....")));
    bombs.push_back(of_text(casa::text("P5 ", width, " ", height, " 65535\n....")));
  }
  Bytes jpeg = encode_jpeg(Bytes(64), 8, 8, 1);
  for (std::size_t i = 0; i + 8 < jpeg.size(); ++i)
    if (jpeg[i] == 0xff && jpeg[i + 1] == 0xc0) {
      jpeg[i + 5] = jpeg[i + 7] = 0xff;
      bombs.push_back(jpeg);
      jpeg[i + 5] = jpeg[i + 7] =
          0x20;  // 8192 x 8192 is within the limits, but not in so few bytes
      bombs.push_back(jpeg);
    }
  REQUIRE(bombs.size() == 27);
  const long before = peak_resident_bytes();
  for (const Bytes& bomb : bombs) CHECK(has(decode_error(bomb), "x: "));
  CHECK(peak_resident_bytes() - before < 4 << 20);
}
