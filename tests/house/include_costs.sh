#!/usr/bin/env bash
# What an include costs: seconds of processor time to compile a file that includes one header and
# nothing else, the median of seven rounds over all headers (so that a busy moment of the machine
# meets all of them), and the ratio to Eigen/Core. No test: no verdict hangs on the clock. The
# guide's page on performance says where the time goes.
#   tests/house/include_costs.sh [COMPILER_FLAGS...]    default none; CXX names the compiler
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
cd "$scratch"
headers=(Eigen/Core casa/core/memory.hpp casa/core/executor.hpp casa/stream/visibility.hpp
  casa/attention/simple.hpp casa/linear/linear.hpp casa/model/decoder.hpp casa/casa.hpp)
seconds() {  # seconds HEADER
  printf '#include <%s>\n' "$1" > include.cpp
  local TIMEFORMAT=%U
  { time $CXX -std=c++20 "${@:2}" "-I$include" -isystem "$eigen" -c include.cpp -o include.o; } 2>&1
}
for _ in 1 2 3 4 5 6 7; do
  for i in "${!headers[@]}"; do seconds "${headers[i]}" "$@" >> "times$i"; done
done
median() { sort -n "times$1" | sed -n 4p; }
base=$(median 0)
printf '%-34s %8s %8s   (%s %s)\n' header seconds ratio "$CXX" "$*"
for i in "${!headers[@]}"; do
  awk -v h="${headers[i]}" -v c="$(median "$i")" -v b="$base" \
    'BEGIN { printf "%-34s %8.2f %8.2f\n", h, c, c / b }'
done
