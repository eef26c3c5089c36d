// Weights in the order in which the micro-kernel reads them: panels of some outputs, k after k.
#pragma once

#include <vector>

#include "casa/core/arena.hpp"
#include "casa/linear/pack_quantized.hpp"
#include "casa/linear/panel_format.hpp"
#include "casa/linear/stored_view.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// How the panels of several pieces follow one another: all of a piece before the next, or one of
/// each piece in turn.
enum class PieceOrder { stacked, alternating };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

namespace detail {

/// `count` panels of a weight: first, first + step, first + 2 step, ...
struct PanelSequence {
  Index first = 0;
  Index count = 0;
  Index step = 1;

  Index operator()(Index i) const { return first + i * step; }
};

}  // namespace detail

/// A weight (outputs x depth), packed. Each piece it was made from begins a new panel; in a panel
/// that its piece does not fill the rest is zero. Copies share the values, which never change.
///
/// Users meet it as Linear::packed() and may read sizes, type and single rows (depth(), unpack_row
/// and so on). How values lie in a panel, and what gives panels, may change in any version.
template <Scalar T>
class PackedWeight {
 public:
  /// Outputs of a panel; a piece's last panel may hold fewer.
  static constexpr Index kWidth = detail::PanelFormat<T, T>::kWidth;
  /// Which outputs of the weight a panel holds.
  struct PanelOutputs {
    Index begin = 0;  ///< the first output, a row of the stacked weight
    Index width = 0;  ///< how many follow from there, at most kWidth
  };

  /// No panels.
  PackedWeight() = default;
  /// `pieces`: matrices (out x depth), whose outputs follow one another; as many of each where they
  /// alternate. They are packed into `arena`, or into memory of their own; where the arena lends
  /// memory, it holds the panels already, and the values of the pieces are not read. Throws
  /// casa::error for other sizes, a type other than native with T = double, and a value that does
  /// not fit the type.
  PackedWeight(std::span<const StoredView> pieces, Index depth, WeightType type,
               Arena* arena = nullptr, PieceOrder order = PieceOrder::stacked)
      : depth_(depth), type_(type) {
    require(type == WeightType::native || std::same_as<T, float>,
            "PackedWeight: 16-bit and 8-bit weights are computed in float, not in double");
    require(depth >= 0, "PackedWeight: depth must not be negative, got ", depth);
    Index total = 0, out = 0;
    for (const StoredView& w : pieces) {
      require_equal("PackedWeight: columns of a piece", w.cols(), depth);
      if (order == PieceOrder::alternating)
        require_equal("PackedWeight: rows of a piece that alternates", w.rows(), pieces[0].rows());
      const Index count = (w.rows() + kWidth - 1) / kWidth;
      if (order == PieceOrder::stacked) {
        pieces_.push_back({total, count, 1});
      } else {
        pieces_.push_back({static_cast<Index>(pieces_.size()), count, std::ssize(pieces)});
      }
      total += count;
    }
    panels_.resize(static_cast<std::size_t>(total));
    for (std::size_t i = 0; i < pieces.size(); out += pieces[i++].rows())
      for (Index p = 0; p < pieces_[i].count; ++p)
        panels_[static_cast<std::size_t>(pieces_[i](p))] = {
            out + p * kWidth, (std::min)(kWidth, pieces[i].rows() - p * kWidth)};
    Arena own;
    detail::with_stored_type<T>(type, [&]<class S>() { pack<S>(pieces, arena ? *arena : own); });
  }

  /// Columns of the weight: in_features.
  Index depth() const { return depth_; }
  /// Panels of all pieces together.
  Index num_panels() const { return static_cast<Index>(panels_.size()); }
  /// The panels of piece i, in the order of its outputs. This function and those below do not check
  /// their arguments.
  const detail::PanelSequence& piece(Index i) const { return pieces_[static_cast<std::size_t>(i)]; }
  /// Which outputs panel p holds, in [0, num_panels()).
  const PanelOutputs& panel(Index p) const { return panels_[static_cast<std::size_t>(p)]; }
  /// How the values are held.
  WeightType type() const { return type_; }
  /// Bytes of all panels.
  Index bytes() const { return num_panels() * panel_bytes_; }
  /// Bytes from one panel's begin to the next one's: a multiple of 64.
  Index panel_bytes() const { return panel_bytes_; }
  /// The begin of panel p, 64-byte aligned.
  const std::byte* data(Index p) const { return data_.get() + p * panel_bytes_; }
  /// All bytes(), from the first panel on; they live as long as the pointer or a copy of it.
  std::shared_ptr<const std::byte> share() const { return data_; }

