// The reader as a WebAssembly module: a model from bytes, a picture in, letters out one at a time.
//
// Plain C functions, called by reader.js. Those that can fail return a negative number, and
// reader_error() says why.

#include <emscripten/emscripten.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "casa/checkpoint/captioner_config.hpp"
#include "casa/checkpoint/load_model.hpp"
#include "casa/generate/captioner.hpp"
#include "support/word_list.hpp"

namespace {

using casa::Index;

struct Reader {
  casa::io::Model<float> model;
  program::WordList words;  // letters, and <start>, <end> and the like
  casa::Context context;    // this thread alone, with its scratch memory
  casa::PatchEncoder<float>::Scratch scratch;
  casa::Matrix<std::uint8_t> pixels;  // 1 x side^2
  casa::Matrix<float> tokens;         // of the newest picture
  std::optional<casa::Captioner<float>> captioner;
  casa::AttentionMaps<float> maps;  // of the newest letter: all heads of all fusion layers
  Index fusion_layers = 0;
  casa::Matrix<float> looked;  // heads x tokens: the same over the newest picture alone
};

std::optional<Reader> reader;
std::string failure;

// f(), or -1 with the exception's message in `failure`. Exceptions must not leave a C function.
template <class F>
int guarded(F&& f) {
  try {
    return f();
  } catch (const std::exception& e) {
    failure = e.what();
    return -1;
  }
}

}  // namespace

extern "C" {

EMSCRIPTEN_KEEPALIVE const char* reader_error() { return failure.c_str(); }

// Takes a model: the texts of config.json and captioner.json (how the model is to be asked), and
// the bytes of model.safetensors. All may be freed afterwards.
EMSCRIPTEN_KEEPALIVE int reader_open(const char* config, std::size_t config_size,
                                     const char* captions, std::size_t captions_size,
                                     const std::byte* weights, std::size_t weights_size) {
  return guarded([&] {
    const std::string_view text(config, config_size);
    reader.reset();
    Reader& r = reader.emplace();
    casa::io::Bytes bytes(std::span(weights, weights_size));  // borrowed
    r.model = casa::io::load_model<float>(
        text, casa::io::Checkpoint(casa::io::SafeTensors(std::move(bytes), "model.safetensors")));
    casa::require(r.model.patch_encoder.has_value(), "config.json has no vision_config");
    const casa::PatchEncoderConfig& vision = r.model.patch_encoder->config();
    r.pixels = casa::Matrix<std::uint8_t>(1, vision.image_size * vision.image_size);
    r.tokens = casa::Matrix<float>(vision.num_patches(), vision.out_hidden_size);
    r.words = program::WordList(casa::io::parse_json(text, "config.json").at("vocab"));
    casa::io::CaptionerConfig said = casa::io::captioner_config(
        casa::io::parse_json({captions, captions_size}, "captioner.json"),
        [&](std::string_view words) { return r.words.ids(words); });
    // The bounds of a stream without end are left out: the page's streams are short, and all of
    // their text is kept.
    said.text_window = said.sinks = said.horizon = std::nullopt;
    r.captioner.emplace(r.model.decoder, r.context,
                        casa::io::captioner_options(said, r.model.config));

    const casa::DecoderConfig& decoder = r.model.decoder.config();
    for (Index layer = 0; layer < decoder.num_hidden_layers; ++layer)
      for (Index head = 0; head < decoder.num_attention_heads; ++head)
        if (decoder.fusion && decoder.fusion->has_layer(layer))
          r.maps.heads.push_back({.layer = layer, .head = head});
    r.fusion_layers = std::ssize(r.maps.heads) / decoder.num_attention_heads;
    r.looked = casa::Matrix<float>(std::ssize(r.maps.heads), r.tokens.rows());
    r.captioner->set_maps(&r.maps);
    return 0;
  });
}

// Pixels of a picture's side, and tokens (patches) of a side.
EMSCRIPTEN_KEEPALIVE int reader_side() {
  return static_cast<int>(reader->model.patch_encoder->config().image_size);
}
EMSCRIPTEN_KEEPALIVE int reader_patches() {
  const casa::PatchEncoderConfig& c = reader->model.patch_encoder->config();
  return static_cast<int>(c.image_size / c.patch_size);
}

// Where the page puts the picture's side x side grey pixels.
EMSCRIPTEN_KEEPALIVE std::uint8_t* reader_pixels() { return reader->pixels.data(); }

// Begins a new stream: what was read before is forgotten.
EMSCRIPTEN_KEEPALIVE void reader_forget() { reader->captioner->reset(); }

// Looks at the picture. It opens a new window of the stream; text read before stays in the text.
EMSCRIPTEN_KEEPALIVE int reader_look() {
  return guarded([] {
    Reader& r = *reader;
    r.model.patch_encoder->encode(r.pixels, r.tokens, r.scratch, r.context);
    r.captioner->push_frame(r.tokens);
    return 0;
  });
}

// The id of the next letter; -2 when the picture has been read.
EMSCRIPTEN_KEEPALIVE int reader_next() {
  return guarded([] {
    Reader& r = *reader;
    if (r.captioner->status() != casa::Caption::open) return -2;
    const int id = r.captioner->step();
    for (Index head = 0; head < r.looked.rows(); ++head) {
      const auto weights = r.maps.image_weights(static_cast<std::size_t>(head), 0);
      std::copy(weights.begin(), weights.end(), r.looked.row(head));
    }
    return id;
  });
}

// Where the model looked to read the newest letter: for each head of each layer with fusion, a
// softmax weight for each patch of the picture, row by row.
EMSCRIPTEN_KEEPALIVE int reader_layers() { return static_cast<int>(reader->fusion_layers); }
EMSCRIPTEN_KEEPALIVE int reader_heads() { return static_cast<int>(reader->looked.rows()); }
EMSCRIPTEN_KEEPALIVE const float* reader_maps() { return reader->looked.data(); }

// How an id is spelled; "" for <end> and the like, which are no letters.
EMSCRIPTEN_KEEPALIVE const char* reader_letter(int id) {
  const std::string* word = reader->words.word(id);
  return word && !(word->size() > 1 && word->starts_with('<')) ? word->c_str() : "";
}

}  // extern "C"
