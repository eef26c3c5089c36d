#include "instantiations.hpp"

CASA_TEST_INSTANTIATE()
