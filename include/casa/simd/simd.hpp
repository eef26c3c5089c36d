// SIMD in one native width: the few operations that kernels are written in, for float and double.
// Internal: casa::simd may change between versions.
#pragma once

#include "casa/simd/exponential.hpp"
#include "casa/simd/lane_order.hpp"
#include "casa/simd/lanes.hpp"
#include "casa/simd/memory.hpp"
#include "casa/simd/pairs.hpp"
#include "casa/simd/vector.hpp"
