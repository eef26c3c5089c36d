// The generation loop: prompts in, tokens out one by one, for one stream or several together.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "casa/generate/sampling.hpp"
#include "casa/model/decoder.hpp"

CASA_NAMESPACE_BEGIN

/// A prompt as the model takes it: token ids, with images at insertion points between them.
template <Scalar T>
struct PromptInput {
  std::span<const int> ids = {};               ///< text tokens, each in [0, vocab_size)
  std::span<const Insertion> insertions = {};  ///< positions relative to ids
  MatrixView<const T> image_tokens = {};       ///< (sum of num_tokens, hidden_size), in order
  std::span<const ImageGrid> grids = {};       ///< one per insertion, or none
};

/// How streams are continued.
struct GenerateOptions {
  SamplingOptions sampling = {};  ///< how tokens are drawn
  StateOptions state = {};        ///< what the stream keeps of its past
  /// Text tokens of a prompt that go through the model at once. Bounds memory, not results.
  Index prefill_chunk = 512;
  /// Most text tokens of a stream; 0: no bound. A prompt beyond it is a casa::error, and so is
  /// advance() where has_room() is false; generate() ends there (Stop::length).
  Index context = 0;
};

/// One stream that is being continued: feed a prompt, then sample and advance in turn. Its tokens
/// depend on its model, options and prompts alone, not on chunks, threads or other streams. One
/// thread at a time may use it.
template <Scalar T>
class Generator {
 public:
  /// `model` must outlive this. Throws casa::error for options that do not fit it.
  explicit Generator(const Decoder<T>& model, const GenerateOptions& options = {})
      : model_(&model),
        options_(options),
        state_(model.new_state(options.state)),
        sampler_(model.config().vocab_size, options.sampling),
        logits_(1, model.config().vocab_size) {
    require(options.prefill_chunk >= 1, "GenerateOptions: prefill_chunk must be positive, got ",
            options.prefill_chunk);
    require(options.context >= 0, "GenerateOptions: context must not be negative, got ",
            options.context);
  }

  /// Throws casa::error where feed() would, for a prompt whose ids, images or length do not fit.
  void check_prompt(const PromptInput<T>& prompt) {
    require(!prompt.ids.empty(), "feed: the prompt has no token");
    require_room(static_cast<Index>(prompt.ids.size()) + (pending_ >= 0));
    const StreamInput<T> whole{&state_,      prompt.ids,     prompt.insertions, prompt.image_tokens,
                               prompt.grids, LogitRows::none};
    check<T>(std::span(&whole, 1), model_->config(), {});
  }

  /// Takes a prompt (or the next turn of a conversation) through the model. Throws casa::error for
  /// ids, images and lengths that do not fit; a prompt that is too long changes nothing.
  void feed(const PromptInput<T>& prompt, const Context& context) {
    check_prompt(prompt);
    if (pending_ >= 0) advance(context);
    const auto length = static_cast<Index>(prompt.ids.size());
    std::size_t next = 0;
    Index images = 0;
    for (Index begin = 0; begin < length; begin += options_.prefill_chunk) {
      const Index end = (std::min)(length, begin + options_.prefill_chunk);
      // An insertion point belongs to the text after it; the last chunk takes what stands at the
      // end.
      insertions_.clear();
      const std::size_t first = next;
      Index count = 0;
      for (; next < prompt.insertions.size() &&
             (prompt.insertions[next].position < end || end == length);
           ++next) {
        insertions_.push_back(
            {prompt.insertions[next].position - begin, prompt.insertions[next].num_tokens});
        count += prompt.insertions[next].num_tokens;
      }
      StreamInput<T> input{&state_,
                           prompt.ids.subspan(static_cast<std::size_t>(begin),
                                              static_cast<std::size_t>(end - begin)),
                           insertions_, prompt.image_tokens.middle_rows(images, count)};
      if (!prompt.grids.empty()) input.grids = prompt.grids.subspan(first, next - first);
      input.logits = end == length ? LogitRows::last : LogitRows::none;
      if (end == length) input.maps = maps_;
      model_->forward(input, end == length ? logits_.view() : MatrixView<T>{}, context, trace_);
      images += count;
    }
    for (const int id : prompt.ids) sampler_.observe(id);
  }

