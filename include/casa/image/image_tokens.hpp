// Pictures as image tokens, by the encoder that a model folder brings: preprocessing, tower or
// patch encoder, projector.
#pragma once

#include <string>

#include "casa/checkpoint/load_model.hpp"
#include "casa/image/qwen2_vl_preprocess.hpp"
#include "casa/image/qwen2_vl_preprocess_config.hpp"
#include "casa/image/rgb.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a picture becomes: (tokens x hidden_size of the decoder), and how they lie in it.
template <Scalar T>
struct EncodedImage {
  Matrix<T> tokens;  ///< (tokens x hidden_size of the decoder), row by row of the picture
  ImageGrid grid;    ///< rows and columns of tokens; empty from the digit readers' encoder
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

  /// Bounds of the picture's size after resizing (towers only).
  void set_pixels(Index min_pixels, Index max_pixels) {
    preprocess_.min_pixels = min_pixels;
    preprocess_.max_pixels = max_pixels;
  }

  /// The tokens of a picture of any size. Throws casa::error as the preprocessing and the tower do.
  EncodedImage<T> encode(ImageView image, const Context& context) {
    return model_->vision_tower ? by_tower(image, context) : by_patches(image, context);
  }

 private:
  EncodedImage<T> by_tower(ImageView image, const Context& context) {
    const VisionTower<T>& tower = *model_->vision_tower;
    const PreprocessedImage p = qwen2_vl_preprocess(image, preprocess_, context.executor);
    const Index merge = tower.config().spatial_merge_size;
    EncodedImage<T> out;
    out.grid = {p.grid.h / merge, p.grid.w / merge};
    out.tokens = Matrix<T>(out.grid.rows * out.grid.cols, tower.config().out_hidden_size);
    const VisionGrid grid{p.grid.t, p.grid.h, p.grid.w};
    Matrix<T> pixels(p.pixel_values.rows(), p.pixel_values.cols());
    pixels.eigen() = p.pixel_values.eigen().template cast<T>();
    tower.encode(MatrixView<const T>(pixels), std::span(&grid, 1), out.tokens, tower_scratch_,
                 context);
    return out;
  }

  // The patch encoder takes grey pictures of one size.
  EncodedImage<T> by_patches(ImageView image, const Context& context) {
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
    encoder.encode(MatrixView<const std::uint8_t>(grey), out.tokens, patch_scratch_, context);
    return out;
  }

  const Model<T>* model_;
  Qwen2VlPreprocessConfig preprocess_ = {};
  typename VisionTower<T>::Scratch tower_scratch_ = {};
  typename PatchEncoder<T>::Scratch patch_scratch_ = {};
};

}  // namespace io
CASA_NAMESPACE_END
