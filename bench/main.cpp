// casa_bench: the benchmarks of this folder as one Google Benchmark program, the lines of a
// comparison with other libraries, and the table of attention variants. print_usage() below has the
// command line.
//
// How casa was built is printed first and stands in the context of Google Benchmark's output,
// because a figure means nothing without it. Debian's libbenchmark says "Library was built as
// DEBUG" of itself, whatever casa was built as.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <string>
#include <string_view>

#include "bench_common.hpp"
#include "casa/core/build_info.hpp"
#include "comparison.hpp"
#include "tower.hpp"
#include "training.hpp"
#include "variant_command.hpp"

namespace {

void print_usage() {
  std::printf(
      "casa_bench [Google Benchmark's flags]\n"
      "casa_bench --csv [flags of --csv]\n"
      "casa_bench --variants [flags of --variants]\n"
      "casa_bench --tower-csv [--threads N]\n"
      "casa_bench --training --csv [--threads N]\n"
      "\n"
      "Otherwise Google Benchmark's flags choose what runs and how it is printed:\n"
      "  --benchmark_list_tests                 the names of all benchmarks\n"
      "  --benchmark_filter=REGEX               those whose name REGEX finds\n"
      "  --benchmark_counters_tabular=true      rates as a table with one column a counter\n"
      "  --benchmark_out=FILE --benchmark_out_format=json   what bench/plot.py reads\n"
      "\n"
      "With --csv, attention in float on the cases that bench/compare_peers.py also runs with "
      "other\n"
      "libraries, one line of comma-separated values a case on stdout:\n"
      "  %s\n"
      "(times in seconds on the wall clock; work of one run in GFLOP, or in GB of keys and "
      "values)\n"
      "  --threads N     worker threads (1)\n"
      "  --cases REGEX   the cases whose name REGEX finds (all)\n"
      "  --csv-header    the line above as first line of the output; implies --csv\n"
      "  --limits        also the multiply-add peak and the read rate of N threads\n"
      "  --problems DIR  also write inputs and outputs of each case to DIR, which must exist\n"
      "\n",
      bench::kCsvColumns);
  bench::print_variant_usage();
  std::printf(
      "With --tower-csv, such lines of one block of Qwen2.5-VL's vision tower over the 1,024 "
      "patches\n"
      "of 448 x 448 pixels: attention over all of them and in windows of 64, in float, bf16 and "
      "int8.\n"
      "  --threads N     worker threads (1)\n"
      "\n"
      "With --training --csv, such lines of attention forward and backward, and of training steps "
      "of\n"
      "two whole decoders.\n"
      "  --threads N     worker threads (1)\n"
      "\n");
  std::printf("All of Google Benchmark's flags:\n");
  std::fflush(stdout);
}

int usage_error(const std::string& what) {
  std::fprintf(stderr, "casa_bench: %s (--help lists the flags)\n", what.c_str());
  return 2;
}

// Whether `value` is a number of threads, which `threads` is then.
bool is_thread_count(const std::string& value, casa::Index& threads) {
  const char* end = value.data() + value.size();
  const auto [parsed, error] = std::from_chars(value.data(), end, threads);
  return error == std::errc() && parsed == end && threads >= 1 && threads <= 1024;
}

// --tower-csv and --training: `flags` that stand before, and lines on so many threads.
int run_lines(int argc, char** argv, std::initializer_list<std::string_view> flags,
              void (*print)(casa::Index threads)) {
  casa::Index threads = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (std::find(flags.begin(), flags.end(), flag) != flags.end()) continue;
    if (flag != "--threads")
      return usage_error("no flag of " + std::string(*flags.begin()) + ": " + flag);
    if (++i == argc) return usage_error(flag + " needs a value");
    if (!is_thread_count(argv[i], threads))
      return usage_error(flag + " must be in [1, 1024], got " + argv[i]);
  }
  std::fprintf(stderr, "columns: %s\n", bench::kCsvColumns);
  print(threads);
  return 0;
}

int run_comparison(int argc, char** argv) {
  bench::ComparisonOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--csv") continue;
    if (flag == "--csv-header") {
      options.header = true;
    } else if (flag == "--limits") {
      options.limits = true;
    } else if (flag == "--threads" || flag == "--cases" || flag == "--problems") {
      if (i + 1 == argc) return usage_error(std::string(flag) + " needs a value");
      const std::string value = argv[++i];
      if (flag == "--cases") options.cases = value;
      if (flag == "--problems") options.problems = value;
      if (flag != "--threads") continue;
      if (!is_thread_count(value, options.threads))
        return usage_error("--threads must be in [1, 1024], got " + value);
    } else {
      return usage_error("no flag of --csv: " + std::string(flag));
    }
  }
  if (!options.header) std::fprintf(stderr, "columns: %s\n", bench::kCsvColumns);
  bench::print_comparison(options);
  return 0;
}

int run_benchmarks(int argc, char** argv, const casa::BuildInfo& info) {
  benchmark::AddCustomContext("casa", info.summary());
  benchmark::AddCustomContext("isa", info.isa);
  benchmark::AddCustomContext("optimised", info.optimised && !info.asserts ? "yes" : "no");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  bool csv = false, variants = false, tower = false, training = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      print_usage();
      benchmark::PrintDefaultHelp();
      return 0;
    }
    variants = variants || flag == "--variants";
    tower = tower || flag == "--tower-csv";
    training = training || flag == "--training";
    csv = csv || flag == "--csv" || flag == "--csv-header";
  }
  const casa::BuildInfo info = casa::build_info();
  std::fprintf(stderr, "%s\n", info.summary().c_str());
  if (!info.hint().empty()) std::fprintf(stderr, "warning: %s\n", info.hint().c_str());
  try {
    if (tower) return run_lines(argc, argv, {"--tower-csv"}, bench::print_tower);
    if (training) return run_lines(argc, argv, {"--training", "--csv"}, bench::print_training);
    if (variants) return bench::run_variants(argc, argv);
    return csv ? run_comparison(argc, argv) : run_benchmarks(argc, argv, info);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "casa_bench: %s\n", e.what());
    return 1;
  }
}