  /// Appends one image (num_tokens x hidden_size) to the stream. The text that follows sees it; the
  /// logits() that are there already were computed without it. Throws casa::error for shapes that
  /// do not fit.
  void push_image(MatrixView<const T> tokens, const Context& context, ImageGrid grid = {}) {
    const Insertion insertion{0, tokens.rows()};
    StreamInput<T> input{&state_, {}, {&insertion, 1}, tokens, {&grid, 1}, LogitRows::none};
    check<T>(std::span(&input, 1), model_->config(), {});
    if (pending_ >= 0) advance(context);
    model_->forward(input, {}, context, trace_);
  }

  /// Samples the next token, which advance() (or feed) then takes through the model. Throws
  /// casa::error before the first feed, twice for one token, and as Sampler::next does.
  int sample() {
    require(pending_ < 0 && state_.text_len() > 0, "sample: ",
            pending_ < 0 ? "nothing has been fed" : "the last token has not been taken further");
    const auto row = std::span<const T>(logits_.data(), static_cast<std::size_t>(logits_.cols()));
    return pending_ = static_cast<int>(sampler_.next(row));
  }

  /// Takes the sampled token through the model. Throws casa::error unless there is one, and beyond
  /// GenerateOptions::context.
  void advance(const Context& context) {
    Generator* self = this;
    advance(std::span<Generator* const>(&self, 1), context);
  }

  /// The same for several streams of one model at once: their weights are read once for all. Throws
  /// casa::error likewise, and for a null pointer, a stream given twice, or two models.
  static void advance(std::span<Generator* const> streams, const Context& context) {
    if (streams.empty()) return;
    require(streams[0] != nullptr, "advance: a stream is null");
    const Decoder<T>& model = *streams[0]->model_;
    std::vector<StreamInput<T>>& inputs = streams[0]->inputs_;
    inputs.clear();
    for (Generator* g : streams) {
      require(g != nullptr, "advance: a stream is null");
      require(g->model_ == &model, "advance: streams of different models");
      require(g->pending_ >= 0, "advance: a stream has sampled no token");
      g->require_room(1);
      inputs.push_back({&g->state_, {&g->pending_, 1}});
      inputs.back().maps = g->maps_;
    }
    const Workspace::Frame frame(context.workspace);
    const MatrixView<T> logits =
        context.workspace.matrix<T>(static_cast<Index>(streams.size()), model.config().vocab_size);
    model.forward(inputs, logits, context, streams[0]->trace_);
    for (std::size_t s = 0; s < streams.size(); ++s) {
      std::copy_n(logits.row(static_cast<Index>(s)), logits.cols(), streams[s]->logits_.data());
      streams[s]->pending_ = -1;
    }
  }

  /// Whether options().context has room for `count` more text tokens.
  bool has_room(Index count = 1) const {
    return options_.context == 0 || state_.text_len() + count <= options_.context;
  }

  /// From now on every pass calls `trace` with its hidden states; null: none does. It must outlive
  /// the passes. When streams advance together, the first one's trace is called with all their
  /// rows.
  void set_trace(const Trace<T>* trace) { trace_ = trace; }

  /// From now on every pass that gives logits shows its attention in `maps`: which tokens the row
  /// looked at that logits(), and so the next sample(), come from. Null: none does. It must outlive
  /// the passes; streams that advance together need maps of their own. Copies share it. Throws
  /// casa::error for maps that the model does not have, and for chunk_rows.
  void set_maps(AttentionMaps<T>* maps) {
    if (maps) detail::check_maps_of_last_row(*maps, model_->config());
    maps_ = maps;
  }

