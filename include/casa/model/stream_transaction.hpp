// One chunk of one or several streams, all or nothing: what a forward pass changes in streams'
// states before it runs, and how that is made to last or undone.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <variant>

#include "casa/model/stream_input.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// begin(), then the pass, then commit(); or, if begin() or the pass threw, roll_back(), after
/// which every stream is as the constructor found it.
template <Scalar T>
class StreamTransaction {
 public:
  /// Remembers every stream before any is changed. Config, rope, inputs and context must outlive
  /// this.
  StreamTransaction(const DecoderConfig& config, const Rope& rope,
                    std::span<const StreamInput<T>> inputs, const Context& context)
      : fusion_(config.fusion ? &*config.fusion : nullptr),
        rope_(rope),
        inputs_(inputs),
        context_(context) {
    for (const StreamInput<T>& in : inputs_) {
      in.state->windows_.remember();
      in.state->origin_before_ = in.state->origin_;
    }
  }

  /// Adds each stream's chunk to its windows and restarts its positions where the chunk would pass
  /// the horizon.
  void begin() {
    for (const StreamInput<T>& in : inputs_) {
      in.state->windows_.append(static_cast<Index>(in.ids.size()), in.insertions);
      restart_positions(*in.state, static_cast<Index>(in.ids.size()));
    }
  }

  /// Counts what came and forgets what no later row will see.
  void commit() {
    for (const StreamInput<T>& in : inputs_) {
      DecoderState<T>& s = *in.state;
      s.windows_.commit(fusion_);
      s.self_tokens_ += static_cast<Index>(in.ids.size());
      evict_text(s);
      if (!fusion_) continue;
      for (auto& block : s.blocks_) s.windows_.forget_keys(block.fusion);
    }
  }

  /// Takes back the chunk's keys, windows and restarts.
  void roll_back() {
    for (const StreamInput<T>& in : inputs_) {
      DecoderState<T>& s = *in.state;
      s.windows_.roll_back();
      for (auto& block : s.blocks_) {
        std::visit([&](auto& c) { c.truncate((std::min)(c.size(), s.self_tokens_)); }, block.self);
        s.windows_.trim_back(block.fusion);
      }
      place_sinks(s, s.origin_before_);
    }
  }

 private:
  // StateOptions::text_window.
  void evict_text(DecoderState<T>& s) const {
    const StateOptions& o = s.options_;
    if (o.text_window == 0 || s.self_tokens_ <= o.sinks + o.text_window) return;
    for (auto& block : s.blocks_)
      std::visit([&](auto& c) { c.keep(o.sinks, o.text_window); }, block.self);
    s.self_tokens_ = o.sinks + o.text_window;
  }

  // StateOptions::horizon. The window's keys stay as they are, since their distance to the tokens
  // that come does not change. Only the sinks' keys change: they are placed right before the window
  // again.
  void restart_positions(DecoderState<T>& s, Index chunk) const {
    const Index horizon = s.options_.horizon;
    if (horizon == 0 || s.text_len() - s.origin_ + chunk <= horizon) return;
    place_sinks(s, s.text_len() - s.self_tokens_);
  }

  // Sinks stand at origin, origin + 1, ... in the numbering in which the window's keys were
  // rotated.
  void place_sinks(DecoderState<T>& s, std::int64_t origin) const {
    if (s.origin_ == origin) return;
    s.origin_ = origin;
    const Workspace::Frame frame(context_.workspace);
    const std::span<Position> places =
        RowPositions::take(context_.workspace, s.options_.sinks, 0, 0).self;
    for (std::size_t j = 0; j < places.size(); ++j) places[j] = origin + static_cast<Index>(j);
    s.tables_.self.assign(rope_, places, context_);
    for (auto& block : s.blocks_)
      rotate_sink_keys(block.self, block.sink_keys, s.tables_.self, context_);
  }

  const FusionConfig* fusion_;
  const Rope& rope_;
  std::span<const StreamInput<T>> inputs_;
  const Context& context_;
};

}  // namespace detail

CASA_NAMESPACE_END
