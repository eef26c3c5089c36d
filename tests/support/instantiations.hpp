// The heavy templates that many test files use, instantiated once, in instantiations.cpp: the test
// programs that link it include this before anything else.
#pragma once

#include "casa/model/decoder.hpp"

#define CASA_TEST_INSTANTIATE(prefix)                                                         \
  prefix template void casa::attend(const casa::AttentionInput<float, float>&,                \
                                    casa::MatrixView<float>, float*, const casa::Context&);   \
  prefix template void casa::attend(const casa::AttentionInput<float, casa::bfloat16>&,       \
                                    casa::MatrixView<float>, float*, const casa::Context&);   \
  prefix template void casa::attend(const casa::AttentionInput<float, casa::half>&,           \
                                    casa::MatrixView<float>, float*, const casa::Context&);   \
  prefix template void casa::attend(const casa::AttentionInput<double, double>&,              \
                                    casa::MatrixView<double>, double*, const casa::Context&); \
  prefix template class casa::Linear<float>;                                                  \
  prefix template class casa::Linear<double>;                                                 \
  prefix template class casa::Mlp<float>;                                                     \
  prefix template class casa::Mlp<double>;                                                    \
  prefix template class casa::Decoder<float>;                                                 \
  prefix template class casa::Decoder<double>;

CASA_TEST_INSTANTIATE(extern)
