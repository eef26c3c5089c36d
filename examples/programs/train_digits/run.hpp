// One training run: a variant and a seed, in a folder of its own, from which it can go on.
#pragma once

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "casa/train/trainer.hpp"
#include "train_digits/log.hpp"
#include "train_digits/reader_gradient.hpp"

namespace digits {

/// Set by Ctrl-C.
inline volatile std::sig_atomic_t interrupted = 0;

/// What a run follows from: all of it stands in its checkpoint, and a run goes on under the same
/// only.
struct RunConfig {
  std::string variant = "casa";
  std::uint64_t seed = 1;
  std::int64_t steps = 3000;   ///< updates
  Index batch = 8;             ///< streams of an update
  double rate = 3e-3;          ///< the largest learning rate
  std::int64_t warmup = 100;   ///< updates until it is reached
  double weight_decay = 0.01;  ///< of matrices
  double clip = 1;             ///< the largest norm of the gradients
  bool bf16 = false;           ///< products with weights rounded to bfloat16, of float masters
  Index most_tokens = 4096;    ///< that pass at once; the parts of an update add their gradients up

  std::string text() const {
    casa::io::JsonWriter w;
    w.begin_object().member("variant", variant).member("seed", seed).member("steps", steps);
    w.member("batch", batch).member("rate", rate).member("warmup", warmup);
    w.member("weight_decay", weight_decay).member("clip", clip).member("bf16", bf16);
    return w.member("most_tokens", most_tokens).end_object().str();
  }
  std::string name() const { return variant + "-seed" + std::to_string(seed); }
};

/// How a run is run, which its numbers do not follow from.
struct RunOptions {
  std::string folder;                   ///< made if it is not there
  bool resume = false;                  ///< go on with what is there
  bool quiet = false;                   ///< no progress bar
  std::int64_t checkpoint_every = 100;  ///< updates
  std::int64_t test_every = 200;        ///< updates
  Index test_streams = 16;              ///< of the test, until the last
};

/// What became of a run.
struct Result {
  program::DigitScore score;
  double loss = 0;  ///< mean of the last hundred updates
  double tokens_per_second = 0, seconds = 0;
};

/// The first `count` streams.
inline program::Streams first_streams(const program::Streams& all, Index count) {
  program::Streams s = all;
  s.begin.resize(static_cast<std::size_t>((std::min)(count, all.count())) + 1);
  s.captions.resize(static_cast<std::size_t>(s.begin.back()));
  return s;
}

class Run {
 public:
  Run(const RunConfig& config, const RunOptions& options, const DigitImages& digits,
      const program::Streams& test, const casa::Context& context)
      : config_(config),
        options_(options),
        digits_(digits),
        test_(test),
        some_test_(first_streams(test, options.test_streams)),
        context_(context),
        shapes_(shapes(config.variant)),
        type_(config.bf16 ? casa::WeightType::bfloat16 : casa::WeightType::native),
        order_(digits.images.rows(), config.seed),
        trainer_(initial_parameters(shapes_, config.seed), trainer_options(config)),
        gradient_(shapes_, trainer_.gradients(), config.most_tokens) {}

  /// Trains to the end, or until Ctrl-C, which gives nothing. Throws casa::error for a folder with
  /// a run in it, unless it is to go on.
  std::optional<Result> train() {
    begin();
    Log log(file("train.jsonl"), trainer_.counts().steps);
    if (trainer_.counts().steps == 0) {
      casa::io::JsonWriter w;
      w.begin_object().member("step", 0).key("config");
      log.write(w.value(casa::io::parse_json(config_.text(), "config")).end_object());
    }
    Progress progress(config_.name(), config_.steps, options_.quiet);
    const double started = now() - log.seconds();
    double tested = -1;
    for (std::int64_t step = trainer_.counts().steps; step < config_.steps;) {
      const double begun = now();
      const auto [loss, report, tokens] = update();
      step = trainer_.counts().steps;
      const double seconds = now() - begun;
      tokens_ += tokens;
      training_seconds_ += seconds;
      losses_.push_back(loss);
      if (losses_.size() > 100) losses_.erase(losses_.begin());
      casa::io::JsonWriter w;
      w.begin_object().member("step", step).member("loss", loss);
      w.member("learning_rate", report.learning_rate);
      w.member("gradient_norm", report.gradient_norm);
      w.member("tokens_per_second", static_cast<double>(tokens) / seconds);
      log.write(w.member("seconds", now() - started).end_object());
      const bool last = step == config_.steps;
      if (!last && step % options_.test_every == 0) tested = test(some_test_, step, log).digits;
      progress.show(step, mean_loss(), tested, rate(),
                    static_cast<double>(config_.steps - step) * (now() - started) /
                        static_cast<double>(step));
      const bool stop = interrupted != 0;
      if (stop || last || step % options_.checkpoint_every == 0) save();
      if (stop && !last) return std::nullopt;
    }
    save_reader(options_.folder, shapes_, trainer_.parameters());
    const Result r{test(test_, config_.steps, log), mean_loss(), rate(), now() - started};
    return r;
  }

