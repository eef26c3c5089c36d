// One CASA (or cross-attention) layer by itself, for those who build a model of their own around
// it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "casa/model/stream_rope.hpp"
#include "casa/model/stream_windows.hpp"
#include "casa/model/sublayers.hpp"
#include "casa/stream/layout.hpp"

CASA_NAMESPACE_BEGIN

/// What a fusion layer computes: keys, history, rule, image_rope and gate are read from `fusion`;
/// norm and parameters are the layer's own.
struct FusionLayerConfig {
  Index hidden_size = 0;       ///< columns of x, y and out
  AttentionShape shape = {};   ///< num_heads, num_kv_heads, head_dim
  double rms_norm_eps = 1e-6;  ///< added to the mean square of the RMSNorm
  RopeConfig rope = {};        ///< of q and, as fusion.image_rope says, of the keys
  FusionConfig fusion = {};    ///< the variant
};

/// The weights of a fusion layer.
template <Scalar T>
struct FusionLayerWeights {
  Buffer<T> norm;                 ///< RMSNorm of text and images before q, k, v: hidden_size values
  AttentionWeights<T> attention;  ///< with shapes as there
  T gate = 0;  ///< read where fusion.gate is tanh: the update's factor is its tanh
};

template <Scalar T>
class FusionLayer;

/// The memory of one stream in one fusion layer: keys and values of the windows that later text may
/// still see, and the positions reached. With History::window that is the current window only: its
/// keys are forgotten when the next image begins a new one, so that memory does not grow with the
/// number of images; with History::last(n) the last n. Made by FusionLayer::new_state, changed by
/// append_image and append_text of the same layer; a model with several fusion layers keeps one
/// state for each. A copy goes on by itself. One thread at a time may use a state.
template <Scalar T>
class FusionLayerState {
 public:
  /// A state of no layer: append_image and append_text refuse it.
  FusionLayerState() = default;

  /// Text tokens since the stream began.
  std::int64_t text_len() const { return windows_.text_len(); }
  /// Image tokens since the stream began.
  std::int64_t image_len() const { return windows_.image_len(); }
  /// Tokens whose keys and values are held: images, and with Keys::image_text text too.
  Index num_keys() const { return windows_.num_keys(); }
  /// Bytes of these keys and values.
  Index cache_bytes() const {
    return std::visit([](const auto& c) { return c.bytes(); }, cache_.fusion);
  }

  /// Room for the keys of `count` tokens. A cache that never holds more never allocates again.
  /// Throws casa::error for a negative count.
  void reserve(Index count) {
    std::visit([&](auto& c) { c.reserve(count); }, cache_.fusion);
  }
  /// Back to an empty stream; memory is kept.
  void reset() {
    std::visit([](auto& c) { c.clear(); }, cache_.fusion);
    windows_.reset();
  }

 private:
  template <Scalar U>
  friend class FusionLayer;

  BlockCache<T> cache_;
  detail::StreamWindows windows_;
  // Scratch, kept so that a warm step allocates nothing.
  detail::RopeTables<T> tables_;
  Rope rope_;
};

