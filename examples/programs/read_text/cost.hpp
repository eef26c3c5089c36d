// What one more tile costs: processor time and cache bytes along one stream of many tiles.
#pragma once

#include <ctime>
#include <vector>

#include "support/reader.hpp"

namespace read_text {

using casa::Index;

/// The cost of each tile of a stream.
struct TileCosts {
  std::vector<double> cpu_seconds;  ///< of the process, all threads: other programs do not count
  std::vector<Index> cache_bytes;   ///< after the tile
};

/// Takes in `count` tiles as one stream, without a new beginning: encodes a picture, feeds it, and
/// then its true caption token by token, as reading would; so that models of all variants do the
/// same work whatever they would have said. The pictures come round again where there are fewer.
inline TileCosts tile_costs(const program::Reader& reader, const program::Streams& streams,
                            Index count, const casa::Context& context) {
  casa::require(!streams.captions.empty() && streams.images.rows() > 0,
                "tile_costs: the streams have no pictures with captions");
  const casa::PatchEncoder<float>& encoder = *reader.model.patch_encoder;
  casa::PatchEncoder<float>::Scratch scratch;
  casa::Matrix<float> tokens(encoder.config().num_patches(), encoder.config().out_hidden_size);
  casa::Matrix<float> logits(1, reader.model.decoder.config().vocab_size);
  const casa::Insertion image{0, tokens.rows()};
  auto state = reader.model.decoder.new_state();
  TileCosts costs;
  for (Index i = 0; i < count; ++i) {
    const Index picture = i % streams.images.rows();
    const program::Ids& caption = streams.captions[static_cast<std::size_t>(picture)];
    const std::clock_t start = std::clock();
    encoder.encode(streams.images.view().middle_rows(picture, 1), tokens, scratch, context);
    for (std::size_t t = 0; t < caption.size(); ++t) {
      const std::span<const int> token = std::span(caption).subspan(t, 1);
      if (t == 0)
        reader.model.decoder.forward({&state, token, {&image, 1}, tokens}, logits, context);
      else
        reader.model.decoder.forward({&state, token}, logits, context);
    }
    costs.cpu_seconds.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    costs.cache_bytes.push_back(state.cache_bytes());
  }
  return costs;
}

}  // namespace read_text
