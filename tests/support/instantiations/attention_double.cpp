// Attention in double.
#include "support/attention_instantiations.hpp"

CASA_INSTANTIATE_ATTENTION(, double, double)
