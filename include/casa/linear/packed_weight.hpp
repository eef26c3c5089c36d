// Weights in the order in which the micro-kernel reads them: panels of some outputs, k after k.
#pragma once

#include <vector>

#include "casa/core/arena.hpp"
#include "casa/linear/quantize.hpp"
#include "casa/linear/stored_view.hpp"
#include "casa/simd/simd.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// How packed weights are held. `native` is the scalar computed in; the others need float and are
/// widened in registers. int8 has one scale per 32 values along in_features (quantize.hpp).
enum class WeightType { native, bfloat16, half, int8 };

/// How the panels of several pieces follow one another: all of a piece before the next, or one of
/// each piece in turn.
enum class PieceOrder { stacked, alternating };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Calls f.template operator()<S>() with the stored type S of `type` (int8_t for int8).
template <Scalar T, class F>
decltype(auto) with_stored_type(WeightType type, F&& f) {
  if constexpr (std::same_as<T, float>) {
    if (type == WeightType::bfloat16) return f.template operator()<bfloat16>();
    if (type == WeightType::half) return f.template operator()<half>();
    if (type == WeightType::int8) return f.template operator()<std::int8_t>();
  }
  return f.template operator()<T>();
}

/// Stands for int8 panels that were widened: steps and scales as T.
template <Scalar T>
struct Steps {};

/// A panel: for each k, kWidth outputs side by side, as `Stored` and as simd::load_two() takes
/// them. int8 and Steps come in groups of kQuantGroup k, each led by its kWidth scales.
///
/// So wide that one row of x has enough sums under way while it reads a panel from end to end:
/// memory read in one run comes up to a third faster than several runs in turn.
template <Scalar T, class Stored>
struct PanelFormat {
  static constexpr Index kVectors = 4;
  static constexpr Index kWidth = kVectors * simd::kLanes<T>;
  static constexpr bool kSteps = std::same_as<Stored, Steps<T>>;
  static constexpr bool kScaled = std::same_as<Stored, std::int8_t> || kSteps;
  using S = std::conditional_t<kSteps, T, Stored>;
  using Scale = std::conditional_t<kSteps, T, bfloat16>;
  /// What its values are widened to.
  using WideStored = std::conditional_t<kScaled, Steps<T>, T>;
  using Wide = PanelFormat<T, WideStored>;

  static constexpr Index kScaleBytes = kScaled ? kWidth * Index{sizeof(Scale)} : 0;
  static constexpr Index kRowBytes = kWidth * Index{sizeof(S)};
  static constexpr Index kGroupBytes = kScaleBytes + kQuantGroup * kRowBytes;

  /// Bytes from a panel's start to its row k.
  static constexpr Index row(Index k) {
    return kScaled ? k / kQuantGroup * kGroupBytes + kScaleBytes + k % kQuantGroup * kRowBytes
                   : k * kRowBytes;
  }
  /// Bytes from a panel's start to the group that holds row k.
  static constexpr Index group(Index k) { return kScaled ? k / kQuantGroup * kGroupBytes : row(k); }
  static constexpr Index bytes(Index depth) {
    return kScaled ? (depth + kQuantGroup - 1) / kQuantGroup * kGroupBytes : row(depth);
  }

  static const S* stored(const std::byte* p) {
    return static_cast<const S*>(static_cast<const void*>(p));
  }
  static S* stored(std::byte* p) { return static_cast<S*>(static_cast<void*>(p)); }
  static const Scale* scales(const std::byte* group_begin) {
    return static_cast<const Scale*>(static_cast<const void*>(group_begin));
  }
  static Scale* scales(std::byte* group_begin) {
    return static_cast<Scale*>(static_cast<void*>(group_begin));
  }

  /// Rows [k, k + count) of a panel, k at a group's start, from values (count x kWidth).
  static void pack_rows(const T* values, Index k, Index count, std::byte* panel) {
    constexpr Index step = kScaled ? kQuantGroup : 1;
    for (Index g = 0; g < count; g += step) {
      const T* from = values + g * kWidth;
      if constexpr (kScaled) {
        pack_group(from, (std::min)(step, count - g), panel + group(k + g));
      } else {
        copy_row(from, stored(panel + row(k + g)));
      }
    }
  }

  /// The values of output `lane` as they are computed with.
  static void unpack_row(const std::byte* panel, Index lane, Index depth, T* dst) {
    for (Index k = 0; k < depth; ++k) {
      const S s = stored(panel + row(k))[place(lane)];
      if constexpr (kScaled) {
        dst[k] = static_cast<float>(s) * widen(scales(panel + group(k))[lane]);
      } else {
        dst[k] = widen(s);
      }
    }
  }

  /// Rows [0, depth) of a panel (from a group's start) as Wide.
  static void widen_rows(const std::byte* panel, Index depth, std::byte* wide) {
    constexpr Index step = kScaled ? kQuantGroup : 1;
    for (Index g = 0; g < depth; g += step) {
      if constexpr (kScaled) {
        const Scale* from = scales(panel + group(g));
        T* to = Wide::scales(wide + Wide::group(g));
        for (Index i = 0; i < kWidth; ++i) to[i] = widen(from[i]);
      }
      for (Index k = g; k < (std::min)(depth, g + step); ++k)
        copy_row(stored(panel + row(k)), Wide::stored(wide + Wide::row(k)));
    }
  }

