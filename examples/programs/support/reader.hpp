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
inline Reader load_reader(const std::string& folder, const Spelling& spelling,
                          const casa::io::ModelOptions& options = {}) {
  Reader r{folder, casa::io::load_model<float>(folder, options), spelling};
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

/// A stream as a reader takes it in, token by token. `reader` and `context` must outlive it.
class ReaderStream {
 public:
  /// `maps`, unless null, show every token that is fed (AttentionMaps).
  ReaderStream(const Reader& reader, const casa::Context& context,
               casa::AttentionMaps<float>* maps = nullptr)
      : reader_(reader),
        context_(context),
        maps_(maps),
        patches_(encoder().config().num_patches(), encoder().config().out_hidden_size),
        logits_(1, decoder().config().vocab_size),
        state_(decoder().new_state()) {}

  /// Begins a new stream: text and caches are empty again.
  void begin() { state_ = decoder().new_state(); }
  /// Shows the model a picture, (1 x side * side), which stands before the next token that is fed.
  void show(casa::MatrixView<const std::uint8_t> picture) {
    encoder().encode(picture, patches_, scratch_, context_);
    shown_ = true;
  }
  /// Feeds one token; returns the likeliest to follow.
  int feed(int id) {
    const casa::Insertion image{0, patches_.rows()};
    casa::StreamInput<float> input{.state = &state_, .ids = {&id, 1}, .maps = maps_};
    if (std::exchange(shown_, false)) {
      input.insertions = {&image, 1};
      input.image_tokens = patches_;
    }
    decoder().forward(input, logits_, context_);
    return static_cast<int>(std::max_element(logits_.row(0), logits_.row(0) + logits_.cols()) -
                            logits_.row(0));
  }
  /// Reads a picture: feeds the likeliest tokens up to the end, and returns them all, the begin and
  /// the end among them. Each, once it is chosen and before it is fed, is told to `chosen`: the
  /// maps are then those of the row that chose it.
  template <class Chosen>
  Ids read(casa::MatrixView<const std::uint8_t> picture, Chosen&& chosen) {
    const Spelling& spelling = reader_.spelling;
    show(picture);
    Ids caption{spelling.begin};
    for (Index n = 0; caption.back() != spelling.end; ++n) {
      const int likeliest = feed(caption.back());
      caption.push_back(n < spelling.most_tokens ? likeliest : spelling.end);
      chosen(caption.back());
    }
    feed(spelling.end);
    return caption;
  }
  /// Bytes of keys and values that the stream holds.
  Index cache_bytes() const { return state_.cache_bytes(); }

 private:
  const casa::PatchEncoder<float>& encoder() const { return *reader_.model.patch_encoder; }
  const casa::Decoder<float>& decoder() const { return reader_.model.decoder; }

  const Reader& reader_;
  const casa::Context& context_;
  casa::AttentionMaps<float>* maps_;
  casa::PatchEncoder<float>::Scratch scratch_ = {};
  casa::Matrix<float> patches_;  // of the newest picture
  casa::Matrix<float> logits_;
  casa::DecoderState<float> state_;
  bool shown_ = false;  // a picture that no token follows yet
};

/// Reads every picture; the state of the model (text, caches) lasts for a stream. casa::error for
/// pictures of another size than the model's.
inline Reading read(const Reader& reader, const Streams& streams, const casa::Context& context) {
  casa::require(streams.height == reader.side() && streams.width == reader.side(), reader.folder,
                ": the model reads pictures of ", reader.side(), " x ", reader.side(),
                " pixels, got ", streams.width, " x ", streams.height);
  ReaderStream stream(reader, context);
  Reading result;
  const auto start = std::chrono::steady_clock::now();
  for (Index s = 0; s < streams.count(); ++s) {
    stream.begin();
    result.cache_bytes.emplace_back();
    for (Index i = streams.begin[static_cast<std::size_t>(s)];
         i < streams.begin[static_cast<std::size_t>(s) + 1]; ++i) {
      result.captions.push_back(stream.read(streams.images.view().middle_rows(i, 1), [](int) {}));
      result.cache_bytes.back().push_back(stream.cache_bytes());
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
