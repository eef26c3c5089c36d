// Attention's kernels are instantiated once, in instantiations/*.cpp: the sources of a program that
// links those include this before anything else, and instantiate none.
#pragma once

#include "casa/attention/attend.hpp"

// PREFIX: nothing to instantiate, `extern` to say that it is done elsewhere.
#define CASA_INSTANTIATE_ATTENTION(PREFIX, T, S)                                                \
  PREFIX template void casa::attend(const casa::AttentionInput<T, S>&, casa::MatrixView<T>, T*, \
                                    const casa::Context&, const casa::PlainScore&);             \
  PREFIX template void casa::attend_state(const casa::AttentionInput<T, S>&,                    \
                                          casa::AttentionState<T>&, const casa::Context&,       \
                                          const casa::PlainScore&);

CASA_INSTANTIATE_ATTENTION(extern, float, float)
CASA_INSTANTIATE_ATTENTION(extern, float, casa::bfloat16)
CASA_INSTANTIATE_ATTENTION(extern, float, casa::half)
CASA_INSTANTIATE_ATTENTION(extern, double, double)
