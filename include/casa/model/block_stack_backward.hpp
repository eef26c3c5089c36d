// All blocks of a model for training: forward, with what the way back needs, and that way back.
#pragma once

#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "casa/model/block_backward.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// The lowest of the blocks that has to be gone back through: 0 where what lies below them learns.
template <Scalar T>
Index lowest_that_learns(const std::vector<BlockWeightGradients<T>>& blocks, bool below) {
  Index layer = 0;
  while (!below && layer < std::ssize(blocks) && !blocks[static_cast<std::size_t>(layer)].any())
    ++layer;
  return layer;
}

/// Blocks one after the other. make(layer) gives the BlockTraining of one; it is called again and
/// again, for one block at a time. What is kept of them lies in the context's workspace, from the
/// construction on.
template <Scalar T, class Make>
class BlockStackTraining {
 public:
  using Block = BlockTraining<T>;

  /// Blocks below `first` are not gone back through.
  BlockStackTraining(Index first, Index layers, Activations activations, const Context& context,
                     Make make)
      : first_(first),
        layers_(layers),
        activations_(activations),
        workspace_(context.workspace),
        make_(std::move(make)),
        x_(workspace_.template take<MatrixView<T>>(layers + 1)),
        y_(workspace_.template take<MatrixView<T>>(layers + 1)),
        records_(workspace_.template take<Record>(layers)) {}

  /// x and y (rows x hidden_size), which must stay as they are, through all blocks. Gives x after
  /// the last one.
  MatrixView<T> forward(MatrixView<T> x, MatrixView<T> y) const {
    // Where images stay as they are, blocks have the same y.
    std::construct_at(x_, x);
    std::construct_at(y_, y);
    for (Index l = 0; l < layers_; ++l) {
      const Block block = make_(l);
      std::construct_at(x_ + l + 1, workspace_.template matrix<T>(x.rows(), x.cols()));
      std::construct_at(y_ + l + 1, block.updates_images()
                                        ? workspace_.template matrix<T>(y.rows(), y.cols())
                                        : y_[l]);
      if (keeps(l)) std::construct_at(records_ + l, block.record(x_[l], y_[l], Activations::keep));
      const Workspace::Frame inner(workspace_);
      block.forward(keeps(l) ? records_[l] : block.record(x_[l], y_[l], Activations::recompute),
                    x_[l + 1], y_[l + 1]);
    }
    return x_[layers_];
  }

  /// d_x and d_y, the gradients of what comes out of the last block, become those of what goes into
  /// the block `first`.
  void backward(MatrixView<T> d_x, MatrixView<T> d_y) const {
    for (Index l = layers_; l-- > first_;) {
      const Workspace::Frame inner(workspace_);
      const Block block = make_(l);
      if (keeps(l)) {
        block.backward(records_[l], d_x, d_y);
      } else {
        const Record record = block.record(x_[l], y_[l], Activations::recompute);
        block.attend(record);
        block.backward(record, d_x, d_y);
      }
    }
  }

 private:
  using Record = typename Block::Record;

  // Whether a block's inner values stay in memory until it is gone back through. Those of the last
  // block do in any case: they would be the next to be computed again.
  bool keeps(Index layer) const {
    return layer >= first_ && (activations_ == Activations::keep || layer == layers_ - 1);
  }

  Index first_, layers_;
  Activations activations_;
  Workspace& workspace_;
  Make make_;
  MatrixView<T>* x_;  // the input of every block, and what comes out of the last one
  MatrixView<T>* y_;
  Record* records_;
};

/// The same, with the type of `make` found out.
template <Scalar T, class Make>
BlockStackTraining<T, Make> train_blocks(Index first, Index layers, Activations activations,
                                         const Context& context, Make make) {
  return {first, layers, activations, context, std::move(make)};
}

}  // namespace detail

CASA_NAMESPACE_END
