// How fast is attention beside other libraries, on the same inputs and with the same results?
// (casa_bench --csv; the other libraries' side is bench/compare_peers.py.)
#include "comparison.hpp"

#include <cstdio>
#include <fstream>
#include <regex>
#include <span>
#include <vector>

#include "attention_cases.hpp"

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

void print_limits(Index threads, const casa::Executor& workers) {
  // Longer than fma_peak's loop, so that starting and awaiting workers does not count.
  constexpr long steps = 400000;
  constexpr std::size_t chains = kFmaChains;
  std::vector<float> kept(static_cast<std::size_t>(threads));
  const double gflop = 2e-9 * double{chains} * double{steps} *
                       static_cast<double>(casa::simd::kLanes<float> * threads);
  print_csv("limits", "fma_fp32", "casa_bench", threads, gflop, "GFLOP", [&] {
    workers.run(threads, [&](Index w) {
      kept[static_cast<std::size_t>(w)] = run_fma_chains<float, chains>(steps);
    });
  });
  const std::span<const float> data = memory_to_read();
  const Index count = static_cast<Index>(data.size());
  print_csv("limits", "read_256MiB", "casa_bench", threads, 4e-9 * static_cast<double>(count), "GB",
            [&] {
              workers.run(threads, [&](Index w) {
                // Whole turns of sum_of's loop for every worker; the last one takes the rest.
                const Index part = count / threads / kReadStep * kReadStep;
                const Index begin = w * part, end = w + 1 == threads ? count : begin + part;
                kept[static_cast<std::size_t>(w)] = sum_of(data.data() + begin, end - begin);
              });
            });
  volatile float used = kept[0];
  static_cast<void>(used);
}

template <class V>
void write_values(const std::string& path, std::span<const V> values) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size_bytes()));
  casa::require(file.flush().good(), "cannot write ", path);
}

void write_problem(const std::string& folder, const Problem<float>& p) {
  const std::string path = folder + "/" + p.c.name;
  write_values(path + ".q.f32", p.q.span());
  write_values(path + ".k.f32", p.k.span());
  write_values(path + ".v.f32", p.v.span());
  write_values(path + ".out.f32", p.out.span());
  std::vector<std::int64_t> intervals;
  for (const Interval i : p.c.intervals) {
    intervals.push_back(i.begin);
    intervals.push_back(i.end);
  }
  write_values(path + ".intervals.i64", std::span<const std::int64_t>(intervals));
}

void write_shapes(const std::string& folder, const std::vector<Case>& cases) {
  const std::string path = folder + "/cases.csv";
  std::ofstream file(path);
  file.precision(12);
  file << "case,rows,keys,num_heads,num_kv_heads,head_dim,work,unit\n";
  for (const Case& c : cases)
    file << c.name << ',' << c.rows << ',' << c.keys << ',' << c.num_heads << ',' << c.num_kv_heads
         << ',' << c.head_dim << ',' << c.work() << ',' << c.unit() << '\n';
  casa::require(file.flush().good(), "cannot write ", path);
}

}  // namespace

void print_comparison(const ComparisonOptions& options) {
  const std::vector<Case> cases = chosen_cases(options.cases);
  casa::ThreadPool pool(options.threads);
  casa::Context context;
  if (options.threads > 1) context.executor = pool;
  if (!options.problems.empty()) write_shapes(options.problems, cases);
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
