// The decoder: token ids and image tokens in, logits out, one chunk of one or several streams at a
// time.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "casa/model/block.hpp"
#include "casa/model/decoder_weights.hpp"
#include "casa/model/sliding.hpp"
#include "casa/model/stream_input.hpp"
#include "casa/model/stream_transaction.hpp"
#include "casa/model/weight_reader.hpp"

CASA_NAMESPACE_BEGIN

/// A decoder-only language model that looks at images as its config says (model/config.hpp).
/// Immutable once made: any number of threads share one, each with states and a Context of its own.
template <Scalar T>
class Decoder {
 public:
  /// A decoder without weights, to be assigned to.
  Decoder() = default;
  /// Reads every tensor of decoder_spec(config). Throws casa::error for a config out of range and
  /// whatever `source` throws.
  Decoder(const DecoderConfig& config, const WeightSource& source,
          WeightType type = WeightType::native)
      : Decoder(config, decoder_spec(config), source, type) {}
  /// The same with tensors of other names: those of `spec`. Where `memory` is given, weights are
  /// packed into it: a model that is made anew after each step of a training, once the one before
  /// is gone, has that one's memory if all are given one Arena::keeping().
  Decoder(const DecoderConfig& config, const DecoderSpec& spec, const WeightSource& source,
          WeightType type = WeightType::native, Arena* memory = nullptr)
      : config_(config) {
    check(config_);
    rope_ = make_rope<T>(config_.rope, config_.head_dim);
    // An embedding that is not also the head is only read a row per token, which int8 does not make
    // faster: it keeps 16 bits.
    const bool lookup_only = spec.lm_head.has_value();
    WeightReader<T> lookup{
        source, lookup_only && type == WeightType::int8 ? WeightType::bfloat16 : type, memory};
    WeightReader<T> read{source, type, memory};
    weights_.embed = lookup.linear({spec.embed_tokens, {}});
    for (const BlockSpec& b : spec.blocks) weights_.blocks.push_back(read.block(b));
    weights_.norm = read.vector(spec.norm);
    if (spec.lm_head) weights_.lm_head = read.linear({*spec.lm_head, {}});
  }

  /// A decoder of weights already packed: those that decoder_spec(config) names. Throws casa::error
  /// for a config out of range, and for weights that are missing or of another size.
  Decoder(const DecoderConfig& config, DecoderWeights<T> weights)
      : config_(config), weights_(std::move(weights)) {
    check(config_);
    check(config_, weights_);
    rope_ = make_rope<T>(config_.rope, config_.head_dim);
  }

  /// As given to the constructor.
  const DecoderConfig& config() const { return config_; }
  /// The packed weights.
  const DecoderWeights<T>& weights() const { return weights_; }
  /// Bytes of all weights as they are held.
  Index weight_bytes() const {
    Index sum = weights_.embed.bytes() + weights_.lm_head.bytes();
    for (const auto& b : weights_.blocks)
      for (const Index bytes :
           {b.self_attention.qkv.bytes(), b.self_attention.o.bytes(),
            b.fusion_attention.qkv.bytes(), b.fusion_attention.o.bytes(), b.mlp.bytes()})
        sum += bytes;
    return sum;
  }

  /// An empty stream. Throws casa::error for options that do not fit this model.
  DecoderState<T> new_state(const StateOptions& options = {}) const {
    require(options.text_window >= 0 && options.sinks >= 0,
            "StateOptions: text_window and sinks must not be negative, got ", options.text_window,
            " and ", options.sinks);
    checked_add(options.text_window, options.sinks, "StateOptions: text_window + sinks");
    require(options.text_window == 0 || !config_.fusion || config_.fusion->is_bounded(),
            "StateOptions: text_window is ", options.text_window,
            ", which needs fusion.history window or last: with all and every, fusion layers grow "
            "too. With text_window 0 (of a captioner: CaptionerOptions::state) nothing is "
            "forgotten");
    check_horizon(options);
    DecoderState<T> state;
    state.options_ = options;
    const Index noted = options.horizon > 0 ? options.sinks : 0;
    for (Index layer = 0; layer < config_.num_hidden_layers; ++layer) {
      const auto cache = [&] {
        return make_cache<T>(options.cache, config_.num_key_value_heads, config_.head_dim);
      };
      state.blocks_.push_back(
          {cache(), cache(), Matrix<T>(noted, config_.num_key_value_heads * config_.head_dim)});
    }
    if (config_.fusion) state.windows_ = detail::StreamWindows(config_.fusion->image_rope);
    return state;
  }

