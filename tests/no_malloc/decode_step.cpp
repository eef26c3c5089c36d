// Eigen's own memory comes from malloc, which a counting operator new does not see: here Eigen
// itself refuses to allocate while a warm model reads text and images. (A program of its own: the
// macros must be the same in all its files.)
#include <stdexcept>

#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) \
  if (!(condition)) throw std::logic_error(#condition)

#include <doctest/doctest.h>

#include "model/random_model.hpp"

using namespace casa;

namespace {

struct NoMalloc {
  NoMalloc() { Eigen::internal::set_is_malloc_allowed(false); }
  ~NoMalloc() { Eigen::internal::set_is_malloc_allowed(true); }
};

}  // namespace

TEST_CASE("Eigen allocates nothing in a warm step") {
  model_test::FrameReader reader;
  const NoMalloc guard;
  CHECK_THROWS_AS(Eigen::VectorXf(100).setZero(), std::logic_error);
  for (int i = 0; i < 50; ++i) CHECK_NOTHROW(reader.read_frame());
}
