// The decoder: token ids and images in, logits out, one chunk of one or more streams at a time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "casa/model/decoder_weights.hpp"
#include "casa/model/sliding.hpp"
#include "casa/model/state.hpp"
#include "casa/model/stream_input.hpp"
#include "casa/model/weight_reader.hpp"

CASA_NAMESPACE_BEGIN

/// A decoder-only language model that looks at images as its config says (model/config.hpp).
/// Immutable once made: any number of streams and threads share one.
template <Scalar T>
class Decoder {
 public:
  Decoder() = default;
  /// Reads every tensor of decoder_spec(config). Throws casa::error for a config out of range and
  /// whatever `source` throws.
  Decoder(const DecoderConfig& config, const WeightSource& source,
          WeightType type = WeightType::native)
      : Decoder(config, decoder_spec(config), source, type) {}
  Decoder(const DecoderConfig& config, const DecoderSpec& spec, const WeightSource& source,
          WeightType type = WeightType::native)
      : config_(config) {
    check(config_);
    rope_ = make_rope<T>(config_.rope, config_.head_dim);
    // An embedding that is only looked up gains nothing from int8: it is read a row at a time.
    const bool lookup_only = spec.lm_head.has_value();
    WeightReader<T> lookup{source,
                           lookup_only && type == WeightType::int8 ? WeightType::bfloat16 : type};
    WeightReader<T> read{source, type};
    weights_.embed = lookup.linear({spec.embed_tokens, {}});
    for (const BlockSpec& b : spec.blocks) weights_.blocks.push_back(read.block(b));
    weights_.norm = read.vector(spec.norm);
    if (spec.lm_head) weights_.lm_head = read.linear({*spec.lm_head, {}});
  }

  /// Of weights that are there already: those that decoder_spec(config) names. Throws casa::error
  /// for a config out of range, and for weights that are missing or of another size.
  Decoder(const DecoderConfig& config, DecoderWeights<T> weights)
      : config_(config), weights_(std::move(weights)) {
    check(config_);
    check(config_, weights_);
    rope_ = make_rope<T>(config_.rope, config_.head_dim);
  }

