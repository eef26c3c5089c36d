// cross_attention: the stream of `casa`, where text tokens see the image of their window and no
// text.
#include "casa/attention/stream_masks.hpp"
#include "variant.hpp"

static const bench::Variant cross_attention("cross_attention", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 8; ++frame) stream.append_image(256), stream.append_text(20);
  return bench::plain({.mask = casa::masks::cross_attention(stream, stream.text_len()),
                       .keys = stream.image_len()});
});
