// casa_bench: Google Benchmark with casa's own build in the context, so that a figure can be
// judged. (Debian's library always calls itself a debug build; what counts is the line printed
// here.)
//
//   casa_bench [--benchmark_filter=REGEX ...]
//   casa_bench --csv [--threads N]     the lines of a comparison with other libraries, and no more
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "attention_cases.hpp"
#include "casa/core/build_info.hpp"

int main(int argc, char** argv) {
  const casa::BuildInfo info = casa::build_info();
  std::fprintf(stderr, "%s\n", info.summary().c_str());
  if (!info.hint().empty()) std::fprintf(stderr, "%s\n", info.hint().c_str());
  bool csv = false;
  long threads = 1;
  for (int i = 1; i < argc; ++i) {
    csv = csv || std::strcmp(argv[i], "--csv") == 0;
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) threads = std::atol(argv[i + 1]);
  }
  if (csv) {
    if (threads < 1 || threads > 1024) {
      std::fprintf(stderr, "casa_bench: --threads must be in [1, 1024]\n");
      return 2;
    }
    bench::print_attention_csv(threads);
    return 0;
  }
  benchmark::AddCustomContext("casa", info.summary());
  benchmark::AddCustomContext("isa", info.isa);
  benchmark::AddCustomContext("optimised", info.optimised && !info.asserts ? "yes" : "no");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
