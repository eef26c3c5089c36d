// The vision tower of Qwen2.5-VL: patches of pixels in, image tokens of the decoder's width out,
// by the decoder's own blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include "casa/model/block.hpp"
#include "casa/model/weight_reader.hpp"
#include "casa/vision/encoder_cache.hpp"
#include "casa/vision/vision_order.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// gelu(v) = v * Phi(v), in place (the exact one, by erf).
template <Scalar T>
void gelu(MatrixView<T> x, const Context& context) {
  context.executor.for_each(x.rows(), [&](Index r, Index) {
    T* row = x.row(r);
    for (Index c = 0; c < x.cols(); ++c)
      row[c] = row[c] * (T{0.5} * (T{1} + std::erf(row[c] * (T{1} / std::numbers::sqrt2_v<T>))));
  });
}

/// Rows that go through the blocks of a tower together, all patches of some windows: what they see,
/// and their angles.
template <Scalar T>
struct TowerRows {
  std::span<const Index> patch;      ///< which patch of the input each row is
  std::span<const Index> token;      ///< which token each merge_unit rows become
  std::span<const Interval> window;  ///< the rows that each sees in blocks of window attention
  std::span<const Index> windows;    ///< AttentionInput::sequence_offsets of `window`
  std::span<const Interval> frame;   ///< what each sees in blocks of full attention
  const RopeTable<T>* rope = nullptr;

  Index count() const { return static_cast<Index>(patch.size()); }
};

}  // namespace detail

template <Scalar T>
class VisionFrames;
template <Scalar T>
class VisionTowerGradient;

/// Patch embedding, blocks (RMSNorm, attention with 2-D rotary embedding in windows or over the
/// frame, SwiGLU), and a merger of spatial_merge_size^2 patches to one token (arXiv 2502.13923,
/// section 2.1). Immutable once made: any number of threads share one, each with a Scratch and a
/// Context of its own. VisionFrames takes the frames of a video through a tower, and computes what
/// changed.
///
/// In a block of window attention the rows of a window have the bits that they would have if the
/// image had no other window.
///
/// With Precision::storage and Precision::int8 a tower of floats keeps the keys and values of a
/// block as bfloat16, so that attention, too, is computed in what the machine multiplies faster.
template <Scalar T>
class VisionTower {
 public:
  /// Memory of one caller. Kept from call to call: a warm call allocates nothing, and images of the
  /// sizes that came last need neither a new order nor new angles.
  struct Scratch {
    VisionOrder order;              ///< of the images' patches
    RopeTable<T> rope;              ///< one row per patch
    BlockCache<T> cache;            ///< keys and values of the block that is being computed
    std::vector<VisionGrid> grids;  ///< what order and rope are of; none before the first call
    VisionTowerConfig config = {};  ///< the tower that they are of
  };

  /// A tower without weights, to be assigned to.
  VisionTower() = default;
  /// Projections are held as `type`. `precision` is what products round, whatever the Context says
  /// that encode() is given; unset, the Context says it. Throws casa::error for a config out of
  /// range and whatever `source` throws.
  VisionTower(const VisionTowerConfig& config, const WeightSource& source,
              WeightType type = WeightType::native, std::optional<Precision> precision = {})
      : VisionTower(config, vision_tower_spec(config), source, type, precision) {}
  /// The same for tensors that have other names than vision_tower_spec(config) gives them.
  VisionTower(const VisionTowerConfig& config, const VisionTowerSpec& spec,
              const WeightSource& source, WeightType type = WeightType::native,
              std::optional<Precision> precision = {})
      : config_(config), precision_(precision) {
    check(config_);
    rope_ = make_vision_rope<T>(config_.head_dim(), config_.rope_theta);
    WeightReader<T> read(source, type);
    patch_embed_ = read.linear(spec.patch_embed);
    for (const VisionBlockSpec& s : spec.blocks) {
      BlockWeights<T>& b = blocks_.emplace_back();
      b.input_norm = read.vector(s.norm1);
      b.self_attention = {read.linear(s.qkv), read.linear(s.proj)};
      b.post_attention_norm = read.vector(s.norm2);
      b.mlp = read.mlp(s.mlp);
    }
    merger_norm_ = read.vector(spec.merger_norm);
    merger_in_ = read.linear(spec.merger_in);
    merger_out_ = read.linear(spec.merger_out);
  }

