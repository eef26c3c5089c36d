// What a forward pass runs on.
#pragma once

#include "casa/core/executor.hpp"
#include "casa/core/workspace.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which twin of an operation computes: `fast` is the library, `naive` is its definition (tests
/// compare).
enum class Path { fast, naive };

/// What products may round besides what is stored.
enum class Precision {
  full,     ///< nothing: what is stored is widened, everything else is as it is computed
  storage,  ///< what meets bfloat16 keys, values and weights is rounded to bfloat16, too (queries,
            ///< softmax weights, rows of a Linear), where there are enough rows and the machine
            ///< multiplies that faster (AVX-512 BF16; a head_dim that 16 divides, an even number of
            ///< in_features); sums, of softmax weights as they were rounded, stay float. About
            ///< doubles the variance of the error that storing them so brings
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Workers and scratch memory of one caller. Two callers at once need two contexts (they may share
/// a thread pool). Keep it alive: a warm workspace is what makes a step free of allocations.
struct Context {
  Executor executor = {};
  Path path = Path::fast;
  Precision precision = Precision::full;
  mutable Workspace workspace = {};
};

CASA_NAMESPACE_END
