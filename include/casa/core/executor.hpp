// Workers: an Executor is a handle to them, serial by default; a ThreadPool is one kind.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "casa/core/config.hpp"
#include "casa/core/error.hpp"
#include "casa/core/processors.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Whether the current thread runs a task of an executor.
inline constinit thread_local bool inside_task = false;

/// Sets inside_task while it lives.
class InsideTask {
 public:
  InsideTask() : before_(std::exchange(inside_task, true)) {}
  InsideTask(const InsideTask&) = delete;
  InsideTask& operator=(const InsideTask&) = delete;
  ~InsideTask() { inside_task = before_; }

 private:
  bool before_;
};

/// How many forks lie between this process and the one in which counting began.
inline std::atomic<unsigned> forks{0};

/// Counts forks from the first call on; false if the system refuses.
inline bool counts_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const bool counts =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); }) == 0;
  return counts;
#else
  return true;
#endif
}

}  // namespace detail

/// A non-owning handle to something that runs f(worker) on several workers at once. Copied freely;
/// what it points to must outlive it. The default one runs everything on the calling thread. Any
/// thread runtime fits: give `concurrency`, and a function that calls `task(context, worker)` once
/// for every worker in [0, workers), returns when all have ended, and throws again what one threw.
struct Executor {
  /// What a worker is given to call: task(context, worker).
  using Task = void (*)(void* context, Index worker);
  /// Calls task(context, w) for every w in [0, workers), at once where it can.
  using Run = void (*)(void* self, Index workers, Task task, void* context);

  Index concurrency = 1;      ///< the most workers at once
  void* self = nullptr;       ///< passed to run_workers
  Run run_workers = nullptr;  ///< null: the caller runs every worker in turn

  /// The number of workers, `concurrency`. Throws casa::error unless it is positive.
  Index num_workers() const {
    if (concurrency < 1) fail("Executor: concurrency must be positive, got ", concurrency);
    return concurrency;
  }

  /// f(worker) for every worker in [0, workers); returns when all have ended. An exception of a
  /// worker (of several, one) is thrown in the caller. Throws casa::error, before f is called, if
  /// `workers` is negative or exceeds the concurrency.
  template <class F>
  void run(Index workers, F&& f) const {
    if (workers < 0 || workers > num_workers())
      fail("Executor::run: workers must be in [0, ", concurrency, "], got ", workers);
    if (workers <= 1 || run_workers == nullptr) {
      for (Index w = 0; w < workers; ++w) f(w);
      return;
    }
    run_workers(
        self, workers,
        [](void* context, Index worker) {
          const detail::InsideTask inside;
          (*static_cast<std::remove_reference_t<F>*>(context))(worker);
        },
        const_cast<void*>(static_cast<const void*>(std::addressof(f))));
  }

  /// f(i, worker) for every i in [0, n), handed out in chunks. Each worker first goes through a
  /// range of its own in ascending order, so that it reads memory in sequence, and then takes
  /// chunks from the other ranges. What f computes must not depend on the worker, so that results
  /// do not depend on the number of threads. An exception of f is thrown in the caller; which of
  /// the other f were called by then is not said. Throws casa::error, before f is called, if n is
  /// negative or chunk is not positive.
  template <class F>
  void for_each(Index n, F&& f, Index chunk = 1) const {
    if (n < 0 || chunk < 1)
      fail("Executor::for_each: n must not be negative and chunk must be positive, got ", n,
           " and ", chunk);
    const Index chunks = n / chunk + (n % chunk != 0);
    const Index workers = (std::min)(num_workers(), chunks);
    if (workers <= 1) {
      for (Index i = 0; i < n; ++i) f(i, Index{0});
      return;
    }
    struct alignas(64) Share {
      std::atomic<Index> next;
      Index end;
    };
    constexpr Index most = 64;  // ranges; workers beyond that have none and help from the start
    Share shares[std::size_t{most}];
    const Index count = (std::min)(workers, most);
    for (Index r = 0; r < count; ++r) {
      shares[r].next = chunks * r / count * chunk;
      shares[r].end = (std::min)(n, chunks * (r + 1) / count * chunk);
    }
    run(workers, [&](Index worker) {
      for (Index r = 0; r < count; ++r) {
        auto& [next, end] = shares[(worker + r) % count];
        for (Index begin = next.fetch_add(chunk); begin < end; begin = next.fetch_add(chunk))
          for (Index i = begin; i < (std::min)(end, begin + chunk); ++i) f(i, worker);
      }
    });
  }
};

/// Threads that wait for work. The calling thread is one of the workers; an exception of a worker
/// is thrown again in the caller after all have ended.
///
/// One caller at a time: others wait their turn. A call from inside a task (of this pool, of
/// another, of any executor) never waits for a pool that is busy, as the pool may be waiting for
/// that task: it does the work itself. So does every call in a child process after fork(), which
/// has no thread but the one that forked; there the destructor leaves the threads alone.
///
/// The caller does not wait for a thread that has not begun: it does that worker's part itself. So
/// which thread a worker is, is not said, and workers of one call must not wait for each other. In
/// a process that could use one processor only when the pool was made, the caller does everything
/// and wakes nobody.
class ThreadPool {
 public:
  /// The most threads of a pool.
  static constexpr Index kMaxThreads = 4096;

