// How fast is each attention variant on this machine, what binds it, and is its result right?
// (casa_bench --variants; the variants are the files of bench/variants.)
#include "variant_command.hpp"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "casa/core/context.hpp"
#include "comparison.hpp"
#include "problem_files.hpp"
#include "variant_report.hpp"

namespace bench {
namespace {

struct Options {
  std::string cases;  ///< names, separated by commas; empty: all
  Index threads = 1;
  Index rounds = 5;
  double seconds = 0.1;
  bool list = false, csv = false, limits = false, cpu = false;
  std::string json, problems;
};

// A mistake on the command line.
struct WrongFlag : casa::error {
  using casa::error::error;
};

int usage_error(const std::string& what) {
  std::fprintf(stderr, "casa_bench --variants: %s (--help lists the flags)\n", what.c_str());
  return 2;
}

/// An empty text, or what is wrong.
std::string parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--variants") continue;
    options.csv = options.csv || flag == "--csv";
    options.list = options.list || flag == "--list";
    options.limits = options.limits || flag == "--limits";
    options.cpu = options.cpu || flag == "--cpu";
    if (flag == "--csv" || flag == "--list" || flag == "--limits" || flag == "--cpu") continue;
    const bool text = flag == "--case" || flag == "--json" || flag == "--problems";
    if (!text && flag != "--threads" && flag != "--rounds" && flag != "--seconds")
      return "no flag of --variants: " + flag;
    if (i + 1 == argc) return flag + " needs a value";
    const std::string value = argv[++i];
    if (flag == "--case" && value.empty()) return "--case needs names, got an empty text";
    if (flag == "--case") options.cases = value;
    if (flag == "--json") options.json = value;
    if (flag == "--problems") options.problems = value;
    if (text) continue;
    if (flag == "--seconds") {
      char* end = nullptr;
      options.seconds = std::strtod(value.c_str(), &end);
      if (end != value.c_str() + value.size() || !(options.seconds > 0 && options.seconds <= 1e4))
        return "--seconds must be in (0, 10000], got " + value;
      continue;
    }
    Index& number = flag == "--threads" ? options.threads : options.rounds;
    const char* end = value.data() + value.size();
    const auto [parsed, error] = std::from_chars(value.data(), end, number);
    if (error != std::errc() || parsed != end || number < 1 || number > 1024)
      return flag + " must be in [1, 1024], got " + value;
  }
  if (options.cpu && options.threads > 1) return "--cpu goes with one thread";
  return {};
}

/// Those of the names, in the order of all_variants(). Throws WrongFlag for a name that no variant
/// has.
std::vector<const Variant*> chosen(const std::string& names) {
  const std::vector<const Variant*> all = all_variants();
  if (names.empty()) return all;
  std::vector<std::string> wanted;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = (std::min)(names.find(',', begin), names.size());
    wanted.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  std::vector<const Variant*> list;
  std::string known;
  for (const Variant* v : all) {
    known += " " + v->name();
    const auto found = std::find(wanted.begin(), wanted.end(), v->name());
    if (found == wanted.end()) continue;
    list.push_back(v);
    wanted.erase(std::remove(wanted.begin(), wanted.end(), v->name()), wanted.end());
  }
  if (!wanted.empty())
    throw WrongFlag("--case: no variant " + casa::quoted(wanted[0]) + "; there are:" + known);
  return list;
}

/// Measures the variants `rounds` times one after the other, so that the blocks of each are spread
/// over the run. Each is made anew for its block: memory for all at once would be too much.
Results measure_all(const std::vector<const Variant*>& variants, const Options& options,
                    casa::Context& context, const Counters& counters, Limits& limits) {
  Results results;
  std::vector<ProblemShape> shapes;
  const auto measure_one = [&](Index round, const Variant* v) {
    const Runnable variant = v->make();
    context.precision = variant.problem.precision;
    variant.run(context);
    Result& result = results[v->name()];
    if (round == 0) {
      result.facts = facts_of(variant.problem, variant.value_bytes);
      result.error = variant.largest_error();
      result.error_bound = variant.error_bound;
      if (!options.problems.empty()) variant.write(options.problems, v->name());
      const Attention& a = variant.problem;
      shapes.push_back({v->name(), a.rows(), a.keys, a.num_heads, a.num_kv_heads, a.head_dim,
                        a.value_dim, 1e-9 * result.facts.flop, "GFLOP"});
      if (!result.is_right())
        std::fprintf(stderr,
                     "WRONG: %s differs from its definition by %.2e, where rounding explains at "
                     "most %.2e\n",
                     v->name().c_str(), result.error, result.error_bound);
    }
    limits.measure(options.threads, context.executor);
    result.blocks.push_back(measure(v->name(), variant, context, options.seconds, counters));
  };
  for (Index round = 0; round < options.rounds; ++round)
    for (const Variant* v : variants) try {
        measure_one(round, v);
      } catch (const casa::error& e) {
        casa::fail(v->name(), ": ", e.what());
      }
  if (!options.problems.empty()) write_shapes(options.problems, shapes);
  return results;
}

}  // namespace

void print_variant_usage() {
  std::printf(
      "With --variants, each attention variant of bench/variants, as a table: time, rate of "
      "visible\n"
      "pairs, part of the machine's peak, what binds, bytes of cache kept, and the largest error\n"
      "against the definition. A wrong result makes the exit status 1.\n"
      "  --case NAMES    these alone, separated by commas (all)\n"
      "  --threads N     worker threads (1)\n"
      "  --rounds N      how often all of them are gone through (5)\n"
      "  --seconds S     of each variant in a round (0.1)\n"
      "  --csv           lines of the columns above instead of the table, one a variant and round\n"
      "  --cpu           these in processor time instead of the wall clock; with one thread alone\n"
      "  --json FILE     also all samples: what bench/compare.py reads\n"
      "  --limits, --problems DIR  as above\n"
      "  --list          the names alone\n"
      "\n");
}

int run_variants(int argc, char** argv) {
  Options options;
  if (const std::string wrong = parse(argc, argv, options); !wrong.empty())
    return usage_error(wrong);
  std::vector<const Variant*> variants;
  try {
    variants = chosen(options.cases);
  } catch (const WrongFlag& e) {
    return usage_error(e.what());
  }
  if (options.list) {
    for (const Variant* v : variants) std::printf("%s\n", v->name().c_str());
    return 0;
  }
  const Counters counters;  // before the threads, so that they are counted
  casa::ThreadPool pool(options.threads);
  casa::Context context;
  if (options.threads > 1) context.executor = pool;
  Limits limits;
  const Results results = measure_all(variants, options, context, counters, limits);
  if (options.limits) print_limits(options.threads, context.executor);
  if (options.csv)
    print_lines(results, options.threads, options.cpu);
  else
    print_table(results, options.threads, limits);
  if (!options.json.empty()) write_json(options.json, results, options.threads, limits);
  if (!options.csv && !counters.reason().empty())
    std::printf("no processor counters: %s\n", counters.reason().c_str());
  for (const auto& [name, result] : results)
    if (!result.is_right()) return 1;
  return 0;
}

}  // namespace bench
