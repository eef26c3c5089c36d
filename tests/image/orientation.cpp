// The orientation in Exif and XMP: applied as Pillow's exif_transpose does, whatever the bytes.
#include <doctest/doctest.h>

#include <memory>

#include "casa/image/image.hpp"
#include "casa/image/qwen2_vl_preprocess.hpp"
#include "image/image_files.hpp"

using namespace image_files;
using casa::io::decode_image;
using casa::io::decode_jpeg;
using casa::io::decode_png;
using casa::io::Orientation;

namespace {

/// By the words of the Exif standard: which side of the picture the stored row 0 and column 0 are.
Image upright_by_definition(const Image& stored, int orientation) {
  const bool swapped = orientation >= 5;
  Image out(swapped ? stored.width() : stored.height(), swapped ? stored.height() : stored.width());
  const Index bottom = out.height() - 1;
  const Index right = out.width() - 1;
  for (Index r = 0; r < stored.height(); ++r)
    for (Index c = 0; c < stored.width(); ++c) {
      Index y = 0, x = 0;
      switch (orientation) {
        case 1:
          y = r, x = c;
          break;  // row 0 top, column 0 left
        case 2:
          y = r, x = right - c;
          break;  // top, right
        case 3:
          y = bottom - r, x = right - c;
          break;  // bottom, right
        case 4:
          y = bottom - r, x = c;
          break;  // bottom, left
        case 5:
          y = c, x = r;
          break;  // left, top
        case 6:
          y = c, x = right - r;
          break;  // right, top
        case 7:
          y = bottom - c, x = right - r;
          break;  // right, bottom
        case 8:
          y = bottom - c, x = r;
          break;  // left, bottom
      }
      std::copy_n(stored.row(r) + 3 * c, 3, out.row(y) + 3 * x);
    }
  return out;
}

Png noise_png(Index height, Index width) {
  std::mt19937 random(11);
  Png p{.height = height, .width = width};
  for (Index i = 0; i < height * width * 3; ++i)
    p.samples.push_back(static_cast<unsigned>(random() % 256));
  return p;
}

Bytes noise_jpeg(Index height, Index width) {
  std::mt19937 random(12);
  return encode_jpeg(random_bytes(static_cast<std::size_t>(height * width * 3), random), height,
                     width, 3);
}

/// The orientation that the decoder applied to a file of 3 x 5 different pixels.
int applied(const Bytes& file) {
  const Image stored = decode_image(file, {.orientation = Orientation::stored});
  const Image image = decode_image(file);
  for (int o = 1; o <= 8; ++o)
    if (equal(image, upright_by_definition(stored, o))) return o;
  return 0;
}

int applied_from_tiff(const Bytes& tiff) {
  const int in_jpeg = applied(with_app1(noise_jpeg(3, 5), exif_mark() + tiff));
  const int in_png = applied(with_chunk(encode_png(noise_png(3, 5)), "IDAT", "eXIf", tiff));
  CHECK(in_jpeg == in_png);
  return in_jpeg;
}

Bytes xmp_segment(std::string_view text) {
  return of_text("http://ns.adobe.com/xap/1.0/") + Bytes{0} + of_text(text);
}

}  // namespace

TEST_CASE("all eight orientations of JPEG and PNG are applied, and stored pixels stay in reach") {
  for (const auto& [height, width] : {std::pair<Index, Index>{3, 5}, {40, 71}, {1, 9}, {33, 1}})
    for (unsigned o = 1; o <= 8; ++o)
      for (const bool little : {false, true}) {
        const Index pixels = height * width;
        CAPTURE(pixels);
        CAPTURE(o);
        CAPTURE(little);
        const Bytes jpeg = noise_jpeg(height, width);
        const Bytes png = encode_png(noise_png(height, width));
        const Bytes turned_jpeg = with_app1(jpeg, exif_mark() + tiff_with(o, little));
        const Bytes turned_png = with_chunk(png, "IDAT", "eXIf", tiff_with(o, little));
        const int orientation = static_cast<int>(o);
        CHECK(
            equal(decode_jpeg(turned_jpeg), upright_by_definition(decode_jpeg(jpeg), orientation)));
        CHECK(equal(decode_png(turned_png), upright_by_definition(decode_png(png), orientation)));
        CHECK(equal(decode_jpeg(turned_jpeg, {.orientation = Orientation::stored}),
                    decode_jpeg(jpeg)));
        CHECK(equal(decode_png(turned_png, {.orientation = Orientation::stored}), decode_png(png)));
      }
  CHECK(has(message_of([] { casa::io::to_upright(Image(1, 1), 9); }), "1 to 8, got 9"));
}

