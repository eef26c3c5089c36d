// Attention in float, over keys of every type.
#include "support/attention_instantiations.hpp"

CASA_INSTANTIATE_ATTENTION(, float, float)
CASA_INSTANTIATE_ATTENTION(, float, casa::bfloat16)
CASA_INSTANTIATE_ATTENTION(, float, casa::half)