 private:
  template <class From, class To>
  static void copy_row(const From* from, To* to) {
    constexpr Index lanes = simd::kLanes<T>;
    CASA_UNROLL
    for (Index v = 0; v < kVectors; v += 2) {
      simd::Vec<T> a, b;
      simd::load_two(from + v * lanes, a, b);
      if constexpr (simd::kLoadsPairs<To>) simd::merge_pair(a, b);
      simd::store(to + v * lanes, a);
      simd::store(to + (v + 1) * lanes, b);
    }
  }
  /// Where the value of an output stands in its row.
  static constexpr Index place(Index lane) {
    constexpr Index lanes = simd::kLanes<T>, two = 2 * lanes;
    if constexpr (!simd::kLoadsPairs<S>) return lane;
    return lane / two * two + lane % lanes * 2 + lane % two / lanes;
  }

  // quant_scale() and quantize() for a whole group.
  static void pack_group(const T* values, Index count, std::byte* to) {
    constexpr Index lanes = simd::kLanes<T>;
    for (Index lane = 0; lane < kWidth; lane += lanes) {
      simd::Vec<T> largest{};
      for (Index k = 0; k < count; ++k) {
        const simd::Vec<T> v = simd::load(values + k * kWidth + lane);
        largest = (simd::max)(largest, (simd::max)(v, -v));
      }
      for (Index i = 0; i < lanes; ++i) scales(to)[lane + i] = quant_scale(largest[i]);
      const simd::Vec<T> scale = simd::load(scales(to) + lane), zero{};
      const simd::Vec<T> most = simd::broadcast<T>(127);
      for (Index k = 0; k < count; ++k) {
        const simd::Vec<T> steps = simd::load(values + k * kWidth + lane) / scale;
        const simd::Vec<T> q = (simd::min)(most, (simd::max)(-most, simd::detail::round(steps)));
        const auto bytes =
            __builtin_convertvector(simd::select(scale > zero, q, zero), simd::detail::Quarter8);
        std::memcpy(to + kScaleBytes + k * kRowBytes + lane, &bytes, sizeof bytes);
      }
    }
  }
};

/// Some panels of a weight: first, first + step, ...
struct PanelRun {
  Index first = 0;
  Index count = 0;
  Index step = 1;

  Index operator()(Index i) const { return first + i * step; }
};

/// A whole packed weight. Each piece it was made from begins a new panel, whose unused outputs are
/// zero. Copies share the values, which never change.
template <Scalar T>
class PackedWeight {
 public:
  static constexpr Index kWidth = PanelFormat<T, T>::kWidth;
  /// Which outputs of the weight a panel holds.
  struct Panel {
    Index begin = 0;
    Index width = 0;
  };

  PackedWeight() = default;
  /// `pieces`: matrices (out x depth), whose outputs follow one another; as many of each where they
  /// alternate. They are packed into `arena`, or into memory of their own. Throws casa::error for
  /// other sizes, a type other than native with T = double, and a value that does not fit the type.
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
    with_stored_type<T>(type, [&]<class S>() { pack<S>(pieces, arena ? *arena : own); });
  }

  Index depth() const { return depth_; }
  Index num_panels() const { return static_cast<Index>(panels_.size()); }
  /// The panels of a piece, in the order of its outputs. (This and what follows is not checked.)
  const PanelRun& piece(Index i) const { return pieces_[static_cast<std::size_t>(i)]; }
  const Panel& panel(Index p) const { return panels_[static_cast<std::size_t>(p)]; }
  WeightType type() const { return type_; }
  Index bytes() const { return num_panels() * panel_bytes_; }
  Index panel_bytes() const { return panel_bytes_; }
  const std::byte* data(Index p) const { return data_.get() + p * panel_bytes_; }

  /// Output `lane` of panel p, depth() values.
  void unpack_row(Index p, Index lane, T* dst) const {
    with_stored_type<T>(
        type_, [&]<class S>() { PanelFormat<T, S>::unpack_row(data(p), lane, depth_, dst); });
  }

 private:
  template <class S>
  void pack(std::span<const StoredView> pieces, Arena& arena) {
    using Format = PanelFormat<T, S>;
    panel_bytes_ = (Format::bytes(depth_) + 63) / 64 * 64;
    data_ = arena.take(checked_mul(num_panels(), panel_bytes_, "PackedWeight"));
    constexpr Index step = 4 * kQuantGroup;
    Buffer<T> rows(kWidth * step), columns(step * kWidth);
    for (std::size_t i = 0; i < pieces.size(); ++i)
      for (Index p = 0; p < pieces_[i].count; ++p) {
        const StoredView& w = pieces[i];
        std::byte* panel = data_.get() + pieces_[i](p) * panel_bytes_;
        const Index r0 = p * kWidth, width = (std::min)(kWidth, w.rows() - r0);
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
  // to (step x kWidth): from (kWidth x step) transposed.
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
  // A format that cannot hold a value must not turn it into another one unseen.
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
  std::vector<PanelRun> pieces_;
  std::vector<Panel> panels_;
  std::shared_ptr<std::byte> data_;
};

CASA_NAMESPACE_END
