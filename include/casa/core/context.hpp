// The context of a forward pass: workers, scratch memory, precision.
#pragma once

#include <optional>
#include <utility>

#include "casa/core/executor.hpp"
#include "casa/core/workspace.hpp"

CASA_COMMON_NAMESPACE_BEGIN

/// Which of two implementations of an operation computes: `fast`, or `naive`, the plain definition
/// that tests compare it with.
enum class Path { fast, naive };

/// What products may round besides what is stored.
enum class Precision {
  full,     ///< nothing: what is stored is widened, everything else is as it is computed
  storage,  ///< what meets bfloat16 keys, values and weights is rounded to bfloat16, too (queries,
            ///< softmax weights, rows of a Linear), where there are enough rows and the machine
            ///< multiplies that faster (AVX-512 BF16; AMX in a Linear; a head_dim that 16 divides,
            ///< an even number of in_features); sums, of softmax weights as they were rounded, stay
            ///< float. About doubles the variance of the error that storing them so brings
  int8,     ///< as storage; and rows of a Linear that meet int8 weights are rounded to int8, too,
            ///< each 64 values by a scale of their own (quantize.hpp), whatever the machine and the
            ///< number of rows. The same bits on every machine
};

CASA_COMMON_NAMESPACE_END

CASA_NAMESPACE_BEGIN

/// Workers and scratch memory of one caller. Two threads that call at the same time need two
/// contexts, which may share a thread pool. Keep a context from call to call: its workspace has
/// then grown to the size needed, and a step allocates nothing.
struct Context {
  Executor executor = {};                 ///< serial by default
  Path path = Path::fast;                 ///< naive: slow, for tests
  Precision precision = Precision::full;  ///< what products may round
  mutable Workspace workspace = {};       ///< scratch; a const Context is still one caller's
};

namespace detail {

/// A context like another one but for its precision. It has that one's workspace while it lives.
struct ContextOfPrecision {
  ContextOfPrecision(const Context& other, Precision precision)
      : from(other), context{other.executor, other.path, precision, std::move(other.workspace)} {}
  ContextOfPrecision(const ContextOfPrecision&) = delete;
  ContextOfPrecision& operator=(const ContextOfPrecision&) = delete;
  ~ContextOfPrecision() { from.workspace = std::move(context.workspace); }

  const Context& from;
  const Context context;
};

/// Calls f(context), or f of a context like it with that precision, if there is one.
template <class F>
void with_precision(const Context& context, std::optional<Precision> precision, F f) {
  if (!precision || *precision == context.precision) return f(context);
  const ContextOfPrecision own(context, *precision);
  f(own.context);
}

}  // namespace detail

CASA_NAMESPACE_END
