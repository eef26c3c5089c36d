// libFuzzer program: see targets.hpp.
#include <cstdio>
#include <cstdlib>

#include "fuzz/targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::Result result = fuzz::safetensors({reinterpret_cast<const char*>(data), size});
  if (!result.fault.empty()) {
    std::fprintf(stderr, "broken: %s\n", result.fault.c_str());
    std::abort();
  }
  return 0;
}
