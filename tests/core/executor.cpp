// Executors and the thread pool: everything is done once, exceptions arrive, nothing waits for
// ever.
//
// What would hang is seen to hang by ctest's limit alone; no verdict here asks a clock.
#include "casa/core/executor.hpp"

#include <doctest/doctest.h>

#include <barrier>
#include <fstream>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "support/messages.hpp"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define CASA_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define CASA_TEST_SANITIZED 1
#endif
#endif

using namespace casa;

namespace {

/// How often each of n things was done.
class Counts {
 public:
  explicit Counts(Index n) : done_(static_cast<std::size_t>(n)) {}
  void add(Index i) { ++done_[static_cast<std::size_t>(i)]; }
  bool each_is(int times) const {
    return std::all_of(done_.begin(), done_.end(), [&](const auto& d) { return d == times; });
  }

 private:
  std::vector<std::atomic<int>> done_;
};

/// for_each over n things in chunks: each is done once, by a worker that is one.
void check_for_each(const Executor& executor, Index n, Index chunk) {
  CAPTURE(executor.concurrency);
  CAPTURE(n);
  CAPTURE(chunk);
  Counts counts(n);
  std::atomic<int> wrong_workers{0};
  std::vector<Index> by_worker(static_cast<std::size_t>(executor.concurrency));  // no lock: its own
  executor.for_each(
      n,
      [&](Index i, Index worker) {
        counts.add(i);
        if (worker < 0 || worker >= executor.concurrency)
          ++wrong_workers;
        else
          ++by_worker[static_cast<std::size_t>(worker)];
      },
      chunk);
  CHECK(counts.each_is(1));
  CHECK(wrong_workers == 0);
  CHECK(std::accumulate(by_worker.begin(), by_worker.end(), Index{0}) == n);
}

/// Workers one after the other on the calling thread, the last one first: it takes all the work.
Executor backwards(Index concurrency) {
  return {concurrency, nullptr, [](void*, Index workers, Executor::Task task, void* context) {
            for (Index w = workers - 1; w >= 0; --w) task(context, w);
          }};
}

/// A thread of its own for each worker, as a runtime of somebody else's would have.
Executor foreign(Index concurrency) {
  return {concurrency, nullptr, [](void*, Index workers, Executor::Task task, void* context) {
            std::vector<std::thread> threads;
            for (Index w = 0; w < workers; ++w) threads.emplace_back(task, context, w);
            for (auto& t : threads) t.join();
          }};
}

}  // namespace

TEST_CASE("for_each does everything once, with any number of workers") {
  for (const Index threads : {1, 2, 3, 7, 64, 65, 100, 200}) {
    ThreadPool pool(threads);
    CHECK(pool.num_threads() == threads);
    for (const Index n : {0, 1, 2, 63, 64, 65, 99, 100, 101, 1000})
      for (const Index chunk : {1, 3, 64, 2000}) check_for_each(pool, n, chunk);
  }
}

TEST_CASE("for_each does everything once, whichever worker comes first") {
  for (const Index workers : {1, 2, 63, 64, 65, 66, 100, 127, 128, 129, 1000})
    for (const Index n : {0, 1, 64, 65, 130, 1001})
      for (const Index chunk : {1, 2, 7}) check_for_each(backwards(workers), n, chunk);
}

TEST_CASE("run calls each worker once, beyond 64 as well") {
  ThreadPool pool(130);
  const Executor executor = pool;
  for (const Index workers : {0, 1, 2, 63, 64, 65, 129, 130}) {
    CAPTURE(workers);
    for (int repeat = 1; repeat <= 3; ++repeat) {
      Counts counts(workers);
      executor.run(workers, [&](Index w) { counts.add(w); });
      CHECK(counts.each_is(1));
    }
  }
}

