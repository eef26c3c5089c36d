// What a forward pass runs on.
#pragma once

#include "casa/core/executor.hpp"
#include "casa/core/workspace.hpp"

CASA_NAMESPACE_BEGIN

/// Which twin of an operation computes: `fast` is the library, `naive` is its definition (tests
/// compare).
enum class Path { fast, naive };

/// What attention may round.
enum class Precision {
  full,     ///< nothing: keys and values are widened from what they are stored in
  storage,  ///< queries and softmax weights to the bfloat16 that keys and values are stored in,
            ///< where the machine multiplies that faster (AVX-512 BF16); sums stay float. About
            ///< doubles the variance of the error that such keys and values have
};

/// Workers and scratch memory of one caller. Two callers at once need two contexts (they may share
/// a thread pool). Keep it alive: a warm workspace is what makes a step free of allocations.
struct Context {
  Executor executor = {};
  Path path = Path::fast;
  Precision precision = Precision::full;
  mutable Workspace workspace = {};
};

CASA_NAMESPACE_END
