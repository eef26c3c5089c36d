// Rotary tables of a pass: where every row stands, and with which frequencies each stream turns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "casa/model/block.hpp"

CASA_NAMESPACE_BEGIN

/// Where rows stand: text in self-attention, text and images in fusion.
struct RowPositions {
  std::span<Position> self, text, image;

  /// Those of one stream's rows.
  RowPositions of(Interval text_rows, Interval image_rows) const {
    const auto sub = [](std::span<Position> all, Interval rows) {
      return all.subspan(static_cast<std::size_t>(rows.begin),
                         static_cast<std::size_t>(rows.size()));
    };
    return {sub(self, text_rows), sub(text, text_rows), sub(image, image_rows)};
  }

  /// The length that dynamic scaling goes by: one more than the largest position on any axis.
  std::int64_t length() const {
    std::int64_t last = -1;
    for (const auto& part : {self, text, image})
      for (const Position& p : part) last = (std::max)({last, p.t, p.h, p.w});
    return last + 1;
  }
};

/// Tables of the rows of a pass; kept from pass to pass, so that a warm step allocates nothing.
template <Scalar T>
struct RopeTables {
  RopeTable<T> self, text, image;
};

/// The table of the text or the image rows of all streams, each by its own StreamPass::rope.
template <Scalar T>
void fill_table(RopeTable<T>& table, std::span<const StreamPass> streams, bool image,
                std::span<const Position> positions, const Context& context) {
  const Rope& first = *streams[0].rope;
  table.resize(first, static_cast<Index>(positions.size()));
  const bool shared =
      std::ranges::all_of(streams, [&](const StreamPass& s) { return s.rope == &first; });
  if (shared) return table.fill(first, 0, positions, context);
  for (const StreamPass& s : streams) {
    const Interval rows = image ? s.image : s.text;
    table.fill(*s.rope, rows.begin,
               positions.subspan(static_cast<std::size_t>(rows.begin),
                                 static_cast<std::size_t>(rows.size())),
               context);
  }
}

/// The tables that the blocks of `pass` turn their rows by.
template <Scalar T>
void set_rope(BlockPass<T>& pass, RopeTables<T>& tables, const RowPositions& at,
              const Context& context) {
  fill_table(tables.self, pass.streams, false, at.self, context);
  pass.self_rope = &tables.self;
  if (!pass.fusion) return;
  const ImageRope rope = pass.fusion->image_rope;
  if (rope == ImageRope::off) return;
  pass.text_rope = &tables.self;
  if (rope != ImageRope::window_start) {
    fill_table(tables.text, pass.streams, false, at.text, context);
    pass.text_rope = &tables.text;
  }
  if (rope == ImageRope::none) return;
  fill_table(tables.image, pass.streams, true, at.image, context);
  pass.image_rope = &tables.image;
}

CASA_NAMESPACE_END
