// The gradient of the decoder in float.
#include "support/training_instantiations.hpp"

template class casa::DecoderGradient<float>;
