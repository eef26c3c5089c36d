// Model folders of the golden sets hf_* and casa_*: their inputs, and runs that keep what passed.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/model/image_placeholders.hpp"
#include "golden_model.hpp"

namespace golden {

inline casa::Context context_of(casa::Path path) {
  casa::Context c;
  c.path = path;
  return c;
}

/// Rows t, h, w of a tensor of grids.
inline std::vector<casa::VisionGrid> grids(const Case& c, std::string_view tensor) {
  const auto v = c.ints(tensor);
  std::vector<casa::VisionGrid> g;
  for (std::size_t i = 0; i + 2 < v.size(); i += 3) g.push_back({v[i], v[i + 1], v[i + 2]});
  return g;
}

/// A stream: text, insertions, image tokens as the model's own tower gives them.
template <class T>
struct Stream {
  std::vector<int> ids;
  std::vector<casa::Insertion> insertions;
  casa::Matrix<T> image_tokens;
  std::vector<casa::ImageGrid> grids;
};

/// Tokens of images through the tower; `last_hidden`, unless null, gets what the merger reads.
template <class T>
casa::Matrix<T> encode(const casa::VisionTower<T>& tower, const casa::Matrix<T>& patches,
                       const std::vector<casa::VisionGrid>& grids, const casa::Context& context,
                       casa::Matrix<T>* last_hidden = nullptr) {
  Index count = 0;
  for (const auto& g : grids) count += casa::num_tokens(tower.config(), g);
  casa::Matrix<T> tokens(count, tower.config().out_hidden_size);
  if (last_hidden) *last_hidden = casa::Matrix<T>(patches.rows(), tower.config().hidden_size);
  typename casa::VisionTower<T>::Scratch scratch;
  tower.encode(patches, grids, tokens, scratch, context,
               last_hidden ? last_hidden->view() : casa::MatrixView<T>{});
  return tokens;
}

template <class T>
std::vector<casa::ImageGrid> merged_grids(const casa::VisionTower<T>& tower,
                                          const std::vector<casa::VisionGrid>& grids) {
  std::vector<casa::ImageGrid> merged;
  for (const auto& g : grids) merged.push_back(casa::merged_grid(tower.config(), g));
  return merged;
}

/// What a run gives: logits of the text rows, and hidden states as transformers numbers them:
/// 0 the embeddings, l the output of block l - 1, the last one after the final norm.
template <class T>
struct Run {
  casa::Matrix<T> logits;
  std::vector<casa::Matrix<T>> hidden;
};

template <class T>
Run<T> run(const casa::Decoder<T>& decoder, const Stream<T>& s, const casa::Context& context) {
  Run<T> r;
  const Index layers = decoder.config().num_hidden_layers;
  const casa::Trace<T> trace = [&](Index layer, const std::string& sublayer,
                                   casa::MatrixView<const T> x) {
    if (sublayer != "norm" && sublayer != "embed" && (sublayer != "mlp" || layer + 1 == layers))
      return;
    auto& kept = r.hidden.emplace_back(x.rows(), x.cols());
    kept.eigen() = x.eigen();
  };
  auto state = decoder.new_state();
  r.logits = casa::Matrix<T>(static_cast<Index>(s.ids.size()), decoder.config().vocab_size);
  decoder.forward({&state, s.ids, s.insertions, s.image_tokens, s.grids, casa::LogitRows::all},
                  r.logits, context, &trace);
  return r;
}

/// The most likely ids, one after the other, behind a stream.
template <class T>
std::vector<int> greedy(const casa::Decoder<T>& decoder, const Stream<T>& s, std::size_t steps) {
  auto state = decoder.new_state();
  casa::Matrix<T> logits(1, decoder.config().vocab_size);
  const casa::Context context;
  decoder.forward({&state, s.ids, s.insertions, s.image_tokens, s.grids}, logits, context);
  std::vector<int> ids;
  while (ids.size() < steps) {
    ids.push_back(static_cast<int>(std::max_element(logits.row(0), logits.row(0) + logits.cols()) -
                                   logits.row(0)));
    decoder.forward({&state, std::span(ids).last(1)}, logits, context);
  }
  return ids;
}

/// Rows of m whose id is not `left_out`.
inline casa::Matrix<double> rows_without(const casa::Matrix<double>& m, const std::vector<int>& ids,
                                         std::optional<int> left_out) {
  const auto kept = std::ranges::count_if(ids, [&](int id) { return id != left_out; });
  casa::Matrix<double> out(kept, m.cols());
  Index row = 0;
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] != left_out) std::copy_n(m.row(static_cast<Index>(i)), m.cols(), out.row(row++));
  return out;
}

/// A reference that was itself computed in float: it and `actual` are off the same computation in
/// double by what the definitions in float are off by, times four, plus 64 eps of the largest.
template <class T>
void check_close_to_float(const casa::Matrix<T>& actual, const casa::Matrix<float>& naive_float,
                          const casa::Matrix<double>& in_double,
                          const casa::Matrix<double>& float_reference) {
  const double scale = largest(in_double);
  const double bound = 4 * distance(naive_float, in_double) + 64 * 0x1p-23 * scale;
  CHECK(bound <= 1e-2 * scale);
  CHECK(distance(float_reference, in_double) <= bound);
  CHECK(distance(actual, in_double) <= (std::is_same_v<T, double> ? 1e-11 * scale : bound));
}

}  // namespace golden
