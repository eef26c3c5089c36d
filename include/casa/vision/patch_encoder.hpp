// A small vision encoder with learned positions: patches of a grey image in, image tokens out.
#pragma once

#include <optional>

#include "casa/model/block.hpp"
#include "casa/model/weight_reader.hpp"
#include "casa/vision/encoder_cache.hpp"

CASA_NAMESPACE_BEGIN

/// Square grey images, cut into square patches; blocks of the decoder's form, without rotary
/// embedding, in which every patch sees all patches of its image.
struct PatchEncoderConfig {
  Index image_size = 0;           ///< pixels a side
  Index patch_size = 0;           ///< pixels a side; divides image_size
  Index hidden_size = 0;          ///< values of a patch between blocks
  Index num_hidden_layers = 0;    ///< blocks
  Index num_attention_heads = 0;  ///< divides hidden_size; as many heads of keys and values
  Index intermediate_size = 0;    ///< values of a patch inside the MLP
  Index out_hidden_size = 0;      ///< the decoder's hidden_size
  double rms_norm_eps = 1e-5;     ///< added to the mean square of every RMSNorm, in (0, 1]

  friend bool operator==(const PatchEncoderConfig&, const PatchEncoderConfig&) = default;

  /// Patches of an image: its tokens.
  Index num_patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  /// Values of a head.
  Index head_dim() const { return hidden_size / num_attention_heads; }

  /// A block as a decoder config, from which its tensors follow.
  DecoderConfig block_config() const {
    DecoderConfig c;
    c.hidden_size = hidden_size;
    c.num_hidden_layers = num_hidden_layers;
    c.num_attention_heads = c.num_key_value_heads = num_attention_heads;
    c.head_dim = head_dim();
    c.intermediate_size = intermediate_size;
    c.vocab_size = 1;
    c.rms_norm_eps = rms_norm_eps;
    return c;
  }
};

/// Throws casa::error naming what is out of range.
inline void check(const PatchEncoderConfig& c) {
  const auto range = [](const char* name, Index value, Index high) {
    require(value >= 1 && value <= high, "vision_config: ", name, " must be in [1, ", high,
            "], got ", value);
  };
  range("image_size", c.image_size, 16384);
  range("patch_size", c.patch_size, c.image_size);
  range("num_attention_heads", c.num_attention_heads, 1024);
  range("hidden_size", c.hidden_size, 131072);
  range("out_hidden_size", c.out_hidden_size, 131072);
  require(c.image_size % c.patch_size == 0,
          "vision_config: patch_size must divide image_size, got ", c.patch_size, " and ",
          c.image_size);
  require(c.hidden_size % c.num_attention_heads == 0,
          "vision_config: num_attention_heads must divide hidden_size, got ", c.num_attention_heads,
          " and ", c.hidden_size);
  check(c.block_config());
}

/// The tensors of a patch encoder.
struct PatchEncoderSpec {
  LinearSpec patch_embed;         ///< weight (hidden_size, patch_size^2)
  TensorSpec pos_embed;           ///< (num_patches, hidden_size)
  std::vector<BlockSpec> blocks;  ///< num_hidden_layers of them
  TensorSpec norm;                ///< (hidden_size)
  LinearSpec proj;                ///< weight (out_hidden_size, hidden_size)
};

/// The tensors of an encoder; their names begin with `prefix`.
inline PatchEncoderSpec patch_encoder_spec(const PatchEncoderConfig& c,
                                           const std::string& prefix = "vision.") {
  PatchEncoderSpec s;
  s.patch_embed =
      linear_spec(prefix + "patch_embed", c.patch_size * c.patch_size, c.hidden_size, true);
  s.pos_embed = {prefix + "pos_embed", c.num_patches(), c.hidden_size};
  for (Index l = 0; l < c.num_hidden_layers; ++l)
    s.blocks.push_back(block_spec(c.block_config(), l, prefix + "layers." + std::to_string(l)));
  s.norm = {prefix + "norm.weight", c.hidden_size, 0};
  s.proj = linear_spec(prefix + "proj", c.hidden_size, c.out_hidden_size, true);
  return s;
}

/// Calls f(spec) for every tensor of the encoder, in the order of computation.
template <class F>
void for_each_tensor(const PatchEncoderSpec& s, F&& f) {
  for_each_tensor(s.patch_embed, f);
  f(s.pos_embed);
  for (const BlockSpec& b : s.blocks) for_each_tensor(b, f);
  f(s.norm);
  for_each_tensor(s.proj, f);
}

template <Scalar T>
class PatchEncoderGradient;

/// Patch embedding with learned positions, blocks, norm, and a projection to the decoder's width.
/// Immutable once made: any number of threads share one, each with a Scratch and a Context of its
/// own.
template <Scalar T>
class PatchEncoder {
 public:
  /// Memory of one caller. Kept from call to call, so that a warm call allocates nothing.
  struct Scratch {
    BlockCache<T> cache;              ///< keys and values of the block that is being computed
    std::vector<Interval> intervals;  ///< one per patch: the patches of its image
  };

