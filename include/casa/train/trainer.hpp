// A training run's parameters, their gradients and the optimiser: what is done once gradients are
// there, in one call.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "casa/train/adamw.hpp"
#include "casa/train/schedule.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// What a step does when the norm of the gradients is NaN or infinite: throw casa::error, or leave
/// out this update (which StepReport::applied tells) and go on with the next one.
enum class NotFinite { refuse, skip };

/// What one step did.
struct StepReport {
  std::int64_t step = 0;     ///< which one, counted from 0
  double learning_rate = 0;  ///< of the schedule
  double gradient_norm = 0;  ///< before clipping, after the scale that step() was given
  bool applied = false;      ///< false: the gradients were not finite, no parameter has changed
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// How a trainer turns gradients into updates.
struct TrainerOptions {
  AdamWOptions adamw = {};  ///< the optimiser
  Schedule schedule = {};   ///< its rate
  /// Gradients with a larger norm are scaled to it. Infinite: they never are.
  double clip_norm = std::numeric_limits<double>::infinity();
  NotFinite not_finite = NotFinite::refuse;  ///< for gradients with NaN or infinity

  friend bool operator==(const TrainerOptions&, const TrainerOptions&) = default;
};

/// How far a trainer is.
struct TrainerCounts {
  std::int64_t steps = 0;    ///< calls of step() that returned
  std::int64_t skipped = 0;  ///< those among them that left out the update

  friend bool operator==(const TrainerCounts&, const TrainerCounts&) = default;
};

/// Parameters with their gradients and AdamW. A training loop is
///
///   for each step:
///     build or refresh the model from parameters()    (of float masters in bfloat16, if you like)
///     for each part of the step's samples:             (accumulation)
///       add the gradients of its summed loss into gradients()
///     step(1 / number of summed terms, context)
///
/// As each part adds the gradients of a sum, and step() divides once, a step in many parts is the
/// same step, up to rounding, as one in a single part, however the terms are spread over the parts.
template <Scalar T>
class Trainer {
 public:
  /// A trainer of nothing, to be assigned to.
  Trainer() = default;
  /// Begins with `parameters`; gradients are 0. Throws casa::error for options or factors out of
  /// range.
  explicit Trainer(TensorSet<T> parameters, const TrainerOptions& options = {},
                   const ParameterRule& rule = decay_matrices)
      : options_(options),
        parameters_(std::move(parameters)),
        gradients_(parameters_.specs()),
        adamw_(parameters_.specs(), options.adamw, rule) {
    check(options_.schedule);
    require(options_.clip_norm > 0, "TrainerOptions: clip_norm must be positive, got ",
            options_.clip_norm);
  }

  /// As given to the constructor.
  const TrainerOptions& options() const { return options_; }
  /// What is learned.
  const TensorSet<T>& parameters() const { return parameters_; }
  /// Where gradients of the next step are added up. 0 after each step.
  TensorSet<T>& gradients() { return gradients_; }
  /// The same, to read.
  const TensorSet<T>& gradients() const { return gradients_; }
  /// The optimiser, with its moments.
  const AdamW<T>& optimizer() const { return adamw_; }
  /// How far the training is.
  const TrainerCounts& counts() const { return counts_; }

  /// One update of all parameters: the gradients times `scale`, clipped, at the rate that the
  /// schedule has for this step. Gradients are 0 afterwards. Where their norm is NaN or infinite
  /// nothing is updated: either casa::error is thrown, which names the first tensor with such a
  /// gradient, and the trainer, gradients included, stays as it was; or the step is counted as
  /// skipped, as options().not_finite says. Throws casa::error for a scale that is not finite.
  StepReport step(double scale, const Context& context = {}) {
    require(std::isfinite(scale), "Trainer::step: scale must be finite, got ", scale);
    StepReport report{.step = counts_.steps,
                      .learning_rate = learning_rate(options_.schedule, counts_.steps),
                      .gradient_norm = std::abs(scale) * global_norm(gradients_, context)};
    report.applied = std::isfinite(report.gradient_norm);
    if (!report.applied && options_.not_finite == NotFinite::refuse)
      fail("Trainer::step: step ", counts_.steps, ": the norm of the gradients is ",
           report.gradient_norm,
           "; the first tensor with one that is not finite: ", first_not_finite(gradients_));
    if (report.applied)
      adamw_.step(parameters_, gradients_, report.learning_rate,
                  scale * clip_factor(report.gradient_norm, options_.clip_norm), context);
    else
      ++counts_.skipped;
    ++counts_.steps;
    clear(gradients_, context);
    return report;
  }

  /// Goes on from what a checkpoint holds. Throws casa::error, and changes nothing, for sets of
  /// other tensors or counts that do not fit.
  void restore(TensorSet<T> parameters, TensorSet<T> first, TensorSet<T> second,
               const TrainerCounts& counts) {
    detail::require_same_tensors("Trainer::restore: parameters", parameters.specs(),
                                 parameters_.specs());
    require(counts.skipped >= 0 && counts.steps >= counts.skipped,
            "Trainer::restore: skipped must be in [0, steps], got ", counts.skipped, " of ",
            counts.steps);
    adamw_.restore(std::move(first), std::move(second), counts.steps - counts.skipped);
    parameters_ = std::move(parameters);
    counts_ = counts;
    gradients_.fill(T{0});
  }

 private:
  static void clear(TensorSet<T>& set, const Context& context) {
    const std::span<T> values = set.values();
    const auto size = static_cast<Index>(values.size());
    const Index at_once = detail::kElementsAtOnce, parts = (size + at_once - 1) / at_once;
    context.executor.for_each(parts, [&](Index part, Index) {
      const Index begin = part * at_once;
      std::fill_n(values.data() + begin, (std::min)(at_once, size - begin), T{0});
    });
  }

  TrainerOptions options_;
  TensorSet<T> parameters_, gradients_;
  AdamW<T> adamw_;
  TrainerCounts counts_;
};

CASA_NAMESPACE_END
