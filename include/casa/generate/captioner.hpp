// Captions of a stream of frames for as long as it runs: frames in, a short text for each out, in
// constant memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "casa/generate/penalties.hpp"
#include "casa/generate/sampling.hpp"
#include "casa/model/decoder.hpp"

CASA_NAMESPACE_BEGIN

/// How a stream is captioned. The defaults are those of the CASA authors' live captioner.
struct CaptionerOptions {
  Index max_new_tokens = 20;  ///< of one frame, including its stop token
  /// How a token is drawn; its stop_ids are not read.
  SamplingOptions sampling = {.temperature = 0.4, .top_k = 256, .eos_bias = 0.95};
  EmaRepetitionOptions repetition = {};  ///< penalty 1: none
  NgramBlockOptions ngrams = {};         ///< size 0: none
  /// Tokens that end a frame's text: what eos_bias weighs, and what neither penalty touches. (The
  /// stop_ids of the three options above are set from here.)
  std::vector<Index> stop_ids = {};
  std::vector<int> before_image = {};  ///< text that each frame begins with
  std::vector<int> after_image = {};   ///< text between a frame's image and its caption
  /// The token appended to a caption that was cut. None: the caption ends in the word it was cut
  /// at.
  std::optional<int> cut_id = std::nullopt;
  /// What the stream keeps: a text_window bounds the memory of a stream without end.
  StateOptions state = {.text_window = 4096};

  friend bool operator==(const CaptionerOptions&, const CaptionerOptions&) = default;
};

CASA_NAMESPACE_END

CASA_COMMON_NAMESPACE_BEGIN

/// Whether a frame's caption goes on (open), or why it ended: a stop token was sampled (stopped),
/// or it reached max_new_tokens, or cut() or the next frame ended it (cut).
enum class Caption { open, stopped, cut };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// All that a captioner keeps besides its stream: what saving and restoring one needs.
struct CaptionerState {
  SamplerState sampler = {};           ///< Sampler::state
  EmaRepetitionState repetition = {};  ///< EmaRepetitionPenalty::state
  std::vector<Index> ngrams = {};      ///< NgramBlock::state
  std::vector<int> pending = {};       ///< text that the model has not seen yet
  std::vector<int> ids = {};           ///< the frame's caption so far
  std::int64_t frames = 0;             ///< pushed so far
  std::int64_t newest = -1;            ///< the last token of the text, -1: none
  Caption caption = Caption::stopped;  ///< of the newest frame
  bool has_logits = false;  ///< the next token's logits are known: they are saved with the stream

  friend bool operator==(const CaptionerState&, const CaptionerState&) = default;
};

/// Captions one stream. For each frame: push_frame(), then step() until the caption is no longer
/// open, or caption() for all of them.
///
/// A sampled token goes through the model together with what follows it: with the next step, or, at
/// the end of a frame, in one chunk with the next frame, so that the next image comes after it. The
/// text of the stream is
///   prompt, [before_image, IMAGE, after_image, caption], [before_image, IMAGE, ...
/// where a caption ends in the stop token that was sampled, or in the word it was cut at.
/// The n-gram block sees all of this text, across frames; the repetition penalty counts, for each
/// token drawn, the newest token before it, as the authors' program does.
///
/// A copy is a fork: it goes on as the original would, independently. Assigning an earlier copy
/// rewinds. Once warm, with a text_window, a frame allocates nothing.
template <Scalar T>
class Captioner {
 public:
  /// `model` and `context` must outlive this. Captioners that run at the same time need contexts of
  /// their own (on one thread pool, if they like). Throws casa::error for options that do not fit.
  Captioner(const Decoder<T>& model, const Context& context, CaptionerOptions options)
      : model_(&model),
        context_(&context),
        options_(complete(std::move(options), model.config().vocab_size)),
        stream_(model.new_state(options_.state)),
        sampler_(model.config().vocab_size, options_.sampling),
        repetition_(model.config().vocab_size, options_.repetition),
        ngrams_(model.config().vocab_size, options_.ngrams),
        logits_(1, model.config().vocab_size),
        row_(1, model.config().vocab_size) {
    pending_.reserve(options_.before_image.size() + options_.after_image.size() + 64);
    ids_.reserve(static_cast<std::size_t>((std::min)(options_.max_new_tokens, Index{1} << 16)) + 1);
  }

  /// Appends text to the stream: a prompt, or what a user says between two frames. It goes through
  /// the model together with what follows it. Throws casa::error for ids out of range; no id is
  /// then taken.
  void feed(std::span<const int> ids) {
    for (const int id : ids)
      require(id >= 0 && id < vocab_size(), "Captioner::feed: id: expected [0, ", vocab_size(),
              "), got ", id);
    for (const int id : ids) write(id);
    has_logits_ = false;
  }

