// Who does the work: an Executor is a handle to workers; serial by default, a ThreadPool where
// given.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"

CASA_NAMESPACE_BEGIN

/// A non-owning handle to something that runs f(worker) on several workers at once. Copied freely;
/// what it points to must outlive it. The default one runs everything on the calling thread. Any
/// thread runtime fits: give `concurrency`, and a function that calls `task(context, worker)` once
/// for every worker in [0, workers) and returns when all have ended.
struct Executor {
  using Task = void (*)(void* context, Index worker);
  using Run = void (*)(void* self, Index workers, Task task, void* context);

  Index concurrency = 1;
  void* self = nullptr;
  Run run_workers = nullptr;

  /// f(worker) for every worker in [0, workers), workers <= concurrency; returns when all have
  /// ended.
  template <class F>
  void run(Index workers, F&& f) const {
    if (workers <= 1 || run_workers == nullptr) {
      for (Index w = 0; w < workers; ++w) f(w);
      return;
    }
    run_workers(
        self, workers,
        [](void* context, Index worker) {
          (*static_cast<std::remove_reference_t<F>*>(context))(worker);
        },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }

  /// f(i, worker) for every i in [0, n), handed out in chunks: each worker goes through a run of
  /// its own, in order, as memory likes it, and then helps the others. What f computes must not
  /// depend on the worker, so that results do not depend on the number of threads.
  template <class F>
  void for_each(Index n, F&& f, Index chunk = 1) const {
    const Index workers = std::min(concurrency, (n + chunk - 1) / chunk);
    if (workers <= 1) {
      for (Index i = 0; i < n; ++i) f(i, Index{0});
      return;
    }
    struct alignas(64) Share {
      std::atomic<Index> next;
      Index end;
    };
    constexpr Index most = 64;
    Share shares[std::size_t{most}];
    const Index count = std::min(workers, most), chunks = (n + chunk - 1) / chunk;
    for (Index r = 0; r < count; ++r) {
      shares[r].next = chunks * r / count * chunk;
      shares[r].end = std::min(n, chunks * (r + 1) / count * chunk);
    }
    run(workers, [&](Index worker) {
      for (Index r = 0; r < count; ++r) {
        auto& [next, end] = shares[(worker + r) % count];
        for (Index begin = next.fetch_add(chunk); begin < end; begin = next.fetch_add(chunk))
          for (Index i = begin; i < std::min(end, begin + chunk); ++i) f(i, worker);
      }
    });
  }
};

/// Threads that wait for work. The calling thread is one of the workers; an exception of a worker
/// is thrown again in the caller after all have ended. One caller at a time (others wait their
/// turn).
class ThreadPool {
 public:
  /// num_threads workers in all (0: as many as the machine has).
  explicit ThreadPool(Index num_threads = 0) {
    if (num_threads == 0)
      num_threads = std::max<Index>(1, static_cast<Index>(std::thread::hardware_concurrency()));
    require(num_threads >= 1 && num_threads <= 4096,
            "ThreadPool: num_threads must be in [1, 4096], got ", num_threads);
    for (Index w = 1; w < num_threads; ++w) threads_.emplace_back([this, w] { work(w); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (auto& t : threads_) t.join();
  }

  Index num_threads() const { return static_cast<Index>(threads_.size()) + 1; }

  operator Executor() {
    return {num_threads(), this, [](void* self, Index workers, Executor::Task task, void* context) {
              static_cast<ThreadPool*>(self)->run(workers, task, context);
            }};
  }

 private:
  void run(Index workers, Executor::Task task, void* context) {
    while (busy_.exchange(true)) busy_.wait(true);
    task_ = task;
    context_ = context;
    workers_ = workers;
    failure_ = nullptr;
    failed_ = false;
    running_.store(num_threads() - 1);
    generation_.fetch_add(1);
    generation_.notify_all();
    guarded(0);
    for (Index left = running_.load(); left != 0; left = running_.load())
      wait_while([&] { return running_.load() == left; }, running_, left);
    const std::exception_ptr failure = failure_;
    busy_ = false;
    busy_.notify_one();
    if (failure) std::rethrow_exception(failure);
  }

  void work(Index worker) {
    for (unsigned seen = 0;;) {
      wait_while([&] { return generation_.load() == seen; }, generation_, seen);
      seen = generation_.load();
      if (stop_) return;
      if (worker < workers_) guarded(worker);
      if (running_.fetch_sub(1) == 1) running_.notify_all();
    }
  }

  void guarded(Index worker) {
    try {
      task_(context_, worker);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }

  // A decode step has a parallel region every few microseconds: spin a little before sleeping.
  template <class Busy, class Atomic, class V>
  static void wait_while(Busy busy, Atomic& atomic, V old) {
    for (int spin = 0; spin < 4000; ++spin) {
      if (!busy()) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
    atomic.wait(old);
  }

  std::vector<std::thread> threads_;
  std::atomic<unsigned> generation_{0};
  std::atomic<Index> running_{0};
  std::atomic<bool> busy_{false}, stop_{false}, failed_{false};
  std::exception_ptr failure_;
  Executor::Task task_ = nullptr;
  void* context_ = nullptr;
  Index workers_ = 0;
};

CASA_NAMESPACE_END
