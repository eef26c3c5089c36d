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
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/generate/captioner.hpp"

namespace {

using casa::Index;

constexpr Index kMaxLetters = 72;  // the longest caption of training

struct Reader {
  casa::io::Model<float> model;
  std::vector<std::string> letters;  // how each id is spelled; "" for <start>, <end> and the like
  casa::Context context;             // this thread alone, with its scratch memory
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

casa::CaptionerOptions options_for(const casa::io::Json& config,
                                   std::vector<std::string>& letters) {
  casa::CaptionerOptions options;
  options.max_new_tokens = kMaxLetters;
  // The likeliest letter, whatever was read before: pages repeat themselves.
  options.sampling = {.temperature = 0};
  options.repetition.penalty = 1;
  options.ngrams.size = 0;
  int id = 0;
  for (const casa::io::Json& entry : config.at("vocab").elements()) {
    const std::string_view name = entry.as_string();
    if (name == "<start>") options.after_image = {id};
    if (name == "<end>") {
      options.stop_ids = {id};
      options.cut_id = id;
    }
    letters.emplace_back(name.size() > 1 && name.starts_with('<') ? "" : name);
    ++id;
  }
  casa::require(!options.after_image.empty() && options.cut_id.has_value(),
                "config.json: vocab must have <start> and <end>");
  return options;
}

}  // namespace

extern "C" {

EMSCRIPTEN_KEEPALIVE const char* reader_error() { return failure.c_str(); }

// Takes a model: the text of config.json and the bytes of model.safetensors, which may be freed
// afterwards.
EMSCRIPTEN_KEEPALIVE int reader_open(const char* config, std::size_t config_size,
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
    const casa::io::Json json = casa::io::parse_json(text, "config.json");
    r.captioner.emplace(r.model.decoder, r.context, options_for(json, r.letters));

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

// How an id is spelled; "" for the one that ends a picture.
EMSCRIPTEN_KEEPALIVE const char* reader_letter(int id) {
  const bool known = id >= 0 && static_cast<std::size_t>(id) < reader->letters.size();
  return known ? reader->letters[static_cast<std::size_t>(id)].c_str() : "";
}

}  // extern "C"