  /// Logits (vocab_size) of the next token.
  std::span<const T> logits() const {
    return {logits_.data(), static_cast<std::size_t>(logits_.cols())};
  }
  /// The stream's caches and counters.
  const DecoderState<T>& state() const { return state_; }
  /// As given to the constructor.
  const GenerateOptions& options() const { return options_; }

 private:
  void require_room(Index count) const {
    require(has_room(count), "context: ", state_.text_len() + count,
            " text tokens are more than the ", options_.context, " asked for");
  }

  const Decoder<T>* model_;
  GenerateOptions options_;
  DecoderState<T> state_;
  Sampler<T> sampler_;
  Matrix<T> logits_;
  int pending_ = -1;
  const Trace<T>* trace_ = nullptr;
  AttentionMaps<T>* maps_ = nullptr;
  std::vector<Insertion> insertions_;   // scratch of feed
  std::vector<StreamInput<T>> inputs_;  // scratch of advance
};

CASA_NAMESPACE_END

CASA_COMMON_NAMESPACE_BEGIN

/// Why a text ended: it reached max_new_tokens or its context, a stop id was sampled, or the
/// callback returned false.
enum class Stop { length, stop_id, callback };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// The continuation of a prompt.
struct Generation {
  std::vector<int> ids;      ///< the new tokens, without the stop token that ended them
  Stop stop = Stop::length;  ///< why they ended
  int stop_id = -1;          ///< the stop token, with Stop::stop_id
};

/// Called with the prompt's number and each new token; returning false ends that stream.
using OnToken = std::function<bool(std::size_t stream, int id)>;

/// Called with the number of a stream that has ended, and all of its new tokens.
using OnEnd = std::function<void(std::size_t stream, Generation generation)>;

/// Streams of one model that go on together and begin and end when they like (continuous batching):
/// a step takes one token of each through the model in one pass, which reads the weights once.
///
///   BatchGenerator<float> batch(model);
///   for (std::size_t next = 0; next < prompts.size() || batch.num_streams() > 0;) {
///     for (; next < prompts.size() && batch.num_streams() < 16; ++next)
///       batch.add(next, prompts[next], options, 128, context);
///     batch.step(context, [&](std::size_t stream, Generation g) { results[stream] = g; });
///   }
///
/// What a stream gives does not depend on what goes on beside it. One thread at a time may use it.
template <Scalar T>
class BatchGenerator {
 public:
  /// `model` must outlive this.
  explicit BatchGenerator(const Decoder<T>& model) : model_(&model) {}

  /// How many streams go on.
  std::size_t num_streams() const { return streams_.size(); }

  /// Takes a prompt through the model; steps then continue it by at most max_new_tokens (at least
  /// 1). `stream` is the caller's number for it. Throws casa::error for a number that is in use and
  /// a prompt or options that do not fit; the other streams are as they were.
  void add(std::size_t stream, const PromptInput<T>& prompt, const GenerateOptions& options,
           Index max_new_tokens, const Context& context) {
    for (const Stream& s : streams_)
      require(s.number != stream, "BatchGenerator::add: stream ", stream, " goes on already");
    require(max_new_tokens >= 1, "BatchGenerator::add: max_new_tokens must be positive, got ",
            max_new_tokens);
    Stream added{stream, std::make_unique<Generator<T>>(*model_, options), max_new_tokens};
    added.generator->feed(prompt, context);
    streams_.push_back(std::move(added));
  }

  /// Ends a stream before its end. Throws casa::error unless it goes on.
  void remove(std::size_t stream) {
    const auto at = std::find_if(streams_.begin(), streams_.end(),
                                 [&](const Stream& s) { return s.number == stream; });
    require(at != streams_.end(), "BatchGenerator::remove: there is no stream ", stream);
    streams_.erase(at);
  }