  /// An encoder without weights, to be assigned to.
  PatchEncoder() = default;
  /// Projections are held as `type`. `precision` is what products round, whatever the Context says
  /// that encode() is given; unset, the Context says it. Throws casa::error for a config out of
  /// range and whatever `source` throws.
  PatchEncoder(const PatchEncoderConfig& config, const WeightSource& source,
               WeightType type = WeightType::native, std::optional<Precision> precision = {})
      : config_(config), precision_(precision) {
    check(config_);
    const PatchEncoderSpec spec = patch_encoder_spec(config_);
    WeightReader<T> read(source, type);
    patch_embed_ = read.linear(spec.patch_embed);
    pos_embed_ = read.matrix(spec.pos_embed);
    for (const BlockSpec& b : spec.blocks) blocks_.push_back(read.block(b));
    norm_ = read.vector(spec.norm);
    proj_ = read.linear(spec.proj);
  }

  /// As given to the constructor.
  const PatchEncoderConfig& config() const { return config_; }
  /// What products round, if that is not left to the Context.
  std::optional<Precision> precision() const { return precision_; }

  /// images: one a row, 8-bit pixels in raster order (n x image_size^2). tokens: the patches of
  /// image i in raster order from row i * num_patches on (n * num_patches x out_hidden_size).
  /// Throws casa::error for other sizes.
  void encode(MatrixView<const std::uint8_t> images, MatrixView<T> tokens, Scratch& scratch,
              const Context& context) const {
    require(!blocks_.empty(), "encode: the encoder was made without weights");
    require_memory("encode: images", images);
    require_memory("encode: tokens", tokens);
    const Index rows = checked_mul(images.rows(), config_.num_patches(), "encode: patches");
    require_equal("encode: pixels of an image", images.cols(),
                  config_.image_size * config_.image_size);
    require_equal("encode: rows of tokens", tokens.rows(), rows);
    require_equal("encode: columns of tokens", tokens.cols(), config_.out_hidden_size);
    detail::with_precision(context, precision_,
                           [&](const Context& c) { run(images, tokens, scratch, c); });
  }

 private:
  friend class PatchEncoderGradient<T>;

  void run(MatrixView<const std::uint8_t> images, MatrixView<T> tokens, Scratch& scratch,
           const Context& context) const {
    const Index patches = config_.num_patches(), rows = tokens.rows();
    const Workspace::Frame frame(context.workspace);
    const MatrixView<T> x = context.workspace.matrix<T>(rows, config_.hidden_size);
    {
      const Workspace::Frame inner(context.workspace);
      embed(pixels_of_patches(images, context), x, context);
    }
    scratch.intervals.resize(static_cast<std::size_t>(rows));
    set_intervals(patches, scratch.intervals);
    const DecoderConfig block = config_.block_config();
    const detail::StreamPass stream{.text = {0, rows}, .seen = {.self = {scratch.intervals, {}}}};
    const detail::BlockPass<T> pass{.shape = block.attention_shape(),
                                    .scale = default_scale(block.head_dim),
                                    .rms_norm_eps = block.rms_norm_eps,
                                    .streams = {&stream, 1}};
    BlockCache<T>* cache = &scratch.cache;
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      detail::prepare_cache(scratch.cache, config_.num_attention_heads, config_.head_dim(), rows,
                            context);
      detail::block_forward<T>(blocks_[l], false, static_cast<Index>(l), pass, {&cache, 1}, x, {},
                               context);
    }
    rms_norm<T>(x, norm_.span(), config_.rms_norm_eps, x, context);
    proj_.forward(x, tokens, context);
  }

  // Every patch sees all patches of its image.
  static void set_intervals(Index patches, std::span<Interval> of_rows) {
    for (std::size_t r = 0; r < of_rows.size(); ++r) {
      const Index first = static_cast<Index>(r) / patches * patches;
      of_rows[r] = {first, first + patches};
    }
  }

  // Row r: the pixels of patch r in raster order, in [0, 1]. In the context's workspace.
  MatrixView<T> pixels_of_patches(MatrixView<const std::uint8_t> images,
                                  const Context& context) const {
    const Index patch = config_.patch_size, side = config_.image_size, across = side / patch;
    const Index patches = config_.num_patches(), rows = images.rows() * patches;
    const MatrixView<T> pixels = context.workspace.matrix<T>(rows, patch * patch);
    for (Index r = 0; r < rows; ++r) {
      const std::uint8_t* image = images.row(r / patches);
      const Index top = r % patches / across * patch, left = r % across * patch;
      for (Index i = 0; i < patch * patch; ++i)
        pixels(r, i) = static_cast<T>(image[(top + i / patch) * side + left + i % patch]) / T{255};
    }
    return pixels;
  }
  void embed(MatrixView<const T> pixels, MatrixView<T> x, const Context& context) const {
    patch_embed_.forward(pixels, x, context);
    for (Index r = 0; r < x.rows(); ++r)
      x.eigen().row(r) += pos_embed_.eigen().row(r % config_.num_patches());
  }

  PatchEncoderConfig config_;
  std::optional<Precision> precision_;
  Linear<T> patch_embed_;
  Matrix<T> pos_embed_;
  std::vector<BlockWeights<T>> blocks_;
  Buffer<T> norm_;
  Linear<T> proj_;
};

CASA_NAMESPACE_END
