#include "reference.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/attention/simple.hpp"
#include "casa/stream/visibility.hpp"

namespace {

using namespace casa;

template <class T, class S>
struct Owned {
  std::vector<KeyPiece<S>> pieces;
  std::vector<Interval> intervals;
  AttentionInput<T, S> in;
  explicit Owned(const casa_attention& a) {
    for (int64_t p = 0; p < a.num_pieces; ++p)
      pieces.push_back({static_cast<const S*>(a.keys[p].k), static_cast<const S*>(a.keys[p].v),
                        a.keys[p].count, a.keys[p].token_stride, a.keys[p].head_stride});
    for (int64_t r = 0; r < a.rows; ++r)
      intervals.push_back({a.intervals[r].begin, a.intervals[r].end});
    in = {{a.num_heads, a.num_kv_heads, a.head_dim},
          a.scale,
          {static_cast<const T*>(a.q), a.rows, a.num_heads * a.head_dim, a.q_stride},
          pieces,
          intervals};
  }
};

template <class F>
void with_types(const casa_attention& a, F f) {
  if (a.key_dtype == CASA_F64) f(Owned<double, double>(a));
  if (a.key_dtype == CASA_F32) f(Owned<float, float>(a));
  if (a.key_dtype == CASA_BF16) f(Owned<float, bfloat16>(a));
  if (a.key_dtype == CASA_F16) f(Owned<float, half>(a));
}

template <class T>
void copy(const Matrix<T>& m, void* to) {
  std::copy_n(m.data(), m.size(), static_cast<T*>(to));
}

}  // namespace

extern "C" {

void reference_attend(const casa_attention* a, void* out, int64_t out_stride, void* lse) {
  with_types(*a, [&]<class T, class S>(const Owned<T, S>& o) {
    attend(o.in, {static_cast<T*>(out), a->rows, o.in.q.cols(), out_stride}, static_cast<T*>(lse));
  });
}

void reference_state(const casa_attention* a, void* max, void* sum, void* out) {
  with_types(*a, [&]<class T, class S>(const Owned<T, S>& o) {
    const auto state = attend_state(o.in);
    copy(state.max, max);
    copy(state.sum, sum);
    copy(state.out, out);
  });
}

void reference_merged(const casa_attention* a, const casa_attention* b, void* out, void* lse) {
  with_types(*a, [&]<class T, class S>(const Owned<T, S>& o) {
    auto state = attend_state(o.in);
    merge(state, attend_state(Owned<T, S>(*b).in));
    finish(state, {static_cast<T*>(out), a->rows, o.in.q.cols()}, static_cast<T*>(lse));
  });
}

int reference_concurrent(const casa_attention* a, const void* expected, int64_t bytes) {
  std::atomic<int> wrong{0};
  const auto calls = [&] {
    std::vector<unsigned char> out(static_cast<std::size_t>(bytes));
    for (int i = 0; i < 100; ++i) {
      std::fill(out.begin(), out.end(), static_cast<unsigned char>(0x5a));
      if (casa_attend(a, out.data(), 0, nullptr) != CASA_OK ||
          std::memcmp(out.data(), expected, out.size()) != 0)
        ++wrong;
    }
    // A message belongs to the thread whose call failed.
    if (casa_last_error()[0] != 0 || casa_attend(nullptr, nullptr, 0, nullptr) != CASA_INVALID)
      ++wrong;
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back(calls);
  for (auto& thread : threads) thread.join();
  return wrong;
}

void reference_varlen(const float* q, int64_t rows, const float* k, const float* v, int64_t keys,
                      const int32_t* cu_q, const int32_t* cu_k, int64_t sequences, int causal,
                      float* out, float* lse) {
  const auto entries = static_cast<std::size_t>(sequences) + 1;
  const MatrixView<const float> q_rows(q, rows, 32), k_rows(k, keys, 16), v_rows(v, keys, 16);
  const auto result =
      varlen(q_rows, k_rows, v_rows, std::span(cu_q, entries), std::span(cu_k, entries),
             causal != 0, {.num_heads = 4, .num_kv_heads = 2, .lse = lse});
  std::copy_n(result.data(), result.size(), out);
}

void reference_stream(int32_t keys, int32_t history, casa_interval* out) {
  const std::vector<Insertion> insertions = {{2, 3}, {5, 2}};
  std::vector<Interval> seen(7);
  text_intervals(StreamLayout(7, insertions), {0, 7}, static_cast<Keys>(keys),
                 history == CASA_HISTORY_ALL ? History::all : History::window, seen);
  for (std::size_t i = 0; i < seen.size(); ++i) out[i] = {seen[i].begin, seen[i].end};
}

uint16_t reference_narrow(float value, casa_dtype dtype) {
  return dtype == CASA_BF16 ? narrow<bfloat16>(value).bits : narrow<half>(value).bits;
}

}  // extern "C"
