// doctest's main, and where the tree lies.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <filesystem>

namespace golden {

std::filesystem::path repository_root();  // golden.hpp, which is not included: it takes longest

std::filesystem::path repository_root() {
#if defined(CASA_SOURCE_DIR)
  return std::filesystem::path(CASA_SOURCE_DIR) / "tests" / "golden";
#else
  return std::filesystem::absolute(__FILE__).parent_path() / "golden";
#endif
}

}  // namespace golden
