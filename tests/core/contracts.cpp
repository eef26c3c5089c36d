// What memory, workspaces and arenas demand, and that they say so. (Executors: executor.cpp.)
#include <doctest/doctest.h>

#include <limits>

#include "casa/core/arena.hpp"
#include "casa/core/workspace.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

constexpr Index kMost = std::numeric_limits<Index>::max();

// Read as they are called: a compiler that knows them warns of what is tested here.
Index at_run_time(Index n) {
  volatile Index value = n;
  return value;
}
Index largest() { return at_run_time(kMost); }
Index minus_one() { return at_run_time(-1); }

}  // namespace

TEST_CASE("sizes that are negative or too large are errors") {
  CHECK(has(message_of([] { Buffer<float> b(minus_one()); }),
            "Buffer: size -1 is negative or too large"));
  CHECK(has(message_of([] { Buffer<float> b(largest()); }), "is negative or too large"));
  CHECK(has(message_of([] { Buffer<float> b(largest() / 4); }), "is negative or too large"));
  CHECK(message_of([] { Matrix<float> m(minus_one(), 2); }) == "Matrix: size overflows: -1 * 2");
  CHECK(message_of([] { Matrix<float> m(2, minus_one()); }) == "Matrix: size overflows: 2 * -1");
  CHECK(has(message_of([] { Matrix<float> m(largest(), 2); }), "Matrix: size overflows"));

  Workspace workspace;
  CHECK(has(message_of([&] { workspace.take<float>(minus_one()); }),
            "Workspace::take: size overflows"));
  CHECK(has(message_of([&] { workspace.take<float>(largest()); }),
            "Workspace::take: size overflows"));
  CHECK(has(message_of([&] { workspace.matrix<float>(minus_one(), minus_one()); }),
            "Workspace::matrix: size overflows"));
  CHECK(workspace.capacity() == 0);
  Arena arena;
  CHECK(has(message_of([&] { arena.take(minus_one()); }), "Arena::take: size overflows"));
  CHECK(has(message_of([&] { arena.take(largest()); }), "Arena::take: size overflows"));

  CHECK(checked_mul(3, 4, "x") == 12);
  CHECK(checked_add(3, 4, "x") == 7);
  CHECK(message_of([] { checked_mul(kMost, 2, "x"); }) ==
        text("x: size overflows: ", kMost, " * 2"));
  CHECK(message_of([] { checked_add(kMost, 1, "x"); }) ==
        text("x: size overflows: ", kMost, " + 1"));
  CHECK(message_of([] { checked_add(-1, 1, "x"); }) == "x: size overflows: -1 + 1");
}

TEST_CASE("a failed take leaves a workspace as it was") {
  Workspace workspace;
  {
    const Workspace::Frame frame(workspace);
    float* const first = workspace.take<float>(100);
    first[99] = 7;
    const Index capacity = workspace.capacity();
    CHECK(!message_of([&] { workspace.take<float>(largest()); }).empty());
    CHECK(!message_of([&] { workspace.take<std::byte>(largest()); }).empty());
    CHECK(workspace.capacity() == capacity);
    float* const second = workspace.take<float>(4);
    CHECK(second >= first + 100);
    CHECK(first[99] == 7);
  }
}

TEST_CASE("a view has memory and rows that do not overlap, or is refused by name") {
  float x[6] = {};
  const auto said = [](MatrixView<float> m) {
    return message_of([&] { require_memory("it", m); });
  };
  CHECK(said({x, 2, 3}).empty());
  CHECK(said({x, 2, 2, 3}).empty());
  CHECK(said({x, 1, 6, 0}).empty());  // one row: no stride is taken
  CHECK(said({}).empty());
  CHECK(said({nullptr, 0, 3}).empty());
  CHECK(said({x, 2, 3, 2}) ==
        "it: a view of 2 x 3 values must have memory and a stride of 3 or more, got a stride of 2");
  CHECK(said({nullptr, 1, 3}) ==
        "it: a view of 1 x 3 values must have memory and a stride of 3 or more, got a stride of 3 "
        "and no memory");
  CHECK(has(said({x, -1, 3}), "it: a view of -1 x 3 values"));
  CHECK(has(said({x, 2, -3}), "it: a view of 2 x -3 values"));
  RowMatrix<float> m(4, 6);
  const auto every_second = Eigen::Map<const RowMatrix<float>, 0, Eigen::Stride<-1, -1>>(
      m.data(), 4, 3, Eigen::Stride<-1, -1>(6, 2));
  CHECK(message_of([&] { MatrixView<const float> view(every_second); }) ==
        "MatrixView: rows are not contiguous");
}
