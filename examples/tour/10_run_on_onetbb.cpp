// How do I run casa on oneTBB?
//
// As on any runtime: by an Executor (tour/09) whose function is a parallel_for over the workers, in
// an arena if the program has one. Prints whether attention there gives the bits of one thread.
#include <casa/attention/simple.hpp>

#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <cstdio>
#include <vector>

casa::Executor executor_of(tbb::task_arena& arena) {
  return {arena.max_concurrency(), &arena,
          [](void* self, casa::Index workers, casa::Executor::Task task, void* work) {
            static_cast<tbb::task_arena*>(self)->execute([&] {  // throws what a worker threw
              tbb::parallel_for(casa::Index{0}, workers, [&](casa::Index w) { task(work, w); });
            });
          }};
}

int main() {
  using Matrix = casa::RowMatrix<float>;
  const auto numbers = [](casa::Index rows, casa::Index cols, casa::Index step) -> Matrix {
    return Matrix::NullaryExpr(rows, cols, [=](casa::Index r, casa::Index c) {
      return static_cast<float>((step * (r * cols + c)) % 101) / 50 - 1;
    });
  };
  const Matrix q = numbers(256, 4 * 32, 5), k = numbers(256, 2 * 32, 7),
               v = numbers(256, 2 * 32, 3);
  std::vector<casa::Interval> causal;
  for (casa::Index i = 0; i < q.rows(); ++i) causal.push_back({0, i + 1});
  const auto attend_on = [&](casa::Executor executor) -> Matrix {
    const casa::Context context{.executor = executor};
    return casa::attend(q, k, v, causal, {.num_heads = 4, .num_kv_heads = 2, .context = &context});
  };
  tbb::task_arena arena;  // as wide as the machine
  const bool same = attend_on(executor_of(arena)) == attend_on({});
  std::printf("oneTBB: %s\n", same ? "the same bits" : "other bits");
}
