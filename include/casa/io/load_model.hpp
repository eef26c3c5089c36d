// A model folder (config.json and safetensors) as a decoder and its image encoder.
#pragma once

#include <optional>
#include <string>

#include "casa/io/checkpoint_weights.hpp"
#include "casa/io/json.hpp"
#include "casa/io/model_config.hpp"
#include "casa/io/shards.hpp"
#include "casa/model/decoder.hpp"
#include "casa/model/patch_encoder.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a folder holds, ready to run.
template <Scalar T>
struct Model {
  Decoder<T> decoder;
  std::optional<PatchEncoder<T>> patch_encoder;
};

/// Loads a folder. Every tensor of its files is used and every weight of the model filled, or
/// casa::error lists what is missing, of another shape, or left over; nothing is returned
/// half-loaded.
template <Scalar T>
Model<T> load_model(const std::string& folder, WeightType type = WeightType::native,
                    const LoadOptions& options = {}) {
  const LoadLimits& limits = options.limits;
  const Json config = read_json(folder + "/config.json",
                                {.max_bytes = limits.json_bytes, .max_depth = limits.json_depth});
  const DecoderConfig decoder = decoder_config(config, limits);
  std::optional<PatchEncoderConfig> encoder;
  if (const auto vision = config.find_set("vision_config"))
    encoder = patch_encoder_config(*vision, decoder.hidden_size, limits);

  const Checkpoint files = read_checkpoint(folder, options);
  CheckpointWeights weights(files);
  const auto expect = [&](const TensorSpec& spec) { weights.expect(spec); };
  for_each_tensor(decoder_spec(decoder), expect);
  if (encoder) for_each_tensor(patch_encoder_spec(*encoder), expect);
  weights.require_complete(folder);

  Model<T> model{Decoder<T>(decoder, weights.weights(), type), std::nullopt};
  if (encoder) model.patch_encoder.emplace(*encoder, weights.weights());
  return model;
}

}  // namespace io
CASA_NAMESPACE_END
