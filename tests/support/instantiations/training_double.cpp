// The gradient of the decoder in double.
#include "support/training_instantiations.hpp"

template class casa::DecoderGradient<double>;
