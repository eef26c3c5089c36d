// y = x W^T + b: every projection of the library.
#pragma once

#include <vector>

#include "casa/core/context.hpp"
#include "casa/layers/quantize.hpp"
#include "casa/layers/stored_view.hpp"

CASA_NAMESPACE_BEGIN

/// How packed weights are held. `native` is the scalar computed in; the others need float and are
/// widened in registers. int8 has one scale per 32 values along in_features (quantize.hpp).
enum class WeightType { native, bfloat16, half, int8 };

/// Whether a result replaces what stands in the output or is added to it.
enum class Accumulate { no, yes };

/// One weight as checkpoints hold it, (out x in), and its bias: `out` values, or none.
struct LinearPiece {
  StoredView weight = {};
  StoredView bias = {};
};

/// One linear map, or several with the same input stacked along their outputs (q, k and v in one
/// product). The weights are packed when it is made; what they were made from is not needed after.
template <Scalar T>
class Linear {
 public:
  Linear() = default;
  /// Throws casa::error when pieces disagree in in_features, a bias has not `out` values, or a
  /// 16-bit or 8-bit type is asked for with T = double.
  explicit Linear(std::span<const LinearPiece> pieces, WeightType type = WeightType::native)
      : type_(type) {
    require(!pieces.empty(), "Linear: no weight was given");
    require(type == WeightType::native || std::same_as<T, float>,
            "Linear: 16-bit and 8-bit weights are computed in float, not in double");
    begin_.push_back(0);
    for (const LinearPiece& p : pieces) {
      require_equal("Linear: in_features of a piece", p.weight.cols(), pieces[0].weight.cols());
      if (!p.bias.empty()) {
        require_equal("Linear: rows of a bias", p.bias.rows(), 1);
        require_equal("Linear: values of a bias", p.bias.cols(), p.weight.rows());
      }
      begin_.push_back(begin_.back() + p.weight.rows());
    }
    weight_ = Matrix<T>(out_features(), pieces[0].weight.cols());
    bias_ = Matrix<T>(1, out_features());
    bias_.fill(T{0});
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const LinearPiece& p = pieces[i];
      for (Index r = 0; r < p.weight.rows(); ++r) {
        T* row = weight_.row(begin_[i] + r);
        p.weight.copy_row(r, row);
        round_row(row);
      }
      if (!p.bias.empty()) p.bias.copy_row(0, bias_.data() + begin_[i]);
    }
  }
  explicit Linear(const LinearPiece& piece, WeightType type = WeightType::native)
      : Linear(std::span<const LinearPiece>(&piece, 1), type) {}

  Index in_features() const { return weight_.cols(); }
  Index out_features() const { return begin_.empty() ? 0 : begin_.back(); }
  Index num_pieces() const { return begin_.empty() ? 0 : static_cast<Index>(begin_.size()) - 1; }
  /// The first output of piece p; of p = num_pieces(), the end.
  Index piece_begin(Index p) const { return begin_[static_cast<std::size_t>(p)]; }
  WeightType type() const { return type_; }
  /// Bytes held by weights, scales and biases.
  Index bytes() const { return (weight_.size() + bias_.size()) * static_cast<Index>(sizeof(T)); }

  /// y (+)= x W^T + b, with x (rows x in_features), y (rows x out_features). y must not overlap x.
  void forward(MatrixView<const T> x, MatrixView<T> y, const Context& context,
               Accumulate accumulate = Accumulate::no) const {
    run(x, y, 0, num_pieces(), context, accumulate);
  }

  /// The outputs of pieces [first, last) only: y (rows x piece_begin(last) - piece_begin(first)).
  void forward_pieces(MatrixView<const T> x, MatrixView<T> y, Index first, Index last,
                      const Context& context) const {
    require(0 <= first && first <= last && last <= num_pieces(), "Linear: pieces [", first, ", ",
            last, ") of ", num_pieces());
    run(x, y, first, last, context, Accumulate::no);
  }

  /// One row of the weight, in_features values.
  void unpack_row(Index out_row, T* dst) const {
    require(0 <= out_row && out_row < out_features(), "Linear: row ", out_row, " of ",
            out_features());
    std::copy_n(weight_.row(out_row), in_features(), dst);
  }
  /// The whole weight (out_features x in_features), as it is computed with.
  Matrix<T> unpacked() const { return weight_; }
  /// The biases, out_features values; zero where a piece has none.
  std::span<const T> bias() const { return {bias_.data(), static_cast<std::size_t>(bias_.size())}; }

 private:
  void run(MatrixView<const T> x, MatrixView<T> y, Index first, Index last, const Context&,
           Accumulate accumulate) const {
    const Index begin = out_features() == 0 ? 0 : piece_begin(first);
    const Index count = out_features() == 0 ? 0 : piece_begin(last) - begin;
    require_equal("Linear: columns of x", x.cols(), in_features());
    require_equal("Linear: columns of y", y.cols(), count);
    require_equal("Linear: rows of y", y.rows(), x.rows());
    if (x.rows() == 0 || count == 0) return;
    auto out = y.eigen();
    const auto w = weight_.eigen().middleRows(begin, count);
    const auto b = bias_.eigen().middleCols(begin, count);
    if (accumulate == Accumulate::no) {
      out.noalias() = x.eigen() * w.transpose();
    } else {
      out.noalias() += x.eigen() * w.transpose();
    }
    out.rowwise() += b.row(0);
  }

  void round_row(T* row) const {
    const Index n = in_features();
    if (type_ == WeightType::bfloat16)
      for (Index c = 0; c < n; ++c) row[c] = static_cast<T>(widen(narrow<bfloat16>(row[c])));
    if (type_ == WeightType::half)
      for (Index c = 0; c < n; ++c) row[c] = static_cast<T>(widen(narrow<half>(row[c])));
    if (type_ == WeightType::int8) {
      for (Index g = 0; g < n; g += kQuantGroup) {
        const Index end = std::min(n, g + kQuantGroup);
        float largest = 0;
        for (Index c = g; c < end; ++c)
          largest = std::max(largest, std::abs(static_cast<float>(row[c])));
        const float scale = widen(quant_scale(largest));
        for (Index c = g; c < end; ++c)
          row[c] =
              static_cast<T>(quantize(static_cast<float>(row[c]), scale)) * static_cast<T>(scale);
      }
    }
  }

  WeightType type_ = WeightType::native;
  std::vector<Index> begin_;
  Matrix<T> weight_;
  Matrix<T> bias_;
};

CASA_NAMESPACE_END
