// Samples to train on, and the pass of their rows through a model: whole streams from their
// beginning, packed one after the other, which see nothing of each other.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "casa/layers/cross_entropy.hpp"
#include "casa/model/sliding.hpp"
#include "casa/model/stream_input.hpp"
#include "casa/model/stream_rope.hpp"
#include "casa/model/stream_windows.hpp"

CASA_NAMESPACE_BEGIN

/// One stream from its beginning: text with images before some of its tokens, and what its rows
/// should have said.
template <Scalar T>
struct TrainingSample {
  std::span<const int> ids = {};  ///< text tokens, each in [0, vocab_size)
  /// One for each token of ids: the token that its logits should choose (usually the next one), in
  /// [0, vocab_size), or kIgnoredTarget. Where the loss is a function of logits: not read.
  std::span<const int> targets = {};
  std::span<const Insertion> insertions = {};  ///< images, at positions 0 .. ids.size(), ascending
  MatrixView<const T> image_tokens = {};       ///< (sum of num_tokens, hidden_size), in order
  std::span<const ImageGrid> grids = {};       ///< as StreamInput::grids
  /// (as image_tokens): the gradient with respect to image_tokens is added to this. Without memory:
  /// not wanted, and where nothing else needs it not computed.
  MatrixView<T> d_image_tokens = {};
};

namespace detail {

/// What a pass must know of a stream: how many tokens it has, and where its images stand.
struct StreamShape {
  Index text_len = 0, image_len = 0;
  ChunkImages images = {};
};

/// The pass of several streams. Their text rows lie one after the other, likewise their image rows
/// and, in the order in which fusion sees them, their keys; so each mask is that of the samples,
/// moved to where their keys lie. All of them are one StreamPass. Memory is kept from pass to pass.
template <Scalar T>
class TrainingPass {
 public:
  TrainingPass() = default;
  TrainingPass(const TrainingPass&) = delete;  // its views are of itself
  TrainingPass& operator=(const TrainingPass&) = delete;

  /// Computes what rows see and where they stand. The config must outlive this.
  void prepare(const DecoderConfig& config, const Rope& rope, std::span<const StreamShape> shapes,
               const Context& context) {
    const Workspace::Frame frame(context.workspace);
    const FusionConfig* const fusion = config.fusion ? &*config.fusion : nullptr;
    Interval text{0, 0}, image{0, 0};
    for (const StreamShape& s : shapes) {
      text.end += s.text_len;
      image.end += s.image_len;
    }
    const auto at = RowPositions::take(context.workspace, text.end, text.end, image.end);
    num_keys_ = 0;
    self_.intervals.clear();
    self_.offsets.clear();
    text_.clear();
    image_.clear();
    segments_.clear();
    ropes_.resize(shapes.size());
    streams_.assign(shapes.size(), {});
    while (windows_.size() < shapes.size())
      windows_.emplace_back(fusion ? fusion->image_rope : ImageRope::off);

    Index texts = 0, images = 0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      const StreamShape& s = shapes[i];
      const Interval text_rows{texts, texts + s.text_len};
      const Interval image_rows{images, images + s.image_len};
      const RowPositions own = at.of(text_rows, image_rows);
      for (Index r = 0; r < text_rows.size(); ++r) {
        self_.intervals.push_back({texts, texts + r + 1});
        own.self[static_cast<std::size_t>(r)] = r;
      }
      StreamWindows& windows = windows_[i];
      windows.reset();
      windows.remember();
      windows.append(s.text_len, s.images.insertions);
      windows.prepare(fusion, s.images, text_rows, image_rows, own.text, own.image);
      if (fusion) {
        append(text_, windows.seen_by_text());
        append(image_, windows.seen_by_images());
        for (const KeySegment& segment : windows.segments()) {
          if (!segment.image && fusion->keys == Keys::image) continue;
          segments_.push_back(segment);
          num_keys_ += segment.rows.size();
        }
      }
      streams_[i] = {
          .text = text_rows,
          .image = image_rows,
          .rope = rope_at<T>(rope, config.rope, config.head_dim, own.length(), ropes_[i])};
      texts = text_rows.end;
      images = image_rows.end;
    }
    text_.compact();
    image_.compact();

    pass_ = {.shape = config.attention_shape(),
             .scale = default_scale(config.head_dim),
             .rms_norm_eps = config.rms_norm_eps,
             .fusion = fusion,
             .streams = streams_};
    if (!streams_.empty()) set_rope(pass_, tables_, at, context);
    all_ = {.text = text,
            .image = image,
            .seen = {self_, text_, image_},
            .sliding = sliding(config),
            .segments = segments_};
    pass_.streams = {&all_, 1};
  }

  /// Before passes of another config.
  void forget() { windows_.clear(); }

  Index text_rows() const { return all_.text.size(); }
  Index image_rows() const { return all_.image.size(); }
  /// Keys of fusion, which all_.segments name.
  Index num_keys() const { return num_keys_; }
  /// The pass of a block. Valid until the next call, or the next prepare().
  const BlockPass<T>& of_block(const DecoderConfig& config, Index layer) {
    const FusionConfig* const fusion = pass_.fusion;
    pass_.layer = layer;
    pass_.sliding = config.slides(layer);
    pass_.images_end = !fusion || fusion->layers.empty() || layer >= fusion->layers.back();
    return pass_;
  }

 private:
  // Adds the rows of one sample's mask, whose keys lie from num_keys_ on.
  void append(Mask& to, const MaskView& from) const {
    for (Index r = 0; r < from.num_rows(); ++r) {
      for (const Interval i : from.row(r))
        if (i.size() > 0) to.intervals.push_back({i.begin + num_keys_, i.end + num_keys_});
      to.offsets.push_back(static_cast<Index>(to.intervals.size()));
    }
  }

  // What the rows see in blocks of sliding_layers.
  SeenKeys sliding(const DecoderConfig& config) {
    if (config.sliding_layers.empty()) return {};
    const auto each = [&](const Mask& from, Mask& to) -> MaskView {
      to = from;
      for (Interval& i : to.intervals) i = slide(i, config.sliding_window);
      return to;
    };
    if (!config.fusion || !fusion_slides(*config.fusion))
      return {each(self_, sliding_self_), text_, image_};
    return {each(self_, sliding_self_), each(text_, sliding_text_), each(image_, sliding_image_)};
  }

  std::vector<StreamWindows> windows_;  // of each sample
  std::vector<Rope> ropes_;             // of each sample, where scaling is dynamic
  std::vector<StreamPass> streams_;     // of each sample: rows and frequencies
  Mask self_, text_, image_;            // of all
  Mask sliding_self_, sliding_text_, sliding_image_;
  std::vector<KeySegment> segments_;
  Index num_keys_ = 0;
  RopeTables<T> tables_;
  StreamPass all_;
  BlockPass<T> pass_;
};

}  // namespace detail

CASA_NAMESPACE_END