  /// As given to the constructor.
  const VisionTowerConfig& config() const { return config_; }
  /// What products round, if that is not left to the Context.
  std::optional<Precision> precision() const { return precision_; }
  /// Bytes of all projections as they are held.
  Index weight_bytes() const {
    Index sum = patch_embed_.bytes() + merger_in_.bytes() + merger_out_.bytes();
    for (const auto& b : blocks_)
      sum += b.self_attention.qkv.bytes() + b.self_attention.o.bytes() + b.mlp.bytes();
    return sum;
  }

  /// patches: those of all images, in the order VisionOrder::assign says (rows x patch_width, or x
  /// frame_width: a still image, each frame of a patch is the same). tokens (sum of num_tokens x
  /// out_hidden_size): the tokens of each image in raster order. last_hidden, unless empty: what
  /// the merger reads (rows x hidden_size), in the order of the windows. Throws casa::error for
  /// sizes that do not fit.
  void encode(MatrixView<const T> patches, std::span<const VisionGrid> grids, MatrixView<T> tokens,
              Scratch& scratch, const Context& context, MatrixView<T> last_hidden = {},
              const Trace<T>* trace = nullptr) const {
    check_sizes(patches, grids, tokens, last_hidden);
    detail::with_precision(context, precision_, [&](const Context& c) {
      run(patches, grids, tokens, scratch, c, last_hidden, trace);
    });
  }

 private:
  friend class VisionFrames<T>;
  friend class VisionTowerGradient<T>;
  using Rows = detail::TowerRows<T>;

  void check_sizes(MatrixView<const T> patches, std::span<const VisionGrid> grids,
                   MatrixView<T> tokens, MatrixView<T> last_hidden) const {
    require(!blocks_.empty(), "vision tower: it was made without weights");
    const Index rows = num_patches(config_, grids);
    require_equal("vision tower: rows of patches", patches.rows(), rows);
    require(patches.cols() == config_.patch_width() || patches.cols() == config_.frame_width(),
            "vision tower: columns of patches must be ", config_.patch_width(), ", or ",
            config_.frame_width(), " for one frame, got ", patches.cols());
    require_equal("vision tower: rows of tokens", tokens.rows(), rows / config_.merge_unit());
    require_equal("vision tower: columns of tokens", tokens.cols(), config_.out_hidden_size);
    if (last_hidden.data()) {
      require_equal("vision tower: rows of last_hidden", last_hidden.rows(), rows);
      require_equal("vision tower: columns of last_hidden", last_hidden.cols(),
                    config_.hidden_size);
    }
    require_memory("vision tower: patches", patches);
    require_memory("vision tower: tokens", tokens);
    require_memory("vision tower: last_hidden", last_hidden);
  }

  void run(MatrixView<const T> patches, std::span<const VisionGrid> grids, MatrixView<T> tokens,
           Scratch& scratch, const Context& context, MatrixView<T> last_hidden,
           const Trace<T>* trace) const {
    arrange(scratch, grids, context);
    const Rows all = rows_of(scratch);
    const Workspace::Frame frame(context.workspace);
    const MatrixView<T> x = context.workspace.matrix<T>(all.count(), config_.hidden_size);
    embed(patches, all, x, context);
    if (trace) (*trace)(-1, "embed", x);
    for (Index b = 0; b < config_.depth; ++b) run_block(b, x, all, scratch.cache, context, trace);
    if (last_hidden.data()) last_hidden.eigen() = x.eigen();
    merge(x, all, tokens, context);
  }

  static Rows rows_of(const Scratch& scratch) {
    const VisionOrder& order = scratch.order;
    return {order.patch, order.token, order.window, order.windows, order.frame, &scratch.rope};
  }

