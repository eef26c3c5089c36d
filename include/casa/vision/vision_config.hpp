// The vision tower of Qwen2.5-VL (arXiv 2502.13923): its sizes and its tensors.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "casa/model/weights.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// An image or a video in patches: frames (in steps of temporal_patch_size), rows, columns.
struct VisionGrid {
  Index t = 1;  ///< frames / temporal_patch_size; 1 for an image
  Index h = 0;  ///< rows of patches
  Index w = 0;  ///< columns of patches
  CASA_COMMON_INLINE friend bool operator==(const VisionGrid&, const VisionGrid&) = default;
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// The tower, in the names of published configs.
struct VisionTowerConfig {
  Index depth = 32;                ///< blocks
  Index hidden_size = 1280;        ///< values of a patch between blocks
  Index num_heads = 16;            ///< divides hidden_size; as many heads of keys and values
  Index intermediate_size = 3420;  ///< values of a patch inside the MLP
  Index out_hidden_size = 0;       ///< the decoder's hidden_size
  Index in_channels = 3;           ///< values of a pixel
  Index patch_size = 14;           ///< pixels a side
  Index temporal_patch_size = 2;   ///< frames a patch
  Index spatial_merge_size = 2;    ///< patches a side that become one token
  Index window_size = 112;         ///< pixels a side of an attention window
  /// Blocks that attend over the whole frame; the others attend in windows.
  std::vector<Index> fullatt_block_indexes = {7, 15, 23, 31};
  double rms_norm_eps = 1e-6;  ///< added to the mean square of every RMSNorm, in (0, 1]
  double rope_theta = 10000;   ///< base of the frequencies of rows and columns

