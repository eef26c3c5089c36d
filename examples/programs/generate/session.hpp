// What the program `generate` works with: its arguments, and a model with the stream it continues.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/generate/generator.hpp"
#include "casa/image/image_tokens.hpp"
#include "casa/text/chat_template_folder.hpp"
#include "casa/text/tokenizer.hpp"
#include "support/encoder_options.hpp"
#include "support/images.hpp"

using casa::Index;

struct Arguments {
  std::string model, prompt, prompt_file, prompts, system, trace, packed;
  std::string chat_template, date;
  std::vector<int> prompt_ids;
  std::vector<std::string> images;
  program::ImageReader read_image{"generate"};
  program::DecoderOptions decoder;
  program::EncoderOptions encoder;
  Index max_new_tokens = 128, threads = 0, context = 0, top_k = 0;
  double temperature = 0, top_p = 1, min_p = 0, repeat_penalty = 1;
  std::uint64_t seed = 0;
  std::size_t batch = 16;
  bool json = false, chat = false, ignore_eos = false, quiet = false;
  bool no_system = false, any_pattern = false, unknown_fields = false, allow_unexpected = false;
  bool unknown_rope_keys = false, repeated_tensors = false, stale_index = false;
};

// A model folder, its tokenizer and image encoder, and one stream that goes on.
class Session {
 public:
  using Image = casa::io::EncodedImage<float>;

  Session(const Arguments& a, const casa::Context& context)
      : context_(context),
        read_image_(a.read_image),
        folder_(a.model),
        model_(load(a)),
        generator_(model_.decoder, generate_options(a)) {
    if (casa::io::detail::file_exists(a.model + "/tokenizer.json")) {
      casa::io::TokenizerOptions tokenizer;
      tokenizer.any_pattern = a.any_pattern;
      tokenizer.unknown_fields = a.unknown_fields;
      tokenizer_.emplace(a.model, tokenizer);
    }
    chat_options_.own_system = !a.no_system;
    chat_options_.date = a.date;
    chat_name_ = a.chat_template;
  }

  const casa::io::Tokenizer& tokenizer() const {
    casa::require(tokenizer_.has_value(),
                  "the folder has no tokenizer.json: give the prompt as --prompt-ids");
    return *tokenizer_;
  }
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  // An image of a vision tower stands between the delimiters it was trained with.
  bool vision_delimiters() const { return model_.config.vision_tower.has_value(); }

  // The folder's own chat template, or the one that was asked for. Read when it is needed: a folder
  // without one still continues texts.
  const casa::io::ChatTemplate& chat() {
    if (!chat_) {
      chat_ = casa::io::folder_chat_template(folder_, chat_name_);
      chat_options_.bos = chat_->bos;
    }
    return chat_->chat;
  }
  const casa::io::ChatOptions& chat_options() const { return chat_options_; }

  Image read_image(const std::string& file) {
    if (!encoder_) encoder_.emplace(model_, folder_);
    return encoder_->encode(read_image_(file), context_);
  }

  // Images stand at the insertion points of the prompt, in order.
  void feed(const casa::io::EncodedPrompt& prompt, const std::vector<Image>& images) {
    casa::require_equal("feed: images (one per insertion point)", images.size(),
                        prompt.insertions.size());
    require_rows(prompt.ids);
    Index rows = 0;
    for (const Image& image : images) rows += image.tokens.rows();
    casa::Matrix<float> tokens(rows, model_.decoder.config().hidden_size);
    std::vector<casa::Insertion> insertions;
    std::vector<casa::ImageGrid> grids;
    Index row = 0;
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto& [image, grid] = images[i];
      std::copy_n(image.data(), image.size(), tokens.row(row));
      row += image.rows();
      insertions.push_back({prompt.insertions[i], image.rows()});
      grids.push_back(grid);
    }
    generator_.feed({prompt.ids, insertions, tokens, grids}, context_);
  }

  // Throws casa::error for an id that the model has no embedding for.
  void require_rows(const std::vector<int>& ids) const {
    if (tokenizer_) tokenizer_->require_rows(ids, model_.decoder.config().vocab_size);
  }
  // What ids say; empty without a tokenizer. (An embedding may have more rows than there are
  // tokens.)
  std::string text_of(const std::vector<int>& ids) const {
    if (!tokenizer_) return "";
    casa::io::StreamDecoder decoder(*tokenizer_);
    std::string text;
    for (const int id : ids)
      if (tokenizer_->has_token(id)) text += decoder.push(id);
    return text + decoder.finish();
  }

  std::vector<int> stop_ids() const { return model_.config.tokens.eos; }
  casa::Generator<float>& generator() { return generator_; }
  const casa::io::Model<float>& model() const { return model_; }

 private:
  // Weights of 8 bits stay so unless another type is asked for.
  static casa::io::Model<float> load(const Arguments& a) {
    casa::io::ModelOptions o = options(a);
    casa::io::ModelFolder folder(a.model, o);
    if (a.decoder.dtype.empty() && folder.weight_type<float>({}) == casa::WeightType::int8)
      o.weights = casa::WeightType::int8;
    a.decoder.check(o.weights);
    return std::move(folder).load<float>(o);
  }
  static casa::io::ModelOptions options(const Arguments& a) {
    casa::io::ModelOptions o;
    o.weights = program::weight_type(a.decoder.dtype);
    a.encoder.apply(o);
    o.allow_unexpected = a.allow_unexpected;
    o.packed_file = a.packed;
    o.files.limits.unknown_rope_keys = a.unknown_rope_keys;
    o.files.limits.repeated_tensors = a.repeated_tensors;
    o.files.limits.stale_index = a.stale_index;
    o.files.map = true;  // packed as it is read: the file's pages are given back on the way
    return o;
  }
  casa::GenerateOptions generate_options(const Arguments& a) const {
    casa::GenerateOptions o;
    o.sampling.temperature = a.temperature;
    o.sampling.top_k = a.top_k;
    o.sampling.top_p = a.top_p;
    o.sampling.min_p = a.min_p;
    o.sampling.repetition_penalty = a.repeat_penalty;
    o.sampling.seed = a.seed;
    o.context = a.context;
    return o;
  }

  const casa::Context& context_;
  program::ImageReader read_image_;
  std::string folder_;
  casa::io::Model<float> model_;
  casa::Generator<float> generator_;
  std::optional<casa::io::Tokenizer> tokenizer_;
  std::optional<casa::io::ImageEncoder<float>> encoder_;
  std::string chat_name_;
  casa::io::ChatOptions chat_options_;
  std::optional<casa::io::FolderChat> chat_;
};