  /// One token of every stream. It is sampled and, unless it is a stop id, given to `on_token`; a
  /// stream ends by its stop ids, max_new_tokens, its context or on_token, and is then given to
  /// `on_end`. All others are taken through the model together. Throws casa::error as
  /// Generator::sample does, with the number of the stream, and whatever the callbacks throw; no
  /// token is lost then, and the next step goes on from there.
  void step(const Context& context, const OnEnd& on_end, const OnToken& on_token = {}) {
    for (Stream& s : streams_)
      if (!s.sampled) sample(s, on_token);
    for (std::size_t i = 0; i < streams_.size();) {
      if (!streams_[i].ended) {
        ++i;
        continue;
      }
      Stream ended = std::move(streams_[i]);
      streams_.erase(streams_.begin() + static_cast<std::ptrdiff_t>(i));
      if (on_end) on_end(ended.number, std::move(ended.generation));
    }
    continuing_.clear();
    for (Stream& s : streams_) continuing_.push_back(s.generator.get());
    Generator<T>::advance(continuing_, context);
    for (Stream& s : streams_) s.sampled = false;
  }

 private:
  struct Stream {
    std::size_t number;
    std::unique_ptr<Generator<T>> generator;
    Index max_new_tokens;
    Generation generation = {};
    bool sampled = false;  // since the last pass
    bool ended = false;    // by what was sampled
  };

  static void sample(Stream& s, const OnToken& on_token) {
    Generation& g = s.generation;
    int id = 0;
    try {
      id = s.generator->sample();
    } catch (const error& e) {
      fail("stream ", s.number, ": ", e.what());
    }
    s.sampled = true;
    const auto& stops = s.generator->options().sampling.stop_ids;
    if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
      g.stop = Stop::stop_id;
      g.stop_id = id;
      s.ended = true;
      return;
    }
    g.ids.push_back(id);
    s.ended = static_cast<Index>(g.ids.size()) == s.max_new_tokens || !s.generator->has_room();
    if (on_token && !on_token(s.number, id)) {
      g.stop = Stop::callback;
      s.ended = true;
    }
  }

  const Decoder<T>* model_;
  std::vector<Stream> streams_;
  std::vector<Generator<T>*> continuing_;  // scratch of step
};

/// Continues prompts[s] by at most max_new_tokens with options[s], until each samples one of its
/// stop ids or its context is full. At most max_streams of them go on together (0: all), in order;
/// more cost memory for their caches, fewer read the weights more often, and each gets the same
/// tokens. Throws casa::error as Generator does, before any is continued.
template <Scalar T>
std::vector<Generation> generate(const Decoder<T>& model, std::span<const PromptInput<T>> prompts,
                                 std::span<const GenerateOptions> options, Index max_new_tokens,
                                 const Context& context, const OnToken& on_token = {},
                                 std::size_t max_streams = 0) {
  require_equal("generate: options (one per prompt)", options.size(), prompts.size());
  require(max_new_tokens >= 0, "generate: max_new_tokens must not be negative, got ",
          max_new_tokens);
  for (std::size_t s = 0; s < prompts.size(); ++s)
    Generator<T>(model, options[s]).check_prompt(prompts[s]);
  std::vector<Generation> results(prompts.size());
  if (max_new_tokens == 0) return results;
  const std::size_t limit = max_streams == 0 ? prompts.size() : max_streams;
  BatchGenerator<T> batch(model);
  const OnEnd keep = [&](std::size_t s, Generation g) { results[s] = std::move(g); };
  for (std::size_t next = 0; next < prompts.size() || batch.num_streams() > 0;) {
    for (; next < prompts.size() && batch.num_streams() < limit; ++next)
      batch.add(next, prompts[next], options[next], max_new_tokens, context);
    batch.step(context, keep, on_token);
  }
  return results;
}

/// The same for one prompt.
template <Scalar T>
Generation generate(const Decoder<T>& model, const PromptInput<T>& prompt,
                    const GenerateOptions& options, Index max_new_tokens, const Context& context,
                    const OnToken& on_token = {}) {
  return generate<T>(model, std::span(&prompt, 1), std::span(&options, 1), max_new_tokens, context,
                     on_token)[0];
}

CASA_NAMESPACE_END