  /// Appends the next frame: image_tokens (n, hidden_size) begin a new window, and fusion layers
  /// forget what FusionConfig::history (or a rule) no longer keeps. An open caption is cut.
  /// Everything up to the first logits is computed here. Throws casa::error for shapes that do not
  /// fit; the stream is then as it was, except that the caption stays cut.
  void push_frame(MatrixView<const T> image_tokens, ImageGrid grid = {}) {
    cut();
    const std::size_t before = pending_.size();
    pending_.insert(pending_.end(), options_.before_image.begin(), options_.before_image.end());
    const Insertion image{static_cast<Index>(pending_.size()), image_tokens.rows()};
    pending_.insert(pending_.end(), options_.after_image.begin(), options_.after_image.end());
    try {
      forward({&image, 1}, image_tokens, {&grid, 1}, !options_.after_image.empty());
    } catch (...) {
      pending_.resize(before);
      throw;
    }
    for (const int id : options_.before_image) note(id);
    for (const int id : options_.after_image) note(id);
    ++frames_;
    ids_.clear();
    caption_ = Caption::open;
  }

  /// The next token of the caption; the last of a frame closes it (status()). Throws casa::error
  /// when no caption is open, when no text follows the image, and when a logit is NaN or infinite:
  /// the message names frame and token.
  int step() {
    require(caption_ == Caption::open, "Captioner::step: no caption is open (frame ", frames_, ")");
    if (!has_logits_) {
      require(!pending_.empty(),
              "Captioner::step: no text follows the image (CaptionerOptions::after_image)");
      forward({}, {}, {}, true);
    }
    const int id = draw();
    ids_.push_back(id);
    write(id);
    has_logits_ = false;
    if (is_stop(id)) {
      caption_ = Caption::stopped;
    } else if (static_cast<Index>(ids_.size()) >= options_.max_new_tokens) {
      cut();
    }
    return id;
  }

  /// Steps until the caption is closed or `most` tokens have come; the frame's ids() so far.
  std::span<const int> caption(Index most = (std::numeric_limits<Index>::max)()) {
    for (; caption_ == Caption::open && most > 0; --most) step();
    return ids_;
  }

  /// Ends an open caption where it is (a deadline, say).
  void cut() {
    if (caption_ != Caption::open) return;
    caption_ = Caption::cut;
    if (!options_.cut_id) return;
    ids_.push_back(*options_.cut_id);
    write(*options_.cut_id);
    has_logits_ = false;
  }

  /// Whether the newest frame's caption is open, or how it ended.
  Caption status() const { return caption_; }
  /// The tokens of the newest frame's caption so far, including its stop token or cut_id.
  std::span<const int> ids() const { return ids_; }
  /// Frames pushed so far.
  std::int64_t frames() const { return frames_; }
  /// Text tokens of the stream, including those that have not gone through the model yet.
  std::int64_t text_len() const {
    return stream_.text_len() + static_cast<std::int64_t>(pending_.size());
  }

  /// As given to the constructor.
  const Decoder<T>& model() const { return *model_; }
  /// As given to the constructor, with the stop_ids of sampling and penalties filled in.
  const CaptionerOptions& options() const { return options_; }
  /// The stream's caches and counters.
  const DecoderState<T>& stream() const { return stream_; }
  /// From now on every pass that gives logits shows its attention in `maps`: after step() which
  /// tokens the row looked at that its token was drawn from. (Its windows count from the newest
  /// frame, as long as text stands between frames.) Null: none does. It must outlive the steps;
  /// copies share it. Throws casa::error for maps that the model does not have, and for chunk_rows.
  void set_maps(AttentionMaps<T>* maps) {
    if (maps) detail::check_maps_of_last_row(*maps, model_->config());
    maps_ = maps;
  }
  /// Uses another context from now on, for instance on another thread.
  void use(const Context& context) { context_ = &context; }

  /// Begins a new stream, whose first text token counts as number `start`. Memory is kept.
  void reset(std::int64_t start = 0) {
    stream_.reset();
    if (start != 0) stream_.start_at(start);
    restore_text({.sampler = fresh_sampler()});
  }

