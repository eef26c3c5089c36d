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

# Plug-ins of other flags: their errors are caught as casa::error, whether they are linked or loaded,
# hide their symbols or not; and enums and plain structs go in and out.
cat > plugin.cpp <<'CPP'
#include "casa/core/context.hpp"
#include "casa/stream/layout.hpp"
extern "C" __attribute__((visibility("default"))) void NAME(int n) {
  casa::require(n > 0, "n must be positive, got ", n);
}
// One mangled name with any flags: what it takes is not tagged.
__attribute__((visibility("default"))) casa::Interval NAME(casa::Interval i, casa::Path path,
                                                           const casa::Insertion& insertion) {
  const casa::StreamLayout layout(9, {&insertion, 1});
  return {i.begin + layout.image_len(), path == casa::Path::naive ? i.end : -1};
}
CPP
cat > host.cpp <<'CPP'
#include <cstdio>
#include <cstring>
#include "casa/core/context.hpp"
#include "casa/stream/layout.hpp"
#if defined(LOADS)
#include <dlfcn.h>
#else
extern "C" void first(int);
extern "C" void second(int);
casa::Interval first(casa::Interval, casa::Path, const casa::Insertion&);
casa::Interval second(casa::Interval, casa::Path, const casa::Insertion&);
#endif
using Throws = void (*)(int);
using Takes = casa::Interval (*)(casa::Interval, casa::Path, const casa::Insertion&);
static bool right(Throws throws, Takes takes) {
  if (takes({1, 7}, casa::Path::naive, {3, 4}) != casa::Interval{5, 7}) return false;
  throws(1);
  try {
    throws(-1);
  } catch (const casa::error& e) {
    return std::strcmp(e.what(), "n must be positive, got -1") == 0;
  } catch (const std::exception& e) {
    std::printf("caught only as std::exception: %s\n", e.what());
  }
  return false;
}
int main() {
#if defined(LOADS)
  int wrong = 0;
  for (const char* name : {"first", "second"}) {
    const std::string library = std::string("./lib") + name + ".so";
    const std::string takes = "_Z" + std::to_string(std::strlen(name)) + name +
                              "N4casa8IntervalENS_4PathERKNS_9InsertionE";
    void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) return std::puts(dlerror()), 1;
    void* const f = dlsym(handle, name);
    void* const g = dlsym(handle, takes.c_str());
    if (!f || !g) return std::puts(dlerror()), 1;
    wrong += !right(reinterpret_cast<Throws>(f), reinterpret_cast<Takes>(g));
  }
  return wrong;
#else
  return !right(&first, &first) + !right(&second, &second);
#endif
}
CPP
libraries() {  # libraries FIRST_FLAGS SECOND_FLAGS
  for name in first second; do
    quiet $name.log $CXX -std=c++20 -O1 "-I$include" -isystem "$eigen" -DNAME=$name -fPIC -shared \
      $([ $name = first ] && echo "$1" || echo "$2") plugin.cpp -o lib$name.so
  done
}
for flags in "" "-fvisibility=hidden -fvisibility-inlines-hidden"; do
  compile_host() { quiet host.log $CXX -std=c++20 -O1 "-I$include" -isystem "$eigen" $flags "$@"; }
  libraries "-mavx2 $flags" "$flags"
  compile_host -DLOADS host.cpp -o loads -ldl
  compile_host host.cpp -o linked -L. -lfirst -lsecond -Wl,-rpath,"$PWD"
  [ -n "$other" ] || continue  # (a machine that cannot run the first one)
  ./loads || die "errors of loaded plug-ins, flags '$flags'"
  ./linked || die "errors of linked plug-ins, flags '$flags'"
done
say "errors of plug-ins with other flags are caught"

# What has no tag leaves no function that the linker could take for another file's: of casa::error
# what its table holds, of structs what a compiler makes by itself without optimisation.
cat > copies.cpp <<'CPP'
#include "casa/attention/input.hpp"
#include "casa/session/timeline.hpp"
#include "casa/model/state.hpp"
#include "casa/vision/vision_config.hpp"
bool use(std::vector<casa::Interval>& a, std::vector<casa::Position>& b, std::vector<casa::Window>& c,
         std::vector<casa::StateOptions>& d, casa::FrameRate e, casa::VisionGrid f, int n) {
  if (n < 0) throw casa::error("negative");
  if (n < 1) throw casa::error(std::to_string(n));
  a.resize(3), b.resize(3, casa::Position(n)), c.resize(3), d.resize(3);
  casa::AttentionShape s{.num_heads = n}, t = s;
  return a[0] == a[1] && b[0] == b[1] && c[0] == c[1] && d[0] == d[1] && e == casa::FrameRate{} &&
         f == casa::VisionGrid{} && a[0].size() == s.group() && a[1].contains(n) && s == t &&
         casa::Insertion{n} == casa::Insertion{} && casa::ImageGrid{n} == casa::ImageGrid{};
}
CPP
quiet copies.log $CXX -std=c++20 -O0 "-I$include" -isystem "$eigen" -c copies.cpp -o copies.o
nm copies.o | awk '$(NF-1) ~ /^[WVu]$/ { print $NF }' | grep -E '^_Z[A-Z]*4casa' > weak
grep -q '^_ZTIN4casa5errorE$' weak || die "casa::error is tagged"
left=$(grep -vE '^_Z[A-Z]*4casa([0-9]+(sse|avx)|5errorD|5errorE|5errorC[12]ERKS0_|[0-9]+[A-Za-z]+C[12]Ev)' weak || true)
[ -z "$left" ] || die "functions without a tag that the linker may swap: $left"
say "what has no tag leaves no function behind"
