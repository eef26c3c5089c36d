// Pictures as image tokens, by the encoder that a model folder brings: preprocessing, tower or
// patch encoder, projector.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "casa/checkpoint/load_model.hpp"
#include "casa/image/embedding_cache.hpp"
#include "casa/image/qwen2_vl_preprocess.hpp"
#include "casa/image/qwen2_vl_preprocess_config.hpp"
#include "casa/image/rgb.hpp"
#include "casa/vision/vision_frames.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Where the time of encoding pictures went, in seconds.
struct ImageEncoderTimes {
  double preprocessing = 0;  ///< resizing and cutting into patches
  double encoder = 0;        ///< the tower with its projection, or the patch encoder
};

/// The image side of a Model, for one caller at a time. `model` must outlive it.
template <Scalar T>
class ImageEncoder {
 public:
  /// Reads preprocessor_config.json of the folder, if it has one. Throws casa::error for a model
  /// without an image encoder.
  ImageEncoder(const Model<T>& model, const std::string& folder) : model_(&model) {
    require(model.patch_encoder || model.vision_tower, folder,
            ": the model has no image encoder (no vision_config)");
    if (!model.vision_tower) return;
    const VisionTowerConfig& tower = model.vision_tower->config();
    const std::string file = folder + "/preprocessor_config.json";
    if (detail::file_exists(file)) preprocess_ = read_qwen2_vl_preprocess_config(file);
    preprocess_.patch_size = tower.patch_size;
    preprocess_.merge_size = tower.spatial_merge_size;
    preprocess_.temporal_patch_size = tower.temporal_patch_size;
  }

  /// Pictures that come back take their tokens from a cache of at most that many bytes (pixels and
  /// tokens; 0, as at first: none). They are those of the same picture, bit for bit, encoded with
  /// the Context of its first time. Throws casa::error for a negative number.
  void keep_pictures(Index most_bytes) { cache_ = EmbeddingCache<T>(most_bytes); }
  /// What that cache holds and has done.
  const EmbeddingCacheCounts& cache_counts() const { return cache_.counts(); }
  /// From now on the pictures that are encoded are frames of one video: what did not change since
  /// the last one is not computed again (VisionFrames; PatchReuse::none: everything is). The cache
  /// of pictures takes none whose tokens are approximate. Throws casa::error for options out of
  /// range, and for a model without a vision tower: in a patch encoder every patch sees all.
  void reuse_patches(const FrameReuse& options) {
    require(model_->vision_tower.has_value(),
            "ImageEncoder: patches are reused in vision towers, and the model has none");
    frames_.emplace(*model_->vision_tower, options);
  }
  /// What reuse_patches() brought; null where it was not called.
  const FrameReuseCounts* reuse_counts() const { return frames_ ? &frames_->counts() : nullptr; }

  /// Of all pictures that were encoded.
  const ImageEncoderTimes& times() const { return times_; }

  /// Bounds of the picture's size after resizing (towers only).
  void set_pixels(Index min_pixels, Index max_pixels) {
    cache_.clear();
    preprocess_.min_pixels = min_pixels;
    preprocess_.max_pixels = max_pixels;
  }

  /// The tokens of a picture of any size. Throws casa::error as the preprocessing and the tower do.
  EncodedImage<T> encode(ImageView image, const Context& context) {
    if (const EncodedImage<T>* known = cache_.find(image)) return *known;
    EncodedImage<T> encoded =
        model_->vision_tower ? by_tower(image, context) : by_patches(image, context);
    if (!frames_ || frames_->last_is_exact()) cache_.add(image, encoded);
    return encoded;
  }

 private:
  // Adds the seconds since it was made, or since the last call, to `sum`.
  class Stopwatch {
   public:
    void add_to(double& sum) {
      const auto now = std::chrono::steady_clock::now();
      sum += std::chrono::duration<double>(now - std::exchange(since_, now)).count();
    }

   private:
    std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  };

  EncodedImage<T> by_tower(ImageView image, const Context& context) {
    Stopwatch watch;
    const VisionTower<T>& tower = *model_->vision_tower;
    const PreprocessedImage p = qwen2_vl_preprocess(image, preprocess_, context.executor);
    const Index merge = tower.config().spatial_merge_size;
    EncodedImage<T> out;
    out.grid = {p.grid.h / merge, p.grid.w / merge};
    out.tokens = Matrix<T>(out.grid.rows * out.grid.cols, tower.config().out_hidden_size);
    const VisionGrid grid{p.grid.t, p.grid.h, p.grid.w};
    Matrix<T> pixels(p.pixel_values.rows(), p.pixel_values.cols());
    pixels.eigen() = p.pixel_values.eigen().template cast<T>();
    watch.add_to(times_.preprocessing);
    if (frames_)
      frames_->encode(pixels, {&grid, 1}, out.tokens, context);
    else
      tower.encode(pixels, {&grid, 1}, out.tokens, tower_scratch_, context);
    watch.add_to(times_.encoder);
    return out;
  }

  // The patch encoder takes grey pictures of one size.
  EncodedImage<T> by_patches(ImageView image, const Context& context) {
    Stopwatch watch;
    const PatchEncoder<T>& encoder = *model_->patch_encoder;
    const Index side = encoder.config().image_size;
    Image resized;
    if (image.height != side || image.width != side) {
      resized = resize_bicubic(image, side, side);
      image = resized;
    }
    Matrix<std::uint8_t> grey(1, side * side);
    for (Index y = 0; y < side; ++y)
      for (Index x = 0; x < side; ++x) grey(0, y * side + x) = luma(image.row(y) + 3 * x);
    EncodedImage<T> out{Matrix<T>(encoder.config().num_patches(), encoder.config().out_hidden_size),
                        {}};
    watch.add_to(times_.preprocessing);
    encoder.encode(MatrixView<const std::uint8_t>(grey), out.tokens, patch_scratch_, context);
    watch.add_to(times_.encoder);
    return out;
  }

  const Model<T>* model_;
  Qwen2VlPreprocessConfig preprocess_ = {};
  typename VisionTower<T>::Scratch tower_scratch_ = {};
  typename PatchEncoder<T>::Scratch patch_scratch_ = {};
  std::optional<VisionFrames<T>> frames_;
  EmbeddingCache<T> cache_;
  ImageEncoderTimes times_;
};

}  // namespace io
CASA_NAMESPACE_END
