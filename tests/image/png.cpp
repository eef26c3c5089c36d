#include "casa/image/png.hpp"

#include <doctest/doctest.h>

#include <array>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::Alpha;
using casa::io::Damaged;
using casa::io::decode_png;

namespace {

/// Red, green, blue, opacity of a pixel, 8 bits each, by the PNG specification.
std::array<unsigned, 4> rgba_by_definition(const Png& p, Index y, Index x) {
  const auto to_8_bits = [&](unsigned v) {
    return p.depth == 16 ? v >> 8 : v * 255u / ((1u << p.depth) - 1u);
  };
  const auto transparent = [&](std::size_t c) {  // tRNS of grey and RGB: two bytes a channel
    return unsigned{p.transparency[2 * c]} << 8 | p.transparency[2 * c + 1];
  };
  const unsigned s = p.sample(y, x, 0);
  if (p.colour_type == 3) {
    const std::uint8_t* entry = &p.palette[3 * s];
    return {entry[0], entry[1], entry[2], s < p.transparency.size() ? p.transparency[s] : 255u};
  }
  if (p.colour_type == 0 || p.colour_type == 4) {
    unsigned a = p.colour_type == 4 ? to_8_bits(p.sample(y, x, 1)) : 255u;
    if (!p.transparency.empty() && s == transparent(0)) a = 0;
    return {to_8_bits(s), to_8_bits(s), to_8_bits(s), a};
  }
  unsigned a = p.colour_type == 6 ? to_8_bits(p.sample(y, x, 3)) : 255u;
  if (!p.transparency.empty() && s == transparent(0) && p.sample(y, x, 1) == transparent(1) &&
      p.sample(y, x, 2) == transparent(2))
    a = 0;
  return {to_8_bits(s), to_8_bits(p.sample(y, x, 1)), to_8_bits(p.sample(y, x, 2)), a};
}

Image by_definition(const Png& p, Alpha alpha) {
  Image image(p.height, p.width);
  for (Index y = 0; y < p.height; ++y)
    for (Index x = 0; x < p.width; ++x) {
      const auto rgba = rgba_by_definition(p, y, x);
      const double a = rgba[3];
      for (std::size_t c = 0; c < 3; ++c) {
        const double white = std::floor((rgba[c] * a + 255.0 * (255.0 - a)) / 255.0 + 0.5);
        image.row(y)[3 * x + static_cast<Index>(c)] =
            static_cast<std::uint8_t>(alpha == Alpha::white ? white : rgba[c]);
      }
    }
  return image;
}

Png random_png(int colour_type, int depth, bool interlaced, bool transparency,
               std::mt19937& random) {
  Png p{.height = draw(19, random),
        .width = draw(19, random),
        .depth = depth,
        .colour_type = colour_type,
        .interlaced = interlaced};
  p.samples.resize(static_cast<std::size_t>(p.height * p.width * p.channels()));
  for (unsigned& s : p.samples) s = static_cast<unsigned>(random()) % (1u << depth);
  if (colour_type == 3) p.palette = random_bytes(std::size_t{3} << depth, random);
  if (transparency && colour_type == 3)
    p.transparency = random_bytes(1 + random() % (std::size_t{1} << depth), random);
  if (transparency && (colour_type == 0 || colour_type == 2))  // the first pixel's colour
    for (Index c = 0; c < p.channels(); ++c) {
      p.transparency.push_back(static_cast<std::uint8_t>(p.sample(0, 0, c) >> 8));
      p.transparency.push_back(static_cast<std::uint8_t>(p.sample(0, 0, c)));
    }
  return p;
}

}  // namespace

TEST_CASE("every kind of PNG becomes the RGB that the format defines") {
  std::mt19937 random(7);
  struct Kind {
    int colour_type;
    std::vector<int> depths;
    bool may_be_transparent;
  };
  const Kind kinds[] = {{0, {1, 2, 4, 8, 16}, true},
                        {2, {8, 16}, true},
                        {3, {1, 2, 4, 8}, true},
                        {4, {8, 16}, false},
                        {6, {8, 16}, false}};
  for (const Kind& kind : kinds)
    for (const int depth : kind.depths)
      for (const bool interlaced : {false, true})
        for (const bool transparency : {false, true}) {
          if (transparency && !kind.may_be_transparent) continue;
          for (int repeat = 0; repeat < 6; ++repeat) {
            const Png p = random_png(kind.colour_type, depth, interlaced, transparency, random);
            CAPTURE(p.colour_type);
            CAPTURE(p.depth);
            CAPTURE(p.interlaced);
            CAPTURE(transparency);
            CAPTURE(p.height);
            CAPTURE(p.width);
            const Bytes file = encode_png(p);
            for (const Alpha alpha : {Alpha::white, Alpha::dropped})
              CHECK(equal(decode_png(file, {.alpha = alpha}), by_definition(p, alpha)));
          }
        }
}

