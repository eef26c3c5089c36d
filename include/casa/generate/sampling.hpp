// From a row of logits to the next token: penalties, temperature, top-k, top-p, min-p, and the
// draw.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/core/scalar.hpp"
#include "casa/generate/random.hpp"

CASA_NAMESPACE_BEGIN

/// How the next token is chosen. Applied in the order of the Hugging Face generation stack:
/// repetition_penalty, eos_bias (these two also when greedy), temperature, top_k, top_p, min_p.
/// The defaults are greedy and leave the logits as they are.
struct SamplingOptions {
  /// Divides the logits; 0 is greedy: the largest logit, of equal ones the lowest id. Finite, >= 0.
  double temperature = 0;
  /// Keeps the k largest logits, of equal ones those of the lowest ids; 0 is off. >= 0.
  Index top_k = 0;
  /// Keeps the fewest likeliest tokens that together have this probability; 1 is off. In (0, 1].
  double top_p = 1;
  /// Keeps the tokens at least min_p times as probable as the likeliest; 0 is off. In [0, 1].
  double min_p = 0;
  /// The logit of each token seen so far (prompt and output) is divided by this if positive, else
  /// multiplied (Keskar et al., CTRL, section 4.1, in the form of Hugging Face); 1 is off. Finite,
  /// > 0.
  double repetition_penalty = 1;
  /// The logit of each stop token is multiplied by this if positive, else divided, so that below 1
  /// it is always less likely: the rule of the CASA authors' captioner, whose eos_bias weighs
  /// logits and not probabilities. 1 is off. Finite, > 0.
  double eos_bias = 1;
  /// Tokens that end a text, for eos_bias. Within the vocabulary.
  std::vector<Index> stop_ids = {};
  std::uint64_t seed = 0;  ///< of the random numbers; the same seed draws the same tokens

  friend bool operator==(const SamplingOptions&, const SamplingOptions&) = default;
};

/// Throws casa::error unless every option is in its range and every stop id in [0, vocab_size).
inline void check(const SamplingOptions& o, Index vocab_size) {
  const auto expect = [](bool ok, const char* name, const char* range, auto actual) {
    require(ok, "SamplingOptions: ", name, ": expected ", range, ", got ", actual);
  };
  expect(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", "finite and >= 0",
         o.temperature);
  expect(o.top_k >= 0, "top_k", ">= 0", o.top_k);
  expect(o.top_p > 0 && o.top_p <= 1, "top_p", "in (0, 1]", o.top_p);
  expect(o.min_p >= 0 && o.min_p <= 1, "min_p", "in [0, 1]", o.min_p);
  expect(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty",
         "finite and > 0", o.repetition_penalty);
  expect(std::isfinite(o.eos_bias) && o.eos_bias > 0, "eos_bias", "finite and > 0", o.eos_bias);
  for (const Index id : o.stop_ids)
    require(id >= 0 && id < vocab_size, "SamplingOptions: stop_ids: expected ids in [0, ",
            vocab_size, "), got ", id);
}

/// All that a Sampler keeps, as integers.
struct SamplerState {
  Random::State random = {};  ///< of the next draw
  /// Bit id % 64 of word id / 64: the token was seen. (vocab_size + 63) / 64 words.
  std::vector<std::uint64_t> seen = {};

  friend bool operator==(const SamplerState&, const SamplerState&) = default;
};

namespace detail {

/// The logit of a token made less likely by a factor above 1, whatever the logit's sign.
template <Scalar T>
T weigh_down(T logit, double factor) {
  const double x = static_cast<double>(logit);
  return static_cast<T>(x > 0 ? x / factor : x * factor);
}

/// Likewise, made likelier by a factor above 1.
template <Scalar T>
T weigh_up(T logit, double factor) {
  const double x = static_cast<double>(logit);
  return static_cast<T>(x > 0 ? x * factor : x / factor);
}

/// Largest of the logits; throws, naming `what`, on NaN and +inf, and when all are -inf.
template <Scalar T>
T largest_logit(std::span<const T> logits, std::string_view what) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  constexpr std::size_t lanes = 16;  // independent, so that compilers use vectors
  T top[lanes];
  std::fill_n(top, lanes, -infinity);
  bool below = true;  // false for NaN too
  const std::size_t n = logits.size();
  for (std::size_t i = 0; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) {
      const T x = logits[i + j];
      below &= x < infinity;
      top[j] = top[j] < x ? x : top[j];
    }
  for (std::size_t i = n / lanes * lanes; i < n; ++i) {
    below &= logits[i] < infinity;
    top[0] = top[0] < logits[i] ? logits[i] : top[0];
  }
  if (!below) {
    const auto bad =
        std::find_if(logits.begin(), logits.end(), [](T x) { return !(x < infinity); });
    fail(what, ": expected numbers below infinity, got ", *bad, " at id ", bad - logits.begin(),
         " of ", n);
  }
  const T largest = *std::max_element(top, top + lanes);
  require(largest > -infinity, what, ": expected one above -inf, got none of ", n);
  return largest;
}

}  // namespace detail

