// The three forms in which `casa_bench --variants` says what it measured.
#pragma once

#include <map>
#include <string>

#include "variant_measure.hpp"

namespace bench {

/// By the name of the variant.
using Results = std::map<std::string, Result>;

/// A table to be read. Times are the shortest of all runs: on one thread in its processor time,
/// which other jobs on the machine change least, on several on the wall clock.
void print_table(const Results& results, Index threads, const Limits& limits);

/// A line for each block with the columns of kCsvColumns, as bench/compare_peers.py reads them;
/// times on the wall clock, or in processor time of the calling thread.
void print_lines(const Results& results, Index threads, bool cpu);

/// All samples: what bench/compare.py reads; its docstring has the form. Throws casa::error if the
/// file cannot be written.
void write_json(const std::string& path, const Results& results, Index threads,
                const Limits& limits);

}  // namespace bench
