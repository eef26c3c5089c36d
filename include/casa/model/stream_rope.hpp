// Rotary tables of a pass: the positions of its rows, and the frequencies of each stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

#include "casa/model/block_pass.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Positions of the rows of a pass: text in self-attention, text and images in fusion.
struct RowPositions {
  std::span<Position> self, text, image;

  /// Memory for the positions of that many rows; valid until the workspace's frame ends.
  static RowPositions take(Workspace& workspace, Index self_rows, Index text_rows,
                           Index image_rows) {
    const auto positions = [&](Index count) {
      Position* p = workspace.take<Position>(count);
      std::uninitialized_default_construct_n(p, count);
      return std::span<Position>(p, static_cast<std::size_t>(count));
    };
    return {positions(self_rows), positions(text_rows), positions(image_rows)};
  }

  /// Those of one stream's rows.
  RowPositions of(Interval text_rows, Interval image_rows) const {
    const auto sub = [](std::span<Position> all, Interval rows) {
      return all.subspan(static_cast<std::size_t>(rows.begin),
                         static_cast<std::size_t>(rows.size()));
    };
    return {sub(self, text_rows), sub(text, text_rows), sub(image, image_rows)};
  }

  /// The length of stream from which dynamic scaling computes its frequencies: one more than the
  /// largest position on any axis.
  std::int64_t length() const {
    std::int64_t last = -1;
    for (const auto& part : {self, text, image})
      for (const Position& p : part) last = (std::max)({last, p.t, p.h, p.w});
    return last + 1;
  }
};

/// The frequencies of a stream of `length` positions: those of `rope`, or where scaling is dynamic
/// those of that length, which are written to `own`.
template <Scalar T>
const Rope* rope_at(const Rope& rope, const RopeConfig& config, Index head_dim, std::int64_t length,
                    Rope& own) {
  if (!config.is_dynamic()) return &rope;
  if (own.inv_freq.empty()) own = rope;
  set_length<T>(own, config, head_dim, length);
  return &own;
}

/// Tables of the rows of a pass. Kept from pass to pass, so that a warm step allocates nothing.
template <Scalar T>
struct RopeTables {
  RopeTable<T> self, text, image;
};

/// Fills the table of the text rows (or, with `image`, the image rows) of all streams, each with
/// its own frequencies, StreamPass::rope.
template <Scalar T>
void fill_table(RopeTable<T>& table, std::span<const StreamPass> streams, bool image,
                std::span<const Position> positions, const Context& context) {
  const Rope& first = *streams[0].rope;
  table.resize(first, static_cast<Index>(positions.size()));
  const bool shared = std::all_of(streams.begin(), streams.end(),
                                  [&](const StreamPass& s) { return s.rope == &first; });
  if (shared) return table.fill(first, 0, positions, context);
  for (const StreamPass& s : streams) {
    const Interval rows = image ? s.image : s.text;
    table.fill(*s.rope, rows.begin,
               positions.subspan(static_cast<std::size_t>(rows.begin),
                                 static_cast<std::size_t>(rows.size())),
               context);
  }
}

/// The tables by which fusion in the blocks of `pass` rotates rows, if it rotates any. Where text
/// stands at the same positions as in self-attention, and self-attention has a table, that one
/// serves both.
template <Scalar T>
void set_fusion_rope(BlockPass<T>& pass, RopeTables<T>& tables, const RowPositions& at,
                     const Context& context) {
  const ImageRope rope = pass.fusion->image_rope;
  if (rope == ImageRope::off) return;
  pass.text_rope = pass.self_rope;
  if (rope != ImageRope::window_start || !pass.self_rope) {
    fill_table(tables.text, pass.streams, false, at.text, context);
    pass.text_rope = &tables.text;
  }
  if (rope == ImageRope::none) return;
  fill_table(tables.image, pass.streams, true, at.image, context);
  pass.image_rope = &tables.image;
}

/// The tables by which the blocks of `pass` rotate rows.
template <Scalar T>
void set_rope(BlockPass<T>& pass, RopeTables<T>& tables, const RowPositions& at,
              const Context& context) {
  fill_table(tables.self, pass.streams, false, at.self, context);
  pass.self_rope = &tables.self;
  if (pass.fusion) set_fusion_rope(pass, tables, at, context);
}

}  // namespace detail

CASA_NAMESPACE_END
