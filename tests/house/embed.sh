#!/usr/bin/env bash
# casa inside another project, by add_subdirectory and by FetchContent: the same target name, no test,
# option or installed file of casa's leaks out; and the project may use OpenMP and -Werror.
. "$(dirname "$0")/common.sh"
cd "$scratch"
strict=""
for warning in $warnings; do strict+=" $warning"; done

for way in OFF ON; do
  folder=user-fetch-$way
  quiet log "$CMAKE" -S "$CASA_SOURCE_DIR/tests/downstream" -B $folder "-DCASA_FROM=$CASA_SOURCE_DIR" \
    -DFETCH=$way -DCMAKE_CXX_FLAGS_RELEASE=-O1 "-DCMAKE_CXX_FLAGS=-fopenmp -Werror$strict"
  quiet log "$CMAKE" --build $folder
  quiet log "$CTEST" --test-dir $folder -N
  grep -q 'Total Tests: 1$' log || { cat log; die "ctest -N shows more than the project's own test"; }
  quiet log "$CTEST" --test-dir $folder --output-on-failure
  quiet log "$CMAKE" --install $folder --prefix "$scratch/prefix-$way"
  files=$(cd "prefix-$way" && find . -type f)
  [ "$files" = ./bin/downstream ] || die "installed by the user's project: $files"
  ! grep -qE '^CASA_(BUILD_[A-Z]+|INSTALL):BOOL=ON' $folder/CMakeCache.txt || die "tests or install rules are on when embedded"
done
say "add_subdirectory and FetchContent: built and run, nothing leaked"