  /// Output `lane` of panel p, depth() values.
  void unpack_row(Index p, Index lane, T* dst) const {
    detail::with_stored_type<T>(type_, [&]<class S>() {
      detail::PanelFormat<T, S>::unpack_row(data(p), lane, depth_, dst);
    });
  }
  /// The same of int8 weights as they are held: depth() steps and quant_groups(depth()) scales.
  void unpack_row(Index p, Index lane, std::int8_t* steps, bfloat16* scales) const {
    using Format = detail::PanelFormat<T, std::int8_t>;
    for (Index k = 0; k < depth_; ++k) {
      const Index first = k / Format::kUnit * Format::kUnit;
      steps[k] = Format::stored(data(p) + Format::row(first))[lane].weight(k - first);
      scales[k / kQuantGroup] = Format::scales(data(p) + Format::group(k))[lane];
    }
  }

 private:
  template <class S>
  void pack(std::span<const StoredView> pieces, Arena& arena) {
    using Format = detail::PanelFormat<T, S>;
    panel_bytes_ = (Format::bytes(depth_) + 63) / 64 * 64;
    const Index size = checked_mul(num_panels(), panel_bytes_, "PackedWeight");
    data_ = arena.take_lent(size);
    if (data_) return;
    const std::shared_ptr<std::byte> memory = arena.take(size);
    data_ = memory;
    // What no value fills, after the last row, is zero, so that all bytes are known.
    const Index last = depth_ > 0 ? Format::group(depth_ - 1) : 0;
    for (Index p = 0; p < num_panels(); ++p)
      std::memset(memory.get() + p * panel_bytes_ + last, 0,
                  static_cast<std::size_t>(panel_bytes_ - last));
    constexpr Index step = 4 * kQuantGroup;
    Buffer<T> rows(kWidth * step), columns(step * kWidth);
    for (std::size_t i = 0; i < pieces.size(); ++i)
      for (Index p = 0; p < pieces_[i].count; ++p) {
        const StoredView& w = pieces[i];
        std::byte* panel = memory.get() + pieces_[i](p) * panel_bytes_;
        const Index r0 = p * kWidth, width = (std::min)(kWidth, w.rows() - r0);
        if constexpr (std::same_as<S, std::int8_t>) {
          if (w.type() == StoredView::Type::int8) {
            detail::pack_quantized(w, r0, width, panel);
            continue;
          }
        }
        std::fill_n(rows.data() + width * step, (kWidth - width) * step, T{0});
        for (Index k0 = 0; k0 < depth_; k0 += step) {
          const Index count = (std::min)(step, depth_ - k0);
          for (Index r = 0; r < width; ++r) {
            T* row = rows.data() + r * step;
            w.copy(r0 + r, k0, count, row);
            if constexpr (Format::kScaled || std::same_as<S, half>)
              check_row<S>(row, count, r0 + r);
          }
          transpose(rows.data(), step, columns.data());
          Format::pack_rows(columns.data(), k0, count, panel);
        }
      }
  }
  // from (kWidth x step) becomes to (step x kWidth).
  static void transpose(const T* from, Index step, T* to) {
    constexpr Index lanes = simd::kLanes<T>;
    for (Index k = 0; k < step; k += lanes)
      for (Index r = 0; r < kWidth; r += lanes) {
        simd::Vec<T> block[std::size_t{lanes}];
        CASA_UNROLL
        for (Index i = 0; i < lanes; ++i) block[i] = simd::load(from + (r + i) * step + k);
        simd::transpose(block);
        CASA_UNROLL
        for (Index i = 0; i < lanes; ++i) simd::store(to + (k + i) * kWidth + r, block[i]);
      }
  }
  // Throws if the type S cannot hold a value, which would otherwise be replaced silently.
  template <class S>
  static void check_row(const T* row, Index count, Index r) {
    const T largest = std::same_as<S, half> ? T(65504) : (std::numeric_limits<T>::max)();
    bool fits = true;
    for (Index i = 0; i < count; ++i) fits &= std::abs(row[i]) <= largest;
    if (fits) return;
    for (Index i = 0; i < count; ++i)
      require(std::abs(row[i]) <= largest, "PackedWeight: row ", r, " has the value ", row[i],
              ", which ", std::same_as<S, half> ? "half" : "int8", " weights cannot hold");
  }

  Index depth_ = 0;
  WeightType type_ = WeightType::native;
  Index panel_bytes_ = 0;
  std::vector<detail::PanelSequence> pieces_;
  std::vector<PanelOutputs> panels_;
  std::shared_ptr<const std::byte> data_;
};

CASA_NAMESPACE_END
