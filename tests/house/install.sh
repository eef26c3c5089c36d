#!/usr/bin/env bash
# An installed casa: configured without a build type it is Release; a user's project finds it, builds,
# and still does after the prefix has moved; the targets carry what they say and no more; other major
# versions and unknown components are refused.
. "$(dirname "$0")/common.sh"
cd "$scratch"
bare=(-DCASA_BUILD_TESTS=OFF -DCASA_BUILD_BENCHMARKS=OFF -DCASA_BUILD_EXAMPLES=OFF)

quiet log "$CMAKE" -S "$CASA_SOURCE_DIR" -B casa-build "${bare[@]}"
grep -q '^CMAKE_BUILD_TYPE:STRING=Release$' casa-build/CMakeCache.txt || die "the default build type is not Release"
quiet log "$CMAKE" --install casa-build --prefix "$scratch/prefix"
[ -z "$(find prefix -path '*lib*' -type f)" ] || die "files in an architecture's folder: $(find prefix -path '*lib*')"
[ "$(cd prefix/include && find . -name '*.hpp' | wc -l)" -eq "$(cd "$include" && find . -name '*.hpp' | wc -l)" ] ||
  die "not every header was installed"
if grep -rlF "$scratch" prefix; then die "installed files name the prefix"; fi

build_and_run() {  # build_and_run FOLDER OPTIONS...: one test, its own, and it passes
  local folder=$1; shift
  quiet log "$CMAKE" -S "$CASA_SOURCE_DIR/tests/downstream" -B "$folder" -DCMAKE_CXX_FLAGS_RELEASE=-O1 "$@"
  quiet log "$CMAKE" --build "$folder"
  quiet log "$CTEST" --test-dir "$folder" -N
  grep -q 'Total Tests: 1$' log || { cat log; die "ctest -N shows more than the project's own test"; }
  quiet log "$CTEST" --test-dir "$folder" --output-on-failure
}
build_and_run user-1 "-DCMAKE_PREFIX_PATH=$scratch/prefix"
mv prefix moved
build_and_run user-2 "-DCMAKE_PREFIX_PATH=$scratch/moved" -DNATIVE=ON
say "installed, and moved: built and run"

mkdir properties
cat > properties/CMakeLists.txt <<'CMAKE'
cmake_minimum_required(VERSION 3.22...4.0)
project(properties LANGUAGES CXX)
find_package(casa ${version} REQUIRED COMPONENTS ${components})
function(expect target property expected)
  get_target_property(value ${target} ${property})
  if(value MATCHES "NOTFOUND$")
    set(value "")
  endif()
  if(NOT value STREQUAL expected)
    message(FATAL_ERROR "${target} ${property}: expected '${expected}', got '${value}'")
  endif()
endfunction()
foreach(component casa ${components})
  foreach(none COMPILE_OPTIONS COMPILE_DEFINITIONS LINK_OPTIONS LINK_DIRECTORIES SOURCES)
    expect(casa::${component} INTERFACE_${none} "")
  endforeach()
endforeach()
expect(casa::casa INTERFACE_COMPILE_FEATURES "cxx_std_20")
expect(casa::casa INTERFACE_LINK_LIBRARIES "Eigen3::Eigen")
get_target_property(folders casa::casa INTERFACE_INCLUDE_DIRECTORIES)
list(LENGTH folders count)
if(NOT count EQUAL 1 OR NOT EXISTS "${folders}/casa/casa.hpp")
  message(FATAL_ERROR "include folders: ${folders}")
endif()
if("io" IN_LIST components)
  expect(casa::io INTERFACE_LINK_LIBRARIES "casa::casa;nlohmann_json::nlohmann_json")
elseif(TARGET casa::io)
  message(FATAL_ERROR "casa::io was not asked for")
endif()
CMAKE
components=io
[[ $CASA_ABSENT == *text* ]] || components+=";text"
[[ $CASA_ABSENT == *image* ]] || components+=";image"
find_casa() { "$CMAKE" -S properties -B "$1" "-DCMAKE_PREFIX_PATH=$scratch/moved" "-Dversion=$2" "-Dcomponents=$3"; }
quiet log find_casa p1 0.1 ""
quiet log find_casa p2 0.1 "$components"
refused log 'not accepted' find_casa p3 1.0 ""
refused log 'casa::speech needs component speech' find_casa p4 0.1 "speech"
say "targets: as stated; other majors and unknown components: refused"