  /// Takes each stream one chunk further. logits: (the rows that all inputs ask for, in order,
  /// x vocab_size). `trace`, unless null, is shown the hidden states of every row.
  ///
  /// A stream's logits are the same to rounding however it is cut into chunks and whatever streams
  /// pass with it. The exception is dynamic scaling of the rotary embedding beyond the trained
  /// length: there a chunk is rotated with the frequencies of the stream's length at its end, and
  /// earlier keys stay as they were rotated (as in transformers' cache), so that the cut matters.
  ///
  /// Throws casa::error for ids out of range and shapes that do not fit; after any exception every
  /// stream is as it was before.
  void forward(std::span<const StreamInput<T>> inputs, MatrixView<T> logits, const Context& context,
               const Trace<T>* trace = nullptr) const {
    check<T>(inputs, config_, logits);
    detail::StreamTransaction<T> chunk(config_, rope_, inputs, context);
    try {
      chunk.begin();
      run(inputs, logits, context, trace);
    } catch (...) {
      chunk.roll_back();
      for (const auto& in : inputs)
        if (in.maps) in.maps->clear();
      throw;
    }
    chunk.commit();
  }

  /// The same for one stream.
  void forward(const StreamInput<T>& input, MatrixView<T> logits, const Context& context,
               const Trace<T>* trace = nullptr) const {
    forward(std::span<const StreamInput<T>>(&input, 1), logits, context, trace);
  }

  /// Logits (ids.size() x vocab_size) of a whole stream from its beginning.
  Matrix<T> logits(std::span<const int> ids, std::span<const Insertion> insertions,
                   MatrixView<const T> image_tokens, const Context& context = {},
                   std::span<const ImageGrid> grids = {}) const {
    DecoderState<T> state = new_state();
    Matrix<T> out(static_cast<Index>(ids.size()), config_.vocab_size);
    forward({&state, ids, insertions, image_tokens, grids, LogitRows::all}, out, context);
    return out;
  }

 private:
  bool has_fusion(Index layer) const { return config_.fusion && config_.fusion->has_layer(layer); }

  void check_horizon(const StateOptions& o) const {
    if (o.horizon == 0) return;
    require(o.text_window > 0 && o.horizon > o.sinks + o.text_window,
            "StateOptions: horizon must exceed sinks + text_window (both bounded), got ", o.horizon,
            " for ", o.sinks, " + ", o.text_window);
    require(!config_.fusion || config_.fusion->image_rope != ImageRope::none ||
                config_.fusion->keys == Keys::image,
            "StateOptions: horizon: with image_rope none and keys image_text, image keys stand at "
            "0 and text keys do not: no restart can keep both");
    const auto* dynamic = std::get_if<DynamicScaling>(&config_.rope.scaling);
    if (!dynamic) return;
    require(static_cast<double>(o.horizon) <= dynamic->max_position_embeddings,
            "StateOptions: horizon: keys beyond max_position_embeddings, ",
            dynamic->max_position_embeddings,
            ", were rotated with other frequencies (rope_type dynamic) and cannot stand beside a "
            "restart: horizon must not exceed it, got ",
            o.horizon);
    require(
        !config_.fusion || config_.fusion->image_rope < ImageRope::consecutive,
        "StateOptions: horizon: with rope_type dynamic, image_rope consecutive and stream count "
        "images too, which no horizon bounds");
  }

