// Which tensors learn, how fast, and which of them decay: rules on their names and shapes.
#pragma once

#include <algorithm>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/model/weights.hpp"

CASA_NAMESPACE_BEGIN

/// What the optimiser's learning rate and weight decay are multiplied by for one tensor.
struct ParameterFactors {
  double learning_rate = 1;  ///< not negative
  double weight_decay = 1;   ///< not negative

  friend bool operator==(const ParameterFactors&, const ParameterFactors&) = default;
};

/// Gives the factors of a tensor. A rule is asked once for each, when the optimiser is made.
using ParameterRule = std::function<ParameterFactors(const TensorSpec&)>;

/// The usual rule: matrices decay; norms, biases and gates, which are vectors, do not. (Decay pulls
/// towards 0, which is no neutral value of a norm's weight, and a bias or a gate does not grow with
/// the scale of what it is added to.)
inline ParameterFactors decay_matrices(const TensorSpec& spec) {
  return {.weight_decay = spec.cols == 0 ? 0.0 : 1.0};
}

/// Whether `name` matches `pattern`, in which each * stands for any characters, or none.
inline bool matches(std::string_view pattern, std::string_view name) {
  // The newest * takes as little as it can; where what follows does not fit, it takes one more.
  std::size_t p = 0, n = 0, star = std::string_view::npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

/// Whether `name` matches one of the patterns.
inline bool matches_any(const std::vector<std::string>& patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return matches(p, name); });
}

/// Tensors that share their factors.
struct ParameterGroup {
  std::vector<std::string> names = {};  ///< patterns, as for matches()
  ParameterFactors factors = {};        ///< of the tensors whose name matches one of them
};

/// The rule of groups: a tensor has the factors of the first group with a pattern that it matches,
/// its weight decay multiplied by that of `base`. The rule throws casa::error for a tensor that no
/// group has: end with a group "*" to take all others.
inline ParameterRule parameter_groups(std::vector<ParameterGroup> groups,
                                      ParameterRule base = decay_matrices) {
  return [groups = std::move(groups), base = std::move(base)](const TensorSpec& spec) {
    for (const ParameterGroup& g : groups) {
      if (!matches_any(g.names, spec.name)) continue;
      const ParameterFactors own = base(spec);
      return ParameterFactors{g.factors.learning_rate * own.learning_rate,
                              g.factors.weight_decay * own.weight_decay};
    }
    fail("parameter_groups: no group has the tensor ", spec.name);
  };
}

/// Those of `specs` whose names match one of the patterns, in their order: what a TensorSet of
/// parameters is made of when the others are frozen. Throws casa::error for a pattern that matches
/// none.
inline std::vector<TensorSpec> select_tensors(const std::vector<TensorSpec>& specs,
                                              const std::vector<std::string>& patterns) {
  for (const std::string& p : patterns)
    require(std::any_of(specs.begin(), specs.end(),
                        [&](const TensorSpec& s) { return matches(p, s.name); }),
            "select_tensors: no tensor matches ", casa::quoted(p));
  std::vector<TensorSpec> chosen;
  std::copy_if(specs.begin(), specs.end(), std::back_inserter(chosen),
               [&](const TensorSpec& s) { return matches_any(patterns, s.name); });
  return chosen;
}

CASA_NAMESPACE_END