/// Draws one token after another. A draw depends on the logits, the options, the tokens seen and
/// the random state alone: a copy, or a new one with the same options and restore(state()),
/// continues as the original does. Once built, next(), observe(), restore() and reset() allocate
/// nothing (a copy may, in its first steps). Not thread-safe: one per stream.
template <Scalar T>
class Sampler {
 public:
  /// A token that the last draw could have taken. Its probability is weight / sum of all weights.
  struct Candidate {
    double weight;    ///< exp((logit - largest logit) / temperature)
    T logit;          ///< after the penalties
    std::int32_t id;  ///< the token: its column of the logits
  };

  /// vocab_size: the width of the logits, 1 .. 2^31 - 1. Throws as check() does.
  Sampler(Index vocab_size, SamplingOptions options)
      : vocab_size_(vocab_size), options_(std::move(options)) {
    require(vocab_size > 0 && vocab_size <= (std::numeric_limits<std::int32_t>::max)(),
            "Sampler: vocab_size: expected 1 to 2147483647, got ", vocab_size);
    check(options_, vocab_size);
    auto& stops = options_.stop_ids;  // a stop id given twice is weighed once
    std::sort(stops.begin(), stops.end());
    stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
    reset();
    const auto vocab = static_cast<std::size_t>(vocab_size);
    if (weighs()) row_.resize(vocab);
    if (options_.temperature > 0) {
      candidates_.reserve(cuts_to_k() ? static_cast<std::size_t>(options_.top_k) : vocab);
      if (cuts_to_k()) largest_.reserve(2 * static_cast<std::size_t>(options_.top_k));
      if (options_.top_p < 1) ranked_.reserve(candidates_.capacity());
    }
  }

  /// The next token. logits: (vocab_size). It counts as seen from now on. Takes one random number
  /// unless greedy. Throws, and leaves the state as it was, when the number of logits is wrong, one
  /// is NaN or +inf, all are -inf, or a penalty drives them there.
  Index next(std::span<const T> logits) {
    require_equal("Sampler::next: logits.size()", std::ssize(logits), vocab_size_);
    T largest = detail::largest_logit(logits, "Sampler::next: logits");
    if (weighs()) {
      logits = weighed(logits);
      largest =
          detail::largest_logit(logits, "Sampler::next: logits after repetition_penalty, eos_bias");
    }
    candidates_.clear();
    const Index id = options_.temperature > 0
                         ? draw(logits, largest)
                         : std::find(logits.begin(), logits.end(), largest) - logits.begin();
    mark(id);
    return id;
  }

  /// Counts tokens of the text that were not drawn, such as the prompt, as seen.
  void observe(Index id) {
    require(id >= 0 && id < vocab_size_, "Sampler::observe: id: expected [0, ", vocab_size_,
            "), got ", id);
    mark(id);
  }
  /// The same for several.
  void observe(std::span<const Index> ids) {
    for (const Index id : ids) observe(id);
  }

  /// The tokens among which the last next() drew, by ascending id; empty when greedy.
  std::span<const Candidate> candidates() const { return candidates_; }

  /// To save.
  const SamplerState& state() const { return state_; }
  /// Continues from a saved state. Throws casa::error, and keeps its own, unless it fits this
  /// vocabulary.
  void restore(const SamplerState& state) {
    require_equal("Sampler::restore: seen.size()", state.seen.size(), state_.seen.size());
    const int unused = static_cast<int>(std::ssize(state.seen) * 64 - vocab_size_);
    require(std::countl_zero(state.seen.back()) >= unused,
            "Sampler::restore: seen: expected ids below ", vocab_size_);
    static_cast<void>(Random(state.random));  // checks it
    state_ = state;
  }
  /// As after construction: the options' seed, no token seen.
  void reset() {
    state_.random = Random(options_.seed).state();
    state_.seen.assign(static_cast<std::size_t>((vocab_size_ + 63) / 64), 0);
  }

  /// As given, but stop_ids sorted and distinct.
  const SamplingOptions& options() const { return options_; }
  /// Logits that next() expects.
  Index vocab_size() const { return vocab_size_; }

 private:
  bool weighs() const {
    return options_.repetition_penalty != 1 ||
           (options_.eos_bias != 1 && !options_.stop_ids.empty());
  }
  bool cuts_to_k() const { return options_.top_k > 0 && options_.top_k < vocab_size_; }

  void mark(Index id) {
    state_.seen[static_cast<std::size_t>(id / 64)] |= std::uint64_t{1} << (id % 64);
  }

