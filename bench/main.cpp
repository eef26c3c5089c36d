// casa_bench: Google Benchmark with casa's own build in the context, so that a figure can be
// judged. (Debian's library always calls itself a debug build; what counts is the line printed
// here.)
#include <benchmark/benchmark.h>

#include <cstdio>

#include "casa/core/build_info.hpp"

int main(int argc, char** argv) {
  const casa::BuildInfo info = casa::build_info();
  std::fprintf(stderr, "%s\n", info.summary().c_str());
  if (!info.hint().empty()) std::fprintf(stderr, "%s\n", info.hint().c_str());
  benchmark::AddCustomContext("casa", info.summary());
  benchmark::AddCustomContext("isa", info.isa);
  benchmark::AddCustomContext("optimised", info.optimised && !info.asserts ? "yes" : "no");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
