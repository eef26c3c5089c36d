// AdamW: Adam whose weight decay acts on the weights and not on the gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/train/gradient_norm.hpp"
#include "casa/train/parameter_groups.hpp"

CASA_NAMESPACE_BEGIN

/// The numbers of AdamW. The defaults are PyTorch's.
struct AdamWOptions {
  double beta1 = 0.9;          ///< how much of the first moment is kept, in [0, 1)
  double beta2 = 0.999;        ///< how much of the second moment is kept, in [0, 1)
  double eps = 1e-8;           ///< added to the root of the second moment; positive
  double weight_decay = 0.01;  ///< of weights whose factor is 1; not negative

  friend bool operator==(const AdamWOptions&, const AdamWOptions&) = default;
};

/// Throws casa::error naming what is out of range.
inline void check(const AdamWOptions& o) {
  require(o.beta1 >= 0 && o.beta1 < 1, "AdamWOptions: beta1 must be in [0, 1), got ", o.beta1);
  require(o.beta2 >= 0 && o.beta2 < 1, "AdamWOptions: beta2 must be in [0, 1), got ", o.beta2);
  require(std::isfinite(o.eps) && o.eps > 0, "AdamWOptions: eps must be finite and positive, got ",
          o.eps);
  require(std::isfinite(o.weight_decay) && o.weight_decay >= 0,
          "AdamWOptions: weight_decay must be finite and not negative, got ", o.weight_decay);
}

namespace detail {

/// Throws casa::error that names the first tensor in which the specs of two sets differ.
inline void require_same_tensors(std::string_view what, const std::vector<TensorSpec>& specs,
                                 const std::vector<TensorSpec>& expected) {
  require_equal(text(what, ": tensors"), specs.size(), expected.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const TensorSpec &a = specs[i], &e = expected[i];
    require(a.name == e.name && a.rows == e.rows && a.cols == e.cols, what, ": tensor ", i,
            ": expected ", e.name, ", ", e.rows, " x ", e.cols, ", got ", a.name, ", ", a.rows,
            " x ", a.cols);
  }
}

}  // namespace detail

/// AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101, algorithm
/// 2) over the tensors of one TensorSet. For each value w with gradient g, in update t = 1, 2, ..:
///
///   m = beta1 m + (1 - beta1) g
///   v = beta2 v + (1 - beta2) g^2
///   w = w - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay w)
///
/// where lr is the rate of the update times the tensor's factor, and decay is weight_decay times
/// the tensor's factor. (The paper's alpha and schedule multiplier are one number here, which
/// multiplies the decay as well, as in PyTorch.) m and v begin with 0. They are held and computed
/// in T, two values a parameter; tensors that are in no set are frozen and take no memory.
///
/// Results do not depend on the number of threads.
template <Scalar T>
class AdamW {
 public:
  /// An optimiser of nothing, to be assigned to.
  AdamW() = default;
  /// For a set of these specs. Throws casa::error for options or factors out of range.
  explicit AdamW(std::vector<TensorSpec> specs, const AdamWOptions& options = {},
                 const ParameterRule& rule = decay_matrices)
      : options_(options), first_(specs), second_(std::move(specs)) {
    check(options_);
    for (Index i = 0; i < first_.size(); ++i) {
      const TensorSpec& spec = first_.specs()[static_cast<std::size_t>(i)];
      const ParameterFactors f = rule(spec);
      const auto valid = [](double x) { return std::isfinite(x) && x >= 0; };
      require(valid(f.learning_rate) && valid(f.weight_decay), "AdamW: ", spec.name,
              ": factors must be finite and not negative, got ", f.learning_rate, " and ",
              f.weight_decay);
      const Interval range = first_.range(i);
      if (!runs_.empty() && runs_.back().factors == f)
        runs_.back().range.end = range.end;  // neighbours that are treated alike
      else
        runs_.push_back({range, f});
    }
    for (const Run& r : runs_)
      for (Index at = r.range.begin; at < r.range.end; at += detail::kElementsAtOnce)
        parts_.push_back({{at, (std::min)(r.range.end, at + detail::kElementsAtOnce)}, r.factors});
  }

  /// As given to the constructor.
  const AdamWOptions& options() const { return options_; }
  /// Updates done.
  std::int64_t updates() const { return updates_; }
  /// The running means of gradients, m.
  const TensorSet<T>& first_moments() const { return first_; }
  const TensorSet<T>& second_moments() const { return second_; }  ///< of their squares, v

