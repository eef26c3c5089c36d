#!/usr/bin/env bash
# Every public header compiles alone, without a warning in a user's strict build; all of them in two
# files link (nothing in a header is defined twice); and macros min and max of the user's do no harm.
. "$(dirname "$0")/common.sh"

eigen=$(eigen_include)
export CXX include eigen warnings scratch
check_one() {
  log=$scratch/$(printf '%s' "$1" | tr / _).log
  printf '#include "%s"\n' "$1" |
    $CXX -std=c++20 $warnings -Werror -fsyntax-only "-I$include" -isystem "$eigen" -x c++ - > "$log" 2>&1 ||
    { printf 'does not compile alone: %s\n' "$1"; grep -m 5 -E 'error|warning' "$log"; exit 1; }
}
export -f check_one
public_headers | xargs -P "$(nproc)" -I '{}' bash -c 'check_one {}' || die "headers that do not compile alone"
say "$(public_headers | wc -l) headers compile alone"

public_headers | sed 's/.*/#include "&"/' > "$scratch/all.hpp"
printf '#include "all.hpp"\nint other() { return 0; }\n' > "$scratch/a.cpp"
printf '#include "all.hpp"\nint other();\nint main() { return other(); }\n' > "$scratch/b.cpp"
cd "$scratch"
for name in a b; do
  quiet "$name.log" $CXX -std=c++20 -O0 -I. "-I$include" -isystem "$eigen" -c $name.cpp -o $name.o &
  pids="${pids:-} $!"
done
for pid in $pids; do wait "$pid"; done
libraries=""
[[ $CASA_ABSENT == *text* ]] || libraries+=" -lpcre2-8 -lutf8proc"
[[ $CASA_ABSENT == *image* ]] || libraries+=" -ljpeg -lpng"
quiet link.log $CXX a.o b.o -o both $libraries -pthread
./both
say "all headers in two files: linked"

# As windows.h and many C headers do. What ours include is read before: it is not ours to mend.
{
  cd "$include"
  public_headers | xargs grep -hoE '^# *include <[^>]+>' | grep -vE "arm_neon|[ie]mmintrin" | sort -u
  printf '#define min(a, b) a macro named min\n#define max(a, b) a macro named max\n'
  cat "$scratch/all.hpp"
} > "$scratch/macros.cpp"
cd "$scratch"
quiet macros.log $CXX -std=c++20 -fsyntax-only -DPCRE2_CODE_UNIT_WIDTH=8 "-I$include" -isystem "$eigen" macros.cpp
say "all headers behind macros min and max: compiled"
