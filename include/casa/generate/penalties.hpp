// Two penalties that keep a captioner that runs for days from repeating itself: a repetition
// penalty that decays, and a block on repeated n-grams. Both edit a row of logits before it is
// sampled.
//
// The rules and their defaults are those of the CASA authors' live captioner.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/core/scalar.hpp"
#include "casa/generate/sampling.hpp"

CASA_NAMESPACE_BEGIN

/// Options of EmaRepetitionPenalty.
struct EmaRepetitionOptions {
  double penalty = 1.15;             ///< factor for a count of 1; 1 is off. Finite, > 0.
  double decay = 0.99;               ///< factor of every count for each further token. In (0, 1).
  double max_count = 5;              ///< larger counts are taken as this. Finite, >= 0.
  std::vector<Index> stop_ids = {};  ///< never penalised

  friend bool operator==(const EmaRepetitionOptions&, const EmaRepetitionOptions&) = default;
};

/// All that an EmaRepetitionPenalty keeps: token ids and the count of each. Of equal length, ids
/// distinct.
struct EmaRepetitionState {
  std::vector<Index> ids = {};      ///< tokens that have a count, each once
  std::vector<double> counts = {};  ///< count(ids[i]), at least EmaRepetitionPenalty::kDropped

  friend bool operator==(const EmaRepetitionState&, const EmaRepetitionState&) = default;
};

/// A repetition penalty that forgets. The count of token v after the text x_1 .. x_t is
///   count(v) = sum over i with x_i = v of decay^(t - i)
/// and its logit is divided, if positive, else multiplied, by penalty^min(count(v), max_count).
/// A count below 1e-6 is dropped (it weighs 1e-6 log penalty, less than a float shows), so the
/// table never holds more than max_entries() tokens and counts never become subnormal.
class EmaRepetitionPenalty {
 public:
  /// Counts below this are dropped.
  static constexpr double kDropped = 1e-6;

  /// vocab_size: the width of the logits. Throws when an option is out of its range.
  EmaRepetitionPenalty(Index vocab_size, EmaRepetitionOptions options)
      : vocab_size_(vocab_size), options_(std::move(options)) {
    const auto expect = [](bool ok, const char* name, const char* range, double actual) {
      require(ok, "EmaRepetitionPenalty: ", name, ": expected ", range, ", got ", actual);
    };
    require(vocab_size > 0, "EmaRepetitionPenalty: vocab_size: expected > 0, got ", vocab_size);
    expect(std::isfinite(options_.penalty) && options_.penalty > 0, "penalty", "finite and > 0",
           options_.penalty);
    expect(options_.decay > 0 && options_.decay < 1, "decay", "in (0, 1)", options_.decay);
    expect(std::isfinite(options_.max_count) && options_.max_count >= 0, "max_count",
           "finite and >= 0", options_.max_count);
    for (const Index id : options_.stop_ids) check_id(id);
    std::sort(options_.stop_ids.begin(), options_.stop_ids.end());
    const auto entries = static_cast<std::size_t>((std::min)(max_entries(), Index{1} << 16));
    state_.ids.reserve(entries);
    state_.counts.reserve(entries);
  }

  /// Appends `id` to the text: every count decays, then that of `id` rises by 1 (stop ids have no
  /// count). Throws casa::error for an id outside the vocabulary.
  void observe(Index id) {
    check_id(id);
    if (options_.penalty == 1) return;
    std::size_t kept = 0;
    bool found = spared(id);
    for (std::size_t i = 0; i < state_.ids.size(); ++i) {
      double count = state_.counts[i] * options_.decay;
      if (state_.ids[i] == id) {
        count += 1;
        found = true;
      }
      if (count < kDropped) continue;
      state_.ids[kept] = state_.ids[i];
      state_.counts[kept++] = count;
    }
    state_.ids.resize(kept);
    state_.counts.resize(kept);
    if (found) return;
    state_.ids.push_back(id);
    state_.counts.push_back(1);
  }

  /// Edits logits (vocab_size) in place.
  template <Scalar T>
  void apply(std::span<T> logits) const {
    require_equal("EmaRepetitionPenalty: logits.size()", std::ssize(logits), vocab_size_);
    for (std::size_t i = 0; i < state_.ids.size(); ++i) {
      T& x = logits[static_cast<std::size_t>(state_.ids[i])];
      const double count = (std::min)(state_.counts[i], options_.max_count);
      x = detail::weigh_down(x, std::pow(options_.penalty, count));
    }
  }

  /// The counts, to save.
  const EmaRepetitionState& state() const { return state_; }
  /// Continues from a saved state. Throws casa::error, and keeps its own, for a state that
  /// observe() cannot reach.
  void restore(const EmaRepetitionState& state) {
    require_equal("EmaRepetitionPenalty::restore: counts.size()", state.counts.size(),
                  state.ids.size());
    for (const Index id : state.ids) {
      check_id(id);
      require(!spared(id), "EmaRepetitionPenalty::restore: a count for stop id ", id);
    }
    for (const double count : state.counts)
      require(count >= kDropped && count <= 1 / (1 - options_.decay) + 1,
              "EmaRepetitionPenalty::restore: count out of range: ", count);
    std::vector<Index> sorted = state.ids;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) fail("EmaRepetitionPenalty::restore: two counts for id ", *twice);
    state_ = state;
  }
  /// As after construction.
  void reset() {
    state_.ids.clear();
    state_.counts.clear();
  }

  /// The most tokens that the table can hold: the number of steps after which a count, which is at
  /// most 1 / (1 - decay), has decayed below 1e-6 (1,834 with decay 0.99), or the vocabulary if
  /// that is smaller.
  Index max_entries() const {
    const double steps = std::log(kDropped * (1 - options_.decay)) / std::log(options_.decay);
    return static_cast<Index>((std::min)(steps + 1, static_cast<double>(vocab_size_)));
  }
  /// As given, but stop_ids sorted.
  const EmaRepetitionOptions& options() const { return options_; }

 private:
  bool spared(Index id) const {
    return std::binary_search(options_.stop_ids.begin(), options_.stop_ids.end(), id);
  }
  void check_id(Index id) const {
    require(id >= 0 && id < vocab_size_, "EmaRepetitionPenalty: id: expected [0, ", vocab_size_,
            "), got ", id);
  }

  Index vocab_size_;
  EmaRepetitionOptions options_;
  EmaRepetitionState state_;
};