/// The update that images give to text (arXiv 2512.19535, section 3.1):
///
///   xn, yn = RMSNorm(x), RMSNorm(y)
///   q = Wq xn;  k, v of text = Wk xn, Wv xn;  k, v of images = Wk yn, Wv yn;  rotary embedding
///   F = Wo Attention(q, keys and values that the row sees)   [times tanh(gate)]
///
/// F is to be added to x by the caller. A whole stream goes through forward(); a stream that is
/// still coming goes through append_image and append_text piece by piece, in the order in which it
/// comes, and gets the same updates to rounding:
///
///   FusionLayerState<float> state = layer.new_state();
///   Context context;                                   // kept: a warm one allocates nothing
///   layer.append_image(state, frame_tokens, context);  // (n, hidden_size)
///   layer.append_text(state, x, update, context);      // x, update: (tokens, hidden_size)
///
/// Where rope.scaling is dynamic the frequencies depend on the length of the stream: there the two
/// agree up to max_position_embeddings; beyond it each piece is rotated with the frequencies of the
/// stream's length at its end, and earlier keys stay as they were rotated.
///
/// Immutable once made: any number of threads share one, each with states and a Context of its own.
template <Scalar T>
class FusionLayer {
 public:
  /// Throws casa::error where weights and config do not fit each other.
  FusionLayer(const FusionLayerConfig& config, FusionLayerWeights<T> weights) : config_(config) {
    const Index heads = config_.shape.num_heads, kv_heads = config_.shape.num_kv_heads;
    const Index head_dim = config_.shape.head_dim;
    require(heads >= 1 && kv_heads >= 1 && head_dim >= 1 && heads % kv_heads == 0,
            "FusionLayer: num_kv_heads must divide num_heads, got ", heads, " and ", kv_heads);
    require_equal("FusionLayer: value_dim (as wide as keys, or 0)", config_.shape.output_dim(),
                  head_dim);
    require_equal("FusionLayer: values of norm", weights.norm.size(), config_.hidden_size);
    require_equal("FusionLayer: inputs of q, k, v", weights.attention.qkv.in_features(),
                  config_.hidden_size);
    require_equal("FusionLayer: outputs of q, k, v", weights.attention.qkv.out_features(),
                  (heads + 2 * kv_heads) * head_dim);
    require(weights.attention.qkv.num_pieces() == 3 &&
                weights.attention.qkv.piece_begin(1) == heads * head_dim &&
                weights.attention.qkv.piece_begin(2) == (heads + kv_heads) * head_dim,
            "FusionLayer: q, k, v must be three pieces of ", heads * head_dim, ", ",
            kv_heads * head_dim, " and ", kv_heads * head_dim, " outputs");
    require_equal("FusionLayer: inputs of o", weights.attention.o.in_features(), heads * head_dim);
    require_equal("FusionLayer: outputs of o", weights.attention.o.out_features(),
                  config_.hidden_size);
    require(config_.fusion.keys != Keys::text,
            "FusionLayer: keys must be image or image_text, got text");
    require(
        config_.fusion.gate != Gate::token,
        "FusionLayer: gate must be none or tanh: token weighs fusion against the self-attention "
        "of its block, which Decoder has and this layer has not");
    if (!config_.fusion.rule) check("FusionLayer: history", config_.fusion.history);
    config_.fusion.parameters = config_.fusion.norm = Sharing::own;
    config_.fusion.update = ImageUpdate::none;
    weights_.fusion_norm = std::move(weights.norm);
    weights_.fusion_attention = std::move(weights.attention);
    weights_.fusion_gate = weights.gate;
    if (config_.fusion.image_rope != ImageRope::off) rope_ = make_rope<T>(config_.rope, head_dim);
  }

  /// As given to the constructor, with parameters and norm own, update none.
  const FusionLayerConfig& config() const { return config_; }

  /// The updates of a whole stream: out (text_len x hidden_size) = F of text x (text_len x
  /// hidden_size) and image tokens y (image_len x hidden_size). `grids` are the images that have
  /// tokens, in order: rows * cols tokens each, {0, 0} a plain sequence of all that its window has
  /// left; none at all: every window's tokens are one plain sequence. out must not overlap x or y.
  /// Throws casa::error for shapes and grids that do not fit the layout, and for images without
  /// grids where rope has mrope_sections that read them.
  void forward(const StreamLayout& layout, MatrixView<const T> x, MatrixView<const T> y,
               MatrixView<T> out, const Context& context = {},
               std::span<const ImageGrid> grids = {}) const {
    check_stream(layout, x, y, !grids.empty());
    std::vector<Insertion> insertions;
    std::vector<ImageGrid> insertion_grids;
    list_images(layout, grids, insertions, insertion_grids);
    FusionLayerState<T> state = new_state();
    FusionLayerState<T>* const one = &state;
    append({&one, 1}, {insertions, insertion_grids}, x, y, out, context);
  }

  /// An empty stream. `type` is how its keys and values are stored. Throws casa::error for a 16-bit
  /// type where T is double.
  FusionLayerState<T> new_state(CacheType type = CacheType::native) const {
    FusionLayerState<T> state;
    state.cache_.fusion = make_cache<T>(type, config_.shape.num_kv_heads, config_.shape.head_dim);
    state.windows_ = detail::StreamWindows(config_.fusion.image_rope);
    return state;
  }

  /// An image comes next in the stream: y (its tokens x hidden_size). After text it begins a new
  /// window; after another image it joins that image's window. An image of no tokens begins a
  /// window too. `grid` says how the tokens stand as rows and columns (rows * cols = y.rows(); {0,
  /// 0}: a plain sequence) and may be left out unless rope has mrope_sections that read it. Throws
  /// casa::error for shapes that do not fit and for a state that another layer made; the state is
  /// then as it was.
  void append_image(FusionLayerState<T>& state, MatrixView<const T> y, const Context& context = {},
                    std::optional<ImageGrid> grid = {}) const {
    check_grids(y.rows(), grid.has_value());
    const Insertion insertion{0, y.rows()};
    const ImageGrid g = grid.value_or(ImageGrid{});
    FusionLayerState<T>* const one = &state;
    append({&one, 1}, {{&insertion, 1}, {&g, 1}}, {}, y, {}, context);
  }