TEST_CASE("an orientation is any number of TIFF's that is 1 to 8, and nothing else") {
  for (const bool little : {false, true}) {
    CAPTURE(little);
    const auto near_value = [&](unsigned type, std::uint64_t v, int size, std::uint32_t count = 1) {
      const TiffEntry entry{.type = type, .count = count, .value = tiff_value(v, size, little)};
      return applied_from_tiff(tiff_block({entry}, little));
    };
    const auto far_value = [&](unsigned type, std::vector<std::pair<std::uint64_t, int>> numbers,
                               std::uint32_t count = 1) {
      TiffWriter tail{.little = little};
      for (const auto& [v, size] : numbers) tail.put(v, size);
      const TiffEntry entry{.type = type, .count = count, .value = tiff_value(26, 4, little)};
      return applied_from_tiff(tiff_block({entry}, little, tail.bytes));
    };
    CHECK(near_value(3, 6, 2) == 6);
    CHECK(near_value(3, 0, 2) == 1);
    CHECK(near_value(3, 9, 2) == 1);
    CHECK(near_value(3, 0x106, 2) == 1);
    CHECK(near_value(4, 6, 4) == 6);
    CHECK(near_value(4, 0x10006, 4) == 1);
    CHECK(near_value(13, 8, 4) == 8);
    CHECK(near_value(6, 6, 1) == 6);
    CHECK(near_value(8, 3, 2) == 3);
    CHECK(near_value(8, 0xfffa, 2) == 1);  // -6
    CHECK(near_value(9, 6, 4) == 6);
    CHECK(near_value(9, 0xfffffffa, 4) == 1);
    CHECK(near_value(11, 0x40c00000, 4) == 6);  // 6.0f
    CHECK(near_value(11, 0x40c00001, 4) == 1);
    CHECK(near_value(11, 0x7fc00000, 4) == 1);  // not a number
    CHECK(near_value(1, 6, 1) == 1);            // a byte is no number to Pillow
    CHECK(near_value(2, '6', 1) == 1);
    CHECK(near_value(7, 6, 1) == 1);
    CHECK(near_value(0, 6, 2) == 1);
    CHECK(near_value(14, 6, 2) == 1);
    CHECK(near_value(99, 6, 2) == 1);
    CHECK(near_value(3, 6, 2, 0) == 1);  // no value
    CHECK(far_value(5, {{6, 4}, {1, 4}}) == 6);
    CHECK(far_value(5, {{12, 4}, {2, 4}}) == 6);
    CHECK(far_value(5, {{7, 4}, {2, 4}}) == 1);
    CHECK(far_value(5, {{6, 4}, {0, 4}}) == 1);
    CHECK(far_value(10, {{0xfffffffa, 4}, {0xffffffff, 4}}) == 6);  // -6 / -1
    CHECK(far_value(10, {{0x80000000, 4}, {0xffffffff, 4}}) == 1);
    CHECK(far_value(12, {{0x4018000000000000, 8}}) == 6);  // 6.0
    CHECK(far_value(16, {{6, 8}}) == 6);
    CHECK(far_value(3, {{6, 2}, {3, 2}, {3, 2}}, 3) == 6);  // the first of several
  }
}

TEST_CASE("damaged Exif is passed over: offsets, counts, cycles, no TIFF") {
  const auto little = [](unsigned v, int size) { return tiff_value(v, size, true); };
  const TiffEntry turned{.value = little(6, 2)};
  const auto far_at = [&](unsigned at, std::uint32_t count, unsigned tag = 271) {
    return TiffEntry{.tag = tag, .type = 2, .count = count, .value = little(at, 4)};
  };
  const Bytes maker = of_text("a camera");
  // A value before the orientation: sound, too long (skipped), outside (ends the search).
  CHECK(applied_from_tiff(tiff_block({far_at(38, 8), turned}, true, maker)) == 6);
  CHECK(applied_from_tiff(tiff_block({far_at(38, 0xffffffff), turned}, true, maker)) == 6);
  CHECK(applied_from_tiff(tiff_block({far_at(39, 8), turned}, true, maker)) == 1);
  CHECK(applied_from_tiff(tiff_block({far_at(0xffffffff, 8), turned}, true, maker)) == 1);
  CHECK(applied_from_tiff(tiff_block({turned, far_at(0xffffffff, 8)}, true, maker)) == 6);
  // The orientation itself outside, or longer than the block.
  CHECK(applied_from_tiff(tiff_block({{.count = 3, .value = little(0xfffffff0, 4)}}, true)) == 1);
  CHECK(applied_from_tiff(tiff_block({{.count = 0x80000000, .value = little(8, 4)}}, true)) == 1);
  // Twice: the first counts; an empty one does not.
  CHECK(applied_from_tiff(tiff_block({turned, {.value = little(3, 2)}}, true)) == 6);
  CHECK(applied_from_tiff(tiff_block({{.count = 0, .value = little(0, 4)}, turned}, true)) == 6);

  Bytes tiff = tiff_with(6, true);
  const auto with_directory_at = [&](std::uint32_t at) {
    Bytes b = tiff;
    for (std::size_t i = 0; i < 4; ++i) b[4 + i] = static_cast<std::uint8_t>(at >> 8 * i);
    return b;
  };
  for (const std::uint32_t at : {0u, 4u, 9u, 24u, 25u, 26u, 1000u, 0x7fffffffu, 0xffffffffu})
    CHECK(applied_from_tiff(with_directory_at(at)) == 1);
  Bytes cycle = tiff;
  cycle[22] = 8;  // the next directory is this one
  CHECK(applied_from_tiff(cycle) == 6);
  Bytes many = tiff;
  many[8] = many[9] = 0xff;  // 65535 entries
  CHECK(applied_from_tiff(many) == 6);
  many[10] = 0;  // none of them an orientation
  CHECK(applied_from_tiff(many) == 1);

  // Versions with swapped bytes are read, others not; a second mark is passed over.
  const auto with_version = [&](bool is_little, std::uint8_t a, std::uint8_t b) {
    Bytes t = tiff_with(6, is_little);
    t[2] = a;
    t[3] = b;
    return applied_from_tiff(t);
  };
  CHECK(with_version(true, 0, 42) == 6);
  CHECK(with_version(false, 42, 0) == 6);
  CHECK(with_version(false, 0, 43) == 6);
  CHECK(with_version(true, 43, 0) == 1);
  CHECK(with_version(true, 1, 42) == 1);
  CHECK(applied_from_tiff(exif_mark() + tiff) == 6);
  CHECK(applied_from_tiff(of_text("XX") + tiff) == 1);
  CHECK(applied_from_tiff({}) == 1);
}

