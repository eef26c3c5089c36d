// Processors of published models write an image as repeated placeholder ids among the text's token
// ids. This takes such ids apart into text and insertions.
#pragma once

#include <span>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/stream/layout.hpp"
#include "casa/stream/positions.hpp"

CASA_NAMESPACE_BEGIN

/// Text ids and the insertion points of images between them, as StreamInput takes them.
struct SplitIds {
  std::vector<int> ids;               ///< without placeholders
  std::vector<Insertion> insertions;  ///< one per image, positions relative to ids
};

/// Splits `ids`, in which image i stands as grids[i].rows * grids[i].cols times image_token_id, one
/// image after the other. Throws
/// casa::error unless the placeholders are exactly those of the images and each image's stand
/// together.
inline SplitIds split_placeholders(std::span<const int> ids, int image_token_id,
                                   std::span<const ImageGrid> grids) {
  SplitIds s;
  std::size_t image = 0;
  for (std::size_t i = 0; i < ids.size();) {
    if (ids[i] != image_token_id) {
      s.ids.push_back(ids[i++]);
      continue;
    }
    require(image < grids.size(), "placeholders: token ", i, " begins image ", image,
            ", given are ", grids.size(), " images");
    const Index count = checked_mul(grids[image].rows, grids[image].cols, "placeholders");
    require(count > 0, "placeholders: image ", image, " has no tokens");
    Index found = 0;
    while (found < count && i < ids.size() && ids[i] == image_token_id) {
      ++found;
      ++i;
    }
    require(found == count, "placeholders: image ", image, " has ", count, " tokens, found ", found,
            " places for it before token ", i);
    s.insertions.push_back({static_cast<Index>(s.ids.size()), count});
    ++image;
  }
  require(image == grids.size(), "placeholders: ", grids.size(),
          " images are given, there are places for ", image);
  return s;
}

CASA_NAMESPACE_END
