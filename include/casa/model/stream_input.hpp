// The input of a forward pass: what comes next in a stream. And the check that a decoder can take
// it.
#pragma once

#include <span>

#include "casa/model/state.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which text rows of a chunk give logits: none, the last one, or all.
enum class LogitRows { none, last, all };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// What comes next in one stream: text, with images before some of its tokens or after the last.
template <Scalar T>
struct StreamInput {
  DecoderState<T>* state = nullptr;  ///< of a decoder of the same config; changed by the pass
  std::span<const int> ids = {};     ///< text tokens, each in [0, vocab_size)
  /// Images, at positions relative to ids: 0 .. ids.size(), ascending. Images at one point make one
  /// window, together with any that came at the end of the chunk before.
  std::span<const Insertion> insertions = {};
  MatrixView<const T> image_tokens = {};  ///< (sum of num_tokens, hidden_size), in order
  /// One per insertion, rows * cols = num_tokens, {0, 0} a plain sequence; or none at all (plain
  /// sequences), unless the model's rotary embedding has mrope_sections that read them.
  std::span<const ImageGrid> grids = {};
  LogitRows logits = LogitRows::last;  ///< which of its text rows give a row of logits
  /// Unless null: what this pass is to show of its attention, and where it shows it.
  AttentionMaps<T>* maps = nullptr;

  /// How many rows of logits this input asks for.
  Index logit_rows() const {
    const auto rows = static_cast<Index>(ids.size());
    return logits == LogitRows::all ? rows : logits == LogitRows::last ? (rows > 0) : 0;
  }
};

namespace detail {

/// Throws casa::error unless a model of this config can read the text and images of `in` (a
/// StreamInput, or another stream with members of these names).
template <class Stream>
void check_stream(const Stream& in, const DecoderConfig& config) {
  for (const int id : in.ids)
    require(id >= 0 && id < config.vocab_size, "forward: token id must be in [0, ",
            config.vocab_size, "), got ", id);
  require(in.insertions.empty() || config.fusion.has_value(),
          "forward: images were given, but the model has no fusion");
  require(in.grids.empty() || in.grids.size() == in.insertions.size(), "forward: ", in.grids.size(),
          " grids for ", in.insertions.size(), " insertions");
  Index images = 0, previous = 0;
  for (std::size_t i = 0; i < in.insertions.size(); ++i) {
    const auto [position, count] = in.insertions[i];
    require(position >= previous && position <= static_cast<Index>(in.ids.size()),
            "forward: insertion position ", position, " must be in [", previous, ", ",
            in.ids.size(), "]");
    require(count >= 0, "forward: num_tokens must not be negative, got ", count);
    if (!in.grids.empty() && in.grids[i] != ImageGrid{})
      require_equal("forward: rows * cols of a grid",
                    checked_mul(in.grids[i].rows, in.grids[i].cols, "grid"), count);
    previous = position;
    images = checked_add(images, count, "forward: image tokens");
  }
  require(!in.grids.empty() || images == 0 || config.rope.mrope_sections.empty() ||
              !reads_grids(config.fusion->image_rope),
          "forward: the model's mrope_sections ask for the grids of images, none were given ({0, "
          "0} says that an image is a plain sequence)");
  require_equal("forward: rows of image_tokens", in.image_tokens.rows(), images);
  require_memory("forward: image_tokens", in.image_tokens);
  if (images > 0)
    require_equal("forward: columns of image_tokens", in.image_tokens.cols(), config.hidden_size);
}

}  // namespace detail

/// Throws casa::error, naming what does not fit, unless a model of this config can take the inputs
/// and write their logits.
template <Scalar T>
void check(std::span<const StreamInput<T>> inputs, const DecoderConfig& config,
           MatrixView<T> logits) {
  Index rows = 0;
  for (std::size_t s = 0; s < inputs.size(); ++s) {
    const StreamInput<T>& in = inputs[s];
    require(in.state != nullptr, "forward: input ", s, " has no state");
    require(in.state->num_layers() == config.num_hidden_layers, "forward: the state of input ", s,
            " has ", in.state->num_layers(), " blocks, the model ", config.num_hidden_layers,
            " (states are made by new_state of the same model)");
    require(
        in.state->num_layers() == 0 || (in.state->num_kv_heads() == config.num_key_value_heads &&
                                        in.state->head_dim() == config.head_dim),
        "forward: the state of input ", s, " has keys of ", in.state->num_kv_heads(), " heads x ",
        in.state->head_dim(), ", the model ", config.num_key_value_heads, " x ", config.head_dim,
        " (states are made by new_state of the same model)");
    for (std::size_t other = 0; other < s; ++other)
      require(inputs[other].state != in.state, "forward: inputs ", other, " and ", s,
              " are the same stream");
    const StateOptions& options = in.state->options();
    require(options.horizon == 0 ||
                in.state->self_tokens() + static_cast<Index>(in.ids.size()) <= options.horizon,
            "forward: a chunk of ", in.ids.size(), " tokens after the ", in.state->self_tokens(),
            " kept does not fit below the horizon of ", options.horizon);
    detail::check_stream(in, config);
    if (in.maps) {
      detail::check_maps(*in.maps, config, static_cast<Index>(in.ids.size()), in.logit_rows());
      for (std::size_t other = 0; other < s; ++other)
        require(inputs[other].maps != in.maps, "forward: inputs ", other, " and ", s,
                " have the same maps");
    }
    rows += in.logit_rows();
  }
  require_equal("forward: rows of logits", logits.rows(), rows);
  if (rows > 0) require_equal("forward: columns of logits", logits.cols(), config.vocab_size);
  require_memory("forward: logits", logits);
}

CASA_NAMESPACE_END
