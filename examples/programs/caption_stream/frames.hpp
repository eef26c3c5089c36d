// Where frames come from: raw pixels on stdin, image files, or a video that ffmpeg decodes.
#pragma once

#include <algorithm>
#include <charconv>
#include <functional>
#include <memory>
#include <optional>

#include "caption_stream/child.hpp"
#include "casa/image/image.hpp"
#include "casa/session/timeline.hpp"

/// Width, height and channels (1: grey, 3: RGB) of raw frames, 8 bits a value, row by row.
struct FrameShape {
  casa::Index width = 0, height = 0, channels = 0;
  std::size_t bytes() const { return static_cast<std::size_t>(width * height * channels); }
};

/// "640x480x3"
inline FrameShape parse_frame_shape(const std::string& s) {
  FrameShape f;
  const char* at = s.data();
  const char* end = at + s.size();
  for (casa::Index* value : {&f.width, &f.height, &f.channels}) {
    const auto [stop, problem] = std::from_chars(at, end, *value);
    const bool last = value == &f.channels;
    casa::require(problem == std::errc{} && *value >= 1 && *value <= 16384 &&
                      (last ? stop == end : stop != end && *stop == 'x'),
                  "--raw: expected WIDTHxHEIGHTxCHANNELS, got ", casa::quoted(s));
    at = last ? stop : stop + 1;
  }
  casa::require(f.channels == 1 || f.channels == 3, "--raw: expected 1 or 3 channels, got ",
                f.channels);
  return f;
}

/// The next frame, or nothing at the end (and after an interruption). Throws casa::error for a
/// broken frame: those before it are good.
using FrameSource = std::function<std::optional<casa::io::Image>()>;

namespace frames {

using Interrupted = bool (*)();

inline casa::io::Image to_rgb(const std::vector<unsigned char>& pixels, const FrameShape& shape) {
  casa::io::Image image(shape.height, shape.width);
  for (casa::Index i = 0; i < image.size(); ++i)
    image.data()[i] = pixels[static_cast<std::size_t>(shape.channels == 3 ? i : i / 3)];
  return image;
}

inline std::optional<casa::io::Image> read_frame(int fd, const FrameShape& shape,
                                                 std::chrono::milliseconds timeout,
                                                 std::int64_t number, Interrupted interrupted) {
  std::vector<unsigned char> pixels(shape.bytes());
  std::size_t done = 0;
  switch (read_all(fd, pixels.data(), pixels.size(), timeout, done, interrupted)) {
    case Read::all:
      return to_rgb(pixels, shape);
    case Read::interrupted:
      return std::nullopt;
    case Read::timeout:
      casa::fail("frame ", number, ": nothing came for ", timeout.count(), " ms");
    case Read::end:
      break;
  }
  casa::require(done == 0, "frame ", number, ": the stream ended after ", done, " of ",
                pixels.size(), " bytes (", shape.width, " x ", shape.height, " x ", shape.channels,
                ")");
  return std::nullopt;
}

/// Frames of one shape from a file descriptor.
inline FrameSource raw(int fd, FrameShape shape, std::chrono::milliseconds timeout,
                       Interrupted interrupted) {
  return [=, number = std::int64_t{0}]() mutable {
    return read_frame(fd, shape, timeout, number++, interrupted);
  };
}

/// `read` makes an Image of a file's name.
template <class Read>
FrameSource images(std::vector<std::string> files, Read read, Interrupted interrupted) {
  return [=, next = std::size_t{0}]() mutable -> std::optional<casa::io::Image> {
    if (next == files.size() || interrupted()) return std::nullopt;
    return read(files[next++]);
  };
}

/// `file` at `rate`, scaled to shape (RGB). Only local files are opened, whatever their content
/// names. `realtime`: frames come when they would be shown, as from a camera.
inline FrameSource video(const std::string& ffmpeg, const std::string& file, casa::FrameRate rate,
                         FrameShape shape, bool realtime, std::chrono::milliseconds timeout,
                         Interrupted interrupted) {
  using casa::text;
  std::vector<std::string> arguments{
      ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file,pipe",
      "-i", "file:" + file, "-map", "0:v:0", "-vf",
      text("fps=", rate.numerator, "/", rate.denominator, ",scale=", shape.width, ":", shape.height,
           ":flags=area"),
      // Each frame at once: the end of one must not wait in a buffer for the next.
      "-f", "rawvideo", "-pix_fmt", "rgb24", "-flush_packets", "1", "pipe:1"};
  if (realtime) arguments.insert(std::ranges::find(arguments, "-i"), "-re");
  auto child = std::make_shared<Child>(arguments);
  return [=, number = std::int64_t{0}]() mutable -> std::optional<casa::io::Image> {
    if (!child) return std::nullopt;
    auto frame = read_frame(child->out(), shape, timeout, number++, interrupted);
    if (frame) return frame;
    if (!interrupted()) child->expect_success(timeout);
    child.reset();
    return std::nullopt;
  };
}

}  // namespace frames
