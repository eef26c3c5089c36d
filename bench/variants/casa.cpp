// casa: a stream of 8 frames of 256 image and 20 text tokens. Text tokens alone are queries; each
// sees the image and the text of its window up to itself.
#include "casa/attention/stream_masks.hpp"
#include "variant.hpp"

static const bench::Variant casa_windows("casa", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 8; ++frame) stream.append_image(256), stream.append_text(20);
  return bench::plain(
      {.mask = casa::masks::casa_windows(stream, stream.text_len()), .keys = stream.stream_len()});
});