  /// Values of a head.
  Index head_dim() const { return hidden_size / num_heads; }
  /// Values of one frame of a patch: all there is to a still image.
  Index frame_width() const { return in_channels * patch_size * patch_size; }
  /// Values of a patch, in all of its temporal_patch_size frames.
  Index patch_width() const { return frame_width() * temporal_patch_size; }
  /// Patches that become one token.
  Index merge_unit() const { return spatial_merge_size * spatial_merge_size; }
  /// Tokens a side of an attention window.
  Index window_tokens() const { return window_size / spatial_merge_size / patch_size; }
  /// Whether block `block` attends over the whole frame instead of windows.
  bool is_full_attention(Index block) const {
    const auto& full = fullatt_block_indexes;
    return std::find(full.begin(), full.end(), block) != full.end();
  }
  /// As many key/value heads as query heads.
  AttentionShape attention_shape() const { return {num_heads, num_heads, head_dim()}; }
  friend bool operator==(const VisionTowerConfig&, const VisionTowerConfig&) = default;
};

/// Throws casa::error naming the field, its bounds and its value, for any that is out of range or
/// does not fit the others.
inline void check(const VisionTowerConfig& c) {
  const auto range = [](const char* name, Index value, Index high) {
    require(value >= 1 && value <= high, "vision_config: ", name, " must be in [1, ", high,
            "], got ", value);
  };
  range("depth", c.depth, 1024);
  range("hidden_size", c.hidden_size, 131072);
  range("num_heads", c.num_heads, 1024);
  range("intermediate_size", c.intermediate_size, Index{1} << 20);
  range("out_hidden_size", c.out_hidden_size, 131072);
  range("in_channels", c.in_channels, 64);
  range("patch_size", c.patch_size, 1024);
  range("temporal_patch_size", c.temporal_patch_size, 64);
  range("spatial_merge_size", c.spatial_merge_size, 64);
  range("window_size", c.window_size, Index{1} << 20);
  require(c.hidden_size % c.num_heads == 0,
          "vision_config: num_heads must divide hidden_size, got ", c.num_heads, " and ",
          c.hidden_size);
  require(c.head_dim() % 4 == 0 && c.head_dim() <= 1024,
          "vision_config: hidden_size / num_heads must be a multiple of 4 up to 1024 for the 2-D "
          "rotary embedding, got ",
          c.head_dim());
  require(c.window_tokens() >= 1, "vision_config: window_size must hold a token of ",
          c.spatial_merge_size, " patches of ", c.patch_size, " pixels, got ", c.window_size);
  for (const Index block : c.fullatt_block_indexes)
    require(block >= 0 && block < c.depth, "vision_config: fullatt_block_indexes must be in [0, ",
            c.depth, "), got ", block);
  require(c.rms_norm_eps > 0 && c.rms_norm_eps <= 1,
          "vision_config: rms_norm_eps must be in (0, 1], got ", c.rms_norm_eps);
}

/// The tensors of a block of the tower; of projections, the weights' shapes.
struct VisionBlockSpec {
  TensorSpec norm1;  ///< (hidden_size), before attention
  LinearSpec qkv;    ///< (3 * hidden_size, hidden_size): q, k and v in one tensor
  LinearSpec proj;   ///< (hidden_size, hidden_size): attention's output
  TensorSpec norm2;  ///< (hidden_size), before the MLP
  MlpSpec mlp;       ///< hidden_size in and out
};

/// The tensors of a tower. The merger maps the merge_unit() patches of a token, end to end, to as
/// many values and those to the decoder's width.
struct VisionTowerSpec {
  LinearSpec patch_embed;               ///< (hidden_size, patch_width)
  std::vector<VisionBlockSpec> blocks;  ///< depth of them
  TensorSpec merger_norm;               ///< (hidden_size), of each patch
  LinearSpec merger_in;                 ///< (merge_unit * hidden_size, merge_unit * hidden_size)
  LinearSpec merger_out;                ///< (out_hidden_size, merge_unit * hidden_size)
};

/// The tensors of a tower; `prefix` is what stands before "blocks.0" and so on.
inline VisionTowerSpec vision_tower_spec(const VisionTowerConfig& c,
                                         const std::string& prefix = "visual.") {
  VisionTowerSpec s;
  s.patch_embed = linear_spec(prefix + "patch_embed.proj", c.patch_width(), c.hidden_size, false);
  s.patch_embed.weight.stored_shape = {c.hidden_size, c.in_channels, c.temporal_patch_size,
                                       c.patch_size, c.patch_size};
  for (Index b = 0; b < c.depth; ++b) {
    const std::string name = prefix + "blocks." + std::to_string(b);
    s.blocks.push_back({{name + ".norm1.weight", c.hidden_size},
                        linear_spec(name + ".attn.qkv", c.hidden_size, 3 * c.hidden_size, true),
                        linear_spec(name + ".attn.proj", c.hidden_size, c.hidden_size, true),
                        {name + ".norm2.weight", c.hidden_size},
                        mlp_spec(name + ".mlp", c.hidden_size, c.intermediate_size, true)});
  }
  const Index merged = c.hidden_size * c.merge_unit();
  s.merger_norm = {prefix + "merger.ln_q.weight", c.hidden_size};
  s.merger_in = linear_spec(prefix + "merger.mlp.0", merged, merged, true);
  s.merger_out = linear_spec(prefix + "merger.mlp.2", merged, c.out_hidden_size, true);
  return s;
}

/// Calls f(spec) for every tensor, in the order of computation.
template <class F>
void for_each_tensor(const VisionBlockSpec& s, F&& f) {
  f(s.norm1);
  for_each_tensor(s.qkv, f);
  for_each_tensor(s.proj, f);
  f(s.norm2);
  for_each_tensor(s.mlp, f);
}
/// The same for a tower.
template <class F>
void for_each_tensor(const VisionTowerSpec& s, F&& f) {
  for_each_tensor(s.patch_embed, f);
  for (const VisionBlockSpec& b : s.blocks) for_each_tensor(b, f);
  f(s.merger_norm);
  for_each_tensor(s.merger_in, f);
  for_each_tensor(s.merger_out, f);
}

CASA_NAMESPACE_END
