// cross_attention: the stream of `casa`, where text tokens see the image of their window and no
// text.
//
//   i i i i
//   x x . .
//   x x . .
//   . . x x
//   . . x x
#include "casa/stream/visibility.hpp"
#include "variant.hpp"

static const bench::Variant cross_attention("cross_attention", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 8; ++frame) stream.append_image(256), stream.append_text(20);
  bench::Attention a{.keys = stream.image_len()};
  a.intervals.resize(static_cast<std::size_t>(stream.text_len()));
  casa::text_intervals(stream, {0, stream.text_len()}, casa::Keys::image, casa::History::window,
                       a.intervals);
  return bench::plain(a);
});