  /// What saving this captioner needs besides stream() and logits() (session/session.hpp).
  CaptionerState state() const {
    return {
        sampler_.state(), repetition_.state(), ngrams_.state(), pending_, ids_, frames_, newest_,
        caption_,         has_logits_};
  }
  /// Logits (1 x vocab_size) of the next token; of no meaning unless state().has_logits.
  MatrixView<const T> logits() const { return logits_; }
  /// Continues from a saved captioner: its stream, state and logits. Throws casa::error, and stays
  /// as it is, if they do not fit its options and model.
  void restore(DecoderState<T> stream, const CaptionerState& state, MatrixView<const T> logits) {
    require_equal("Captioner::restore: layers", stream.num_layers(), stream_.num_layers());
    require_equal("Captioner::restore: num_kv_heads", stream.num_kv_heads(),
                  stream_.num_kv_heads());
    require_equal("Captioner::restore: head_dim", stream.head_dim(), stream_.head_dim());
    require(stream.options() == stream_.options(), "Captioner::restore: state options differ");
    for (const auto* ids : {&state.pending, &state.ids})
      for (const int id : *ids)
        require(id >= 0 && id < vocab_size(), "Captioner::restore: id: expected [0, ", vocab_size(),
                "), got ", id);
    require(state.newest >= -1 && state.newest < vocab_size(),
            "Captioner::restore: newest: expected an id or -1, got ", state.newest);
    require(state.frames >= 0, "Captioner::restore: frames must not be negative, got ",
            state.frames);
    if (state.has_logits) {
      require_equal("Captioner::restore: rows of logits", logits.rows(), 1);
      require_equal("Captioner::restore: columns of logits", logits.cols(), vocab_size());
      require_memory("Captioner::restore: logits", logits);
    }
    Captioner other(*this);
    other.restore_text(state);
    other.stream_ = std::move(stream);
    if (state.has_logits) std::copy_n(logits.data(), vocab_size(), other.logits_.data());
    *this = std::move(other);
  }

 private:
  static CaptionerOptions complete(CaptionerOptions o, Index vocab_size) {
    require(o.max_new_tokens >= 1, "CaptionerOptions: max_new_tokens must be positive, got ",
            o.max_new_tokens);
    const auto check_id = [&](const char* name, Index id) {
      require(id >= 0 && id < vocab_size, "CaptionerOptions: ", name, ": expected ids in [0, ",
              vocab_size, "), got ", id);
    };
    for (const Index id : o.stop_ids) check_id("stop_ids", id);
    for (const int id : o.before_image) check_id("before_image", id);
    for (const int id : o.after_image) check_id("after_image", id);
    if (o.cut_id) check_id("cut_id", *o.cut_id);
    o.sampling.stop_ids = o.repetition.stop_ids = o.ngrams.stop_ids = o.stop_ids;
    return o;
  }

  Index vocab_size() const { return model_->config().vocab_size; }
  bool is_stop(int id) const {
    const auto& stops = options_.stop_ids;
    return std::find(stops.begin(), stops.end(), id) != stops.end();
  }

  // Appends a token that has not gone through the model yet.
  void write(int id) {
    pending_.push_back(id);
    note(id);
  }
  void note(int id) {
    ngrams_.observe(id);
    sampler_.observe(id);
    newest_ = id;
  }

  // Takes the pending tokens through the model.
  void forward(std::span<const Insertion> insertions, MatrixView<const T> image_tokens,
               std::span<const ImageGrid> grids, bool wants_logits) {
    StreamInput<T> input{&stream_, pending_, insertions, image_tokens, grids};
    input.logits = wants_logits ? LogitRows::last : LogitRows::none;
    if (wants_logits) input.maps = maps_;
    model_->forward(input, wants_logits ? logits_.view() : MatrixView<T>{}, *context_);
    pending_.clear();
    has_logits_ = wants_logits;
  }

  // If the draw throws, nothing has changed but the penalty's count of the newest token.
  int draw() {
    const std::span<T> row(row_.data(), static_cast<std::size_t>(row_.cols()));
    std::copy_n(logits_.data(), logits_.cols(), row_.data());
    try {
      detail::largest_logit(std::span<const T>(row), "logits");
      if (newest_ >= 0) repetition_.observe(static_cast<Index>(newest_));
      repetition_.apply(row);
      ngrams_.apply(row);
      return static_cast<int>(sampler_.next(row));
    } catch (const error& e) {
      fail("captioner: frame ", frames_, ", token ", ids_.size() + 1, " (text token ", text_len(),
           "): ", e.what());
    }
  }

  SamplerState fresh_sampler() const { return Sampler<T>(vocab_size(), options_.sampling).state(); }
  void restore_text(const CaptionerState& s) {
    sampler_.restore(s.sampler);
    repetition_.restore(s.repetition);
    ngrams_.restore(s.ngrams);
    pending_.assign(s.pending.begin(), s.pending.end());
    ids_.assign(s.ids.begin(), s.ids.end());
    frames_ = s.frames;
    newest_ = s.newest;
    caption_ = s.caption;
    has_logits_ = s.has_logits;
  }

  const Decoder<T>* model_;
  const Context* context_;
  CaptionerOptions options_;
  DecoderState<T> stream_;
  Sampler<T> sampler_;
  EmaRepetitionPenalty repetition_;
  NgramBlock ngrams_;
  std::vector<int> pending_;
  std::vector<int> ids_;
  std::int64_t frames_ = 0;
  std::int64_t newest_ = -1;
  Caption caption_ = Caption::stopped;
  bool has_logits_ = false;
  AttentionMaps<T>* maps_ = nullptr;
  Matrix<T> logits_;  // of the next token
  Matrix<T> row_;     // the same after the penalties
};

CASA_NAMESPACE_END
