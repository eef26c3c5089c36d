// Image files made in memory for the tests, and what a decoder must make of them by definition.
#pragma once

// jpeglib.h needs FILE and size_t before it.
#include <cstddef>
#include <cstdio>
//
#include <jpeglib.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/image/rgb.hpp"

namespace image_files {

using casa::Index;
using casa::io::Image;
using Bytes = std::vector<std::uint8_t>;

inline Bytes of_text(std::string_view s) { return {s.begin(), s.end()}; }

/// A number in [1, n].
inline Index draw(Index n, std::mt19937& random) { return 1 + static_cast<Index>(random()) % n; }

/// Random bytes in blots, so that neighbours differ by little and by much.
inline Bytes random_bytes(std::size_t size, std::mt19937& random) {
  Bytes b(size);
  for (auto& v : b) v = static_cast<std::uint8_t>(random());
  for (std::size_t i = 1; i < size; ++i)
    if (random() % 4 != 0) b[i] = static_cast<std::uint8_t>(b[i - 1] + random() % 5 - 2);
  return b;
}

inline Image random_image(Index height, Index width, std::mt19937& random) {
  Image image(height, width);
  const Bytes b = random_bytes(static_cast<std::size_t>(image.size()), random);
  std::copy(b.begin(), b.end(), image.data());
  return image;
}

inline bool equal(casa::io::ImageView a, casa::io::ImageView b) {
  if (a.height != b.height || a.width != b.width) return false;
  for (Index y = 0; y < a.height; ++y)
    if (!std::equal(a.row(y), a.row(y) + 3 * a.width, b.row(y))) return false;
  return true;
}

inline void append_u32(Bytes& out, std::uint32_t v) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(v >> shift));
}

/// The checksum of PNG chunks (PNG specification, 5.5).
inline std::uint32_t crc(std::span<const std::uint8_t> bytes) {
  std::uint32_t c = 0xffffffffu;
  for (const std::uint8_t b : bytes) {
    c ^= b;
    for (int k = 0; k < 8; ++k) c = c & 1u ? 0xedb88320u ^ (c >> 1) : c >> 1;
  }
  return ~c;
}

inline void append_chunk(Bytes& png, std::string_view type, const Bytes& data) {
  append_u32(png, static_cast<std::uint32_t>(data.size()));
  const std::size_t begin = png.size();
  png.insert(png.end(), type.begin(), type.end());
  png.insert(png.end(), data.begin(), data.end());
  append_u32(png, crc(std::span(png).subspan(begin)));
}

/// zlib's format with stored blocks only (RFC 1950, RFC 1951 3.2.4).
inline Bytes stored_zlib(const Bytes& data) {
  Bytes z = {0x78, 0x01};
  std::uint32_t a = 1, b = 0;
  for (std::size_t at = 0;; at += 65535) {
    const std::size_t n = std::min<std::size_t>(65535, data.size() - at);
    const bool last = at + n == data.size();
    z.push_back(last ? 1 : 0);
    for (const std::size_t v : {n, ~n}) {
      z.push_back(static_cast<std::uint8_t>(v));
      z.push_back(static_cast<std::uint8_t>(v >> 8));
    }
    for (std::size_t i = at; i < at + n; ++i) {
      z.push_back(data[i]);
      a = (a + data[i]) % 65521;
      b = (b + a) % 65521;
    }
    if (last) break;
  }
  append_u32(z, b << 16 | a);
  return z;
}

struct Png {
  Index height = 1;
  Index width = 1;
  int depth = 8;        // bits a sample
  int colour_type = 2;  // 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
  bool interlaced = false;
  Bytes palette = {};
  Bytes transparency = {};  // tRNS
  std::vector<unsigned> samples = {};

  Index channels() const {
    return colour_type == 2 ? 3 : colour_type == 4 ? 2 : colour_type == 6 ? 4 : 1;
  }
  unsigned sample(Index y, Index x, Index c) const {
    return samples[static_cast<std::size_t>((y * width + x) * channels() + c)];
  }
};

inline Bytes ihdr(std::uint32_t width, std::uint32_t height, int depth, int colour_type,
                  int interlace) {
  Bytes b;
  append_u32(b, width);
  append_u32(b, height);
  for (const int v : {depth, colour_type, 0, 0, interlace})
    b.push_back(static_cast<std::uint8_t>(v));
  return b;
}

