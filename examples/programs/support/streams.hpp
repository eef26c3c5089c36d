// Files of streams: grey pictures, which of them make a stream, and what stands in them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/core/memory.hpp"
#include "casa/json/json.hpp"

namespace program {

using casa::Index;
using Ids = std::vector<int>;

/// Streams of pictures, all of one size.
struct Streams {
  Index height = 0;                   ///< pixels of a picture
  Index width = 0;                    ///< pixels of a picture
  casa::Matrix<std::uint8_t> images;  ///< one a row (pictures x height * width), in raster order
  std::vector<Index> begin;           ///< pictures of stream s: begin[s] .. begin[s + 1] - 1
  std::vector<Ids> captions;          ///< the truth, empty where the file has none
  std::vector<bool> hard;             ///< of each picture; empty where the file does not say

  /// Number of streams.
  Index count() const { return static_cast<Index>(begin.size()) - 1; }
};

/// Reads `images` (I x height x width, U8), `stream_begin` (S + 1) and, if they are there,
/// `captions` with `caption_len`, and the list `hard` (one a stream) of the description.
/// casa::error that names the file and the tensor for what does not fit together.
inline Streams load_streams(const std::string& path) {
  const casa::io::SafeTensors file = casa::io::read_safetensors(path);
  Streams s;
  const auto& images = file.at("images");
  casa::require_equal(images.where() + ": number of axes", images.shape.size(), 3);
  s.height = images.shape[1];
  s.width = images.shape[2];
  s.images = casa::Matrix<std::uint8_t>(images.shape[0], s.height * s.width);
  images.read_into(std::span(s.images.data(), static_cast<std::size_t>(s.images.size())));
  s.begin = file.at("stream_begin").to_vector<Index>();
  casa::require(!s.begin.empty() && s.begin.front() == 0 && s.begin.back() == s.images.rows() &&
                    std::ranges::is_sorted(s.begin),
                path, ": stream_begin must ascend from 0 to the ", s.images.rows(), " images");
  if (const auto* captions = file.find("captions")) {
    const auto ids = captions->to_matrix<int>();
    const auto length = file.at("caption_len").to_vector<Index>();
    casa::require_equal(captions->where() + ": rows", ids.rows(), s.images.rows());
    casa::require_equal(path + ": caption_len", static_cast<Index>(length.size()), ids.rows());
    for (Index i = 0; i < ids.rows(); ++i) {
      const Index n = length[static_cast<std::size_t>(i)];
      casa::require(n >= 0 && n <= ids.cols(), path, ": caption_len ", n, " exceeds ", ids.cols());
      s.captions.emplace_back(ids.row(i), ids.row(i) + n);
    }
  }
  const auto found = file.metadata().find("description");
  if (found == file.metadata().end()) return s;
  const auto description = casa::io::parse_json(found->second, path + ": description");
  if (const auto hard = description.find_set("hard")) {
    casa::require_equal(path + ": description: hard", hard->size(), s.count());
    for (Index stream = 0; stream < s.count(); ++stream) {
      const auto u = static_cast<std::size_t>(stream);
      s.hard.resize(static_cast<std::size_t>(s.begin[u + 1]), hard->at(stream).as_int(0, 1) == 1);
    }
  }
  return s;
}

}  // namespace program
