// Image tokens of pictures that were seen before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/image/rgb.hpp"
#include "casa/stream/positions.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// What a picture becomes: (tokens x hidden_size of the decoder), and how they lie in it.
template <Scalar T>
struct EncodedImage {
  Matrix<T> tokens;  ///< (tokens x hidden_size of the decoder), row by row of the picture
  ImageGrid grid;    ///< rows and columns of tokens; empty from the digit readers' encoder
};

/// What an EmbeddingCache holds and has done.
struct EmbeddingCacheCounts {
  std::int64_t hits = 0;      ///< pictures that were there
  std::int64_t misses = 0;    ///< pictures that were asked for and not there
  std::int64_t dropped = 0;   ///< pictures that made room for newer ones
  std::int64_t pictures = 0;  ///< held now
  Index bytes = 0;            ///< of pixels and tokens, held now
};

/// The tokens of pictures by their pixels, for one caller at a time: those that were asked for
/// least recently are dropped when there are too many. A picture is found by a hash of its size and
/// pixels, and then compared byte by byte, so no other picture is ever taken for it.
template <Scalar T>
class EmbeddingCache {
 public:
  /// Holds at most that many bytes; 0: nothing. Throws casa::error for a negative number.
  explicit EmbeddingCache(Index most_bytes = 0) : most_bytes_(most_bytes) {
    require(most_bytes >= 0, "EmbeddingCache: bytes must not be negative, got ", most_bytes);
  }

  /// The tokens of that picture, or null; valid until the next call of add() or clear().
  const EncodedImage<T>* find(ImageView image) {
    if (most_bytes_ == 0) return nullptr;
    const std::size_t hash = hash_of(image);
    for (Entry& e : entries_)
      if (e.hash == hash && is_copy(e.picture, image)) {
        e.asked = ++clock_;
        ++counts_.hits;
        return &e.encoded;
      }
    ++counts_.misses;
    return nullptr;
  }
  /// Keeps copies of a picture that find() did not find and of its tokens, unless they alone are
  /// more than the cache may hold.
  void add(ImageView image, const EncodedImage<T>& encoded) {
    const Index size = image.height * image.width * 3 + encoded.tokens.size() * Index{sizeof(T)};
    if (size > most_bytes_) return;
    while (counts_.bytes > most_bytes_ - size) drop_oldest();
    Entry e{hash_of(image), ++clock_, size, Image(image.height, image.width), encoded};
    for (Index y = 0; y < image.height; ++y)
      std::copy_n(image.row(y), 3 * image.width, e.picture.row(y));
    entries_.push_back(std::move(e));
    counts_.bytes += size;
    ++counts_.pictures;
  }
  /// Forgets all pictures; the counts of what was done stay.
  void clear() {
    entries_.clear();
    counts_.bytes = 0;
    counts_.pictures = 0;
  }
  /// What it holds and has done.
  const EmbeddingCacheCounts& counts() const { return counts_; }

 private:
  struct Entry {
    std::size_t hash;
    std::uint64_t asked;  // when it was found last, or added
    Index bytes;
    Image picture;
    EncodedImage<T> encoded;
  };

  static std::size_t hash_of(ImageView image) {
    std::size_t hash = static_cast<std::size_t>(image.height) * 0x9e3779b97f4a7c15u +
                       static_cast<std::size_t>(image.width);
    for (Index y = 0; y < image.height; ++y) {
      const std::string_view row(reinterpret_cast<const char*>(image.row(y)),
                                 static_cast<std::size_t>(3 * image.width));
      hash = (hash ^ std::hash<std::string_view>{}(row)) * 0x9e3779b97f4a7c15u;
    }
    return hash;
  }
  static bool is_copy(const Image& a, ImageView b) {
    if (a.height() != b.height || a.width() != b.width) return false;
    for (Index y = 0; y < b.height; ++y)
      if (!std::equal(a.row(y), a.row(y) + 3 * b.width, b.row(y))) return false;
    return true;
  }
  void drop_oldest() {
    const auto oldest =
        std::min_element(entries_.begin(), entries_.end(),
                         [](const Entry& a, const Entry& b) { return a.asked < b.asked; });
    counts_.bytes -= oldest->bytes;
    --counts_.pictures;
    ++counts_.dropped;
    entries_.erase(oldest);
  }

  Index most_bytes_;
  std::uint64_t clock_ = 0;
  std::vector<Entry> entries_;
  EmbeddingCacheCounts counts_;
};

}  // namespace io
CASA_NAMESPACE_END
