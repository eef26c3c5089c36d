// The decoder in double.
#include "support/model_instantiations.hpp"

CASA_INSTANTIATE_MODEL(, double)
