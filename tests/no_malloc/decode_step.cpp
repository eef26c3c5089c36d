// Eigen's own memory comes from malloc, which a counting operator new does not see: here Eigen
// itself refuses to allocate while a warm model reads text and images. (A program of its own: the
// macros must be the same in all its files.)
#include <stdexcept>

#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) \
  if (!(condition)) throw std::logic_error(#condition)

#include <doctest/doctest.h>

#include <vector>

#include "casa/model/decoder.hpp"
#include "model/random_model.hpp"

using namespace casa;

namespace {

struct NoMalloc {
  NoMalloc() { Eigen::internal::set_is_malloc_allowed(false); }
  ~NoMalloc() { Eigen::internal::set_is_malloc_allowed(true); }
};

}  // namespace

TEST_CASE("Eigen allocates nothing in a warm step") {
  auto config = model_test::small_config();
  config.fusion = presets::casa_before({0, 1});
  model_test::RandomWeights weights(3);
  const Decoder<float> model(config, weights.source());
  const auto images = model_test::random_matrix<float>(4, config.hidden_size, 3);
  auto state = model.new_state({.text_window = 32});
  Matrix<float> logits(1, config.vocab_size);
  const Context context;
  const std::vector<int> token{7};
  const Insertion image{0, 4};
  const auto frame = [&] {
    model.forward({&state, token, {&image, 1}, images}, logits, context);
    for (int i = 0; i < 9; ++i) model.forward({&state, token}, logits, context);
  };
  for (int warm = 0; warm < 20; ++warm) frame();
  const NoMalloc guard;
  CHECK_THROWS_AS(Eigen::VectorXf(100).setZero(), std::logic_error);
  for (int i = 0; i < 50; ++i) CHECK_NOTHROW(frame());
}
