// casa: a stream of 8 frames of 256 image and 20 text tokens. Text tokens alone are queries; each
// sees the image and the text of its window up to itself.
//
//   i i t t i i t t
//   x x x . . . . .
//   x x x x . . . .
//   . . . . x x x .
//   . . . . x x x x
#include "casa/stream/visibility.hpp"
#include "variant.hpp"

static const bench::Variant casa_windows("casa", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 8; ++frame) stream.append_image(256), stream.append_text(20);
  bench::Attention a{.keys = stream.stream_len()};
  a.intervals.resize(static_cast<std::size_t>(stream.text_len()));
  casa::text_intervals(stream, {0, stream.text_len()}, casa::Keys::image_text,
                       casa::History::window, a.intervals);
  return bench::plain(a);
});
