// Steps of code that is compiled with -fsanitize-coverage=trace-pc: how often a stretch of it
// without branches is entered.
#pragma once

#include <cstdint>

/// Steps since the program began. One thread at a time.
extern std::uint64_t steps_taken;
