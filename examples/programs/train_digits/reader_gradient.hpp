// The loss of streams, and its gradients through the decoder and the image encoder.
#pragma once

#include <numeric>
#include <span>
#include <vector>

#include "casa/model/decoder_backward.hpp"
#include "casa/train/packing.hpp"
#include "casa/vision/patch_encoder_backward.hpp"
#include "train_digits/model.hpp"

namespace digits {

/// Adds gradients of readers of one shape to a set that holds them all.
class ReaderGradient {
 public:
  /// `gradients` must outlive this. At most `most_tokens` tokens, of text and of pictures, pass at
  /// once.
  ReaderGradient(const Shapes& shapes, casa::TensorSet<float>& gradients, Index most_tokens)
      : shapes_(shapes),
        most_tokens_(most_tokens),
        decoder_(shapes_.decoder, gradients, casa::Activations::keep),
        encoder_(shapes_.encoder, gradients, "vision.", casa::Activations::keep) {}

  /// Adds the gradients of the summed cross-entropy of all targets of all streams. Weights of
  /// products are held as `type`.
  casa::CrossEntropy add(const casa::TensorSet<float>& parameters, casa::WeightType type,
                         std::span<const Stream> streams, const casa::Context& context) {
    const casa::WeightSource source = parameters.source();
    const casa::Decoder<float> decoder(shapes_.decoder, source, type);
    const casa::PatchEncoder<float> encoder(shapes_.encoder, source, type);
    std::vector<Index> tokens;
    for (const Stream& s : streams)
      tokens.push_back(static_cast<Index>(s.ids.size()) + s.images.rows() * kPatches);
    casa::CrossEntropy loss;
    for (const casa::Interval part : casa::pack_samples(tokens, most_tokens_)) {
      const casa::CrossEntropy l = add(decoder, encoder,
                                       streams.subspan(static_cast<std::size_t>(part.begin),
                                                       static_cast<std::size_t>(part.size())),
                                       context);
      loss.sum += l.sum;
      loss.count += l.count;
    }
    return loss;
  }

 private:
  casa::CrossEntropy add(const casa::Decoder<float>& decoder,
                         const casa::PatchEncoder<float>& encoder, std::span<const Stream> streams,
                         const casa::Context& context) {
    Index pictures = 0;
    for (const Stream& s : streams) pictures += s.images.rows();
    casa::Matrix<std::uint8_t> images(pictures, kSide * kSide);
    casa::Matrix<float> tokens(pictures * kPatches, shapes_.decoder.hidden_size),
        d_tokens(tokens.rows(), tokens.cols());
    d_tokens.fill(0);
    std::vector<casa::TrainingSample<float>> samples;
    Index first = 0;
    for (const Stream& s : streams) {
      std::copy_n(s.images.data(), s.images.size(), images.row(first));
      const Index rows = s.images.rows() * kPatches;
      samples.push_back({.ids = s.ids,
                         .targets = s.targets,
                         .insertions = s.insertions,
                         .image_tokens = tokens.view().middle_rows(first * kPatches, rows),
                         .d_image_tokens = d_tokens.view().middle_rows(first * kPatches, rows)});
      first += s.images.rows();
    }
    encoder.encode(images, tokens, scratch_, context);
    const casa::CrossEntropy loss = decoder_.add(decoder, samples, context, 1);
    encoder_.add(encoder, images, d_tokens, context);
    return loss;
  }

  Shapes shapes_;
  Index most_tokens_;
  casa::DecoderGradient<float> decoder_;
  casa::PatchEncoderGradient<float> encoder_;
  casa::PatchEncoder<float>::Scratch scratch_;
};

}  // namespace digits
