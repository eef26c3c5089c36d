// every_4th_image: the stream of `casa` with 16 frames, where text tokens see the image of their
// window and one in four of those before it, and no text.
#include "casa/attention/stream_masks.hpp"
#include "variant.hpp"

static const bench::Variant every_4th_image("every_4th_image", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 16; ++frame) stream.append_image(256), stream.append_text(20);
  return bench::plain(
      {.mask = casa::masks::every_image(stream, stream.text_len(), 4), .keys = stream.image_len()});
});