TEST_CASE("Exif that is cut or changed anywhere gives some orientation and reads nothing outside") {
  std::mt19937 random(13);
  for (const bool little : {false, true}) {
    const Bytes maker = of_text("a camera");
    const Bytes whole =
        exif_mark() +
        tiff_block({{.tag = 271, .type = 2, .count = 8, .value = tiff_value(38, 4, little)},
                    {.value = tiff_value(6, 2, little)}},
                   little, maker);
    // In memory of just that size, so that a sanitizer sees a byte too many.
    const auto read = [](const Bytes& b) {
      const auto exact = std::make_unique<std::uint8_t[]>(b.size());
      std::copy(b.begin(), b.end(), exact.get());
      return casa::io::detail::exif_orientation({exact.get(), b.size()}).value_or(1);
    };
    REQUIRE(read(whole) == 6);
    for (std::size_t size = 0; size < whole.size(); ++size) CHECK(read(first(whole, size)) == 1);
    for (int repeat = 0; repeat < 20'000; ++repeat) {
      Bytes b = whole;
      for (auto n = 1 + random() % 4; n > 0; --n)
        b[random() % b.size()] = static_cast<std::uint8_t>(random() % 3 ? random() : 0xff);
      const int o = read(first(b, b.size() - random() % 2 * (random() % b.size())));
      CHECK((o >= 1 && o <= 8));
    }
  }
}

TEST_CASE("of several blocks in a JPEG file the orientation is Pillow's") {
  const Bytes jpeg = noise_jpeg(3, 5);
  const Bytes exif6 = exif_mark() + tiff_with(6, false);
  const Bytes exif3 = exif_mark() + tiff_with(3, true);
  const Bytes other = exif_mark() + tiff_block({{.tag = 305}}, true, Bytes(4));
  const Bytes xmp8 = xmp_segment("<x tiff:Orientation=\"8\"/>");
  // with_app1 puts a segment first, so the last one added is the first in the file.
  CHECK(applied(with_app1(with_app1(jpeg, exif3), exif6)) == 6);
  const std::size_t half = exif6.size() / 2;
  const Bytes rest(exif6.begin() + static_cast<Index>(half), exif6.end());
  CHECK(applied(with_app1(with_app1(jpeg, exif_mark() + rest), first(exif6, half))) == 6);

  CHECK(applied(with_app1(jpeg, xmp8)) == 8);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8), exif6)) == 6);
  CHECK(applied(with_app1(with_app1(jpeg, exif6), xmp8)) == 6);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8), other)) == 8);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8), exif_mark())) == 8);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8), exif_mark() + of_text("rubbish"))) == 1);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8), exif_mark() + tiff_with(1, true))) == 1);
  CHECK(applied(with_app1(with_app1(jpeg, xmp8),
                          xmp_segment("<tiff:Orientation>3</tiff:Orientation>"))) == 8);
  CHECK(applied(with_app1(jpeg, xmp_segment("<tiff:Orientation>3</tiff:Orientation>"))) == 3);
  CHECK(applied(with_app1(jpeg, xmp_segment("tiff:Orientation=\"x\" tiff:Orientation=\"5\""))) ==
        5);
  CHECK(applied(with_app1(jpeg, xmp_segment("tiff:Orientation='5'"))) == 1);
  CHECK(applied(with_app1(jpeg, xmp_segment("tiff:Orientation=\"9\""))) == 1);
  CHECK(applied(with_app1(jpeg, xmp_segment("tiff:Orientation=\""))) == 1);
  CHECK(applied(with_app1(jpeg, of_text("tiff:Orientation=\"5\""))) == 1);

  // Behind the picture, and in an appended one, nothing counts.
  CHECK(applied(jpeg + with_app1(jpeg, exif6)) == 1);
  // Padding before a marker.
  Bytes padded = with_app1(jpeg, exif6);
  padded.insert(padded.begin() + 2, 5, 0xff);
  CHECK(applied(padded) == 6);
}

