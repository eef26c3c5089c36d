// The counter behind steps.hpp; this file is compiled without the option, or it would count itself.
#include "support/steps.hpp"

std::uint64_t steps_taken = 0;

extern "C" void __sanitizer_cov_trace_pc();
extern "C" void __sanitizer_cov_trace_pc() { ++steps_taken; }
