// A trained model that reads pictures, one after the other: a picture, the token that begins its
// caption, then the likeliest tokens to the one that ends it.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/files/file.hpp"
#include "casa/json/json_writer.hpp"
#include "support/streams.hpp"

namespace program {

/// The tokens around a caption, and how long it may become.
struct Spelling {
  int begin = 0;          ///< fed after a picture
  int end = 0;            ///< ends a caption, and is fed, too
  Index most_tokens = 0;  ///< a caption that has not ended after so many is ended
};

/// A model with its image encoder.
struct Reader {
  std::string folder;  ///< where it was loaded from
  casa::io::Model<float> model;
  Spelling spelling;
  /// Pixels a side of the pictures that it takes.
  Index side() const { return model.patch_encoder->config().image_size; }
};

/// casa::error that names the folder for a model that can not read pictures.
inline Reader load_reader(const std::string& folder, const Spelling& spelling) {
  Reader r{folder, casa::io::load_model<float>(folder), spelling};
  casa::require(r.model.patch_encoder.has_value(), folder, ": config.json has no vision_config");
  const Index needed = std::max(spelling.begin, spelling.end);
  casa::require(r.model.decoder.config().vocab_size > needed, folder, ": vocab_size must exceed ",
                needed, ", got ", r.model.decoder.config().vocab_size);
  return r;
}

/// What one model said of all pictures, and what it took.
struct Reading {
  std::vector<Ids> captions;                    ///< of each picture, with their begin and end
  std::vector<std::vector<Index>> cache_bytes;  ///< per stream, after each picture has been read
  double seconds = 0;                           ///< encoding and reading, all pictures

  /// Tokens that were said, the ends among them.
  Index tokens() const {
    Index sum = 0;
    for (const Ids& c : captions) sum += static_cast<Index>(c.size()) - 1;
    return sum;
  }
};

/// The id of the largest value of a row.
inline int most_likely(const casa::Matrix<float>& logits) {
  return static_cast<int>(std::max_element(logits.row(0), logits.row(0) + logits.cols()) -
                          logits.row(0));
}

/// Reads every picture; the state of the model (text, caches) lasts for a stream. casa::error for
/// pictures of another size than the model's.
inline Reading read(const Reader& reader, const Streams& streams, const casa::Context& context) {
  casa::require(streams.height == reader.side() && streams.width == reader.side(), reader.folder,
                ": the model reads pictures of ", reader.side(), " x ", reader.side(),
                " pixels, got ", streams.width, " x ", streams.height);
  const casa::PatchEncoder<float>& encoder = *reader.model.patch_encoder;
  const casa::Decoder<float>& decoder = reader.model.decoder;
  casa::PatchEncoder<float>::Scratch scratch;
  casa::Matrix<float> tokens(encoder.config().num_patches(), encoder.config().out_hidden_size);
  casa::Matrix<float> logits(1, decoder.config().vocab_size);
  const casa::Insertion image{0, tokens.rows()};

  Reading result;
  const auto start = std::chrono::steady_clock::now();
  for (Index s = 0; s < streams.count(); ++s) {
    auto state = decoder.new_state();
    result.cache_bytes.emplace_back();
    for (Index i = streams.begin[static_cast<std::size_t>(s)];
         i < streams.begin[static_cast<std::size_t>(s) + 1]; ++i) {
      encoder.encode(streams.images.view().middle_rows(i, 1), tokens, scratch, context);
      Ids caption{reader.spelling.begin};
      decoder.forward({&state, caption, {&image, 1}, tokens}, logits, context);
      for (Index n = 0; caption.back() != reader.spelling.end; ++n) {
        caption.push_back(n < reader.spelling.most_tokens ? most_likely(logits)
                                                          : reader.spelling.end);
        decoder.forward({&state, std::span(caption).last(1)}, logits, context);
      }
      result.captions.push_back(std::move(caption));
      result.cache_bytes.back().push_back(state.cache_bytes());
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

/// Cache bytes after each picture of the longest stream.
inline const std::vector<Index>& longest_cache(const Reading& reading) {
  return *std::ranges::max_element(reading.cache_bytes, {},
                                   [](const auto& after) { return after.size(); });
}

/// {"captions": [[ids of a picture], ..]}
inline void write_captions(const std::string& path, const Reading& reading) {
  casa::io::JsonWriter w;
  w.begin_object().key("captions").begin_array();
  for (const Ids& caption : reading.captions) {
    w.begin_array();
    for (const int id : caption) w.value(id);
    w.end_array();
  }
  w.end_array().end_object();
  casa::io::write_file(path, w.str() + "\n");
}

}  // namespace program