  // A stream's part of a pass: its rows are [text.begin, text.end) of x and likewise of y. Writes
  // their positions to `at`, which has this stream's rows alone.
  detail::StreamPass prepare(const StreamInput<T>& in, Interval text, Interval image,
                             const detail::RowPositions& at) const {
    DecoderState<T>& s = *in.state;
    s.self_intervals_.resize(in.ids.size());
    for (Index r = 0; r < text.size(); ++r) {
      s.self_intervals_[static_cast<std::size_t>(r)] = {0, s.self_tokens_ + r + 1};
      at.self[static_cast<std::size_t>(r)] = s.text_len() + r;
    }
    s.windows_.prepare(config_.fusion ? &*config_.fusion : nullptr, {in.insertions, in.grids}, text,
                       image, at.text, at.image);
    const detail::StreamPass pass{.text = text,
                                  .image = image,
                                  .seen = {.self = {s.self_intervals_, {}},
                                           .text = s.windows_.seen_by_text(),
                                           .image = s.windows_.seen_by_images()},
                                  .sliding = sliding(s),
                                  .segments = s.windows_.segments(),
                                  .logit_rows = in.logit_rows(),
                                  .rope = detail::rope_at<T>(rope_, config_.rope, config_.head_dim,
                                                             at.length() - s.origin_, s.rope_)};
    // With ImageRope::none images have position 0, so text positions are counted from the last
    // restart (origin_).
    if (config_.fusion && config_.fusion->image_rope == ImageRope::none)
      for (Position& p : at.text) p = p.t - s.origin_;
    return pass;
  }

  // Names what the stream's maps will show.
  void begin_maps(const StreamInput<T>& in) const {
    const DecoderState<T>& s = *in.state;
    const auto rows = static_cast<Index>(in.ids.size());
    detail::begin_maps<T>(*in.maps, {.fusion = config_.fusion ? &*config_.fusion : nullptr,
                                     .live = s.windows_.layout(),
                                     .text_len = s.text_len() + rows,
                                     .image_len = s.image_len() + in.image_tokens.rows(),
                                     .started_at = s.started_at_,
                                     .self_tokens = s.self_tokens_ + rows,
                                     .sinks = s.options_.text_window > 0 ? s.options_.sinks : 0,
                                     .text_rows = rows,
                                     .logit_rows = in.logit_rows()});
  }

  // What the rows see in blocks of sliding_layers.
  detail::SeenKeys sliding(DecoderState<T>& s) const {
    if (config_.sliding_layers.empty()) return {};
    const Index window = config_.sliding_window, sinks = s.options_.sinks;
    // How many tokens after the sinks were evicted and still count in positions.
    const auto gap =
        static_cast<Index>(s.text_len() - s.self_tokens_ - (std::max)(s.origin_, s.started_at_));
    const auto each = [](const MaskView& from, Mask& to, auto&& f) -> MaskView {
      to.intervals.resize(from.intervals.size());
      std::transform(from.intervals.begin(), from.intervals.end(), to.intervals.begin(), f);
      to.offsets.assign(from.offsets.begin(), from.offsets.end());
      return to;
    };
    // (Where fusion slides its masks have one interval a row, which ends with the row's own key.)
    const bool fused = config_.fusion && detail::fusion_slides(*config_.fusion);
    const auto in_stream = [&](Interval i) { return fused ? detail::slide(i, window) : i; };
    return {.self = each(MaskView{s.self_intervals_, {}}, s.sliding_self_,
                         [&](Interval i) { return detail::slide(i, window, sinks, gap); }),
            .text = each(s.windows_.seen_by_text(), s.sliding_text_, in_stream),
            .image = each(s.windows_.seen_by_images(), s.sliding_image_, in_stream)};
  }

  // The rows of the embedding that stand for `ids`, into x (ids.size() x hidden_size).
  void embed_tokens(std::span<const int> ids, MatrixView<T> x) const {
    for (std::size_t i = 0; i < ids.size(); ++i)
      weights_.embed.unpack_row(ids[i], x.row(static_cast<Index>(i)));
  }

