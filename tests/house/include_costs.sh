#!/usr/bin/env bash
# What an include costs: seconds of processor time to compile a file that includes one header and
# nothing else, the fastest of five, and the ratio to Eigen/Core. No test: no verdict hangs on the clock.
#   tests/house/include_costs.sh [COMPILER_FLAGS...]    default -O2; CXX names the compiler
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
flags=("$@"); [ $# -gt 0 ] || flags=(-O2)
cd "$scratch"
seconds() {  # seconds HEADER
  printf '#include <%s>\n' "$1" > include.cpp
  local TIMEFORMAT=%U
  for _ in 1 2 3 4 5; do
    { time $CXX -std=c++20 "${flags[@]}" "-I$include" -isystem "$eigen" -c include.cpp -o include.o; } 2>&1
  done | sort -n | head -n 1
}
base=$(seconds Eigen/Core)
printf '%-34s %8s %8s   (%s %s)\n' header seconds ratio "$CXX" "${flags[*]}"
for header in Eigen/Core casa/core/memory.hpp casa/core/executor.hpp casa/stream/visibility.hpp \
  casa/attention/simple.hpp casa/linear/linear.hpp casa/model/decoder.hpp casa/casa.hpp; do
  cost=$(seconds "$header")
  awk -v h="$header" -v c="$cost" -v b="$base" 'BEGIN { printf "%-34s %8.2f %8.2f\n", h, c, c / b }'
done
