// All of casa that needs Eigen alone, by its doors: the headers here are those that a program may
// name, and they bring in what they are built from (simd/, attention/kernel/, the product engine).
// What reads files from strangers is included by name: casa/checkpoint/, casa/text/, casa/image/,
// casa/session/ and, under them, casa/json/, casa/files/. What including this costs:
// tests/house/include_costs.sh.
#pragma once

#include "casa/core/build_info.hpp"
#include "casa/core/config.hpp"
#include "casa/core/context.hpp"
#include "casa/core/error.hpp"
#include "casa/core/executor.hpp"
#include "casa/core/interval.hpp"
#include "casa/core/memory.hpp"
#include "casa/core/scalar.hpp"

#include "casa/stream/layout.hpp"
#include "casa/stream/positions.hpp"
#include "casa/stream/visibility.hpp"

#include "casa/attention/attend.hpp"
#include "casa/attention/attend_backward.hpp"
#include "casa/attention/attention_weights.hpp"
#include "casa/attention/batch.hpp"
#include "casa/attention/mask.hpp"
#include "casa/attention/masks.hpp"
#include "casa/attention/score_gradients.hpp"
#include "casa/attention/scores.hpp"
#include "casa/attention/simple.hpp"
#include "casa/attention/state.hpp"
#include "casa/attention/stream_masks.hpp"

#include "casa/linear/linear.hpp"
#include "casa/linear/linear_backward.hpp"

#include "casa/layers/cross_entropy.hpp"
#include "casa/layers/rms_norm.hpp"
#include "casa/layers/rms_norm_backward.hpp"
#include "casa/layers/rope.hpp"
#include "casa/layers/rope_backward.hpp"
#include "casa/layers/rope_scaling.hpp"
#include "casa/layers/softmax.hpp"
#include "casa/layers/swiglu.hpp"
#include "casa/layers/swiglu_backward.hpp"

#include "casa/model/add_fusion.hpp"
#include "casa/model/attention_maps.hpp"
#include "casa/model/config.hpp"
#include "casa/model/decoder.hpp"
#include "casa/model/decoder_backward.hpp"
#include "casa/model/fusion_layer.hpp"
#include "casa/model/fusion_layer_backward.hpp"
#include "casa/model/image_placeholders.hpp"
#include "casa/model/kv_cache.hpp"
#include "casa/model/state_archive.hpp"
#include "casa/model/tensor_set.hpp"
#include "casa/model/weights.hpp"

#include "casa/vision/patch_encoder.hpp"
#include "casa/vision/patch_encoder_backward.hpp"
#include "casa/vision/vision_config.hpp"
#include "casa/vision/vision_frames.hpp"
#include "casa/vision/vision_tower.hpp"
#include "casa/vision/vision_tower_backward.hpp"

#include "casa/generate/captioner.hpp"
#include "casa/generate/generator.hpp"
#include "casa/generate/penalties.hpp"
#include "casa/generate/random.hpp"
#include "casa/generate/sampling.hpp"

#include "casa/train/adamw.hpp"
#include "casa/train/gradient_norm.hpp"
#include "casa/train/packing.hpp"
#include "casa/train/parameter_groups.hpp"
#include "casa/train/sample_order.hpp"
#include "casa/train/schedule.hpp"
#include "casa/train/trainer.hpp"
