#!/usr/bin/env bash
# The C interface as its users meet it: casa.h is clean C99; one compiler command makes a library that
# Python's ctypes can use, with every function that casa.h declares; and a C project links
# casa::c, of an installed casa and of one in its tree.
. "$(dirname "$0")/common.sh"
: "${CC:=cc}"
command -v "$CC" > /dev/null || skip "no C compiler"
cd "$scratch"
printf '#include "casa/c/casa.h"\nint main(void) { return 0; }\n' > header.c
quiet log "$CC" -std=c99 -Wall -Wextra -Wpedantic -Wstrict-prototypes -Wundef -Werror "-I$include" -c header.c -o header.o
say "casa.h: clean C99"

quiet log $CXX -std=c++20 -O1 -DNDEBUG -shared -fPIC -fvisibility=hidden -pthread "-I$include" -I"$(eigen_include)" \
  "$include/casa/c/casa.cpp" -o libcasa.so
declared=$(grep -oE '\bcasa_[a-z_]+\(' "$include/casa/c/casa.h" | tr -d '(' | LC_ALL=C sort -u)
shown=$(nm -D --defined-only libcasa.so | awk '{ print $3 }' | grep '^casa_' | LC_ALL=C sort -u)
[ "$declared" = "$shown" ] || die "declared: $declared; in the library: $shown"
if command -v python3 > /dev/null; then
  quiet log python3 "$CASA_SOURCE_DIR/tests/c/ctypes_attend.py" ./libcasa.so
  cat log
else
  say "ctypes is left out: no python3"
fi

mkdir project
cat > project/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.22...4.0)
project(project LANGUAGES C CXX)
if(CASA_FROM)
  add_subdirectory("${CASA_FROM}" casa)
else()
  find_package(casa 0.1 REQUIRED COMPONENTS c)
endif()
add_executable(program main.c)
target_link_libraries(program PRIVATE casa::c)
CMAKE
cat > project/main.c <<'C'
#include <casa/c/casa.h>
#include <stdio.h>

int main(void) {
  /* Two heads of dimension 2, one query, three keys that are all zeros: the mean of the values. */
  const float q[4] = {1, 2, 3, 4}, k[6] = {0}, v[6] = {1, 10, 2, 20, 6, 60};
  const casa_keys keys = {.k = k, .v = v, .count = 3};
  const casa_interval sees = {0, 3};
  const casa_attention attention = {.dtype = CASA_F32, .key_dtype = CASA_F32, .num_heads = 2,
                                    .num_kv_heads = 1, .head_dim = 2, .q = q, .rows = 1,
                                    .keys = &keys, .num_pieces = 1, .intervals = &sees};
  float out[4];
  if (casa_attend(&attention, out, 0, NULL) != CASA_OK) return puts(casa_last_error()), 1;
  printf("%.3f %.3f %.3f %.3f\n", out[0], out[1], out[2], out[3]);
  return 0;
}
C
bare=(-DCASA_BUILD_TESTS=OFF -DCASA_BUILD_BENCHMARKS=OFF -DCASA_BUILD_EXAMPLES=OFF)
quiet log "$CMAKE" -S "$CASA_SOURCE_DIR" -B casa-build "${bare[@]}"
quiet log "$CMAKE" --install casa-build --prefix "$scratch/prefix"
mv prefix moved
for from in "$CASA_SOURCE_DIR" ""; do
  folder=build${from:+-in-tree}
  quiet log "$CMAKE" -S project -B $folder "-DCASA_FROM=$from" "-DCMAKE_PREFIX_PATH=$scratch/moved" -DCMAKE_CXX_FLAGS_RELEASE=-O0 -DCMAKE_BUILD_TYPE=Release
  quiet log "$CMAKE" --build $folder
  [ "$($folder/program)" = "3.000 30.000 3.000 30.000" ] || die "$folder: $($folder/program)"
done
say "casa::c, in the tree and installed: a C program runs"
