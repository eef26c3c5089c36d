// In what order samples are seen: shuffled anew in each epoch, from a seed, whatever the threads.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/generate/random.hpp"

CASA_NAMESPACE_BEGIN

/// A generator of its own for the `number`-th of many things under one seed (an epoch, a sample's
/// augmentation), so that whichever thread does it, and in whatever order, draws the same numbers.
inline Random random_of(std::uint64_t seed, std::uint64_t number) {
  return Random(Random(seed).next() ^ Random(~number).next());
}

/// Uniform in [0, n), each as likely: the high half of a product with 64 random bits, drawn again
/// in the rare case in which some results would be likelier (Lemire, arXiv 1805.10941). Throws
/// casa::error unless n is positive.
inline std::uint64_t uniform_below(Random& random, std::uint64_t n) {
  require(n > 0, "uniform_below: n must be positive, got 0");
  __extension__ using Wide = unsigned __int128;
  Wide product = Wide{random.next()} * n;
  if (static_cast<std::uint64_t>(product) < n)
    for (const std::uint64_t least = (0 - n) % n; static_cast<std::uint64_t>(product) < least;)
      product = Wide{random.next()} * n;
  return static_cast<std::uint64_t>(product >> 64);
}

/// How far a SampleOrder is: with its seed and number of samples, all there is to know of it.
struct SampleOrderState {
  std::int64_t epoch = 0;  ///< times that all samples were seen
  Index place = 0;         ///< samples of this epoch that were seen

  friend bool operator==(const SampleOrderState&, const SampleOrderState&) = default;
};

/// The samples 0 .. n - 1 without end, each once an epoch, each epoch in an order of its own that
/// follows from the seed and the epoch's number (Fisher and Yates).
class SampleOrder {
 public:
  /// Of `samples` samples, from `state` on. Throws casa::error unless samples is positive and the
  /// state is one of theirs.
  explicit SampleOrder(Index samples, std::uint64_t seed = 0, const SampleOrderState& state = {})
      : seed_(seed), order_(checked(samples)) {
    restore(state);
  }

  /// The next sample.
  Index next() {
    if (state_.place == samples()) shuffle({state_.epoch + 1, 0});
    return order_[static_cast<std::size_t>(state_.place++)];
  }

  /// How many there are.
  Index samples() const { return static_cast<Index>(order_.size()); }
  /// As given to the constructor.
  std::uint64_t seed() const { return seed_; }
  /// To save.
  const SampleOrderState& state() const { return state_; }
  /// Goes on from there. Throws casa::error, and changes nothing, unless epoch is not negative and
  /// place is in [0, samples()].
  void restore(const SampleOrderState& state) {
    require(state.epoch >= 0 && state.place >= 0 && state.place <= samples(),
            "SampleOrder: expected an epoch that is not negative and a place in [0, ", samples(),
            "], got ", state.epoch, " and ", state.place);
    shuffle(state);
  }

 private:
  static std::size_t checked(Index samples) {
    require(samples > 0, "SampleOrder: samples must be positive, got ", samples);
    return static_cast<std::size_t>(samples);
  }
  void shuffle(const SampleOrderState& state) {
    std::iota(order_.begin(), order_.end(), Index{0});
    Random random = random_of(seed_, static_cast<std::uint64_t>(state.epoch));
    for (std::size_t left = order_.size(); left > 1; --left)
      std::swap(order_[left - 1], order_[uniform_below(random, left)]);
    state_ = state;
  }

  std::uint64_t seed_;
  std::vector<Index> order_;
  SampleOrderState state_;
};

CASA_NAMESPACE_END