TEST_CASE("an exception of any worker arrives in the caller, and the pool goes on") {
  struct Mine {
    Index worker;
  };
  for (const Index threads : {1, 2, 3, 70}) {
    ThreadPool pool(threads);
    const Executor executor = pool;
    for (Index bad = 0; bad < threads; ++bad) {
      CAPTURE(threads);
      CAPTURE(bad);
      Counts counts(threads);
      Index caught = -1;
      try {
        executor.run(threads, [&](Index w) {
          counts.add(w);
          if (w == bad) throw Mine{w};
        });
      } catch (const Mine& e) {
        caught = e.worker;
      }
      CHECK(caught == bad);
      if (threads > 1) CHECK(counts.each_is(1));  // the others were not kept from their part
      check_for_each(executor, 20, 1);
    }
  }
}

TEST_CASE("of several exceptions one arrives, with its text") {
  ThreadPool pool(5);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::string what;
    try {
      Executor(pool).for_each(100, [](Index i, Index) { fail("no ", i); });
    } catch (const error& e) {
      what = e.what();
    }
    CHECK(what.starts_with("no "));
  }
}

TEST_CASE("callers of one pool wait their turn, and each gets its own exception") {
  ThreadPool pool(3);
  constexpr int callers = 4, calls = 50;
  std::atomic<int> right{0}, at_once{0}, most_at_once{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c)
    threads.emplace_back([&, c] {
      for (int i = 0; i < calls; ++i) {
        Counts counts(3);
        try {
          Executor(pool).run(3, [&](Index w) {
            if (w == 0) most_at_once = (std::max)(most_at_once.load(), ++at_once);
            counts.add(w);
            if (w == 0) --at_once;
            if (w == i % 3) throw std::runtime_error(std::to_string(c * calls + i));
          });
        } catch (const std::runtime_error& e) {
          right += e.what() == std::to_string(c * calls + i) && counts.each_is(1);
        }
      }
    });
  for (auto& t : threads) t.join();
  CHECK(right == callers * calls);
  CHECK(most_at_once == 1);
}

TEST_CASE("work inside of work of the same pool is done, not waited for") {
  ThreadPool pool(3);
  const Executor executor = pool;
  Counts inner(4 * 50), deepest(4 * 50 * 2);
  executor.for_each(4, [&](Index i, Index) {
    executor.for_each(50, [&](Index j, Index) {
      inner.add(i * 50 + j);
      executor.run(2, [&](Index k) { deepest.add((i * 50 + j) * 2 + k); });
    });
  });
  CHECK(inner.each_is(1));
  CHECK(deepest.each_is(1));
  check_for_each(executor, 20, 1);  // and outside of it work is shared again
}

TEST_CASE("the same through the workers of another pool, and of a runtime that is not ours") {
  ThreadPool first(2), second(3);
  for (const Executor& between : {Executor(second), foreign(3), backwards(3)}) {
    Counts counts(2 * 3 * 10);
    Executor(first).run(2, [&](Index i) {
      between.run(3, [&](Index j) {
        Executor(first).for_each(10, [&](Index k, Index) { counts.add((i * 3 + j) * 10 + k); });
      });
    });
    CHECK(counts.each_is(1));
  }
}

TEST_CASE("two pools that call each other at the same time") {
  ThreadPool a(2), b(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    Counts counts(2 * 10);
    std::barrier both(2);
    const auto call = [&](ThreadPool& outer, ThreadPool& inner, Index number) {
      Executor(outer).run(2, [&](Index w) {
        if (w != 0) return;
        both.arrive_and_wait();  // both pools are busy now
        Executor(inner).for_each(10, [&](Index i, Index) { counts.add(number * 10 + i); });
        both.arrive_and_wait();  // and stay so until both are through
      });
    };
    std::thread other([&] { call(b, a, 1); });
    call(a, b, 0);
    other.join();
    CHECK(counts.each_is(1));
  }
}

TEST_CASE("an exception of work inside of work arrives") {
  ThreadPool pool(2);
  const Executor executor = pool;
  CHECK_THROWS_WITH_AS(
      executor.for_each(
          4, [&](Index, Index) { executor.for_each(3, [](Index, Index) { fail("inner"); }); }),
      "inner", error);
  check_for_each(executor, 20, 1);
}