/// Options of NgramBlock.
struct NgramBlockOptions {
  Index size = 4;                    ///< n; 0 is off. 0 .. window.
  Index window = 60;                 ///< how many of the last tokens are looked at. 0 .. 2^20.
  std::vector<Index> stop_ids = {};  ///< never forbidden

  friend bool operator==(const NgramBlockOptions&, const NgramBlockOptions&) = default;
};

/// Forbids, by a logit of -inf, every token that would complete an n-gram which the last `window`
/// tokens already contain. Stop ids count as text but are never forbidden, so that one frame
/// without a caption can follow another. The window reaches across frames.
class NgramBlock {
 public:
  /// vocab_size: the width of the logits. Throws when an option is out of its range.
  NgramBlock(Index vocab_size, NgramBlockOptions options)
      : vocab_size_(vocab_size), options_(std::move(options)) {
    require(vocab_size > 0, "NgramBlock: vocab_size: expected > 0, got ", vocab_size);
    require(options_.window >= 0 && options_.window <= Index{1} << 20,
            "NgramBlock: window: expected 0 to 1048576, got ", options_.window);
    require(options_.size >= 0 && options_.size <= options_.window,
            "NgramBlock: size: expected 0 to window ", options_.window, ", got ", options_.size);
    for (const Index id : options_.stop_ids) check_id(id);
    std::sort(options_.stop_ids.begin(), options_.stop_ids.end());
    history_.reserve(static_cast<std::size_t>(options_.window) + 1);
    forbidden_.reserve(static_cast<std::size_t>(options_.window));
  }

  /// Appends `id` to the text. Throws casa::error for an id outside the vocabulary.
  void observe(Index id) {
    check_id(id);
    history_.push_back(id);
    if (std::ssize(history_) > options_.window) history_.erase(history_.begin());
  }

  /// The ids that may not come next, ascending and distinct. Valid until the next call.
  std::span<const Index> forbidden() {
    forbidden_.clear();
    const Index prefix = options_.size - 1;
    if (prefix < 0) return forbidden_;
    const auto begin = history_.begin();
    const auto end = history_.end();
    for (Index i = 0; i + prefix < std::ssize(history_); ++i) {
      const Index id = begin[i + prefix];
      if (!std::equal(end - prefix, end, begin + i)) continue;
      if (!std::binary_search(options_.stop_ids.begin(), options_.stop_ids.end(), id))
        forbidden_.push_back(id);
    }
    std::sort(forbidden_.begin(), forbidden_.end());
    forbidden_.erase(std::unique(forbidden_.begin(), forbidden_.end()), forbidden_.end());
    return forbidden_;
  }

  /// Edits logits (vocab_size) in place and returns how many tokens it forbade. Where that would
  /// leave no logit above -inf, it leaves them as they are and returns 0.
  template <Scalar T>
  Index apply(std::span<T> logits) {
    require_equal("NgramBlock: logits.size()", std::ssize(logits), vocab_size_);
    constexpr T lowest = -std::numeric_limits<T>::infinity();
    const std::span<const Index> ids = forbidden();
    Index left = 0;
    while (left < vocab_size_ && (logits[static_cast<std::size_t>(left)] == lowest ||
                                  std::binary_search(ids.begin(), ids.end(), left)))
      ++left;
    if (left == vocab_size_) return 0;
    for (const Index id : ids) logits[static_cast<std::size_t>(id)] = lowest;
    return std::ssize(ids);
  }

  /// The last tokens of the text, at most `window`, oldest first: all that it keeps.
  const std::vector<Index>& state() const { return history_; }
  /// Continues from a saved state. Throws casa::error, and keeps its own, for one that does not fit
  /// window and vocabulary.
  void restore(std::span<const Index> history) {
    require(std::ssize(history) <= options_.window, "NgramBlock::restore: expected at most ",
            options_.window, " ids, got ", std::ssize(history));
    for (const Index id : history) check_id(id);
    history_.assign(history.begin(), history.end());
  }
  /// As after construction.
  void reset() { history_.clear(); }
  /// As given, but stop_ids sorted.
  const NgramBlockOptions& options() const { return options_; }

 private:
  void check_id(Index id) const {
    require(id >= 0 && id < vocab_size_, "NgramBlock: id: expected [0, ", vocab_size_, "), got ",
            id);
  }

  Index vocab_size_;
  NgramBlockOptions options_;
  std::vector<Index> history_;
  std::vector<Index> forbidden_;
};

CASA_NAMESPACE_END
