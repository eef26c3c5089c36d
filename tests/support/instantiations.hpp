#include "support/model_instantiations.hpp"
