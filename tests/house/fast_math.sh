#!/usr/bin/env bash
# A file built with -ffast-math is refused in words: its rows that see no key would be wrong.
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
printf '#include "casa/casa.hpp"\n' > "$scratch/a.cpp"
for flag in -ffast-math -ffinite-math-only; do
  refused "$scratch/log" 'casa needs infinities.*without -ffast-math' \
    $CXX -std=c++20 -O1 $flag -fsyntax-only "-I$include" -isystem "$eigen" "$scratch/a.cpp"
  [ "$(grep -c 'error:' "$scratch/log")" -eq 1 ] || { cat "$scratch/log"; die "more than one error with $flag"; }
done
