#!/usr/bin/env bash
# The AMX code compiles, links and has its instructions, and a program with it gives the right products
# wherever it runs: on tiles where processor and system have them, else on vectors, saying why.
. "$(dirname "$0")/common.sh"
[ "$(uname -sm)" = "Linux x86_64" ] || skip "AMX is x86-64's, and permission to use it Linux's"
eigen=$(eigen_include)
cd "$scratch"
cat > products.cpp <<'CPP'
#include <cstdio>

#include "casa/core/build_info.hpp"
#include "casa/linear/linear.hpp"

// Products of whole numbers are exact: in int8 because each group's largest is 127, its scale 1.
static int wrong(casa::WeightType type, casa::Precision precision) {
  const casa::Index rows = 37, in = 98, out = 70;
  casa::Matrix<float> w(out, in), x(rows, in), y(rows, out);
  const auto fill = [](casa::Matrix<float>& m, unsigned state) {
    for (casa::Index r = 0; r < m.rows(); ++r)
      for (casa::Index c = 0; c < m.cols(); ++c)
        m(r, c) = c % 32 == 0 ? 127.0f : static_cast<float>((state = state * 1664525u + 1013904223u) >> 24) - 127;
    for (casa::Index i = 0; i < m.size(); ++i)
      if (m.data()[i] > 127) m.data()[i] = 3;
  };
  fill(w, 1), fill(x, 2);
  casa::Linear<float>({w}, type).forward(x, y, casa::Context{.precision = precision});
  int count = 0;
  for (casa::Index r = 0; r < rows; ++r)
    for (casa::Index o = 0; o < out; ++o) {
      float sum = 0;
      for (casa::Index k = 0; k < in; ++k) sum += x(r, k) * w(o, k);
      count += y(r, o) != sum;
    }
  return count;
}

int main() {
  const casa::BuildInfo info = casa::build_info();
  const bool used = info.amx_refusal.empty();
  std::printf("%s: tiles are %s%s\n", info.isa.c_str(), used ? "used" : "refused, ", info.amx_refusal.c_str());
  if (info.isa.find("_amx") == std::string::npos) return 1;
  return wrong(casa::WeightType::int8, casa::Precision::int8) +
         wrong(casa::WeightType::bfloat16, casa::Precision::storage);
}
CPP
compile() { quiet "$1.log" $CXX -std=c++20 -O2 $warnings -Wno-uninitialized "-I$include" -isystem "$eigen" $2 products.cpp -o "$1"; }
tiles="-mamx-tile -mamx-bf16 -mamx-int8"
printf 'int main() {}\n' > probe.cpp
$CXX $tiles -march=sapphirerapids probe.cpp -o probe > /dev/null 2>&1 || skip "$CXX knows no AMX"

# Beside AVX-512, where weights are held with an offset, and beside SSE2, where they are not.
compile avx512 -march=sapphirerapids & compile sse2 "$tiles" & wait
[ -x avx512 ] && [ -x sse2 ] || die "the AMX code does not compile"
if command -v objdump > /dev/null; then
  for program in avx512 sse2; do
    objdump -d $program > $program.txt
    byte=tdpbssd; [ $program = sse2 ] || byte=tdpbsud
    # (sums in 0, rows of x in 4, weights in 6: an instruction names the last operand first)
    for instruction in ldtilecfg tilerelease "tdpbf16ps +%tmm6,%tmm4,%tmm0" "$byte +%tmm6,%tmm4,%tmm0"; do
      grep -qE "$instruction" $program.txt || die "$program: no $instruction"
    done
  done
fi
./sse2 || die "a program with AMX gives wrong products"
