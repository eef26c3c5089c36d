// What a forward pass runs on.
#pragma once

#include "casa/core/executor.hpp"
#include "casa/core/workspace.hpp"

CASA_NAMESPACE_BEGIN

/// Which twin of an operation computes: `fast` is the library, `naive` is its definition (tests
/// compare).
enum class Path { fast, naive };

/// Workers and scratch memory of one caller. Two callers at once need two contexts (they may share
/// a thread pool). Keep it alive: a warm workspace is what makes a step free of allocations.
struct Context {
  Executor executor = {};
  Path path = Path::fast;
  mutable Workspace workspace = {};
};

CASA_NAMESPACE_END