inline Bytes png_signature() { return {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'}; }

/// The whole file, rows unfiltered.
inline Bytes encode_png(const Png& p) {
  struct Pass {
    Index x0, y0, dx, dy;
  };
  const std::vector<Pass> passes =
      p.interlaced ? std::vector<Pass>{{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                       {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}
                   : std::vector<Pass>{{0, 0, 1, 1}};
  Bytes raw;
  for (const Pass& pass : passes)
    for (Index y = pass.y0; y < p.height && pass.x0 < p.width; y += pass.dy) {
      raw.push_back(0);
      unsigned pending = 0;
      int bits = 0;
      for (Index x = pass.x0; x < p.width; x += pass.dx)
        for (Index c = 0; c < p.channels(); ++c) {
          pending = pending << p.depth | p.sample(y, x, c);
          for (bits += p.depth; bits >= 8; bits -= 8)
            raw.push_back(static_cast<std::uint8_t>(pending >> (bits - 8)));
        }
      if (bits > 0) raw.push_back(static_cast<std::uint8_t>(pending << (8 - bits)));
    }
  Bytes png = png_signature();
  append_chunk(png, "IHDR",
               ihdr(static_cast<std::uint32_t>(p.width), static_cast<std::uint32_t>(p.height),
                    p.depth, p.colour_type, p.interlaced ? 1 : 0));
  if (!p.palette.empty()) append_chunk(png, "PLTE", p.palette);
  if (!p.transparency.empty()) append_chunk(png, "tRNS", p.transparency);
  append_chunk(png, "IDAT", stored_zlib(raw));
  append_chunk(png, "IEND", {});
  return png;
}

/// A JPEG file by libjpeg, quality 95; `channels` of `pixels` 1 (grey), 3 (RGB) or 4 (CMYK,
/// inverted as Adobe writes it). With `scans`, each component in a scan of its own. With
/// `restart_blocks`, a restart marker behind each so many groups of blocks.
inline Bytes encode_jpeg(const Bytes& pixels, Index height, Index width, int channels,
                         bool progressive = false, bool scans = false,
                         unsigned restart_blocks = 0) {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors = {};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_height = static_cast<JDIMENSION>(height);
  info.image_width = static_cast<JDIMENSION>(width);
  info.input_components = channels;
  info.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 95, TRUE);
  if (progressive) jpeg_simple_progression(&info);
  info.restart_interval = restart_blocks;
  jpeg_scan_info one_each[4] = {};
  for (int c = 0; c < channels; ++c) {
    one_each[c].comps_in_scan = 1;
    one_each[c].component_index[0] = c;
    one_each[c].Se = 63;
  }
  if (scans) {
    info.scan_info = one_each;
    info.num_scans = channels;
  }
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPLE*>(pixels.data()) + Index{info.next_scanline} * width * channels;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  Bytes file(memory, memory + size);
  jpeg_destroy_compress(&info);
  std::free(memory);
  return file;
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Bytes first(const Bytes& b, std::size_t n) {
  return {b.begin(), b.begin() + static_cast<Index>(n)};
}

/// Numbers as TIFF writes them, of either byte order.
struct TiffWriter {
  bool little = true;
  Bytes bytes = {};

  TiffWriter& put(std::uint64_t v, int size) {
    for (int i = 0; i < size; ++i)
      bytes.push_back(static_cast<std::uint8_t>(v >> 8 * (little ? i : size - 1 - i)));
    return *this;
  }
};

/// One entry of a TIFF directory: `value` is what its last four bytes hold, as one number.
struct TiffEntry {
  unsigned tag = 274;
  unsigned type = 3;
  std::uint32_t count = 1;
  Bytes value = {};
};

/// The four bytes of a TIFF entry that hold a number of `size` bytes.
inline Bytes tiff_value(std::uint64_t v, int size, bool little) {
  TiffWriter w{.little = little};
  w.put(v, size);
  w.bytes.resize(4);
  return w.bytes;
}

/// A TIFF block with one directory at 8, then `tail` (whose offset is 14 + 12 entries).
inline Bytes tiff_block(const std::vector<TiffEntry>& entries, bool little,
                        const Bytes& tail = {}) {
  TiffWriter w{.little = little};
  w.bytes = of_text(little ? "II" : "MM");
  w.put(42, 2).put(8, 4).put(entries.size(), 2);
  for (const TiffEntry& e : entries) {
    w.put(e.tag, 2).put(e.type, 2).put(e.count, 4);
    w.bytes = w.bytes + e.value;
  }
  w.put(0, 4);
  return w.bytes + tail;
}

/// A TIFF block that says one orientation.
inline Bytes tiff_with(unsigned orientation, bool little) {
  return tiff_block({{.value = tiff_value(orientation, 2, little)}}, little);
}

inline Bytes exif_mark() { return {'E', 'x', 'i', 'f', 0, 0}; }

/// `jpeg` with an APP1 segment right behind its first marker, before those that it has.
inline Bytes with_app1(const Bytes& jpeg, const Bytes& data) {
  const std::size_t length = data.size() + 2;
  Bytes out = first(jpeg, 2) + Bytes{0xff, 0xe1, static_cast<std::uint8_t>(length >> 8),
                                     static_cast<std::uint8_t>(length)};
  out = out + data;
  out.insert(out.end(), jpeg.begin() + 2, jpeg.end());
  return out;
}

/// Where chunk `type` of a PNG file begins (its length).
inline std::size_t chunk_at(const Bytes& png, std::string_view type) {
  std::size_t at = 8;
  const auto length = [&] {
    return std::size_t{png[at]} << 24 | std::size_t{png[at + 1]} << 16 |
           std::size_t{png[at + 2]} << 8 | png[at + 3];
  };
  while (at + 8 < png.size() && !std::equal(type.begin(), type.end(), &png[at + 4]))
    at += 12 + length();
  return at;
}

/// `png` with one chunk more before its chunk `before`.
inline Bytes with_chunk(const Bytes& png, std::string_view before, std::string_view type,
                        const Bytes& data) {
  const std::size_t at = chunk_at(png, before);
  Bytes out = first(png, at);
  append_chunk(out, type, data);
  out.insert(out.end(), png.begin() + static_cast<Index>(at), png.end());
  return out;
}

/// The message of the casa::error that f throws, or "no error".
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const casa::error& e) {
    return e.what();
  }
  return "no error";
}

inline bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// The most memory the process has held so far, in bytes (Linux; 0 elsewhere).
inline long peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::atol(line.c_str() + 6) * 1024;
  return 0;
}

}  // namespace image_files