 private:
  struct Update {
    double loss;
    casa::StepReport report;
    std::int64_t tokens;
  };

  static casa::TrainerOptions trainer_options(const RunConfig& c) {
    return {.adamw = {.beta2 = 0.99, .weight_decay = c.weight_decay},
            .schedule = {.peak = c.rate,
                         .warmup = (std::min)(c.warmup, c.steps / 4),
                         .total = c.steps,
                         .decay = casa::Decay::cosine,
                         .floor = 0.01},
            .clip_norm = c.clip};
  }

  std::string file(const char* name) const { return options_.folder + "/" + name; }

  void begin() {
    std::error_code code;
    std::filesystem::create_directories(options_.folder, code);
    casa::require(!code, options_.folder, ": cannot make the folder: ", code.message());
    const bool there = std::filesystem::exists(file("training.safetensors"));
    casa::require(!there || options_.resume, options_.folder,
                  ": a run is there already; --resume goes on with it");
    if (!there) return;
    const auto kept =
        casa::io::load_training(file("training.safetensors"), trainer_, order_, config_.text());
    losses_ = kept.at("notes.losses").to_vector<double>();
  }

  void save() const {
    casa::io::save_training(file("training.safetensors"), trainer_, order_, config_.text(),
                            {casa::io::named_tensor("losses", {std::ssize(losses_)}, losses_)});
  }

  Update update() {
    std::vector<Stream> streams;
    const std::int64_t first = trainer_.counts().steps * config_.batch;
    std::int64_t tokens = 0;
    for (Index i = 0; i < config_.batch; ++i) {
      streams.push_back(compose(
          digits_, config_.seed, static_cast<std::uint64_t>(first + i),
          [&] { return order_.next(); }, casa::kIgnoredTarget));
      tokens += std::ssize(streams.back().ids);
    }
    const casa::CrossEntropy loss = gradient_.add(trainer_.parameters(), type_, streams, context_);
    const casa::StepReport report = trainer_.step(1 / static_cast<double>(loss.count), context_);
    return {loss.mean(), report, tokens};
  }

  program::DigitScore test(const program::Streams& streams, std::int64_t step, Log& log) const {
    const program::DigitScore score = program::score_digits(
        program::read(make_reader(config_.name(), shapes_, trainer_.parameters(), type_), streams,
                      context_),
        streams);
    if (step <= log.tested()) return score;  // a run that had ended is asked again
    casa::io::JsonWriter w;
    w.begin_object().member("step", step).member("test_streams", streams.count());
    log.write(w.member("digits", score.digits).member("exact", score.exact).end_object());
    return score;
  }

  double mean_loss() const {
    double sum = 0;
    for (const double l : losses_) sum += l;
    return losses_.empty() ? 0 : sum / static_cast<double>(losses_.size());
  }
  double rate() const {
    return training_seconds_ > 0 ? static_cast<double>(tokens_) / training_seconds_ : 0;
  }

  RunConfig config_;
  RunOptions options_;
  const DigitImages& digits_;
  const program::Streams& test_;
  program::Streams some_test_;
  const casa::Context& context_;
  Shapes shapes_;
  casa::WeightType type_;
  casa::SampleOrder order_;
  casa::Trainer<float> trainer_;
  ReaderGradient gradient_;
  std::vector<double> losses_;  // of the newest updates
  std::int64_t tokens_ = 0;
  double training_seconds_ = 0;
};

}  // namespace digits
