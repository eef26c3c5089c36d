// How do I run casa on the threads that my program has already?
//
// An Executor is a number and a function that calls a task once for every worker and returns when
// all have ended. Prints whether attention on fresh std::threads, and on casa's own ThreadPool,
// gives the bits that it gives on one thread: results do not depend on who computes them.
#include <casa/attention/simple.hpp>

#include <cstdio>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// The simplest runtime there is: threads that live as long as the task does.
void run_on_new_threads(void* /*self*/, casa::Index workers, casa::Executor::Task task,
                        void* work) {
  std::exception_ptr failure;  // one of those that workers throw is thrown in the caller
  std::mutex mutex;
  const auto guarded = [&](casa::Index worker) {
    try {
      task(work, worker);
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (casa::Index w = 1; w < workers; ++w) threads.emplace_back(guarded, w);
    guarded(0);
  }
  if (failure) std::rethrow_exception(failure);
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

  const Matrix alone = attend_on({});
  const Matrix fresh = attend_on({.concurrency = 4, .run_workers = run_on_new_threads});
  casa::ThreadPool pool(4);
  std::printf("std::thread: %s\n", fresh == alone ? "the same bits" : "other bits");
  std::printf("ThreadPool: %s\n", attend_on(pool) == alone ? "the same bits" : "other bits");
}