  /// Text comes next in the stream: x (tokens x hidden_size); out, of the same size, = F of these
  /// tokens. Each sees the images of the current window (and of those that fusion.history, or a
  /// rule, adds) and, with Keys::image_text, the text there up to itself. One token or many at
  /// once: the result is the same to rounding. out must not overlap x. Throws as append_image does.
  void append_text(FusionLayerState<T>& state, MatrixView<const T> x, MatrixView<T> out,
                   const Context& context = {}) const {
    FusionLayerState<T>* const one = &state;
    append_text({&one, 1}, x, out, context);
  }

  /// The same for several streams at once, whose weights are then read once for all: x and out have
  /// equally many rows of each stream, those of states[0] first. Each stream gets the bits that it
  /// gets alone. Throws casa::error likewise, and for a null pointer, a state given twice, or rows
  /// that cannot be shared out; then all states are as they were.
  void append_text(std::span<FusionLayerState<T>* const> states, MatrixView<const T> x,
                   MatrixView<T> out, const Context& context = {}) const {
    for (std::size_t s = 0; s < states.size(); ++s) {
      require(states[s] != nullptr, "FusionLayer: states[", s, "] is null");
      for (std::size_t other = 0; other < s; ++other)
        require(states[other] != states[s], "FusionLayer: states ", other, " and ", s,
                " are the same stream");
    }
    const auto count = static_cast<Index>(states.size());
    require(count == 0 ? x.rows() == 0 : x.rows() % count == 0,
            "FusionLayer: rows of x must be equally many of each of ", count, " streams, got ",
            x.rows());
    append(states, {}, x, {}, out, context);
  }

 private:
  template <Scalar U>
  friend class FusionLayerGradient;  // model/fusion_layer_backward.hpp

  void check_stream(const StreamLayout& layout, MatrixView<const T> x, MatrixView<const T> y,
                    bool has_grids) const {
    require_equal("FusionLayer: rows of x", x.rows(), layout.text_len());
    require_equal("FusionLayer: rows of y", y.rows(), layout.image_len());
    check_grids(layout.image_len(), has_grids);
    check_rows(x, y);
  }
  void check_rows(MatrixView<const T> x, MatrixView<const T> y) const {
    if (x.rows() > 0) require_equal("FusionLayer: columns of x", x.cols(), config_.hidden_size);
    if (y.rows() > 0) require_equal("FusionLayer: columns of y", y.cols(), config_.hidden_size);
    require_memory("FusionLayer: x", x);
    require_memory("FusionLayer: y", y);
  }
  void check_grids(Index image_tokens, bool given) const {
    require(given || image_tokens == 0 || config_.rope.mrope_sections.empty() ||
                !reads_grids(config_.fusion.image_rope),
            "FusionLayer: mrope_sections ask for the grids of images, none were given ({0, 0} says "
            "that an image is a plain sequence)");
  }

  // The images of a layout as insertions, each with its grid; without grids one a window.
  static void list_images(const StreamLayout& layout, std::span<const ImageGrid> grids,
                          std::vector<Insertion>& insertions, std::vector<ImageGrid>& of_each) {
    std::size_t next = 0;
    for (const Window& w : layout.windows().subspan(1)) {
      Index left = w.image.size();
      const auto add = [&](Index count, ImageGrid grid) {
        insertions.push_back({w.text.begin, count});
        of_each.push_back(grid);
        left -= count;
      };
      if (grids.empty() || left == 0) add(left, {});
      while (left > 0) {  // NOLINT(bugprone-infinite-loop): add() lowers left
        require(next < grids.size(), "FusionLayer: ", grids.size(), " grids leave ", left,
                " image tokens of the layout without one");
        const ImageGrid grid = grids[next++];
        const Index count =
            grid == ImageGrid{} ? left : checked_mul(grid.rows, grid.cols, "FusionLayer: grid");
        require(grid.rows >= 0 && grid.cols >= 0 && count >= 1 && count <= left,
                "FusionLayer: grid ", next - 1, " of ", grid.rows, " x ", grid.cols,
                " tokens does not fit the ", left, " that its window has left");
        add(count, grid);
      }
    }
    require(next == grids.size(), "FusionLayer: ", grids.size(), " grids, but ", next,
            " images in the layout");
  }

