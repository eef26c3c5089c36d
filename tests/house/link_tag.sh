#!/usr/bin/env bash
# Two files built with different -m flags that share a type of casa's do not link, and the linker's
# message shows casa's tags; built with equal flags they link and run.
. "$(dirname "$0")/common.sh"
case "$(uname -m)" in x86_64) other=-mavx2 ;; *) skip "no second instruction set known for $(uname -m)" ;; esac
grep -qw avx2 /proc/cpuinfo || other=
eigen=$(eigen_include)
cd "$scratch"
cat > a.cpp <<'CPP'
#include "casa/core/memory.hpp"
double sum(const casa::Matrix<float>& m) {
  double total = 0;
  for (casa::Index r = 0; r < m.rows(); ++r)
    for (casa::Index c = 0; c < m.cols(); ++c) total += double{m(r, c)};
  return total;
}
CPP
cat > b.cpp <<'CPP'
#include "casa/core/memory.hpp"
double sum(const casa::Matrix<float>& m);
int main() {
  casa::Matrix<float> m(3, 5);
  for (casa::Index r = 0; r < 3; ++r)
    for (casa::Index c = 0; c < 5; ++c) m(r, c) = 2;
  return sum(m) == 30 ? 0 : 1;
}
CPP
compile() { quiet "$2.log" $CXX -std=c++20 -O1 "-I$include" -isystem "$eigen" $3 -c "$1" -o "$2"; }
compile a.cpp a.o "" & compile b.cpp b.o "" & wait
compile a.cpp a2.o -mavx2 & compile b.cpp b2.o -mavx2 & wait
quiet link.log $CXX a.o b.o -o same && ./same
quiet link.log $CXX a2.o b2.o -o same2 && { [ -z "$other" ] || ./same2; }
refused mixed.log 'casa::avx2.*Matrix' $CXX a.o b2.o -o mixed
refused mixed.log 'casa::sse2.*Matrix' $CXX a2.o b.o -o mixed
grep -m 1 'undefined reference' mixed.log
