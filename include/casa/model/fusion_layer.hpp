// One CASA (or cross-attention) layer by itself, for those who build a model of their own around
// it.
#pragma once

#include <numeric>

#include "casa/model/stream_rope.hpp"
#include "casa/stream/layout.hpp"

CASA_NAMESPACE_BEGIN

/// What a fusion layer computes: keys, history, image_rope and gate are read from `fusion`; norm
/// and parameters are the layer's own.
struct FusionLayerConfig {
  Index hidden_size = 0;
  AttentionShape shape = {};
  double rms_norm_eps = 1e-6;
  RopeConfig rope = {};
  FusionConfig fusion = {};
};

template <Scalar T>
struct FusionLayerWeights {
  Buffer<T> norm;                 // hidden_size
  AttentionWeights<T> attention;  // hidden_size -> q, k, v; num_heads * head_dim -> hidden_size
  T gate = 0;                     // before tanh, where fusion.gate is tanh
};

/// The update that images give to the text of a whole stream (arXiv 2512.19535, section 3.1):
///
///   xn, yn = RMSNorm(x), RMSNorm(y)
///   q = Wq xn;  k, v of text = Wk xn, Wv xn;  k, v of images = Wk yn, Wv yn;  rotary embedding
///   F = Wo Attention(q, keys and values that the row sees)   [times tanh(gate)]
///
/// Immutable once made: any number of threads share one.
template <Scalar T>
class FusionLayer {
 public:
  /// Throws casa::error where weights and config do not fit.
  FusionLayer(const FusionLayerConfig& config, FusionLayerWeights<T> weights) : config_(config) {
    const auto& [heads, kv_heads, head_dim] = config_.shape;
    require(heads >= 1 && kv_heads >= 1 && head_dim >= 1 && heads % kv_heads == 0,
            "FusionLayer: num_kv_heads must divide num_heads, got ", heads, " and ", kv_heads);
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
    require(config_.fusion.keys != Keys::text, "FusionLayer: keys must be image or image_text");
    config_.fusion.parameters = config_.fusion.norm = Sharing::own;
    config_.fusion.update = ImageUpdate::none;
    weights_.fusion_norm = std::move(weights.norm);
    weights_.fusion_attention = std::move(weights.attention);
    weights_.fusion_gate = weights.gate;
    if (config_.fusion.image_rope != ImageRope::off) rope_ = make_rope<T>(config_.rope, head_dim);
  }

  const FusionLayerConfig& config() const { return config_; }

