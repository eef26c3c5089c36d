// The lines that compare attention with other libraries: casa_bench --csv, read by
// bench/compare_peers.py.
#pragma once

#include <string>

#include "casa/core/executor.hpp"

namespace bench {

/// What `casa_bench --csv` and the flags beside it ask for.
struct ComparisonOptions {
  casa::Index threads = 1;
  std::string cases;     ///< a regular expression: the cases whose name it finds; empty: all
  std::string problems;  ///< a folder that receives the cases' inputs and outputs; empty: none
  bool header = false;   ///< the names of the columns as first line
  bool limits = false;   ///< the machine's limits on so many threads, too
};

/// Prints one line a case on stdout, with the columns of kCsvColumns (bench_common.hpp): attention
/// in float, timed on the wall clock. With `problems`, the folder first receives, for each case,
/// <case>.q.f32, .k.f32, .v.f32, .out.f32 (queries and outputs: rows x heads x head_dim; keys and
/// values: kv heads x keys x head_dim), <case>.intervals.i64 (begin and end of each row), all in
/// the machine's byte order, and one file cases.csv with the shapes.
///
/// Throws casa::error if `cases` is no regular expression or finds nothing, or a file cannot be
/// written.
void print_comparison(const ComparisonOptions& options);

/// Prints two such lines: the multiply-add peak, and the read rate of memory, of so many threads.
void print_limits(casa::Index threads, const casa::Executor& workers);

}  // namespace bench
