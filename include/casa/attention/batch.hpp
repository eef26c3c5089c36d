// Attention of several sequences in one call, each over keys and values of its own: a decode step
// of many streams at once.
#pragma once

#include <algorithm>
#include <memory>
#include <span>

#include "casa/attention/attend.hpp"

CASA_NAMESPACE_BEGIN

/// One sequence of a batch: how many query rows it has, its keys in pieces, and what its rows see.
template <Storage S>
struct SequenceInput {
  Index num_rows = 1;                      ///< its rows follow those of the sequence before it
  std::span<const KeyPiece<S>> keys = {};  ///< laid end to end; their places are 0, 1, 2, ...
  /// The places among its own keys that each of its rows sees. Or no rows at all: its rows stand at
  /// its last num_rows keys, and each sees all keys up to its own, as after appending them to a
  /// cache.
  MaskView mask = {};

  /// Keys of all pieces together.
  Index num_keys() const {
    Index n = 0;
    for (const auto& piece : keys) n += piece.count;
    return n;
  }
};

/// Several sequences that attend in one call, all with the same heads. q has the rows of all of
/// them, one sequence after the other, as they come from one projection; keys stay where each
/// sequence keeps them. A decode step of streams with caches of their own:
///
///   std::vector<KvCache<float>::Pieces> pieces;            // one per stream
///   std::vector<SequenceInput<float>> sequences;
///   for (auto& cache : caches) pieces.push_back(cache.pieces());
///   for (auto& p : pieces) sequences.push_back({1, p});    // one row each, which sees all
///   attend(AttentionBatch<float>{shape, default_scale(shape.head_dim), q, sequences}, out,
///          nullptr, context);
///
/// Each sequence gets the bits that attend() gives it alone. One call costs less than a loop: all
/// workers share the work of all sequences, however short each is.
template <Scalar T, StorageFor<T> S = T>
struct AttentionBatch {
  AttentionShape shape;   ///< heads of q and of the keys
  double scale = 1;       ///< factor of q . k before the softmax; usually default_scale(head_dim)
  MatrixView<const T> q;  ///< (rows of all sequences, num_heads * head_dim), heads side by side
  std::span<const SequenceInput<S>> sequences;  ///< in the order of their rows
  std::span<const T> sinks = {};  ///< (num_heads): learned sink logits, one per head; or none
};

/// The batch as one AttentionInput, for attend, attend_state, their naive forms and attention
/// weights: keys of all sequences are laid end to end, so that the places of sequence s begin
/// after all keys of the sequences before it. Score functions see these places, and rows of q. The
/// input lies in `workspace` and is valid until the Workspace::Frame ends that the caller has
/// opened. Throws casa::error, naming the sequence, where its keys, rows and mask do not fit each
/// other, and unless q has as many rows as all sequences.
template <Scalar T, class S>
AttentionInput<T, S> batch_input(const AttentionBatch<T, S>& batch, Workspace& workspace) {
  Index rows = 0, num_keys = 0, num_pieces = 0, num_intervals = 0;
  bool lists = false;
  for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceInput<S>& sequence = batch.sequences[s];
    const bool causal = sequence.mask.num_rows() == 0;
    try {
      require(sequence.num_rows >= 0, "num_rows must not be negative, got ", sequence.num_rows);
      const Index keys = detail::check_pieces(sequence.keys);
      if (causal)
        require(sequence.num_rows <= keys, "without a mask its ", sequence.num_rows,
                " rows stand at its last keys, but it has only ", keys);
      else
        detail::check_mask("attention", sequence.mask, sequence.num_rows, keys);
      rows = checked_add(rows, sequence.num_rows, "rows");
      num_keys = checked_add(num_keys, keys, "keys of all sequences");
    } catch (const error& e) {
      fail("batch: sequence ", s, ": ", e.what());
    }
    num_pieces += static_cast<Index>(sequence.keys.size());
    num_intervals +=
        causal ? sequence.num_rows : static_cast<Index>(sequence.mask.intervals.size());
    lists = lists || !sequence.mask.offsets.empty();
  }
  require_equal("batch: rows of q (num_rows of all sequences)", batch.q.rows(), rows);

  const Index count = static_cast<Index>(batch.sequences.size());
  Index* const begin = workspace.take<Index>(count + 1);
  auto* const pieces = workspace.take<KeyPiece<S>>(num_pieces);
  auto* const intervals = workspace.take<Interval>(num_intervals);
  Index* const offsets = lists ? workspace.take<Index>(rows + 1) : nullptr;
  KeyPiece<S>* piece = pieces;
  Interval* interval = intervals;
  Index row = 0, key = 0;
  const auto add = [&](Interval places) {
    std::construct_at(interval++, Interval{key + places.begin, key + places.end});
  };
  for (Index s = 0; s < count; ++s) {
    const SequenceInput<S>& sequence = batch.sequences[static_cast<std::size_t>(s)];
    const Index keys = sequence.num_keys();
    begin[s] = row;
    piece = std::uninitialized_copy(sequence.keys.begin(), sequence.keys.end(), piece);
    for (Index r = 0; r < sequence.num_rows; ++r, ++row) {
      if (lists) offsets[row] = interval - intervals;
      if (sequence.mask.num_rows() == 0) {
        add({0, keys - (sequence.num_rows - 1 - r)});
        continue;
      }
      for (const Interval seen : sequence.mask.row(r)) {
        if (seen.size() > 0)
          add(seen);
        else if (!lists)
          std::construct_at(interval++);
      }
    }
    key += keys;
  }
  begin[count] = row;
  if (lists) offsets[row] = interval - intervals;
  const auto span = []<class E>(const E* data, Index size) {
    return std::span<const E>(data, static_cast<std::size_t>(size));
  };
  return {.shape = batch.shape,
          .scale = batch.scale,
          .q = batch.q,
          .keys = span(pieces, num_pieces),
          .intervals = span(intervals, interval - intervals),
          .interval_offsets = lists ? span(offsets, rows + 1) : std::span<const Index>{},
          .sinks = batch.sinks,
          .sequence_offsets = span(begin, count + 1)};
}

/// attend() of a batch: out (rows of all sequences, num_heads * value_dim) and lse, unless null,
/// (rows, num_heads), both with the rows in the order of q. Throws casa::error, before anything is
/// written, as batch_input and attend do.
template <Scalar T, class S, class Score>
void attend(const AttentionBatch<T, S>& batch, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse, const Context& context, const Score& score) {
  const Workspace::Frame frame(context.workspace);
  attend(batch_input(batch, context.workspace), out, lse, context, score);
}
/// The same without a score function.
template <Scalar T, class S>
void attend(const AttentionBatch<T, S>& batch, MatrixView<std::type_identity_t<T>> out,
            std::type_identity_t<T>* lse = nullptr, const Context& context = {}) {
  attend(batch, out, lse, context, PlainScore{});
}

CASA_NAMESPACE_END