TEST_CASE("wrong calls are errors before anything is done") {
  ThreadPool pool(2);
  const Executor executor = pool;
  int calls = 0;
  const auto work = [&](Index, Index) { ++calls; };
  const auto worker = [&](Index) { ++calls; };
  CHECK(message_of([&] { executor.run(3, worker); }) ==
        "Executor::run: workers must be in [0, 2], got 3");
  CHECK(message_of([&] { executor.run(-1, worker); }) ==
        "Executor::run: workers must be in [0, 2], got -1");
  CHECK(message_of([&] { executor.for_each(-1, work); }) ==
        "Executor::for_each: n must not be negative and chunk must be positive, got -1 and 1");
  CHECK(message_of([&] { executor.for_each(5, work, 0); }) ==
        "Executor::for_each: n must not be negative and chunk must be positive, got 5 and 0");
  CHECK(message_of([&] { Executor{.concurrency = 0}.for_each(5, work); }) ==
        "Executor: concurrency must be positive, got 0");
  CHECK(message_of([&] { Executor{.concurrency = -2}.run(1, worker); }) ==
        "Executor: concurrency must be positive, got -2");
  for (const Index threads : {Index{-1}, ThreadPool::kMaxThreads + 1})
    CHECK(message_of([&] { ThreadPool bad(threads); }) ==
          text("ThreadPool: num_threads must be in [1, 4096], or 0 for the processors that this "
               "process may use, got ",
               threads));
  CHECK(calls == 0);
}

#if defined(__linux__)

namespace {

/// The exit status of a child process that runs f; 128 + the signal that ended it.
template <class F>
int status_of_child(F f) {
  const pid_t child = fork();
  if (child == 0) {
    int status = 99;
    try {
      status = f();
    } catch (...) {
    }
    _exit(status);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool all_done(const Executor& executor) {
  Counts counts(100);
  executor.for_each(100, [&](Index i, Index) { counts.add(i); });
  return counts.each_is(1);
}

}  // namespace

TEST_CASE("after a fork the child does a pool's work alone, and ends the pool") {
  auto pool = std::make_unique<ThreadPool>(3);
  CHECK(all_done(*pool));
  CHECK(status_of_child([&] { return all_done(*pool) && all_done(*pool) ? 0 : 1; }) == 0);
  CHECK(status_of_child([&] {
          try {
            Executor(*pool).for_each(9, [](Index, Index) { fail("of the child"); });
          } catch (const error&) {
            return 0;
          }
          return 1;
        }) == 0);
  CHECK(status_of_child([&] {
          pool.reset();
          return 0;
        }) == 0);
  CHECK(status_of_child([&] {  // a child of the child
          return status_of_child([&] { return all_done(*pool) ? 0 : 1; });
        }) == 0);
#if !defined(CASA_TEST_SANITIZED)  // (the sanitizers allow no new thread there)
  CHECK(status_of_child([&] {      // its threads must not be taken for those of the old pool
          ThreadPool own(3);
          if (!all_done(own)) return 1;
          pool.reset();
          return all_done(own) ? 0 : 2;
        }) == 0);
#endif
  CHECK(all_done(*pool));  // nothing of it is seen in the parent
}

TEST_CASE("a fork while the pool works") {
  ThreadPool pool(2);
  std::atomic<int> status{-1};
  Executor(pool).run(2, [&](Index w) {
    if (w == 1) status = status_of_child([&] { return all_done(pool) ? 0 : 1; });
  });
  CHECK(status == 0);
  CHECK(all_done(pool));
}

#if !defined(CASA_TEST_SANITIZED)
TEST_CASE("threads that cannot all be started are an error, and those that were have ended") {
  const int status = status_of_child([] {
    // Room for some stacks, not for all.
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const auto now = static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
    const rlimit limit{now + (100u << 20), now + (100u << 20)};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 2;
    try {
      ThreadPool pool(4000);
      return 3;
    } catch (const error& e) {
      const std::string what = e.what();
      if (!what.starts_with("ThreadPool: of 4000 threads no more than ")) return 4;
    }
    int tasks = 0;
    for (std::ifstream file("/proc/self/stat"); tasks == 0;) {  // field 20: threads of the process
      std::string line;
      std::getline(file, line);
      line.erase(0, line.rfind(')') + 1);
      std::istringstream words(line);
      std::string word;
      for (int i = 3; i <= 20; ++i) words >> word;
      tasks = std::stoi(word);
    }
    if (tasks != 1) return 5;
    ThreadPool small(2);
    return all_done(small) ? 0 : 6;
  });
  CHECK(status == 0);
}
#endif

namespace {

/// While it lives, this thread and those that it starts run on one processor.
class OneProcessor {
 public:
  OneProcessor() {
    REQUIRE(sched_getaffinity(0, sizeof before_, &before_) == 0);
    CPU_ZERO(&one_);
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &before_)) {
        CPU_SET(cpu, &one_);
        break;
      }
    REQUIRE(sched_setaffinity(0, sizeof one_, &one_) == 0);
  }
  OneProcessor(const OneProcessor&) = delete;
  OneProcessor& operator=(const OneProcessor&) = delete;
  ~OneProcessor() { sched_setaffinity(0, sizeof before_, &before_); }

  /// The calling thread joins them.
  void join() const { CHECK(sched_setaffinity(0, sizeof one_, &one_) == 0); }

 private:
  cpu_set_t before_, one_;
};

/// How many of `calls` calls to two workers the caller did alone. `yields`: it offers its processor
/// to the other one.
int done_alone(ThreadPool& pool, int calls, bool yields) {
  const auto caller = std::this_thread::get_id();
  int alone = 0;
  for (int i = 0; i < calls; ++i) {
    std::thread::id by[2];
    Executor(pool).run(2, [&](Index w) {
      by[w] = std::this_thread::get_id();
      if (w == 0 && yields) std::this_thread::yield();
    });
    alone += by[0] == caller && by[1] == caller;
  }
  return alone;
}

}  // namespace

