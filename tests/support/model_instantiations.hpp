// As attention_instantiations.hpp, with the decoder and its layers.
#pragma once

#include "casa/model/decoder.hpp"
#include "support/attention_instantiations.hpp"

#define CASA_INSTANTIATE_MODEL(PREFIX, T)                                                 \
  PREFIX template class casa::Linear<T>;                                                  \
  PREFIX template class casa::Mlp<T>;                                                     \
  PREFIX template void casa::detail::block_forward(                                       \
      const casa::BlockWeights<T>&, bool, casa::Index, const casa::detail::BlockPass<T>&, \
      std::span<casa::BlockCache<T>* const>, casa::MatrixView<T>, casa::MatrixView<T>,    \
      const casa::Context&);                                                              \
  PREFIX template class casa::Decoder<T>;

CASA_INSTANTIATE_MODEL(extern, float)
CASA_INSTANTIATE_MODEL(extern, double)
