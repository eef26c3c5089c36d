// The table, the CSV lines and the JSON file of `casa_bench --variants`.
#include "variant_report.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "casa/core/build_info.hpp"

namespace bench {
namespace {

std::string format(const char* form, double x) {
  char text[64];
  std::snprintf(text, sizeof(text), form, x);
  return text;
}
std::string time_text(double seconds) {
  if (seconds >= 1) return format("%.2f s", seconds);
  return seconds >= 1e-3 ? format("%.2f ms", 1e3 * seconds) : format("%.1f us", 1e6 * seconds);
}
std::string bytes_text(double bytes) {
  return bytes >= 1 << 20 ? format("%.1f MiB", bytes / (1 << 20))
                          : format("%.0f KiB", bytes / (1 << 10));
}

using Row = std::vector<std::string>;

/// Columns as wide as their widest text; the first one to the left, the others to the right.
void print_rows(const std::vector<Row>& rows) {
  std::vector<int> widths(rows[0].size());
  for (const Row& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c)
      widths[c] = (std::max)(widths[c], static_cast<int>(row[c].size()));
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c)
      std::printf(c == 0 ? "%-*s" : "  %*s", widths[c], row[c].c_str());
    std::printf("\n");
  }
}

}  // namespace

void print_table(const Results& results, Index threads, const Limits& limits) {
  bool has_instructions = false, has_cycles = false, has_misses = false;
  for (const auto& [name, result] : results)
    for (const Block& block : result.blocks) {
      has_instructions = has_instructions || !std::isnan(block.counts.instructions);
      has_cycles = has_cycles || !std::isnan(block.counts.cycles);
      has_misses = has_misses || !std::isnan(block.counts.misses);
    }
  Row heads = {"case",  "time",       "GFLOP/s", "% peak", "FLOP/byte",
               "bound", "% of bound", "kept",    "error"};
  if (has_instructions) heads.push_back("Minstr");
  if (has_instructions && has_cycles) heads.push_back("instr/cycle");
  if (has_misses) heads.push_back("kmisses");
  std::vector<Row> rows = {heads};
  for (const auto& [name, result] : results) {
    double time = std::numeric_limits<double>::infinity();
    Counts counts;
    for (const Block& block : result.blocks) {
      for (const double t : threads == 1 ? block.cpu : block.wall) time = (std::min)(time, t);
      counts = block.counts;
    }
    const Facts& facts = result.facts;
    const Roofline at = roofline(facts, time, limits);
    Row row = {name,
               time_text(time),
               format("%.1f", 1e-9 * facts.flop / time),
               format("%.0f", 100 * facts.flop / time / limits.flops),
               format("%.1f", facts.flop / facts.bytes),
               at.bound,
               format("%.0f", 100 * at.part),
               bytes_text(facts.kept),
               format("%.0e", result.error) + (result.is_right() ? "" : " WRONG")};
    if (has_instructions) row.push_back(format("%.1f", 1e-6 * counts.instructions));
    if (has_instructions && has_cycles)
      row.push_back(format("%.2f", counts.instructions / counts.cycles));
    if (has_misses) row.push_back(format("%.1f", 1e-3 * counts.misses));
    rows.push_back(row);
  }
  print_rows(rows);
  std::printf("limits on %td thread%s: %.1f GFLOP/s of float multiply-adds, %.1f GB/s of reads\n",
              threads, threads == 1 ? "" : "s", 1e-9 * limits.flops, 1e-9 * limits.bytes);
}

void print_lines(const Results& results, Index threads, bool cpu) {
  for (const auto& [name, result] : results)
    for (const Block& block : result.blocks) {
      std::vector<double> times = cpu ? block.cpu : block.wall;
      std::sort(times.begin(), times.end());
      std::printf("variants,%s,casa,%td,%.9g,%.9g,%.9g,GFLOP\n", name.c_str(), threads,
                  times.front(), times[times.size() / 2], 1e-9 * result.facts.flop);
    }
  std::fflush(stdout);
}

void write_json(const std::string& path, const Results& results, Index threads,
                const Limits& limits) {
  using json = nlohmann::ordered_json;
  json blocks = json::array(), cases = json::object();
  for (const auto& [name, result] : results) {
    const Facts& facts = result.facts;
    cases[name] = {{"flop", facts.flop},
                   {"bytes", facts.bytes},
                   {"kept", facts.kept},
                   {"error", result.error},
                   {"error_bound", result.error_bound}};
    for (const Block& block : result.blocks) {
      json one = {{"case", name}, {"began", block.began}, {"wall", block.wall}, {"cpu", block.cpu}};
      // (Not a number is no JSON: what is not counted is left out.)
      const Counts& counts = block.counts;
      if (!std::isnan(counts.instructions)) one["instructions"] = counts.instructions;
      if (!std::isnan(counts.cycles)) one["cycles"] = counts.cycles;
      if (!std::isnan(counts.misses)) one["misses"] = counts.misses;
      blocks.push_back(one);
    }
  }
  const json run = {{"program", casa::build_info().summary()},
                    {"threads", threads},
                    {"peak_flops", limits.flops},
                    {"read_bytes", limits.bytes},
                    {"cases", cases},
                    {"blocks", blocks}};
  std::ofstream file(path);
  file << json{{"runs", json::array({run})}}.dump(1) << '\n';
  casa::require(file.flush().good(), "--json: cannot write ", path);
}

}  // namespace bench
