// Files that are damaged, or whose ends are lost: what Pillow reads is read, with its pixels; what
// it refuses is refused with the name of the option that takes it.
#include <doctest/doctest.h>

#include <png.h>

#include <array>
#include <csetjmp>

#include "casa/image/image.hpp"
#include "image/image_files.hpp"

using namespace image_files;
using casa::io::Alpha;
using casa::io::Damaged;
using casa::io::decode_jpeg;
using casa::io::decode_png;

namespace {

struct Reading {
  Image image;
  std::string error = "no error";
  std::string warning = {};
};

Reading read(const Bytes& file, Damaged damaged = Damaged::pillow, Alpha alpha = Alpha::white) {
  Reading r;
  casa::io::DecodeOptions options{.alpha = alpha, .damaged = damaged};
  options.warn = [&](const std::string& message) { r.warning = message; };
  r.error = message_of([&] { r.image = casa::io::decode_image(file, options, "x"); });
  return r;
}

/// Pixels by libjpeg alone, as Pillow uses it: warnings are passed over, missing bytes are an end
/// mark (which Pillow adds only where it is told to load truncated images). False after an error,
/// which jumps back into this function: nothing in it has a destructor.
bool decode_by_libjpeg(const Bytes& file, Image& image) {
  struct Errors {
    jpeg_error_mgr base;
    std::jmp_buf jump;
  } errors = {};
  jpeg_decompress_struct info = {};
  info.err = jpeg_std_error(&errors.base);
  errors.base.output_message = [](j_common_ptr) {};
  errors.base.error_exit = [](j_common_ptr i) {
    std::longjmp(reinterpret_cast<Errors*>(i->err)->jump, 1);
  };
  jpeg_create_decompress(&info);
  if (setjmp(errors.jump)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_mem_src(&info, file.data(), static_cast<unsigned long>(file.size()));
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  jpeg_start_decompress(&info);
  image = Image(info.image_height, info.image_width);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = image.row(info.output_scanline);
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return true;
}

/// No image after an error.
Image by_libjpeg(const Bytes& file) {
  Image image;
  return decode_by_libjpeg(file, image) ? std::move(image) : Image();
}

Bytes noise(Index height, Index width, unsigned seed) {
  std::mt19937 random(seed);
  return random_bytes(static_cast<std::size_t>(height * width * 3), random);
}

/// Where the restart markers of a JPEG file stand.
std::vector<std::size_t> restart_markers(const Bytes& jpeg) {
  std::vector<std::size_t> at;
  for (std::size_t i = 0; i + 1 < jpeg.size(); ++i)
    if (jpeg[i] == 0xff && jpeg[i + 1] >= 0xd0 && jpeg[i + 1] <= 0xd7) at.push_back(i);
  return at;
}

Bytes without(const Bytes& b, std::size_t at, std::size_t count) {
  Bytes out = first(b, at);
  out.insert(out.end(), b.begin() + static_cast<Index>(at + count), b.end());
  return out;
}

Png noise_png(int colour_type, int depth, bool interlaced, Index height = 6) {
  std::mt19937 random(21);
  Png p{.height = height,
        .width = 7,
        .depth = depth,
        .colour_type = colour_type,
        .interlaced = interlaced};
  if (colour_type == 3) p.palette = random_bytes(std::size_t{3} << depth, random);
  for (Index i = 0; i < p.height * p.width * p.channels(); ++i)
    p.samples.push_back(static_cast<unsigned>(random()) % (1u << depth));
  return p;
}

/// The first row in which two images of one size differ; the height if none.
Index first_difference(const Image& a, const Image& b) {
  REQUIRE(a.height() == b.height());
  REQUIRE(a.width() == b.width());
  Index y = 0;
  while (y < a.height() && std::equal(a.row(y), a.row(y) + 3 * a.width(), b.row(y))) ++y;
  return y;
}

}  // namespace

TEST_CASE("a JPEG file without its end mark is whole where anything follows its last row") {
  for (const auto& [height, width] : {std::pair<Index, Index>{24, 40}, {17, 33}, {8, 8}}) {
    const Bytes file = encode_jpeg(noise(height, width, 31), height, width, 3);
    const Bytes open = first(file, file.size() - 2);
    const Image whole = decode_jpeg(file);
    for (const Bytes& trailer :
         {Bytes(900, 0), of_text("a trailer of a camera SEFT"), Bytes{0xff, 0xff, 0xd9}, file,
          Bytes{0xff, 0xd8, 0xff, 0xe1}, Bytes{0xff, 0xc0, 0, 3, 1}}) {
      CAPTURE(trailer.size());
      const Reading r = read(open + trailer);
      REQUIRE(r.error == "no error");
      CHECK(r.warning == "");
      CHECK(equal(r.image, whole));
    }
    CHECK(equal(read(file + of_text("bytes behind the end")).image, whole));
    // Pillow gives a row only if bytes follow it.
    CHECK(has(read(open).error, casa::text("x: JPEG: the file is cut in row ")));
    CHECK(has(read(open).error, casa::text(" of ", height, "; Damaged::filled takes it")));
    CHECK(equal(read(open, Damaged::filled).image, whole));
    CHECK(has(read(open, Damaged::filled).warning, "x: JPEG: the file is cut"));
    CHECK(has(read(open + Bytes(900, 0), Damaged::refused).error, "Damaged::pillow takes it"));
  }
}

TEST_CASE("a JPEG file that is cut within its rows is refused, or filled where that is asked for") {
  const Index height = 48;
  const Bytes file = encode_jpeg(noise(height, 40, 32), height, 40, 3);
  const Image whole = decode_jpeg(file);
  Index last_good = 0;
  for (std::size_t size = file.size() / 3; size < file.size() - 40; size += 37) {
    const Bytes cut = first(file, size);
    CAPTURE(size);
    CHECK(has(read(cut).error, "x: JPEG: the file is cut in row "));
    CHECK(has(read(cut).error, " of 48; Damaged::filled takes it"));
    CHECK(read(cut).image.size() == 0);
    // Another file behind the cut (bytes of one, lost on the way) does not mend it.
    CHECK(read(cut + file).error != "no error");
    const Reading filled = read(cut, Damaged::filled);
    REQUIRE(filled.error == "no error");
    CHECK(filled.warning != "");
    CHECK(equal(filled.image, by_libjpeg(cut)));
    const Index good = first_difference(filled.image, whole);
    CHECK(good >= last_good);
    CHECK(good < height);
    last_good = good;
  }
  CHECK(last_good >= 16);
  const Bytes progressive = encode_jpeg(noise(height, 40, 32), height, 40, 3, true);
  const Bytes open = first(progressive, progressive.size() - 2) + Bytes(900, 0);
  CHECK(has(read(open).error, "before its last scan ends; Damaged::filled takes it"));
  CHECK(equal(read(open, Damaged::filled).image, decode_jpeg(progressive)));
  CHECK(has(read(first(file, 100), Damaged::filled).error, "the file is cut in its header"));
}

TEST_CASE("a restart marker that is lost or damaged costs no more than libjpeg's resync lets it") {
  for (const bool progressive : {false, true}) {
    const Index height = 64;
    const Bytes file = encode_jpeg(noise(height, 64, 33), height, 64, 3, progressive, false, 4);
    const Image whole = decode_jpeg(file);
    REQUIRE(equal(whole, by_libjpeg(file)));
    const std::vector<std::size_t> markers = restart_markers(file);
    REQUIRE(markers.size() >= 3);
    int told = 0;
    for (const std::size_t at : markers) {
      std::vector<Bytes> damaged = {without(file, at, 2), without(file, at, 1),
                                    without(file, at, 9), first(file, at) + Bytes{1, 2, 3}};
      damaged.back().insert(damaged.back().end(), file.begin() + static_cast<Index>(at),
                            file.end());
      for (const int other : {0x00, 0x01, 0x53, 0xd0, 0xd3, 0xd7, 0xff}) {
        if (progressive && other == 0xff) continue;  // any marker, before the pixels are complete
        damaged.push_back(file);
        damaged.back()[at + 1] = static_cast<std::uint8_t>(other);
      }
      for (std::size_t i = 0; i < damaged.size(); ++i) {
        CAPTURE(progressive);
        CAPTURE(at);
        CAPTURE(i);
        const Reading r = read(damaged[i]);
        const Image expected = by_libjpeg(damaged[i]);
        if (expected.size() == 0) {  // what was made of the marker is no JPEG's: Pillow refuses
          CHECK(has(r.error, "behind the rows: "));
          CHECK(has(r.error, "; Damaged::filled takes it"));
          CHECK(read(damaged[i], Damaged::filled).error == "no error");
          continue;
        }
        REQUIRE(r.error == "no error");
        CHECK(equal(r.image, expected));
        if (equal(expected, whole)) continue;
        CHECK(has(r.warning, "x: JPEG: "));  // damage that shows is told
        CHECK(has(read(damaged[i], Damaged::refused).error, "x: JPEG: "));
        ++told;
      }
    }
    CHECK(told > 10);
  }
}

TEST_CASE("tables, rubbish and padding before the image are passed over") {
  const Bytes file = encode_jpeg(noise(20, 20, 34), 20, 20, 3);
  const Image whole = decode_jpeg(file);
  const Bytes behind(file.begin() + 2, file.end());
  const Bytes tables = {0xff, 0xd8, 0xff, 0xfe, 0, 3, 'c', 0xff, 0xd9};
  for (const Bytes& strange : {tables + file, first(file, 2) + Bytes{0xff, 0xff, 0xff} + behind,
                               first(file, 2) + Bytes{0xff, 0xfe, 0, 2, 1, 2, 3} + behind}) {
    const Reading r = read(strange);
    REQUIRE(r.error == "no error");
    CHECK(r.warning == "");
    CHECK(equal(r.image, whole));
  }
  CHECK(has(read(tables).error, "the file is cut in its header"));
  CHECK(has(read(tables, Damaged::filled).error, "x: JPEG: "));
}

TEST_CASE("the number of scans of a JPEG file is limited by an option") {
  const Bytes file = encode_jpeg(noise(8, 8, 35), 8, 8, 3, true);
  casa::io::DecodeOptions options{.jpeg_scans = 3};
  CHECK(has(message_of([&] { decode_jpeg(file, options); }),
            "more than 3 scans; DecodeOptions::jpeg_scans allows more"));
}

TEST_CASE("a PNG file that has all its rows is whole, whatever became of its end") {
  for (const auto& [colour_type, depth] : {std::pair{2, 8}, {0, 1}, {3, 4}, {6, 16}, {4, 8}})
    for (const bool interlaced : {false, true}) {
      CAPTURE(interlaced);
      const Bytes file = encode_png(noise_png(colour_type, depth, interlaced));
      CAPTURE(file.size());
      const Image whole = decode_png(file, {.damaged = Damaged::refused});
      // IEND is 12 bytes, before it are a checksum and zlib's own, 4 bytes each.
      for (std::size_t lost = 1; lost <= 20; ++lost) {
        CAPTURE(lost);
        const Bytes cut = first(file, file.size() - lost);
        const Reading r = read(cut);
        REQUIRE(r.error == "no error");
        CHECK(equal(r.image, whole));
        CHECK(has(read(cut, Damaged::refused).error, "x: PNG: "));
      }
      const Bytes open = first(file, file.size() - 12);
      for (const Bytes& odd :
           {file + of_text("bytes behind the end"), open + Bytes(40, 0),
            open + of_text("a trailer of text"), open + Bytes(40, 0xff),
            with_chunk(file, "IEND", "tEXt", of_text("no key")),
            with_chunk(file, "IEND", "XyZw", {1, 2, 3}), with_chunk(file, "IEND", "PLTE", {1, 2}),
            with_chunk(file, "IDAT", "CrIT", {1, 2, 3}), with_chunk(file, "IDAT", "gAMA", {1}),
            with_chunk(file, "IDAT", "iCCP", of_text("rubbish"))}) {
        const Reading r = read(odd);
        REQUIRE(r.error == "no error");
        CHECK(r.warning == "");
        CHECK(equal(r.image, whole));
      }
      // Pillow does not look at the checksums of pixels (zlib has its own) and of what follows.
      const std::size_t end = chunk_at(file, "IEND");
      for (const std::size_t at : {end - 1, end - 4, end + 8, end + 11}) {
        Bytes flipped = file;
        flipped[at] ^= 0x10;
        CHECK(equal(read(flipped).image, whole));
        CHECK(has(read(flipped, Damaged::refused).error, "x: PNG: "));
      }
      Bytes text = with_chunk(file, "IDAT", "tEXt", of_text("Comment"));
      text[chunk_at(text, "tEXt") + 10] ^= 1;
      CHECK(read(text).error == "x: PNG: wrong checksum of chunk tEXt; Damaged::filled takes it");
      CHECK(equal(read(text, Damaged::filled).image, whole));
      Bytes header = file;
      header[chunk_at(header, "IHDR") + 20] ^= 1;
      CHECK(read(header, Damaged::filled).error == "x: PNG: wrong checksum of chunk IHDR");
    }
}

TEST_CASE("a PNG file that is cut within its rows is refused, or its rest is zero if asked for") {
  struct Kind {
    int colour_type, depth;
    bool transparent;
  };
  for (const Kind& kind : {Kind{2, 8, false},
                           {6, 8, false},
                           {3, 4, false},
                           {3, 8, true},
                           {0, 8, true},
                           {2, 8, true},
                           {0, 2, false}})
    for (const Alpha alpha : {Alpha::white, Alpha::dropped}) {
      CAPTURE(kind.colour_type);
      CAPTURE(kind.transparent);
      Png p = noise_png(kind.colour_type, kind.depth, false, 9);
      if (kind.transparent) p.transparency = Bytes(kind.colour_type == 2 ? 6 : 2, 0);
      const Bytes file = encode_png(p);
      const Image whole = decode_png(file, {.alpha = alpha});
      const Index row_bytes = 1 + (p.width * p.channels() * p.depth + 7) / 8;
      // Behind IDAT's length and type 2 bytes of zlib, 5 of its block, then the rows.
      const std::size_t rows = chunk_at(file, "IDAT") + 8 + 7;
      // What samples of zero are: transparency of zero makes them white.
      std::array<std::uint8_t, 3> zero = {};
      if (kind.colour_type == 3) std::copy_n(p.palette.begin(), 3, zero.begin());
      if (alpha == Alpha::white && (kind.transparent || kind.colour_type == 6))
        zero = {255, 255, 255};
      for (Index good = 0; good < p.height; ++good)
        for (const Index more : {Index{0}, row_bytes - 1}) {
          const Bytes cut = first(file, rows + static_cast<std::size_t>(good * row_bytes + more));
          Bytes closed = first(file, rows - 15);  // the same with a sound end, as some mend it
          append_chunk(closed, "IDAT", {cut.begin() + static_cast<Index>(rows) - 7, cut.end()});
          append_chunk(closed, "IEND", {});
          const std::string error =
              casa::text("(in row ", good + 1, " of 9); Damaged::filled takes");
          CHECK(has(read(cut).error, error));
          CHECK(read(cut).image.size() == 0);
          CHECK(read(closed).error != "no error");
          const Reading r = read(cut, Damaged::filled, alpha);
          REQUIRE(r.error == "no error");
          CHECK(has(r.warning, casa::text("(in row ", good + 1, " of 9); what is lost is zero")));
          for (Index y = 0; y < p.height; ++y)
            for (Index i = 0; i < 3 * p.width; ++i)
              REQUIRE(r.image.row(y)[i] ==
                      (y < good ? whole.row(y)[i] : zero[static_cast<std::size_t>(i % 3)]));
        }
    }
}

TEST_CASE("an interlaced PNG file that is cut keeps the passes that it has") {
  const Bytes file = encode_png(noise_png(2, 8, true, 16));
  const Image whole = decode_png(file);
  const Bytes cut = first(file, file.size() - 100);
  CHECK(has(read(cut).error, "Damaged::filled takes it"));
  const Image filled = read(cut, Damaged::filled).image;
  REQUIRE(filled.size() == whole.size());
  Index kept = 0, zeros = 0;
  for (Index i = 0; i < whole.size(); ++i) {
    kept += filled.data()[i] == whole.data()[i];
    zeros += filled.data()[i] == 0;
    REQUIRE((filled.data()[i] == whole.data()[i] || filled.data()[i] == 0));
  }
  CHECK(kept > whole.size() / 2);
  CHECK(zeros > 50);
}

TEST_CASE("a PNG file whose zlib stream ends before its rows is refused, with the option's name") {
  Bytes file = png_signature();
  append_chunk(file, "IHDR", ihdr(1, 2, 8, 2, 0));
  append_chunk(file, "IDAT", stored_zlib({0, 1, 2, 3}));
  append_chunk(file, "IEND", {});
  CHECK(has(read(file).error, "(in row 2 of 2); Damaged::filled takes it"));
  const Image image = read(file, Damaged::filled).image;
  REQUIRE(image.size() == 6);
  CHECK(Bytes(image.data(), image.data() + image.size()) == Bytes{1, 2, 3, 0, 0, 0});
}

TEST_CASE("a PNG file that names a smaller zlib window than it uses is read") {
  // Rows that repeat at a distance of 901 bytes, packed by libpng; a window of 256 is claimed.
  std::mt19937 random(36);
  const Bytes row = random_bytes(900, random);
  Bytes pixels;
  for (int y = 0; y < 20; ++y) pixels = pixels + row;
  png_image info = {};
  info.version = PNG_IMAGE_VERSION;
  info.width = 300;
  info.height = 20;
  info.format = PNG_FORMAT_RGB;
  info.flags = PNG_IMAGE_FLAG_FAST;  // no filters
  png_alloc_size_t size = 1 << 20;
  Bytes file(size);
  REQUIRE(png_image_write_to_memory(&info, file.data(), &size, 0, pixels.data(), 0, nullptr) != 0);
  file.resize(size);
  const std::size_t zlib = chunk_at(file, "IDAT") + 8;
  REQUIRE((file[zlib] & 15) == 8);
  file[zlib] = 0x08;
  file[zlib + 1] = 0x1d;
  const Reading r = read(file);
  REQUIRE(r.error == "no error");
  CHECK(std::equal(pixels.begin(), pixels.end(), r.image.data()));
}
