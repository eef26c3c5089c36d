// Training as lines that other libraries' are compared with: casa_bench --training.
#pragma once

#include "bench_common.hpp"

namespace bench {

/// Prints lines with the columns kCsvColumns: attention forward and backward (gradients of queries,
/// keys and values) in float, causal over 1,024 tokens and as 8 windows of a stream, 16 query heads
/// of 128 over 8 key/value heads. Work is 3.5 times that of the forward pass.
void print_training(Index threads);

/// Such lines of whole training steps, in thousands of text tokens: the text reader's decoder on 8
/// streams (reader_B8) and SmolLM2-135M on 512 tokens (smollm2_T512), with activations computed
/// twice (casa) and kept (casa keep). On stderr, where the time goes and the process's peak memory.
void print_training_steps(Index threads);

}  // namespace bench