  // One chunk of each stream: text x, equally many rows of each, with images y at the insertion
  // points of a single stream.
  void append(std::span<FusionLayerState<T>* const> states, const detail::ChunkImages& images,
              MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> out,
              const Context& context) const {
    require_equal("FusionLayer: rows of out", out.rows(), x.rows());
    check_rows(x, y);
    if (x.rows() > 0) require_equal("FusionLayer: columns of out", out.cols(), config_.hidden_size);
    require_memory("FusionLayer: out", out);
    for (const FusionLayerState<T>* state : states) {
      const bool ours = std::visit(
          [&](const auto& c) {
            return c.num_kv_heads() == config_.shape.num_kv_heads &&
                   c.head_dim() == config_.shape.head_dim;
          },
          state->cache_.fusion);
      require(ours && state->windows_.counter().rope() == config_.fusion.image_rope,
              "FusionLayer: a state is made by new_state of the layer that it is used with");
    }
    if (states.empty()) return;

    const Index rows = x.rows() / static_cast<Index>(states.size());
    for (FusionLayerState<T>* state : states) state->windows_.remember();
    try {
      for (FusionLayerState<T>* state : states) state->windows_.append(rows, images.insertions);
      compute(states, images, sized(x), sized(y), sized(out), context);
    } catch (...) {
      for (FusionLayerState<T>* state : states) {
        state->windows_.roll_back();
        state->windows_.trim_back(state->cache_.fusion);
      }
      throw;
    }
    for (FusionLayerState<T>* state : states) {
      state->windows_.commit(&config_.fusion);
      state->windows_.forget_keys(state->cache_.fusion);
    }
  }

  // What has no rows may have been given without columns.
  template <class U>
  MatrixView<U> sized(MatrixView<U> m) const {
    return m.rows() > 0 ? m : MatrixView<U>(m.data(), 0, config_.hidden_size);
  }

  void compute(std::span<FusionLayerState<T>* const> states, const detail::ChunkImages& images,
               MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> out,
               const Context& context) const {
    Workspace& workspace = context.workspace;
    const Workspace::Frame frame(workspace);
    const auto count = static_cast<Index>(states.size());
    const auto all = detail::RowPositions::take(workspace, 0, x.rows(), y.rows());
    auto* const streams = workspace.take<detail::StreamPass>(count);
    auto** const caches = workspace.take<BlockCache<T>*>(count);
    const Index rows = x.rows() / count;
    const Interval image{0, y.rows()};
    for (Index s = 0; s < count; ++s) {
      FusionLayerState<T>& state = *states[static_cast<std::size_t>(s)];
      const Interval text{s * rows, (s + 1) * rows};
      const detail::RowPositions at{.self = {},
                                    .text = all.text.subspan(static_cast<std::size_t>(text.begin),
                                                             static_cast<std::size_t>(rows)),
                                    .image = all.image};
      state.windows_.prepare(&config_.fusion, images, text, image, at.text, at.image);
      std::construct_at(
          streams + s,
          detail::StreamPass{.text = text,
                             .image = image,
                             .seen = {.text = state.windows_.seen_by_text()},
                             .segments = state.windows_.segments(),
                             .rope = detail::rope_at<T>(rope_, config_.rope, config_.shape.head_dim,
                                                        at.length(), state.rope_)});
      caches[s] = &state.cache_;
    }
    detail::BlockPass<T> pass{.shape = config_.shape,
                              .scale = default_scale(config_.shape.head_dim),
                              .rms_norm_eps = config_.rms_norm_eps,
                              .fusion = &config_.fusion,
                              .streams = {streams, states.size()}};
    // The tables of all rows lie in the first stream's state, which keeps their memory.
    detail::set_fusion_rope(pass, states[0]->tables_, all, context);
    const detail::AttentionSteps<T> steps(pass, context);
    const detail::FusionAttention<T> fusion(steps, weights_, config_.fusion,
                                            {caches, states.size()});
    const auto text_qkv = fusion.project_text(fusion.normed(x));
    const auto image_kv = fusion.project_images(y);
    const auto attended = fusion.attend(text_qkv, image_kv, detail::QueryRows::all, x.rows());
    fusion.project_out(attended.text, out, Accumulate::no);
  }

  FusionLayerConfig config_;
  BlockWeights<T> weights_;
  Rope rope_;
};

CASA_NAMESPACE_END
