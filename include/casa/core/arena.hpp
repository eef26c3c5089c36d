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
    if (size > kLargestBlock) return part(std::make_shared<Buffer<std::byte>>(size), 0);
    if (!block_ || size > block_->size() - used_) {
      const Index doubled = block_ ? (std::min)(2 * block_->size(), kLargestBlock) : 0;
      block_ = std::make_shared<Buffer<std::byte>>((std::max)(size, doubled));
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

  static std::shared_ptr<std::byte> part(const Block& block, Index begin) {
    return {block, block->data() + begin};
  }

  Block block_;
  Index used_ = 0;
  std::deque<Lent> lent_;
};

CASA_NAMESPACE_END
