// The decoder in float.
#include "support/model_instantiations.hpp"

CASA_INSTANTIATE_MODEL(, float)