TEST_CASE("every opacity of every value is composited on white to nearest") {
  Png p{.height = 256, .width = 256, .colour_type = 6};
  for (unsigned v = 0; v < 256; ++v)
    for (unsigned a = 0; a < 256; ++a)
      for (const unsigned s : {v, 255 - v, v / 2, a}) p.samples.push_back(s);
  CHECK(equal(decode_png(encode_png(p)), by_definition(p, Alpha::white)));
}

TEST_CASE("a PNG file that is cut anywhere is an error where damaged files are refused") {
  std::mt19937 random(8);
  for (const bool interlaced : {false, true}) {
    const Bytes file = encode_png(random_png(6, 8, interlaced, false, random));
    for (std::size_t size = 0; size < file.size(); ++size) {
      CAPTURE(size);
      const std::span<const std::uint8_t> cut(file.data(), size);
      CHECK(has(message_of([&] { decode_png(cut, {.damaged = Damaged::refused}, "a.png"); }),
                "a.png: PNG: "));
      // The last 20 bytes are two checksums and the end: no pixel is in them.
      if (size + 20 < file.size())
        CHECK(has(message_of([&] { decode_png(cut, {}, "a.png"); }), "a.png: PNG: "));
    }
  }
}

TEST_CASE("a PNG file with a flipped bit is an error or has its pixels; or always an error") {
  std::mt19937 random(9);
  int taken = 0;
  for (int repeat = 0; repeat < 2000; ++repeat) {
    const Bytes whole = encode_png(random_png(3, 4, repeat % 2 == 1, true, random));
    Bytes file = whole;
    const std::size_t at = random() % file.size();
    CAPTURE(at);
    file[at] ^= static_cast<std::uint8_t>(1u << random() % 8);
    CHECK(message_of([&] { decode_png(file, {.damaged = Damaged::refused}); }) != "no error");
    Image image;
    if (message_of([&] { image = decode_png(file); }) != "no error") continue;
    CHECK(equal(image, decode_png(whole)));
    ++taken;
  }
  CHECK(taken > 50);  // checksums that Pillow does not look at, and the end
  CHECK(taken < 1000);
}

TEST_CASE("a bad PNG file is an error that says what is wrong") {
  const auto message = [](const Bytes& header,
                          const std::vector<std::pair<std::string, Bytes>>& rest) {
    Bytes file = png_signature();
    append_chunk(file, "IHDR", header);
    for (const auto& [type, data] : rest) append_chunk(file, type, data);
    return message_of([&] { decode_png(file, {}, "a.png"); });
  };
  const Bytes idat = stored_zlib({0, 1, 2, 3});
  CHECK(message(ihdr(1, 1, 8, 2, 0), {{"IDAT", idat}, {"IEND", {}}}) == "no error");
  CHECK(has(message(ihdr(0, 1, 8, 2, 0), {{"IDAT", idat}, {"IEND", {}}}), "a.png: PNG: "));
  CHECK(has(message(ihdr(1, 1, 8, 3, 0), {{"IDAT", idat}, {"IEND", {}}}),
            "a.png: PNG: "));  // no palette
  CHECK(has(message(ihdr(1, 1, 3, 2, 0), {{"IDAT", idat}, {"IEND", {}}}),
            "a.png: PNG: "));                                                // depth 3
  CHECK(has(message(ihdr(1, 1, 8, 2, 0), {{"IEND", {}}}), "a.png: PNG: "));  // no pixels
  CHECK(has(message(ihdr(1, 2, 8, 2, 0), {{"IDAT", idat}, {"IEND", {}}}),
            "a.png: PNG: "));  // too few
  CHECK(has(message(ihdr(1, 1, 8, 2, 0), {{"IDAT", {1, 2, 3}}, {"IEND", {}}}), "a.png: PNG: "));
  CHECK(has(message(ihdr(16385, 1, 8, 2, 0), {{"IDAT", idat}}),
            "16385 x 1 is larger than 16384 a side"));
  CHECK(has(message(ihdr(16384, 4097, 8, 2, 0), {{"IDAT", idat}}), "more than 67108864 pixels"));
  CHECK(has(message(ihdr(8192, 8192, 8, 2, 0), {{"IDAT", idat}}), "bytes cannot hold 8192 x 8192"));
}