TEST_CASE("a PNG file has its orientation in eXIf, in a text, or in XMP") {
  const Bytes png = encode_png(noise_png(3, 5));
  const Bytes tiff = tiff_with(6, false);
  const auto key = [](std::string_view name) { return of_text(name) + Bytes{0}; };
  const auto profile = [](const Bytes& exif) {
    std::string text = casa::text("\nexif\n      ", exif.size(), "\n");
    for (std::size_t i = 0; i < exif.size(); ++i) {
      if (i % 36 == 35) text += '\n';
      for (const int nibble : {exif[i] >> 4, exif[i] & 15})
        text += "0123456789abcdef"[static_cast<std::size_t>(nibble)];
    }
    return of_text(text + "\n");
  };
  const Bytes raw = key("Raw profile type exif");
  const Bytes xmp = key("XML:com.adobe.xmp");
  const Bytes xmp8 = of_text("<tiff:Orientation>8</tiff:Orientation>");
  for (const char* before : {"IDAT", "IEND"}) {
    CAPTURE(before);
    const auto with = [&](std::string_view type, const Bytes& data) {
      return applied(with_chunk(png, before, type, data));
    };
    CHECK(with("eXIf", tiff) == 6);
    CHECK(with("eXIf", exif_mark() + tiff) == 6);
    CHECK(with("tEXt", key("exif") + tiff) == 6);
    CHECK(with("tEXt", raw + profile(tiff)) == 6);
    CHECK(with("tEXt", raw + profile(exif_mark() + tiff)) == 6);
    CHECK(with("zTXt", raw + Bytes{0} + stored_zlib(profile(tiff))) == 6);
    CHECK(with("iTXt", raw + Bytes{0, 0, 0, 0} + profile(tiff)) == 6);
    CHECK(with("iTXt", xmp + Bytes{0, 0, 0, 0} + xmp8) == 8);
    CHECK(with("iTXt", xmp + Bytes{1, 0, 0, 0} + stored_zlib(xmp8)) == 8);
    CHECK(with("tEXt", key("Comment") + xmp8) == 1);
    CHECK(with("tEXt", raw + of_text("no digits")) == 1);
    CHECK(with("zTXt", raw + Bytes{0} + of_text("no zlib stream")) == 1);
    CHECK(with("zTXt", raw) == 1);
    CHECK(with("tEXt", raw + first(profile(tiff), profile(tiff).size() - 10)) == 1);
  }
  // What counts: eXIf before the text, either before XMP, the last chunk of a kind.
  const Bytes text3 = with_chunk(png, "IDAT", "tEXt", raw + profile(tiff_with(3, true)));
  CHECK(applied(with_chunk(text3, "IEND", "eXIf", tiff)) == 6);
  CHECK(applied(with_chunk(text3, "IEND", "iTXt", xmp + Bytes{0, 0, 0, 0} + xmp8)) == 3);
  const Bytes exif6 = with_chunk(png, "IDAT", "eXIf", tiff);
  CHECK(applied(with_chunk(exif6, "IEND", "eXIf", tiff_with(3, true))) == 3);
}

TEST_CASE("limits hold for the stored size, preprocessing sees the upright one") {
  const Bytes file = with_chunk(encode_png(noise_png(56, 112)), "IDAT", "eXIf", tiff_with(6, true));
  casa::io::DecodeOptions options;
  options.limits.image_side = 111;
  CHECK(has(message_of([&] { decode_image(file, options, "x"); }),
            "x: an image of 112 x 56 is larger than 111 a side"));
  options.limits.image_side = 112;
  const auto upright = casa::io::qwen2_vl_preprocess(decode_image(file, options));
  CHECK(upright.grid == casa::io::PatchGrid{1, 8, 4});
  options.orientation = Orientation::stored;
  CHECK(casa::io::qwen2_vl_preprocess(decode_image(file, options)).grid ==
        casa::io::PatchGrid{1, 4, 8});
}