  const DecoderConfig& config() const { return config_; }
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
    require(
        options.text_window == 0 || !config_.fusion || config_.fusion->history == History::window,
        "StateOptions: text_window needs fusion.history window: with all, fusion layers grow too");
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
    if (config_.fusion) state.counter_ = PositionCounter(config_.fusion->image_rope);
    return state;
  }

  /// Takes each stream one chunk further. logits (rows asked for by all inputs, in order, x
  /// vocab_size). However a stream is cut into chunks, and whatever streams go with it, its logits
  /// are the same to rounding; with dynamic scaling of the rotary embedding, beyond the trained
  /// length, a chunk turns with the frequencies of the length that it ends at and keys stay as they
  /// were turned (as transformers' cache does), so that there the cut is part of the result. Throws
  /// casa::error for ids out of range and shapes that do not fit; every stream is then as it was
  /// before.
  void forward(std::span<const StreamInput<T>> inputs, MatrixView<T> logits, const Context& context,
               const Trace<T>* trace = nullptr) const {
    check<T>(inputs, config_, logits);
    for (const auto& input : inputs) remember(*input.state);
    try {
      for (const auto& input : inputs) {
        input.state->live_.append(static_cast<Index>(input.ids.size()), input.insertions);
        restart_positions(input, context);
      }
      run(inputs, logits, context, trace);
    } catch (...) {
      for (const auto& input : inputs) roll_back(*input.state, context);
      throw;
    }
    for (const auto& input : inputs) commit(*input.state);
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
            ", were turned with other frequencies (rope_type dynamic) and cannot stand beside a "
            "restart: horizon must not exceed it, got ",
            o.horizon);
    require(
        !config_.fusion || config_.fusion->image_rope < ImageRope::consecutive,
        "StateOptions: horizon: with rope_type dynamic, image_rope consecutive and stream count "
        "images too, which no horizon bounds");
  }

  // What roll_back goes back to. All streams of a pass are remembered before any is changed.
  static void remember(DecoderState<T>& s) {
    s.before_ = s.live_;
    s.origin_before_ = s.origin_;
  }

  // StateOptions::horizon. Keys of the window stay as they are, at their distance from what comes;
  // only the sinks are brought near again.
  void restart_positions(const StreamInput<T>& in, const Context& context) const {
    DecoderState<T>& s = *in.state;
    const Index horizon = s.options_.horizon, count = static_cast<Index>(in.ids.size());
    if (horizon == 0 || s.text_len() - s.origin_ + count <= horizon) return;
    place_sinks(s, s.text_len() - s.self_tokens_, context);
  }

  void place_sinks(DecoderState<T>& s, std::int64_t origin, const Context& context) const {
    if (s.origin_ == origin) return;
    s.origin_ = origin;
    const Workspace::Frame frame(context.workspace);
    Position* places = context.workspace.take<Position>(s.options_.sinks);
    for (Index j = 0; j < s.options_.sinks; ++j) std::construct_at(places + j, origin + j);
    s.tables_.self.assign(rope_, {places, static_cast<std::size_t>(s.options_.sinks)}, context);
    for (auto& block : s.blocks_) turn_sinks(block.self, block.sink_keys, s.tables_.self, context);
  }

  void roll_back(DecoderState<T>& s, const Context& context) const {
    for (Index layer = 0; layer < config_.num_hidden_layers; ++layer) {
      auto& block = s.blocks_[static_cast<std::size_t>(layer)];
      std::visit([&](auto& c) { c.truncate((std::min)(c.size(), s.self_tokens_)); }, block.self);
      std::visit([&](auto& c) { c.truncate((std::min)(c.size(), s.fusion_tokens_)); },
                 block.fusion);
    }
    s.live_ = s.before_;
    place_sinks(s, s.origin_before_, context);
  }

  // The pass has succeeded: count what came, forget what nobody will see again.
  void commit(DecoderState<T>& s) const {
    const Index text = s.live_.text_len() - s.before_.text_len();
    const Index images = s.live_.image_len() - s.before_.image_len();
    s.counter_ = s.counter_after_;
    s.image_len_ += images;
    s.self_tokens_ += text;
    const Index bound = s.options_.sinks + s.options_.text_window;
    if (s.options_.text_window > 0 && s.self_tokens_ > bound) {
      for (auto& block : s.blocks_)
        std::visit([&](auto& c) { c.keep(s.options_.sinks, s.options_.text_window); }, block.self);
      s.self_tokens_ = bound;
    }
    if (!config_.fusion) {
      s.live_.clear();
      return;
    }
    const FusionConfig& f = *config_.fusion;
    if (f.history == History::window) {
      const Window last = s.live_.windows().back();
      const bool has_insertion = s.live_.windows().size() > 1;
      s.live_.clear();
      if (has_insertion) s.live_.append_image(last.image.size());
      s.live_.append_text(last.text.size());
    }
    s.fusion_tokens_ = num_keys(s.live_, f.keys);
    for (auto& block : s.blocks_)
      std::visit(
          [&](auto& c) {
            if (c.size() > s.fusion_tokens_) c.drop(c.size() - s.fusion_tokens_);
          },
          block.fusion);
  }

  // What a stream brings to the blocks: its rows, what each sees, where each stands.
  StreamPass prepare(const StreamInput<T>& in, Interval text, Interval image,
                     const RowPositions& at) const {
    DecoderState<T>& s = *in.state;
    s.self_intervals_.resize(in.ids.size());
    for (Index r = 0; r < text.size(); ++r) {
      s.self_intervals_[static_cast<std::size_t>(r)] = {0, s.self_tokens_ + r + 1};
      at.self[static_cast<std::size_t>(r)] = s.text_len() + r;
    }

    s.counter_after_ = s.counter_;
    s.text_intervals_.clear();
    s.image_intervals_.clear();
    s.runs_.clear();
    if (!config_.fusion) {
      s.counter_after_.text(at.text);
    } else {
      const FusionConfig& f = *config_.fusion;
      s.text_intervals_.resize(in.ids.size());
      text_intervals(s.live_, {s.before_.text_len(), s.live_.text_len()}, f.keys, f.history,
                     s.text_intervals_);
      s.image_intervals_.resize(static_cast<std::size_t>(image.size()));
      image_intervals(s.live_, {s.before_.image_len(), s.live_.image_len()}, f.keys, f.history,
                      s.image_intervals_);
      for_each_piece(
          s.live_, s.before_.text_len(), s.before_.image_len(), [&](bool is_image, Interval piece) {
            const Index shift =
                is_image ? image.begin - s.before_.image_len() : text.begin - s.before_.text_len();
            s.runs_.push_back({is_image, {piece.begin + shift, piece.end + shift}});
          });
      count_positions(in, s.counter_after_, at.text, at.image);
    }
    StreamPass pass{
        text,    image,           s.self_intervals_, s.text_intervals_, s.image_intervals_,
        s.runs_, in.logit_rows(), sliding(s),        rope_of(s, at)};
    if (config_.fusion && config_.fusion->image_rope == ImageRope::none)
      for (Position& p : at.text) p = p.t - s.origin_;  // images stand at 0: distances from there
    return pass;
  }

  // What the rows see in blocks that slide.
  SeenKeys sliding(DecoderState<T>& s) const {
    if (config_.sliding_layers.empty()) return {};
    const Index window = config_.sliding_window, sinks = s.options_.sinks;
    const auto gap =
        static_cast<Index>(s.text_len() - s.self_tokens_ - (std::max)(s.origin_, s.started_at_));
    const auto each = [](const auto& from, auto& to, auto&& f) {
      to.resize(from.size());
      std::ranges::transform(from, to.begin(), f);
    };
    const bool fused = config_.fusion && fusion_slides(*config_.fusion);
    const auto in_stream = [&](Interval i) { return fused ? slide(i, window) : i; };
    each(s.self_intervals_, s.sliding_self_,
         [&](Interval i) { return slide(i, window, sinks, gap); });
    each(s.text_intervals_, s.sliding_text_, in_stream);
    each(s.image_intervals_, s.sliding_image_, in_stream);
    return {s.sliding_self_, s.sliding_text_, s.sliding_image_};
  }

  // The frequencies of a stream that ends where this chunk does.
  const Rope* rope_of(DecoderState<T>& s, const RowPositions& at) const {
    if (!config_.rope.is_dynamic()) return &rope_;
    if (s.rope_.inv_freq.empty()) s.rope_ = rope_;
    set_length<T>(s.rope_, config_.rope, config_.head_dim, at.length() - s.origin_);
    return &s.rope_;
  }

  static void count_positions(const StreamInput<T>& in, PositionCounter& counter,
                              std::span<Position> text, std::span<Position> image) {
    std::size_t done = 0, images = 0;
    for (std::size_t i = 0; i < in.insertions.size(); ++i) {
      const auto position = static_cast<std::size_t>(in.insertions[i].position);
      const auto count = static_cast<std::size_t>(in.insertions[i].num_tokens);
      counter.text(text.subspan(done, position - done));
      counter.image(in.grids.empty() ? ImageGrid{} : in.grids[i], image.subspan(images, count));
      done = position;
      images += count;
    }
    counter.text(text.subspan(done));
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
    const auto positions = [&](Index count) {
      Position* p = workspace.take<Position>(count);
      std::uninitialized_default_construct_n(p, count);
      return std::span<Position>(p, static_cast<std::size_t>(count));
    };
    const RowPositions at{positions(text_rows), positions(text_rows), positions(image_rows)};
    const auto num_streams = static_cast<Index>(inputs.size());
    StreamPass* streams = workspace.take<StreamPass>(num_streams);
    auto** caches = workspace.take<BlockCache<T>*>(num_streams);

    Index text = 0, image = 0;
    for (std::size_t s = 0; s < inputs.size(); ++s) {
      const StreamInput<T>& in = inputs[s];
      const Interval rows{text, text + static_cast<Index>(in.ids.size())};
      const Interval images{image, image + in.image_tokens.rows()};
      for (std::size_t i = 0; i < in.ids.size(); ++i)
        weights_.embed.unpack_row(in.ids[i], x.row(text + static_cast<Index>(i)));
      for (Index j = 0; j < images.size(); ++j)
        std::copy_n(in.image_tokens.row(j), hidden, y.row(image + j));
      std::construct_at(streams + s, prepare(in, rows, images, at.of(rows, images)));
      text = rows.end;
      image = images.end;
    }

    BlockPass<T> pass;
    pass.shape = config_.attention_shape();
    pass.scale = default_scale(config_.head_dim);
    pass.rms_norm_eps = config_.rms_norm_eps;
    pass.fusion = config_.fusion ? &*config_.fusion : nullptr;
    pass.streams = {streams, inputs.size()};
    pass.trace = trace;
    // The tables are scratch of the leading stream.
    if (!inputs.empty()) set_rope(pass, inputs[0].state->tables_, at, context);

    if (trace) (*trace)(-1, "embed", x);
    const Index last = config_.num_hidden_layers - 1;
    const Index last_fusion =
        config_.fusion && !config_.fusion->layers.empty() ? config_.fusion->layers.back() : -1;
    for (Index layer = 0; layer <= last; ++layer) {
      pass.text_ends = layer == last && !trace;  // a trace shows every row
      pass.images_end = layer >= last_fusion;
      pass.sliding = config_.slides(layer);
      for (std::size_t s = 0; s < inputs.size(); ++s)
        caches[s] = &inputs[s].state->blocks_[static_cast<std::size_t>(layer)];
      block_forward<T>(weights_.blocks[static_cast<std::size_t>(layer)], has_fusion(layer), layer,
                       pass, {caches, inputs.size()}, x, y, context);
    }
    if (trace) show_norm(x, context, *trace);
    head(trace ? keep_asked(pass.streams, x) : x.middle_rows(0, logits.rows()), logits, context);
  }

  // The last norm of every row, which the logits alone do not need.
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
