// Hidden states after every sublayer as a safetensors file, and two such files compared: how one
// finds out where a port goes wrong.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/model/block.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Keeps what a forward pass shows its Trace: tensors "embed", "layers.0.self_attention",
/// "layers.0.fusion", "layers.0.mlp", ..., "norm", each (rows x hidden_size). Passes that follow
/// (chunks, decode steps) add their rows below.
template <Scalar T>
class TraceRecorder {
 public:
  /// What goes into Decoder::forward; must not outlive this.
  Trace<T> hook() {
    return [this](Index layer, const char* sublayer, MatrixView<const T> hidden) {
      const std::string part = sublayer;
      const bool inside = part != "embed" && part != "norm";
      record(inside ? text("layers.", layer, ".", part) : part, hidden);
    };
  }

  /// Writes all that was recorded, in the order of computation (casa::error as write_safetensors).
  void save(const std::string& path) const {
    std::vector<NamedTensor> tensors;
    std::string order;
    for (const State& s : states_) {
      const auto cols = s.cols;
      const auto rows = cols == 0 ? 0 : static_cast<Index>(s.values.size()) / cols;
      tensors.push_back(named_tensor(s.name, {rows, cols}, s.values));
      order += s.name + "\n";
    }
    write_safetensors(path, std::move(tensors), {{"order", order}});
  }

 private:
  struct State {
    std::string name;
    Index cols;
    std::vector<T> values;
  };

  void record(const std::string& name, MatrixView<const T> hidden) {
    auto s = std::find_if(states_.begin(), states_.end(),
                          [&](const State& state) { return state.name == name; });
    if (s == states_.end()) s = states_.insert(s, {name, hidden.cols(), {}});
    for (Index r = 0; r < hidden.rows(); ++r)
      s->values.insert(s->values.end(), hidden.row(r), hidden.row(r) + hidden.cols());
  }

  std::vector<State> states_;
};

/// One tensor of two traces.
struct TraceDifference {
  std::string name;       ///< of the tensor, "layers.0.fusion"
  std::string problem;    ///< only in one file, or of two shapes; empty where values are compared
  double largest = 0;     ///< largest |value| of the first
  double difference = 0;  ///< largest |a - b|; infinite where either is not finite
  Index row = 0;          ///< the row where that is
  Index col = 0;          ///< the column where that is

  /// Whether they differ by more than `tolerance` times the largest value.
  bool exceeds(double tolerance) const {
    return !problem.empty() || !(difference <= tolerance * largest);
  }
};

namespace detail {

inline TraceDifference compare_tensors(const TensorView& a, const TensorView& b) {
  TraceDifference d{std::string(a.name), {}, 0, 0, 0, 0};
  if (!std::equal(a.shape.begin(), a.shape.end(), b.shape.begin(), b.shape.end())) {
    d.problem =
        text("shape ", shape_text(a.shape), " in one, ", shape_text(b.shape), " in the other");
    return d;
  }
  const Matrix<double> x = a.to_matrix<double>(), y = b.to_matrix<double>();
  for (Index r = 0; r < x.rows(); ++r) {
    for (Index c = 0; c < x.cols(); ++c) {
      double off = std::abs(x(r, c) - y(r, c));
      if (!std::isfinite(off))
        off = std::numeric_limits<double>::infinity();
      else
        d.largest = (std::max)(d.largest, std::abs(x(r, c)));
      if (off <= d.difference) continue;
      d.difference = off;
      d.row = r;
      d.col = c;
    }
  }
  return d;
}

}  // namespace detail

/// All tensors of two traces, in the order in which the first was computed (a file without that
/// order: by name), those of the second alone at the end.
inline std::vector<TraceDifference> compare_traces(const SafeTensors& a, const SafeTensors& b) {
  std::vector<std::string> order;
  if (const auto stored = a.metadata().find("order"); stored != a.metadata().end()) {
    for (std::string_view rest = stored->second; !rest.empty();) {
      const auto end = (std::min)(rest.find('\n'), rest.size());
      if (a.contains(rest.substr(0, end))) order.emplace_back(rest.substr(0, end));
      rest.remove_prefix((std::min)(end + 1, rest.size()));
    }
  }
  for (const SafeTensors* file : {&a, &b})
    for (const std::string_view name : file->names())
      if (std::find(order.begin(), order.end(), name) == order.end()) order.emplace_back(name);
  std::vector<TraceDifference> all;
  for (const std::string& name : order) {
    const TensorView *x = a.find(name), *y = b.find(name);
    if (x && y)
      all.push_back(detail::compare_tensors(*x, *y));
    else
      all.push_back({name, text("only in ", (x ? a : b).name()), 0, 0, 0, 0});
  }
  return all;
}

}  // namespace io
CASA_NAMESPACE_END
