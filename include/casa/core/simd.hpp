// SIMD in one native width: the few operations that kernels are written in, for float and double.
#pragma once

#include "casa/core/simd/exponential.hpp"
#include "casa/core/simd/lanes.hpp"
#include "casa/core/simd/memory.hpp"
#include "casa/core/simd/pairs.hpp"
#include "casa/core/simd/vector.hpp"
