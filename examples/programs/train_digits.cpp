// Trains small models to read pictures of handwritten digits, as those of tests/golden/digits were,
// and says how well each way to look at pictures does.
//
//   train_digits                             CASA, into digits_runs/casa-seed1
//   train_digits --all --seeds 1,2,3         all variants, a run for each seed
//   train_digits --resume ..                 goes on where runs were stopped (Ctrl-C, a power cut)
//   read_digits --model digits_runs/casa-seed1 --streams tests/golden/digits/streams.safetensors

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "casa/core/build_info.hpp"
#include "support/program.hpp"
#include "train_digits/run.hpp"

namespace {

struct Arguments {
  digits::RunConfig config;
  digits::RunOptions options;
  std::string out = "digits_runs";
  std::string data = CASA_SOURCE_DIR "/examples/programs/train_digits/digits.safetensors";
  std::string streams = CASA_SOURCE_DIR "/tests/golden/digits/streams.safetensors";
  std::string weights = "float";
  std::vector<std::uint64_t> seeds = {1};
  bool all = false;
  casa::Index threads = 0;
};

// Mean and range over the seeds, in percent.
std::string spread(std::vector<double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  char text[64];
  std::snprintf(text, sizeof text, "%6.2f (%.2f to %.2f)",
                100 * sum / static_cast<double>(values.size()), 100 * *low, 100 * *high);
  return text;
}

int run(Arguments& a) {
  std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
  struct sigaction action {};
  action.sa_handler = [](int) { digits::interrupted = 1; };
  ::sigaction(SIGINT, &action, nullptr);
  const digits::DigitImages images = digits::load_digits(a.data);
  const program::Streams test = program::load_streams(a.streams);
  casa::require(test.height == digits::kSide && test.width == digits::kSide &&
                    static_cast<casa::Index>(test.captions.size()) == test.images.rows(),
                a.streams, ": expected pictures of ", digits::kSide, " x ", digits::kSide,
                " with their captions");
  casa::ThreadPool pool(a.threads);
  const casa::Context context{.executor = pool};
  a.config.bf16 = a.weights == "bf16";

  program::print("%-16s %4s %9s %9s %8s %9s %8s\n", "variant", "seed", "digits %", "exact %",
                 "loss", "tokens/s", "seconds");
  std::vector<std::string> summary;
  for (const std::string& variant :
       a.all ? digits::kVariants : std::vector<std::string>{a.config.variant}) {
    std::vector<double> digits_right, exact;
    for (const std::uint64_t seed : a.seeds) {
      a.config.variant = variant;
      a.config.seed = seed;
      a.options.folder = a.out + "/" + a.config.name();
      digits::Run one(a.config, a.options, images, test, context);
      const std::optional<digits::Result> r = one.train();
      if (!r) {
        std::fprintf(stderr, "stopped; --resume goes on with %s\n", a.options.folder.c_str());
        return 130;
      }
      program::print("%-16s %4llu %9.2f %9.2f %8.4f %9.0f %8.1f\n", variant.c_str(),
                     static_cast<unsigned long long>(seed), 100 * r->score.digits,
                     100 * r->score.exact, r->loss, r->tokens_per_second, r->seconds);
      digits_right.push_back(r->score.digits);
      exact.push_back(r->score.exact);
    }
    char line[256];
    std::snprintf(line, sizeof line, "%-16s digits %s, exact %s\n", variant.c_str(),
                  spread(digits_right).c_str(), spread(exact).c_str());
    summary.push_back(line);
  }
  if (a.seeds.size() < 2) return 0;
  program::print("\nmean (lowest to highest) of %zu seeds, percent\n", a.seeds.size());
  for (const std::string& line : summary) program::put(line);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Trains models that read pictures of handwritten digits."};
  const auto positive = CLI::Range(std::int64_t{1}, std::int64_t{1} << 40);
  auto* variant = app.add_option("--variant", a.config.variant, "how text looks at pictures")
                      ->capture_default_str()
                      ->check(CLI::IsMember(digits::kVariants));
  app.add_flag("--all", a.all, "all variants, one after the other")->excludes(variant);
  app.add_option("-s,--seeds,--seed", a.seeds, "a run for each")->delimiter(',');
  app.add_option("-n,--steps", a.config.steps, "updates of a run")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--batch", a.config.batch, "streams of an update")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--rate", a.config.rate, "largest learning rate")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e3));
  app.add_option("--warmup", a.config.warmup, "updates until it is reached, at most a quarter")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  app.add_option("--weight-decay", a.config.weight_decay, "of matrices")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e3));
  app.add_option("--clip", a.config.clip, "largest norm of the gradients")
      ->capture_default_str()
      ->check(CLI::Range(1e-9, 1e9));
  app.add_option("--weights", a.weights, "what products take weights as; float masters learn")
      ->capture_default_str()
      ->check(CLI::IsMember({"float", "bf16"}));
  app.add_option("--most-tokens", a.config.most_tokens, "tokens that pass at once")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{512}, std::int64_t{1} << 40));
  app.add_option("-o,--out", a.out, "folder of the runs")->capture_default_str();
  app.add_flag("--resume", a.options.resume, "go on with runs that are there");
  app.add_option("--checkpoint-every", a.options.checkpoint_every, "updates")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--test-every", a.options.test_every, "updates")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--test-streams", a.options.test_streams, "of a test, but for the last one")
      ->capture_default_str()
      ->check(positive);
  app.add_option("--digits", a.data, "file of digits to train on")->capture_default_str();
  app.add_option("--streams", a.streams, "file of streams to test on")->capture_default_str();
  app.add_option("-t,--threads", a.threads, "worker threads, 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
  app.add_flag("-q,--quiet", a.options.quiet, "no progress bar");
  return program::run("train_digits", app, argc, argv, [&] { return run(a); });
}
