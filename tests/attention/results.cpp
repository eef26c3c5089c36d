// Results that are streamed past the caches are those that are stored.
#include "casa/attention/kernel/results.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "casa/attention/attend.hpp"
#include "casa/attention/masks.hpp"
#include "support/random_matrix.hpp"

using namespace casa;

// Faults: the last columns of a tile are not written; rows that see nothing are not; rows that lie
// an odd distance apart are streamed.
TEST_CASE_TEMPLATE("streamed results have the bits of stored ones", T, float, double) {
  for (const Index d : {Index{128}, Index{80}}) {
    CAPTURE(d);
    const AttentionShape shape{16, 8, d};
    const Index columns = shape.num_heads * d, rows = (Index{7} << 20) / columns / 4;
    std::mt19937_64 random(5);
    Mask mask = masks::sliding_window(rows - 1, 20);
    mask.add_row({});
    const auto q = casa_test::random_matrix<T>(random, rows, columns);
    const auto k = casa_test::random_matrix<T>(random, rows, shape.num_kv_heads * d);
    const auto v = casa_test::random_matrix<T>(random, rows, shape.num_kv_heads * d);
    const KeyPiece<T> piece{k.data(), v.data(), rows, shape.num_kv_heads * d, d};
    const AttentionInput<T> in{shape,       default_scale(d), q.view(),
                               {&piece, 1}, mask.intervals,   mask.offsets};
    // The same memory from its first line on, and one value after it: those lines are not whole.
    const T nan = std::numeric_limits<T>::quiet_NaN();
    Matrix<T> streamed(rows, columns), stored(rows, columns);
    streamed.fill(nan);
    Buffer<T> memory(rows * columns + 1);
    const MatrixView<T> unaligned(memory.data() + 1, rows, columns);
    std::fill_n(memory.data(), memory.size(), nan);
    REQUIRE(detail::streams_results(streamed.view(), d));
    REQUIRE_FALSE(detail::streams_results(unaligned, d));
    ThreadPool pool(2);
    Context context;
    context.executor = pool;
    attend(in, streamed.view(), nullptr, context);
    attend(in, unaligned);
    std::copy(memory.data() + 1, memory.data() + 1 + rows * columns, stored.data());
    CHECK(casa_test::same_bits(streamed, stored));

    // In a wider matrix rows may begin within a line, too; what stands between them stays.
    for (const Index gap : {1, 64}) {
      CAPTURE(gap);
      Matrix<T> wide(rows, columns + gap), inner(rows, columns);
      wide.fill(nan);
      const auto view = wide.view().middle_cols(0, columns);
      CHECK(detail::streams_results(view, d) == (gap == 64));
      attend(in, view, nullptr, context);
      Index written = 0;
      for (Index r = 0; r < rows; ++r) {
        std::copy_n(wide.row(r), columns, inner.row(r));
        for (Index i = columns; i < columns + gap; ++i) written += std::isnan(wide(r, i)) ? 0 : 1;
      }
      CHECK(written == 0);
      CHECK(casa_test::same_bits(inner, stored));
    }
    // Heads that end within a line are not streamed, and neither are results that stay in cache.
    CHECK_FALSE(detail::streams_results(streamed.view(), 20));
    CHECK_FALSE(detail::streams_results(streamed.view().middle_rows(0, rows / 4), d));
  }
}