  void run(std::span<const StreamInput<T>> inputs, MatrixView<T> logits, const Context& context,
           const Trace<T>* trace) const {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    Index text_rows = 0, image_rows = 0;
    for (const auto& in : inputs) {
      text_rows += static_cast<Index>(in.ids.size());
      image_rows += in.image_tokens.rows();
    }
    const Index hidden = config_.hidden_size;
    const MatrixView<T> x = workspace.matrix<T>(text_rows, hidden);
    const MatrixView<T> y = workspace.matrix<T>(image_rows, hidden);
    const auto at = detail::RowPositions::take(workspace, text_rows, text_rows, image_rows);
    const auto num_streams = static_cast<Index>(inputs.size());
    auto* streams = workspace.take<detail::StreamPass>(num_streams);
    auto** caches = workspace.take<BlockCache<T>*>(num_streams);
    auto** maps = workspace.take<AttentionMaps<T>*>(num_streams);
    bool any_maps = false;

    Index text = 0, image = 0;
    for (std::size_t s = 0; s < inputs.size(); ++s) {
      const StreamInput<T>& in = inputs[s];
      const Interval rows{text, text + static_cast<Index>(in.ids.size())};
      const Interval images{image, image + in.image_tokens.rows()};
      embed_tokens(in.ids, x.middle_rows(rows.begin, rows.size()));
      for (Index j = 0; j < images.size(); ++j)
        std::copy_n(in.image_tokens.row(j), hidden, y.row(image + j));
      std::construct_at(streams + s, prepare(in, rows, images, at.of(rows, images)));
      maps[s] = in.maps;
      if (in.maps) {
        any_maps = true;
        begin_maps(in);
      }
      text = rows.end;
      image = images.end;
    }

    detail::BlockPass<T> pass{.shape = config_.attention_shape(),
                              .scale = default_scale(config_.head_dim),
                              .rms_norm_eps = config_.rms_norm_eps,
                              .fusion = config_.fusion ? &*config_.fusion : nullptr,
                              .streams = {streams, inputs.size()},
                              .trace = trace,
                              .maps = {maps, any_maps ? inputs.size() : 0}};
    // The tables of all rows lie in the first stream's state, which keeps their memory.
    if (!inputs.empty()) detail::set_rope(pass, inputs[0].state->tables_, at, context);

    if (trace) (*trace)(-1, "embed", x);
    const Index last = config_.num_hidden_layers - 1;
    const Index last_fusion =
        config_.fusion && !config_.fusion->layers.empty() ? config_.fusion->layers.back() : -1;
    for (Index layer = 0; layer <= last; ++layer) {
      pass.layer = layer;
      pass.text_ends = layer == last && !trace;  // a trace shows every row
      pass.images_end = layer >= last_fusion;
      pass.sliding = config_.slides(layer);
      for (std::size_t s = 0; s < inputs.size(); ++s)
        caches[s] = &inputs[s].state->blocks_[static_cast<std::size_t>(layer)];
      detail::block_forward<T>(weights_.blocks[static_cast<std::size_t>(layer)], has_fusion(layer),
                               layer, pass, {caches, inputs.size()}, x, y, context);
    }
    if (trace) show_norm(x, context, *trace);
    head(trace ? detail::compact_logit_rows(pass.streams, x) : x.middle_rows(0, logits.rows()),
         logits, context);
  }

  // The final norm of every row, which only a trace needs.
  void show_norm(MatrixView<const T> x, const Context& context, const Trace<T>& trace) const {
    const MatrixView<T> normed = context.workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, weights_.norm.span(), config_.rms_norm_eps, normed, context);
    trace(config_.num_hidden_layers, "norm", normed);
  }

  void head(MatrixView<T> x, MatrixView<T> logits, const Context& context) const {
    if (logits.rows() == 0) return;
    rms_norm<T>(x, weights_.norm.span(), config_.rms_norm_eps, x, context);
    (config_.tie_word_embeddings ? weights_.embed : weights_.lm_head).forward(x, logits, context);
  }

  DecoderConfig config_;
  Rope rope_;
  DecoderWeights<T> weights_;
};

CASA_NAMESPACE_END
