// y = x W^T + b: every projection of the library.
#pragma once

#include <vector>

#include "casa/linear/product.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Whether a result replaces what stands in the output or is added to it.
enum class Accumulate { no, yes };

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// One weight as checkpoints hold it, (out x in) row-major, and its bias: `out` values, or none.
/// Each is made of MatrixView, Matrix, span, or a row-major Eigen object: LinearPiece{w},
/// LinearPiece{w, b}.
struct LinearPiece {
  StoredView weight = {};  ///< (out_features x in_features)
  StoredView bias = {};    ///< (1 x out_features), or empty: none
};

/// One linear map, or several with the same input stacked along their outputs (q, k and v in one
/// product). The weights are packed when it is made (into `arena`, where one is given); what they
/// were made from is not needed after. Copies share them.
///
/// Each output is the sum over in_features in order, one fused multiply-add each where the machine
/// has it (with int8 weights: each group's sum, times its scale), plus the bias, plus what stood in
/// y with Accumulate::yes. So an output has the same bits for any number of rows and threads. The
/// exception is Precision::storage with bfloat16 weights and an even number of in_features: more
/// than six rows are rounded to bfloat16, which may change the bits that fewer rows give. Their
/// pairs of k are then added in order; on AMX even and odd k of each 32 are summed apart, those two
/// sums are added, and that to the sum so far. Either instruction takes subnormal numbers as 0.
template <Scalar T>
class Linear {
 public:
  /// No weight: no inputs, no outputs.
  Linear() = default;
  /// Throws casa::error when pieces disagree in in_features, a bias has not `out` values, a type
  /// other than native is asked for with T = double, alternating pieces differ in size, or a value
  /// does not fit the type.
  explicit Linear(std::span<const LinearPiece> pieces, WeightType type = WeightType::native,
                  Arena* arena = nullptr, PieceOrder order = PieceOrder::stacked) {
    require(!pieces.empty(), "Linear: no weight was given");
    require(type == WeightType::native || std::same_as<T, float>,
            "Linear: 16-bit and 8-bit weights are computed in float, not in double");
    require(pieces[0].weight.cols() > 0, "Linear: in_features must be positive");
    std::vector<StoredView> weights;
    begin_.push_back(0);
    for (const LinearPiece& p : pieces) {
      require_equal("Linear: in_features of a piece", p.weight.cols(), pieces[0].weight.cols());
      if (!p.bias.empty()) {
        require_equal("Linear: rows of a bias", p.bias.rows(), 1);
        require_equal("Linear: values of a bias", p.bias.cols(), p.weight.rows());
      }
      if (order == PieceOrder::alternating)
        require_equal("Linear: outputs of a piece that alternates", p.weight.rows(),
                      pieces[0].weight.rows());
      begin_.push_back(begin_.back() + p.weight.rows());
      weights.push_back(p.weight);
    }
    weight_ = PackedWeight<T>(weights, pieces[0].weight.cols(), type, arena, order);
    bias_ = Matrix<T>(1, out_features());
    bias_.fill(T{0});
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (!pieces[i].bias.empty()) pieces[i].bias.copy_row(0, bias_.data() + begin_[i]);
  }
  /// A single piece. Throws as above.
  explicit Linear(const LinearPiece& piece, WeightType type = WeightType::native,
                  Arena* arena = nullptr)
      : Linear(std::span<const LinearPiece>(&piece, 1), type, arena) {}

  /// Columns of the weight, and of x in forward().
  Index in_features() const { return weight_.depth(); }
  /// Rows of the weight, of all pieces together, and columns of y in forward().
  Index out_features() const { return begin_.empty() ? 0 : begin_.back(); }
  /// How many pieces it was made from.
  Index num_pieces() const { return begin_.empty() ? 0 : static_cast<Index>(begin_.size()) - 1; }
  /// The first output of piece p; of p = num_pieces(), the end. Throws casa::error for another p.
  Index piece_begin(Index p) const {
    if (p < 0 || p >= std::ssize(begin_)) fail("Linear: piece ", p, " of ", num_pieces());
    return begin_[static_cast<std::size_t>(p)];
  }
  /// How the weight is held; biases are T.
  WeightType type() const { return weight_.type(); }
  /// Bytes held by weights, scales and biases.
  Index bytes() const { return weight_.bytes() + bias_.size() * Index{sizeof(T)}; }

  /// y (+)= x W^T + b, with x (rows x in_features), y (rows x out_features). y must not overlap x.
  /// Throws casa::error for other sizes.
  void forward(MatrixView<const T> x, MatrixView<T> y, const Context& context,
               Accumulate accumulate = Accumulate::no) const {
    run(x, y, 0, num_pieces(), context, accumulate);
  }

  /// The outputs of pieces [first, last) only: y (rows x piece_begin(last) - piece_begin(first)).
  /// Of alternating pieces, one or all. Throws casa::error for other sizes, or other pieces.
  void forward_pieces(MatrixView<const T> x, MatrixView<T> y, Index first, Index last,
                      const Context& context) const {
    require(0 <= first && first <= last && last <= num_pieces(), "Linear: pieces [", first, ", ",
            last, ") of ", num_pieces());
    run(x, y, first, last, context, Accumulate::no);
  }