  /// The logits after repetition_penalty and eos_bias.
  std::span<const T> weighed(std::span<const T> logits) {
    std::copy(logits.begin(), logits.end(), row_.begin());
    if (options_.repetition_penalty != 1)
      for (std::size_t word = 0; word < state_.seen.size(); ++word)
        for (std::uint64_t bits = state_.seen[word]; bits != 0; bits &= bits - 1) {
          T& x = row_[word * 64 + static_cast<std::size_t>(std::countr_zero(bits))];
          x = detail::weigh_down(x, options_.repetition_penalty);
        }
    if (options_.eos_bias != 1)
      for (const Index id : options_.stop_ids) {
        T& x = row_[static_cast<std::size_t>(id)];
        x = detail::weigh_up(x, options_.eos_bias);
      }
    return row_;
  }

  Index draw(std::span<const T> logits, T largest) {
    gather(logits, largest);
    if (options_.top_p < 1) keep_top_p();
    if (options_.min_p > 0)  // the likeliest has weight 1
      std::erase_if(candidates_, [this](const Candidate& c) { return c.weight < options_.min_p; });
    Random random(state_.random);
    const double target = random.uniform() * total_weight();
    state_.random = random.state();
    double sum = 0;
    Index id = 0;
    for (const Candidate& c : candidates_) {
      if (c.weight == 0) continue;
      id = c.id;
      sum += c.weight;
      if (sum > target) break;
    }
    return id;
  }

  /// Sums go by ascending id, so that they do not depend on the order in which a standard library's
  /// nth_element leaves elements.
  double total_weight() const {
    double sum = 0;
    for (const Candidate& c : candidates_) sum += c.weight;
    return sum;
  }

  /// Fills the candidates, by ascending id: all that can be drawn, or the top_k largest.
  void gather(std::span<const T> logits, T largest) {
    T floor = -std::numeric_limits<T>::infinity();
    Index ties = 0;  // how many at the floor are kept
    if (cuts_to_k()) find_floor(logits, floor, ties);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const T x = logits[i];
      const bool kept = x > floor || (x == floor && ties-- > 0);
      if (!kept) continue;
      const double below = static_cast<double>(x) - static_cast<double>(largest);
      candidates_.push_back(
          {std::exp(below / options_.temperature), x, static_cast<std::int32_t>(i)});
    }
  }

  /// The top_k-th largest logit and how many equal to it belong to the top_k; -inf and 0 when fewer
  /// logits than that are above -inf. One pass over the logits, which keeps up to 2 * top_k of them
  /// and raises the floor whenever so many are kept, so that most logits cost one comparison.
  void find_floor(std::span<const T> logits, T& floor, Index& ties) {
    const auto k = static_cast<std::size_t>(options_.top_k);
    const auto cut = [&] {
      const auto kth = largest_.begin() + static_cast<std::ptrdiff_t>(k - 1);
      std::nth_element(largest_.begin(), kth, largest_.end(), std::greater<T>());
      floor = *kth;
      largest_.resize(k);
    };
    largest_.clear();
    for (const T x : logits) {
      if (!(x > floor)) continue;
      largest_.push_back(x);
      if (largest_.size() == 2 * k) cut();
    }
    if (largest_.size() < k) return;
    cut();
    ties = std::count(largest_.begin(), largest_.end(), floor);
  }

  /// Drops all candidates but the fewest likeliest that reach top_p of the weight. Only the top of
  /// the ranking is ever sorted, in chunks.
  void keep_top_p() {
    const auto before = [](const Candidate& a, const Candidate& b) {
      return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    };
    const double total = total_weight();
    const double wanted = options_.top_p * total;
    // All candidates below this weight together reach at most half of the weight that may be
    // dropped, so that none of them is among those kept.
    const double least = (total - wanted) / (2 * static_cast<double>(candidates_.size()));
    ranked_.clear();
    for (const Candidate& c : candidates_)
      if (c.weight >= least) ranked_.push_back(c);
    Candidate last = ranked_.front();
    double sum = 0;
    std::ptrdiff_t chunk = 64;
    for (auto at = ranked_.begin(); at != ranked_.end() && sum < wanted; chunk *= 4) {
      const auto stop = at + (std::min)(chunk, ranked_.end() - at);
      if (stop != ranked_.end()) std::nth_element(at, stop, ranked_.end(), before);
      std::sort(at, stop, before);
      for (; at != stop && sum < wanted; ++at) {
        sum += at->weight;
        last = *at;
      }
    }
    std::erase_if(candidates_, [&](const Candidate& c) { return before(last, c); });
  }

  Index vocab_size_;
  SamplingOptions options_;
  SamplerState state_;
  std::vector<T> row_;                 // weighed logits
  std::vector<T> largest_;             // find_floor
  std::vector<Candidate> candidates_;  // by ascending id
  std::vector<Candidate> ranked_;      // keep_top_p
};

CASA_NAMESPACE_END