  // The order of the patches and their angles, unless those of the last call serve.
  void arrange(Scratch& scratch, std::span<const VisionGrid> grids, const Context& context) const {
    const std::vector<VisionGrid>& last = scratch.grids;
    if (std::equal(last.begin(), last.end(), grids.begin(), grids.end()) &&
        scratch.config == config_)
      return;
    scratch.grids.clear();  // should one of the next lines throw
    scratch.order.assign(config_, grids);
    scratch.rope.assign(rope_, scratch.order.position, context);
    scratch.config = config_;
    scratch.grids.assign(grids.begin(), grids.end());
  }

  void embed(MatrixView<const T> patches, const Rows& rows, MatrixView<T> x,
             const Context& context) const {
    const Workspace::Frame frame(context.workspace);
    patch_embed_.forward(patches_of(rows, patches, context), x, context);
  }
  // The patch of each row; one of one frame is repeated for the others. In the context's workspace.
  MatrixView<T> patches_of(const Rows& rows, MatrixView<const T> patches,
                           const Context& context) const {
    const Index channel = config_.patch_size * config_.patch_size;
    const Index frames = config_.temporal_patch_size;
    const bool still = patches.cols() != config_.patch_width();
    const MatrixView<T> sorted = context.workspace.matrix<T>(rows.count(), config_.patch_width());
    context.executor.for_each(
        rows.count(),
        [&](Index r, Index) {
          const T* from = patches.row(rows.patch[static_cast<std::size_t>(r)]);
          T* to = sorted.row(r);
          if (!still) {
            std::copy_n(from, patches.cols(), to);
            return;
          }
          for (Index c = 0; c < config_.in_channels; ++c)
            for (Index f = 0; f < frames; ++f)
              std::copy_n(from + c * channel, channel, to + (c * frames + f) * channel);
        },
        16);
    return sorted;
  }

  detail::BlockPass<T> pass_of(const Rows& rows) const {
    return {.shape = config_.attention_shape(),
            .scale = default_scale(config_.head_dim()),
            .rms_norm_eps = config_.rms_norm_eps,
            .self_rope = rows.rope};
  }

  // Block b over the rows x, which see each other and no others.
  void run_block(Index b, MatrixView<T> x, const Rows& rows, BlockCache<T>& cache,
                 const Context& context, const Trace<T>* trace) const {
    detail::StreamPass stream{.text = {0, x.rows()}};
    if (config_.is_full_attention(b)) {
      stream.seen.self = {rows.frame, {}};
    } else {
      stream.seen.self = {rows.window, {}};
      stream.sequences = rows.windows;
    }
    detail::BlockPass<T> pass = pass_of(rows);
    pass.streams = {&stream, 1};
    pass.trace = trace;
    detail::prepare_cache(cache, config_.num_heads, config_.head_dim(), x.rows(), context);
    BlockCache<T>* const caches = &cache;
    detail::block_forward<T>(blocks_[static_cast<std::size_t>(b)], false, b, pass, {&caches, 1}, x,
                             {}, context);
  }

  // merge_unit consecutive rows are read as one row merge_unit times as wide.
  void merge(MatrixView<T> x, const Rows& rows, MatrixView<T> tokens,
             const Context& context) const {
    const Workspace::Frame frame(context.workspace);
    const Index unit = config_.merge_unit(), count = x.rows() / unit, width = unit * x.cols();
    const MatrixView<T> normed = context.workspace.matrix<T>(x.rows(), x.cols());
    rms_norm<T>(x, merger_norm_.span(), config_.rms_norm_eps, normed, context);
    const MatrixView<T> inner = context.workspace.matrix<T>(count, width);
    merger_in_.forward(MatrixView<const T>(normed.data(), count, width), inner, context);
    detail::gelu(inner, context);
    const MatrixView<T> sorted = context.workspace.matrix<T>(count, tokens.cols());
    merger_out_.forward(inner, sorted, context);
    for (Index u = 0; u < count; ++u)
      std::copy_n(sorted.row(u), tokens.cols(),
                  tokens.row(rows.token[static_cast<std::size_t>(u)]));
  }

  VisionTowerConfig config_;
  std::optional<Precision> precision_;
  Rope rope_;
  Linear<T> patch_embed_;
  std::vector<BlockWeights<T>> blocks_;
  Buffer<T> merger_norm_;
  Linear<T> merger_in_, merger_out_;
};

CASA_NAMESPACE_END