  /// num_threads workers in all (0: usable_processors()). Throws casa::error if that is not in
  /// [0, kMaxThreads], or if the threads cannot all be started (those that were have ended then).
  explicit ThreadPool(Index num_threads = 0) {
    const Index usable = (std::min)(kMaxThreads, usable_processors());
    if (num_threads == 0) num_threads = usable;
    require(num_threads >= 1 && num_threads <= kMaxThreads,
            "ThreadPool: num_threads must be in [1, ", kMaxThreads,
            "], or 0 for the processors that this process may use, got ", num_threads);
    require(detail::counts_forks(), "ThreadPool: no memory to be told of a fork");
    // With more threads than processors, a thread that spins takes a processor from one that works.
    spins_ = num_threads <= usable ? kSpins : 0;
    alone_ = usable == 1;
    threads_.reset(new Slot[static_cast<std::size_t>(num_threads - 1)]);
    offers_.reset(new Offer[static_cast<std::size_t>(num_threads)]);
    try {
      for (; started_ < num_threads - 1; ++started_)
        new (&slot(started_)) std::thread([this, w = started_ + 1] { work(w); });
    } catch (const std::exception& e) {
      const Index started = started_;
      end_threads();
      fail("ThreadPool: of ", num_threads, " threads no more than ", started + 1,
           " could be started (", e.what(), "); give fewer");
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    if (!forked()) end_threads();
  }

  /// Workers, including the calling thread.
  Index num_threads() const { return started_ + 1; }

  /// A handle to this pool.
  operator Executor() {
    return {num_threads(), this, [](void* self, Index workers, Executor::Task task, void* context) {
              static_cast<ThreadPool*>(self)->run(workers, task, context);
            }};
  }

 private:
  static constexpr int kSpins = 4000;
  static constexpr int kSpinsUntilYield = 100;

  // A std::thread that is not destroyed: after a fork there is nothing that could be joined, and
  // its handle may by then be that of another thread.
  union Slot {
    Slot() {}
    ~Slot() {}
    std::thread thread;
  };

  // Whether a worker's part of the current call may still be taken. Whoever takes it, its thread or
  // the caller, sets it to false and does the part. (A cache line each: threads spin on others.)
  struct alignas(64) Offer {
    std::atomic<bool> open{false};
  };

  std::thread& slot(Index i) { return threads_[static_cast<std::size_t>(i)].thread; }
  bool take(Index worker) { return offers_[static_cast<std::size_t>(worker)].open.exchange(false); }

  bool forked() const { return detail::forks.load(std::memory_order_relaxed) != forks_; }

  void end_threads() {
    stop_ = true;
    generation_.fetch_add(1);
    generation_.notify_all();
    for (; started_ > 0; --started_) {
      slot(started_ - 1).join();
      std::destroy_at(&slot(started_ - 1));
    }
  }

  void run(Index workers, Executor::Task task, void* context) {
    if (workers > num_threads())
      fail("ThreadPool: ", workers, " workers of ", num_threads(), " threads");
    if (forked() || !acquire()) {
      const detail::InsideTask inside;
      for (Index w = 0; w < workers; ++w) task(context, w);
      return;
    }
    task_ = task;
    context_ = context;
    if (!alone_) {
      running_.store(workers - 1);
      for (Index w = 1; w < workers; ++w) offers_[static_cast<std::size_t>(w)].open = true;
      generation_.fetch_add(1);
      generation_.notify_all();
    }
    for (Index w = 0; w < workers; ++w) {
      const bool offered = w > 0 && !alone_;
      if (offered && !take(w)) continue;  // its thread has it
      guarded(w);
      if (forked()) fail("ThreadPool: this process came out of a fork inside of a task");
      if (offered) running_.fetch_sub(1);
    }
    for (Index left = running_.load(); left != 0; left = running_.load())
      wait_while([&] { return running_.load() == left; }, running_, left);
    // Moved out of the pool, so that the exception is destroyed by the thread that catches it.
    const std::exception_ptr failure = std::exchange(failure_, nullptr);
    failed_ = false;
    busy_ = false;
    busy_.notify_one();
    if (failure) std::rethrow_exception(failure);
  }

  // Takes the pool; false if it is busy and the caller must not wait.
  bool acquire() {
    while (busy_.exchange(true)) {
      if (detail::inside_task) return false;
      busy_.wait(true);
    }
    return true;
  }

  void work(Index worker) {
    for (unsigned seen = 0;;) {
      wait_while([&] { return generation_.load() == seen; }, generation_, seen);
      seen = generation_.load();
      if (stop_) return;
      // What is offered by now may belong to a later call than the one that woke this thread. That
      // call cannot end before the part is done either.
      if (!take(worker)) continue;
      guarded(worker);
      if (running_.fetch_sub(1) == 1) running_.notify_all();
    }
  }

  void guarded(Index worker) {
    const detail::InsideTask inside;
    try {
      task_(context_, worker);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }

  // A decode step has a parallel region every few microseconds: spin for a while before sleeping,
  // which takes system calls in both threads. Whoever spins offers its processor to others now and
  // then, as there may be fewer of them than when the pool was made.
  template <class Busy, class Atomic, class V>
  void wait_while(Busy busy, Atomic& atomic, V old) const {
    for (int spin = 0; spin < spins_; ++spin) {
      if (!busy()) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
      if (spin % kSpinsUntilYield == kSpinsUntilYield - 1) std::this_thread::yield();
    }
    atomic.wait(old);
  }

  std::unique_ptr<Slot[]> threads_;
  std::unique_ptr<Offer[]> offers_;
  Index started_ = 0;  // threads besides the caller's
  unsigned forks_ = detail::forks.load();
  int spins_ = kSpins;
  bool alone_ = false;  // there is one processor
  std::atomic<unsigned> generation_{0};
  std::atomic<Index> running_{0};
  std::atomic<bool> busy_{false}, stop_{false}, failed_{false};
  std::exception_ptr failure_;
  Executor::Task task_ = nullptr;
  void* context_ = nullptr;
};

CASA_NAMESPACE_END
