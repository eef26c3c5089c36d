// As model_instantiations.hpp, with the gradient of the decoder.
#pragma once

#include "casa/model/decoder_backward.hpp"
#include "support/model_instantiations.hpp"

extern template class casa::DecoderGradient<float>;
extern template class casa::DecoderGradient<double>;
