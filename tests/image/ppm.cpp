#include "casa/image/ppm.hpp"

#include <doctest/doctest.h>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::decode_ppm;

namespace {

Bytes ppm(std::string_view header, const Bytes& samples) {
  Bytes file = of_text(header);
  file.insert(file.end(), samples.begin(), samples.end());
  return file;
}

}  // namespace

TEST_CASE("the samples of a PPM file are its pixels") {
  const Bytes samples = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const Image image = decode_ppm(ppm("P6 2\t2\n255\n", samples));
  REQUIRE(image.height() == 2);
  REQUIRE(image.width() == 2);
  CHECK(std::equal(samples.begin(), samples.end(), image.data()));
}

TEST_CASE(
    "the grey of a PGM file is repeated, comments are skipped, the rest of the file is ignored") {
  const Image image = decode_ppm(ppm("P5# a\n#b 7\n 3 # c\r1\n255\n", {9, 0, 255, 77, 77}));
  REQUIRE(image.height() == 1);
  REQUIRE(image.width() == 3);
  const std::uint8_t expected[] = {9, 9, 9, 0, 0, 0, 255, 255, 255};
  CHECK(std::equal(std::begin(expected), std::end(expected), image.data()));
}

TEST_CASE("samples are scaled from maxval to 255, to nearest") {
  for (const int maxval : {1, 2, 3, 100, 254, 255, 256, 1000, 4095, 65535}) {
    CAPTURE(maxval);
    Bytes samples;
    for (int v = 0; v <= maxval; ++v) {
      if (maxval > 255) samples.push_back(static_cast<std::uint8_t>(v >> 8));
      samples.push_back(static_cast<std::uint8_t>(v));
    }
    // Not a row: a side is at most 16384.
    const std::string size = maxval == 65535 ? "256 256 " : casa::text(maxval + 1, " 1 ");
    const Image image = decode_ppm(ppm(casa::text("P5 ", size, maxval, "\n"), samples));
    int wrong = 0;
    for (int v = 0; v <= maxval; ++v)
      wrong += std::abs(255.0 * v / maxval - image.data()[3 * v]) > 0.5;
    CHECK(wrong == 0);
  }
}

TEST_CASE("samples beyond maxval count as maxval") {
  CHECK(decode_ppm(ppm("P5 1 1 100\n", {200})).data()[0] == 255);
}

TEST_CASE("a bad PNM file is an error that says what is wrong") {
  const auto message = [](std::string_view header, std::size_t samples) {
    return message_of([&] { decode_ppm(ppm(header, Bytes(samples)), {}, "a.ppm"); });
  };
  CHECK(message("P6 2 2 255\n", 12) == "no error");
  CHECK(has(message("P6 2 2 255\n", 11),
            "a.ppm: PNM file is cut: 2 rows of 6 bytes expected, got 11"));
  CHECK(has(message("P6 2 2 65535\n", 23), "PNM file is cut"));
  CHECK(has(message("P6", 0), "cut before its width"));
  CHECK(has(message("P6 2 2", 0), "cut before its height"));
  CHECK(has(message("P6 2 2 255", 0), "cut before its maxval"));
  CHECK(has(message("P6 # 2 2 255", 0), "cut before its width"));
  CHECK(has(message("P6 -2 2 255\n", 12), "width is not a number"));
  CHECK(has(message("P6 2 x 255\n", 12), "height is not a number"));
  CHECK(has(message("P6 2 2 255x", 12), "no white space after maxval"));
  CHECK(has(message("P6 2 2 0\n", 12), "maxval must be in [1, 65535], got 0"));
  CHECK(has(message("P6 2 2 65536\n", 24), "maxval must be in [1, 65535], got 65536"));
  CHECK(has(message("P6 0 2 255\n", 12), "0 x 2 has no pixels"));
  CHECK(has(message("P6 1000000000 1 255\n", 12), "larger than 16384 a side"));
  CHECK(has(message("P6 99999999999999999999 1 255\n", 12), "width is too large"));
  CHECK(has(message("P6 16384 4097 255\n", 12), "more than 67108864 pixels"));
  CHECK(has(message("P4 2 2 255\n", 12), "not a binary PGM or PPM"));
  CHECK(has(message("P", 0), "not a binary PGM or PPM"));
}
