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
  program::ReaderStream stream(reader, context);
  TileCosts costs;
  for (Index i = 0; i < count; ++i) {
    const Index picture = i % streams.images.rows();
    const std::clock_t start = std::clock();
    stream.show(streams.images.view().middle_rows(picture, 1));
    for (const int id : streams.captions[static_cast<std::size_t>(picture)]) stream.feed(id);
    costs.cpu_seconds.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    costs.cache_bytes.push_back(stream.cache_bytes());
  }
  return costs;
}

}  // namespace read_text