  /// out (text_len x hidden_size) = F of text x (text_len x hidden_size) and image tokens y
  /// (image_len x hidden_size). `grids` are the images that have tokens, in order, as a decoder is
  /// given them: rows * cols tokens each, {0, 0} a plain sequence of all that its window has left;
  /// none at all: every window's tokens are one plain sequence. Throws casa::error for shapes and
  /// grids that do not fit the layout, and for images without grids where rope has mrope_sections.
  void forward(const StreamLayout& layout, MatrixView<const T> x, MatrixView<const T> y,
               MatrixView<T> out, const Context& context = {},
               std::span<const ImageGrid> grids = {}) const {
    require_equal("FusionLayer: rows of x", x.rows(), layout.text_len());
    require_equal("FusionLayer: rows of y", y.rows(), layout.image_len());
    require_equal("FusionLayer: rows of out", out.rows(), layout.text_len());
    if (x.rows() > 0) require_equal("FusionLayer: columns of x", x.cols(), config_.hidden_size);
    if (y.rows() > 0) require_equal("FusionLayer: columns of y", y.cols(), config_.hidden_size);
    if (x.rows() > 0) require_equal("FusionLayer: columns of out", out.cols(), config_.hidden_size);

    require_memory("FusionLayer: x", x);
    require_memory("FusionLayer: y", y);
    require_memory("FusionLayer: out", out);

    const FusionConfig& f = config_.fusion;
    require(!grids.empty() || layout.image_len() == 0 || config_.rope.mrope_sections.empty() ||
                !reads_grids(f.image_rope),
            "FusionLayer: mrope_sections ask for the grids of images, none were given ({0, 0} says "
            "that an image is a plain sequence)");
    const Interval text{0, layout.text_len()}, images{0, layout.image_len()};
    std::vector<Interval> intervals(static_cast<std::size_t>(text.size()));
    text_intervals(layout, text, f.keys, f.history, intervals);
    std::vector<Position> text_positions(static_cast<std::size_t>(text.size()));
    std::vector<Position> image_positions(static_cast<std::size_t>(images.size()));
    PositionCounter counter(f.image_rope);
    std::vector<KeyRun> runs;
    std::size_t next_grid = 0;
    for_each_piece(layout, 0, 0, [&](bool image, Interval piece) {
      runs.push_back({image, piece});
      auto& positions = image ? image_positions : text_positions;
      const auto span = std::span(positions).subspan(static_cast<std::size_t>(piece.begin),
                                                     static_cast<std::size_t>(piece.size()));
      image ? count_images(counter, span, grids, next_grid) : counter.text(span);
    });
    require(next_grid == grids.size(), "FusionLayer: ", grids.size(), " grids, but ", next_grid,
            " images in the layout");

    RopeTable<T> text_rope, image_rope;
    Rope rope = rope_;
    set_length<T>(rope, config_.rope, config_.shape.head_dim,
                  RowPositions{{}, text_positions, image_positions}.length());
    const StreamPass stream{text, images, {}, intervals, {}, runs};
    BlockPass<T> pass;
    pass.shape = config_.shape;
    pass.scale = default_scale(config_.shape.head_dim);
    pass.rms_norm_eps = config_.rms_norm_eps;
    pass.fusion = &f;
    pass.streams = {&stream, 1};
    if (f.image_rope != ImageRope::off) {
      text_rope.assign(rope, text_positions, context);
      pass.text_rope = &text_rope;
      if (f.image_rope != ImageRope::none) {
        image_rope.assign(rope, image_positions, context);
        pass.image_rope = &image_rope;
      }
    }
    BlockCache<T> cache{{}, KvCache<T>(config_.shape.num_kv_heads, config_.shape.head_dim)};
    BlockCache<T>* caches = &cache;
    // Neither x nor y is written: only the update is, and images are not updated.
    const auto writable = [](MatrixView<const T> v) {
      return MatrixView<T>(const_cast<T*>(v.data()), v.rows(), v.cols(), v.stride());
    };
    detail::BlockForward<T>(weights_, true, 0, pass, {&caches, 1}, writable(x), writable(y),
                            context)
        .fusion_update(out);
  }

 private:
  // The images of one window, each by its grid; all of them at once where there are no grids.
  static void count_images(PositionCounter& counter, std::span<Position> positions,
                           std::span<const ImageGrid> grids, std::size_t& next) {
    if (grids.empty()) return counter.image({}, positions);
    while (!positions.empty()) {
      require(next < grids.size(), "FusionLayer: ", grids.size(), " grids leave ", positions.size(),
              " image tokens of the layout without one");
      const ImageGrid grid = grids[next++];
      const Index left = static_cast<Index>(positions.size());
      const Index count =
          grid == ImageGrid{} ? left : checked_mul(grid.rows, grid.cols, "FusionLayer: grid");
      require(grid.rows >= 0 && grid.cols >= 0 && count >= 1 && count <= left, "FusionLayer: grid ",
              next - 1, " of ", grid.rows, " x ", grid.cols, " tokens does not fit the ", left,
              " that its window has left");
      counter.image(grid, positions.first(static_cast<std::size_t>(count)));
      positions = positions.subspan(static_cast<std::size_t>(count));
    }
  }

  FusionLayerConfig config_;
  BlockWeights<T> weights_;
  Rope rope_;
};

CASA_NAMESPACE_END
