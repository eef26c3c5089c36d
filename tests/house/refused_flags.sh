#!/usr/bin/env bash
# Flags under which casa could not keep its word are refused in words, as the first error: -ffast-math
# (rows that see no key would be wrong), no exceptions, an older C++.
. "$(dirname "$0")/common.sh"
eigen=$(eigen_include)
printf '#include "casa/casa.hpp"\n' > "$scratch/a.cpp"
expect_first() {  # expect_first PATTERN FLAGS...
  local pattern=$1; shift
  refused "$scratch/log" "$pattern" \
    $CXX -std=c++20 "$@" -O1 -fsyntax-only "-I$include" -isystem "$eigen" "$scratch/a.cpp"
  grep -m 1 'error:' "$scratch/log" | grep -qE -- "$pattern" ||
    { grep -m 3 'error:' "$scratch/log"; die "$*: another error comes first"; }
  say "$*: $(grep -m 1 -oE '"casa .*"' "$scratch/log")"
}
expect_first 'casa needs infinities.*without -ffast-math' -ffast-math
expect_first 'casa needs infinities.*without -ffast-math' -ffinite-math-only
expect_first 'casa reports errors by exceptions' -fno-exceptions
expect_first 'casa needs C\+\+20' -std=c++17
