// Scratch memory that is reused from call to call: it grows during the first calls, after which no
// call allocates.
#pragma once

#include <cstddef>
#include <vector>

#include "casa/core/memory.hpp"

CASA_NAMESPACE_BEGIN

/// A stack of scratch arrays. take() hands out uninitialised, 64-byte aligned memory that stays
/// valid until the Frame that was opened before it closes. Not thread-safe: one per caller.
class Workspace {
 public:
  /// Everything taken while a Frame lives is given back when it ends. Frames nest.
  class Frame {
   public:
    /// Notes how much of `w` is taken. Frames of one workspace end in reverse order.
    explicit Frame(Workspace& w) : w_(w), block_(w.block_), used_(w.used_) { ++w_.depth_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    ~Frame() {
      w_.block_ = block_;
      w_.used_ = used_;
      if (--w_.depth_ == 0) w_.wants_merge_ = w_.blocks_.size() > 1;
    }

   private:
    Workspace& w_;
    std::size_t block_;
    Index used_;
  };

  /// `count` values of T, not initialised.
  template <class T>
  T* take(Index count) {
    const Index bytes = checked_mul(count, static_cast<Index>(sizeof(T)), "Workspace::take");
    return static_cast<T*>(static_cast<void*>(take_bytes(bytes)));
  }
  /// A rows x cols matrix.
  template <class T>
  MatrixView<T> matrix(Index rows, Index cols) {
    return {take<T>(checked_mul(rows, cols, "Workspace::matrix")), rows, cols, cols};
  }

  /// Bytes held, used or not.
  Index capacity() const {
    Index sum = 0;
    for (const auto& b : blocks_) sum += b.size();
    return sum;
  }

 private:
  std::byte* take_bytes(Index bytes) {
    constexpr Index align = static_cast<Index>(kAlignment);
    bytes = checked_add(bytes, align - 1, "Workspace::take") / align * align;
    if (wants_merge_ && block_ == 0 && used_ == 0) {  // it grew block by block: replace them by one
      const Index total = capacity();
      blocks_.clear();
      blocks_.emplace_back(total);
    }
    wants_merge_ = false;
    while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size()) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) blocks_.emplace_back(std::max<Index>(bytes, Index{1} << 16));
    std::byte* p = blocks_[block_].data() + used_;
    used_ += bytes;
    return p;
  }

  std::vector<Buffer<std::byte>> blocks_;
  std::size_t block_ = 0;
  Index used_ = 0;
  int depth_ = 0;
  bool wants_merge_ = false;
};

CASA_NAMESPACE_END