TEST_CASE("num_threads 0 counts the processors that this process may use") {
  {
    const OneProcessor one;
    CHECK(usable_processors() == 1);
    CHECK(ThreadPool().num_threads() == 1);
    CHECK(ThreadPool(3).num_threads() == 3);  // who asks for more gets them
  }
  CHECK(ThreadPool().num_threads() == (std::min)(usable_processors(), ThreadPool::kMaxThreads));
}

// Fault: threads are woken that have only the caller's processor to run on.
TEST_CASE("on one processor the caller does everything") {
  const OneProcessor one;
  ThreadPool pool(3);
  CHECK(done_alone(pool, 100, true) == 100);
  check_for_each(pool, 1000, 7);
  Counts counts(3);
  CHECK_THROWS_WITH_AS(Executor(pool).run(3,
                                          [&](Index w) {
                                            counts.add(w);
                                            if (w == 1) fail("of worker 1");
                                          }),
                       "of worker 1", error);
  CHECK(counts.each_is(1));  // the others were not kept from their part
}

// Fault: the caller waits until a thread has begun, which may take until its time slice ends.
TEST_CASE("where a pool has lost its processors the caller does not wait for them") {
  if (usable_processors() == 1) return;  // (the case before)
  ThreadPool pool(2);
  const OneProcessor one;
  // The pool's thread joins the caller's processor. A call that it takes no part in ends at once.
  std::atomic<bool> joined{false};
  const auto caller = std::this_thread::get_id();
  while (!joined)
    Executor(pool).run(2, [&](Index w) {
      if (w == 1 && std::this_thread::get_id() != caller) one.join(), joined = true;
      if (w == 0) std::this_thread::yield();
    });
  CHECK(done_alone(pool, 1000, false) > 0);
}

#endif
