// Memory for weights that are made together and read together: neighbours in a few large blocks.
#pragma once

#include <deque>
#include <memory>
#include <utility>

#include "casa/core/memory.hpp"

CASA_NAMESPACE_BEGIN

/// Hands out parts of a few large blocks. Allocated one by one, the weights of a small model would
/// each be shorter than a page of 2 MiB and lie on small pages (memory.hpp), which cost 10 to 20 %
/// of the read rate. Not thread-safe.
class Arena {
 public:
  /// An arena that keeps its blocks: once all parts of one are gone it is handed out again. For
  /// weights that are made anew again and again, as in training: fresh memory of 500 MB costs 0.3 s
  /// (of the kernel, which clears its pages), four times what packing weights into it does.
  static Arena keeping() {
    Arena arena;
    arena.keeps_ = true;
    return arena;
  }

  /// Memory of `bytes` that holds already what its taker would write there. What was lent first is
  /// taken first.
  void lend(std::shared_ptr<const std::byte> filled, Index bytes) {
    lent_.push_back({std::move(filled), bytes});
  }
  /// What was lent; null where nothing is. Throws casa::error if that is another number of bytes.
  std::shared_ptr<const std::byte> take_lent(Index bytes) {
    if (lent_.empty()) return nullptr;
    const Lent first = std::move(lent_.front());
    lent_.pop_front();
    require_equal("Arena: bytes of filled memory", first.bytes, bytes);
    return first.data;
  }
  /// `bytes` of uninitialised memory, 64-byte aligned. They stay valid as long as the pointer or a
  /// copy of it lives, also after the arena is gone; a block is freed with the last of its parts.
  std::shared_ptr<std::byte> take(Index bytes) {
    constexpr Index align = static_cast<Index>(kAlignment);
    const Index size = checked_add(bytes, align - 1, "Arena::take") / align * align;
    if (size > kLargestBlock) return part(block(size, size), 0);
    if (is_free(block_, 2)) block_.reset();  // the next round takes blocks in the same order
    if (!block_ || size > block_->size() - used_) {
      const Index doubled = block_ ? (std::min)(2 * block_->size(), kLargestBlock) : 0;
      block_ = block(size, (std::max)(size, doubled));
      used_ = 0;
    }
    used_ += size;
    return part(block_, used_ - size);
  }

 private:
  struct Lent {
    std::shared_ptr<const std::byte> data;
    Index bytes;
  };
  using Block = std::shared_ptr<Buffer<std::byte>>;
  static constexpr Index kLargestBlock = Index{1} << 26;

  // Whether an arena that keeps its blocks alone knows this one, by so many pointers.
  bool is_free(const Block& b, long pointers) const {
    return keeps_ && b && b.use_count() == pointers;
  }
  // A block of `bytes` or more: one that is kept and free, the smallest that will do, or a new one
  // of `new_bytes`. A part that has a block of its own takes none that is larger.
  Block block(Index bytes, Index new_bytes) {
    const bool own = bytes > kLargestBlock;
    Block best;
    for (const Block& b : kept_)
      if (is_free(b, 1) && b->size() >= bytes &&
          (own ? b->size() == bytes : b->size() <= kLargestBlock) &&
          (!best || b->size() < best->size()))
        best = b;
    if (best) return best;
    best = std::make_shared<Buffer<std::byte>>(new_bytes);
    if (keeps_) kept_.push_back(best);
    return best;
  }
  static std::shared_ptr<std::byte> part(const Block& block, Index begin) {
    return {block, block->data() + begin};
  }

  bool keeps_ = false;
  std::deque<Block> kept_;
  Block block_;
  Index used_ = 0;
  std::deque<Lent> lent_;
};

CASA_NAMESPACE_END
