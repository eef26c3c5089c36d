// How fast is attention beside other libraries, on the same inputs and with the same results?
// (casa_bench --csv; the other libraries' side is bench/compare_peers.py.)
#include "comparison.hpp"

#include <cstdio>
#include <regex>
#include <span>
#include <vector>

#include "attention_cases.hpp"
#include "limits.hpp"
#include "problem_files.hpp"

namespace bench {
namespace {

std::vector<Case> chosen_cases(const std::string& pattern) {
  std::vector<Case> chosen;
  try {
    const std::regex expression(pattern);
    for (Case& c : peer_cases())
      if (std::regex_search(c.name, expression)) chosen.push_back(std::move(c));
  } catch (const std::regex_error& e) {
    casa::fail("--cases: ", casa::quoted(pattern), " is no regular expression: ", e.what());
  }
  if (chosen.empty()) {
    std::string names;
    for (const Case& c : peer_cases()) names += " " + c.name;
    casa::fail("--cases: no case matches ", casa::quoted(pattern), "; there are:", names);
  }
  return chosen;
}

void write_problem(const std::string& folder, const Problem<float>& p) {
  const ProblemFiles files(folder, p.c.name);
  files.write("q", p.q.span());
  files.write("k", p.k.span());
  files.write("v", p.v.span());
  files.write("out", p.out.span());
  files.write(casa::MaskView{p.c.intervals, {}});
}

std::vector<ProblemShape> shapes_of(const std::vector<Case>& cases) {
  std::vector<ProblemShape> shapes;
  for (const Case& c : cases)
    shapes.push_back({c.name, c.rows, c.keys, c.num_heads, c.num_kv_heads, c.head_dim, c.head_dim,
                      c.work(), c.unit()});
  return shapes;
}

}  // namespace

namespace {

// The multiply-add peak for A on so many workers.
template <class A>
void print_peak(const char* name, Index threads, const casa::Executor& workers) {
  // Longer than fma_peak's loop, so that starting and awaiting workers does not count.
  constexpr long steps = 400000;
  std::vector<casa::simd::Element<FmaSum<A>>> kept(static_cast<std::size_t>(threads));
  const double gflop =
      1e-9 * fma_operations<A>(kFmaChains) * double{steps} * static_cast<double>(threads);
  print_csv("limits", name, "casa_bench", threads, gflop, "GFLOP", [&] {
    workers.run(threads, [&](Index w) {
      kept[static_cast<std::size_t>(w)] = run_fma_chains<A, kFmaChains>(steps);
    });
  });
  volatile auto used = kept[0];
  static_cast<void>(used);
}

}  // namespace

void print_limits(Index threads, const casa::Executor& workers) {
  print_peak<float>("fma_fp32", threads, workers);
  print_peak<Bfloat16Factor>("fma_bf16", threads, workers);
  print_peak<Int8Factor>("fma_int8", threads, workers);
  std::vector<float> kept(static_cast<std::size_t>(threads));
  const double gigabytes = 4e-9 * static_cast<double>(memory_to_read().size());
  print_csv("limits", "read_256MiB", "casa_bench", threads, gigabytes, "GB",
            [&] { read_memory(threads, workers, kept); });
  volatile float used = kept[0];
  static_cast<void>(used);
}

void print_comparison(const ComparisonOptions& options) {
  const std::vector<Case> cases = chosen_cases(options.cases);
  casa::ThreadPool pool(options.threads);
  casa::Context context;
  if (options.threads > 1) context.executor = pool;
  if (!options.problems.empty()) write_shapes(options.problems, shapes_of(cases));
  if (options.header) std::printf("%s\n", kCsvColumns);
  if (options.limits) print_limits(options.threads, pool);
  for (const Case& c : cases) {
    Problem<float> problem(c);
    if (!options.problems.empty()) {
      problem.run(context);
      write_problem(options.problems, problem);
    }
    print_csv("attention", c.name, "casa", options.threads, c.work(), c.unit(),
              [&] { problem.run(context); });
  }
}

}  // namespace bench
