// Reads one picture and keeps, letter by letter, where a head of the model's fusion attention
// looked.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "read_text/attention_sheet.hpp"
#include "read_text/vocabulary.hpp"

namespace read_text {

/// What a model read of a picture, and what it looked at.
struct Looked {
  casa::AttentionHead head;        ///< of which
  std::vector<LetterMap> letters;  ///< in the order in which they were read
};

/// Reads a picture of the model's size (side x side) and keeps the maps of `head`, or, if none is
/// named, of the head whose maps are sharpest: whose largest weights are largest, on average over
/// the letters. casa::error for a head that the model does not have.
inline Looked look(const TextReader& reader, GreyView picture,
                   std::optional<casa::AttentionHead> head, const casa::Context& context) {
  const casa::DecoderConfig& config = reader.reader.model.decoder.config();
  casa::AttentionMaps<float> maps;
  if (head) maps.heads = {*head};
  for (Index layer = 0; !head && layer < config.num_hidden_layers; ++layer)
    for (Index h = 0;
         config.fusion && config.fusion->has_layer(layer) && h < config.num_attention_heads; ++h)
      maps.heads.push_back({layer, h, casa::BlockAttention::fusion});

  casa::Matrix<std::uint8_t> pixels(1, picture.rows() * picture.cols());
  for (Index y = 0; y < picture.rows(); ++y)
    std::copy_n(picture.row(y), picture.cols(), pixels.data() + y * picture.cols());

  std::vector<Looked> of_head;
  for (const casa::AttentionHead& h : maps.heads) of_head.push_back({h, {}});
  std::vector<double> sharpness(of_head.size());
  program::ReaderStream(reader.reader, context, &maps).read(pixels, [&](int id) {
    if (id == reader.reader.spelling.end) return;
    const std::string letter = reader.vocabulary.text({id});
    for (std::size_t h = 0; h < of_head.size(); ++h) {
      const auto weights = maps.image_weights(h, 0);
      of_head[h].letters.push_back(
          {letter.size() == 1 ? letter[0] : '\0', {weights.begin(), weights.end()}});
      sharpness[h] += static_cast<double>(*std::max_element(weights.begin(), weights.end()));
    }
  });
  casa::require(!of_head.empty(), reader.name, ": no layer looks at pictures");
  return std::move(of_head[static_cast<std::size_t>(
      std::max_element(sharpness.begin(), sharpness.end()) - sharpness.begin())]);
}

/// Writes the sheet of one picture to `path` and returns the text that was read.
inline std::string write_attention(const std::string& path, const TextReader& reader,
                                   GreyView picture, std::optional<casa::AttentionHead> head,
                                   const casa::Context& context) {
  const Looked looked = look(reader, picture, head, context);
  const auto& vision = reader.reader.model.patch_encoder->config();
  const Index patches = vision.image_size / vision.patch_size;
  std::string text;
  for (const LetterMap& one : looked.letters) text += one.letter;
  write_png(path, attention_sheet(picture, {patches, patches}, looked.letters,
                                  casa::text(reader.name, ", layer ", looked.head.layer, ", head ",
                                             looked.head.head)));
  return text;
}

}  // namespace read_text