  /// One update of `parameters` by `gradients`, each times `gradient_scale` (1 over the number of
  /// samples, a clip factor), at rate `learning_rate`. Throws casa::error, and changes nothing,
  /// unless both have the tensors this was made for and the numbers are finite. The gradients
  /// themselves are not looked at: see global_norm.
  void step(TensorSet<T>& parameters, const TensorSet<T>& gradients, double learning_rate,
            double gradient_scale = 1, const Context& context = {}) {
    detail::require_same_tensors("AdamW::step: parameters", parameters.specs(), first_.specs());
    detail::require_same_tensors("AdamW::step: gradients", gradients.specs(), first_.specs());
    require(std::isfinite(learning_rate) && learning_rate >= 0,
            "AdamW::step: learning_rate must be finite and not negative, got ", learning_rate);
    require(std::isfinite(gradient_scale), "AdamW::step: gradient_scale must be finite, got ",
            gradient_scale);
    ++updates_;
    const auto t = static_cast<double>(updates_);
    const double correct1 = 1 - std::pow(options_.beta1, t),
                 correct2 = 1 - std::pow(options_.beta2, t);
    const auto part = [&](Index i, Index) {
      const Run& p = parts_[static_cast<std::size_t>(i)];
      const double rate = learning_rate * p.factors.learning_rate;
      const Numbers n{static_cast<T>(gradient_scale),
                      static_cast<T>(options_.beta1),
                      static_cast<T>(1 - options_.beta1),
                      static_cast<T>(options_.beta2),
                      static_cast<T>(1 - options_.beta2),
                      static_cast<T>(1 / std::sqrt(correct2)),
                      static_cast<T>(options_.eps),
                      static_cast<T>(-rate / correct1),
                      static_cast<T>(1 - rate * options_.weight_decay * p.factors.weight_decay)};
      const Index at = p.range.begin;
      update(parameters.values().data() + at, gradients.values().data() + at,
             first_.values().data() + at, second_.values().data() + at, p.range.size(), n);
    };
    context.executor.for_each(static_cast<Index>(parts_.size()), part);
  }

  /// Goes on from what a checkpoint holds. Throws casa::error, and changes nothing, for sets of
  /// other tensors or a negative count.
  void restore(TensorSet<T> first, TensorSet<T> second, std::int64_t updates) {
    detail::require_same_tensors("AdamW::restore: first moments", first.specs(), first_.specs());
    detail::require_same_tensors("AdamW::restore: second moments", second.specs(), first_.specs());
    require(updates >= 0, "AdamW::restore: updates must not be negative, got ", updates);
    first_ = std::move(first);
    second_ = std::move(second);
    updates_ = updates;
  }

 private:
  struct Run {
    Interval range;
    ParameterFactors factors;
  };
  struct Numbers {
    T scale, beta1, rest1, beta2, rest2, root_scale, eps, step, keep;
  };

  // (Multiply-adds are written out, so that a value's bits do not depend on whether it stands in a
  // whole vector or in the remainder of a range.)
  static void update(T* w, const T* g, T* m, T* v, Index size, const Numbers& n) {
    using simd::broadcast;
    const auto scale = broadcast(n.scale), beta1 = broadcast(n.beta1), rest1 = broadcast(n.rest1),
               beta2 = broadcast(n.beta2), rest2 = broadcast(n.rest2),
               root_scale = broadcast(n.root_scale), eps = broadcast(n.eps),
               step = broadcast(n.step), keep = broadcast(n.keep);
    detail::for_each_vector<T>(size, [&](Index c, Index count) {
      const auto gradient = detail::load_n(g + c, count) * scale;
      const auto first = simd::fma(beta1, detail::load_n(m + c, count), rest1 * gradient);
      const auto second =
          simd::fma(beta2, detail::load_n(v + c, count), rest2 * gradient * gradient);
      const auto root = simd::fma(simd::sqrt(second), root_scale, eps);
      const auto weight = simd::fma(step, first / root, keep * detail::load_n(w + c, count));
      detail::store_n(m + c, first, count);
      detail::store_n(v + c, second, count);
      detail::store_n(w + c, weight, count);
    });
  }

  AdamWOptions options_;
  TensorSet<T> first_, second_;
  std::vector<Run> runs_, parts_;
  std::int64_t updates_ = 0;
};

CASA_NAMESPACE_END
