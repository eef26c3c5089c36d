// One block of a vision tower as lines that other libraries' are compared with: casa_bench
// --tower-csv.
#pragma once

#include "bench_common.hpp"

namespace bench {

/// Prints six lines with the columns kCsvColumns: one block of Qwen2.5-VL's tower over the 1,024
/// patches of a picture of 448 x 448 pixels, on so many threads, with attention over all of them
/// ("full") and in windows of 64 ("window"), each in float, bf16 and int8 (weights, and what they
/// are multiplied by).
void print_tower(Index threads);

}  // namespace bench