  /// One row of the weight, in_features values. Throws casa::error unless there is one.
  void unpack_row(Index out_row, T* dst) const {
    const auto [panel, lane] = place_of(out_row);
    weight_.unpack_row(panel, lane, dst);
  }
  /// One row of int8 weights as they are held: in_features steps, and the scale of each kQuantGroup
  /// of them. Throws casa::error unless there is such a row, and for weights of another type.
  void unpack_row(Index out_row, std::int8_t* steps, bfloat16* scales) const {
    require(type() == WeightType::int8, "Linear: the weights are not held as int8");
    const auto [panel, lane] = place_of(out_row);
    weight_.unpack_row(panel, lane, steps, scales);
  }
  /// The whole weight (out_features x in_features), as it is computed with.
  Matrix<T> unpacked() const {
    Matrix<T> w(out_features(), in_features());
    for (Index r = 0; r < w.rows(); ++r) unpack_row(r, w.row(r));
    return w;
  }
  /// The biases, out_features values; zero where a piece has none.
  std::span<const T> bias() const { return {bias_.data(), static_cast<std::size_t>(bias_.size())}; }
  /// The packed weight, for products that store something else than y (swiglu.hpp).
  const PackedWeight<T>& packed() const { return weight_; }

 private:
  static constexpr Index kWidth = PackedWeight<T>::kWidth;

  struct Place {
    Index panel, lane;
  };
  Place place_of(Index out_row) const {
    require(0 <= out_row && out_row < out_features(), "Linear: row ", out_row, " of ",
            out_features());
    Index piece = 0;
    while (out_row >= piece_begin(piece + 1)) ++piece;
    const Index row = out_row - piece_begin(piece);
    return {weight_.piece(piece)(row / kWidth), row % kWidth};
  }

  detail::PanelSequence panels(Index first, Index last) const {
    if (first == 0 && last == num_pieces()) return {0, weight_.num_panels(), 1};
    detail::PanelSequence sequence = weight_.piece(first);
    require(sequence.step == 1 || last == first + 1, "Linear: pieces [", first, ", ", last, ") of ",
            num_pieces(), " that alternate");
    for (Index p = first + 1; p < last; ++p) sequence.count += weight_.piece(p).count;
    return sequence;
  }

  void run(MatrixView<const T> x, MatrixView<T> y, Index first, Index last, const Context& context,
           Accumulate accumulate) const {
    const bool made = !begin_.empty();
    const Index begin = made ? piece_begin(first) : 0, end = made ? piece_begin(last) : 0;
    require_equal("Linear: columns of x", x.cols(), in_features());
    require_equal("Linear: columns of y", y.cols(), end - begin);
    require_equal("Linear: rows of y", y.rows(), x.rows());
    require_memory("Linear: x", x);
    require_memory("Linear: y", y);
    if (x.rows() == 0 || begin == end) return;
    if (context.path == Path::naive) {
      if constexpr (std::same_as<T, float>)
        if (type() == WeightType::int8 && context.precision == Precision::int8)
          return run_naive<double>(rounded_rows(x), y, begin, accumulate);
      return run_naive<T>(x.eigen(), y, begin, accumulate);
    }

    const detail::Product<T> product(weight_, panels(first, last), context);
    product.run(x, [&](Index p, Index row, Index rows, const T* tile, Index) {
      const auto& panel = weight_.panel(p);
      const T* bias = bias_.data() + panel.begin;
      for (Index r = 0; r < rows; ++r)
        store_row(tile + r * kWidth, bias, y.row(row + r) + panel.begin - begin, panel.width,
                  accumulate);
    });
  }

  static void store_row(const T* sum, const T* bias, T* y, Index width, Accumulate accumulate) {
    constexpr Index lanes = simd::kLanes<T>;
    for (Index c = 0; c < width; c += lanes) {
      const Index n = (std::min)(lanes, width - c);
      if (n == lanes) {
        simd::Vec<T> v = simd::load(sum + c) + simd::load(bias + c);
        if (accumulate == Accumulate::yes) v = simd::load(y + c) + v;
        simd::store(y + c, v);
      } else {
        for (Index i = c; i < width; ++i)
          y[i] = accumulate == Accumulate::yes ? y[i] + (sum[i] + bias[i]) : sum[i] + bias[i];
      }
    }
  }

  // In R: double where x was rounded to int8, so that what comes of it is the definition.
  template <Scalar R>
  void run_naive(const Eigen::Ref<const RowMatrix<R>, 0, Eigen::OuterStride<>>& x, MatrixView<T> y,
                 Index begin, Accumulate accumulate) const {
    const Matrix<T> all = unpacked();
    const auto w = all.eigen().middleRows(begin, y.cols());
    const auto b = bias_.eigen().middleCols(begin, y.cols());
    auto out = y.eigen();
    if (accumulate == Accumulate::no) out.setZero();
    out += (x * w.transpose().template cast<R>()).template cast<T>().eval();
    out.rowwise() += b.row(0);
  }

  std::vector<Index> begin_;
  PackedWeight<T> weight_;
  Matrix<T> bias_;
};

CASA_NAMESPACE_END
