// last2_images: the stream of `casa`, where text tokens see their window and the image of the one
// before it (but not its text).
#include "casa/attention/stream_masks.hpp"
#include "variant.hpp"

static const bench::Variant last2_images("last2_images", [] {
  casa::StreamLayout stream;
  for (int frame = 0; frame < 8; ++frame) stream.append_image(256), stream.append_text(20);
  return bench::plain(
      {.mask = casa::masks::stream(stream, stream.text_len(), casa::Keys::image_text,
                                   casa::History::last(2), casa::History::window),
       .keys = stream.stream_len()});
});
