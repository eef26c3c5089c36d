// The functions of casa/c/casa.h on those of C++.
//
// They are defined only where CASA_C_IMPLEMENTATION is (casa.cpp), so that including this header
// elsewhere defines nothing twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/attention/simple.hpp"
#include "casa/c/casa.h"
#include "casa/c/convert.hpp"
#include "casa/core/build_info.hpp"
#include "casa/stream/visibility.hpp"

#if defined(CASA_C_IMPLEMENTATION)

struct casa_pool : casa::detail::c_api::Pool {
  using Pool::Pool;
};

extern "C" {

const char* casa_version(void) {
  static const std::string version = [] {
    try {
      return casa::build_info().summary();
    } catch (...) {
      return std::string();
    }
  }();
  return version.c_str();
}

const char* casa_last_error(void) { return casa::detail::c_api::last_error(); }

casa_status casa_pool_create(int64_t num_threads, casa_pool** pool) {
  using namespace casa::detail::c_api;
  return guarded("casa_pool_create", [&] {
    casa::require(pool != nullptr, "pool is null");
    *pool = nullptr;
    *pool = new casa_pool(num_threads);
  });
}

void casa_pool_destroy(casa_pool* pool) { delete pool; }

int64_t casa_pool_threads(const casa_pool* pool) { return pool ? pool->num_threads() : 1; }

casa_status casa_attend(const casa_attention* attention, void* out, int64_t out_stride, void* lse) {
  using namespace casa::detail::c_api;
  return guarded("casa_attend", [&] {
    const casa_attention& a = given(attention, "attention");
    with_types(a.dtype, a.key_dtype, [&]<class T, class S>(T, S) {
      Input<T, S> input(a);
      input.set_mask(given_mask(a));
      const auto to = output<T>(out, a.rows, input.attention.q.cols(), out_stride);
      T* const to_lse = pointer<T>(lse, "lse", 0);
      with_context(a.pool,
                   [&](const casa::Context& c) { casa::attend(input.attention, to, to_lse, c); });
    });
  });
}

casa_status casa_varlen(const casa_attention* attention, const int32_t* cu_seqlens_q,
                        const int32_t* cu_seqlens_k, int64_t num_sequences, int32_t causal,
                        void* out, int64_t out_stride, void* lse) {
  using namespace casa::detail::c_api;
  return guarded("casa_varlen", [&] {
    const casa_attention& a = given(attention, "attention");
    casa::require(a.intervals == nullptr && a.interval_offsets == nullptr,
                  "intervals must be null: cu_seqlens stand for them");
    casa::require(num_sequences >= 0 && num_sequences < (std::numeric_limits<int64_t>::max)() / 8,
                  "num_sequences is negative or too large: ", num_sequences);
    const auto* cu_q = pointer<const int32_t>(cu_seqlens_q, "cu_seqlens_q", 1);
    const auto* cu_k = pointer<const int32_t>(cu_seqlens_k, "cu_seqlens_k", 1);
    const auto entries = static_cast<std::size_t>(num_sequences) + 1;
    with_types(a.dtype, a.key_dtype, [&]<class T, class S>(T, S) {
      Input<T, S> input(a);
      const auto to = output<T>(out, a.rows, input.attention.q.cols(), out_stride);
      T* const to_lse = pointer<T>(lse, "lse", 0);
      casa::require(cu_q[num_sequences] <= a.rows, "cu_seqlens_q ends at ", cu_q[num_sequences],
                    ", but q has ", a.rows, " rows");
      casa::require(cu_k[num_sequences] <= input.attention.num_keys(), "cu_seqlens_k ends at ",
                    cu_k[num_sequences], ", but there are ", input.attention.num_keys(), " keys");
      auto intervals = casa::varlen_intervals({cu_q, entries}, {cu_k, entries}, causal != 0);
      intervals.resize(static_cast<std::size_t>(a.rows));  // rows after the last see nothing
      input.set_mask({std::move(intervals), {}});
      with_context(a.pool,
                   [&](const casa::Context& c) { casa::attend(input.attention, to, to_lse, c); });
    });
  });
}

casa_status casa_attend_state(const casa_attention* attention, const casa_state* state) {
  using namespace casa::detail::c_api;
  return guarded("casa_attend_state", [&] {
    const casa_attention& a = given(attention, "attention");
    const casa_state& s = given(state, "state");
    with_types(a.dtype, a.key_dtype, [&]<class T, class S>(T, S) {
      Input<T, S> input(a);
      input.set_mask(given_mask(a));
      check_same_sizes(s, {a.dtype, a.rows, a.num_heads, a.head_dim, nullptr, nullptr, nullptr});
      const State<T> to(s);
      with_context(a.pool, [&](const casa::Context& c) {
        to.write(0, casa::attend_state(input.attention, c));
      });
    });
  });
}

casa_status casa_empty_state(const casa_state* state) {
  using namespace casa::detail::c_api;
  return guarded("casa_empty_state", [&] {
    const casa_state& s = given(state, "state");
    with_scalar("state: dtype", s.dtype, [&]<class T>(T) {
      const State<T> to(s);
      to.for_each_block([&](casa::Index begin, casa::Index count) {
        to.write(begin, casa::empty_state<T>(count, to.shape()));
      });
    });
  });
}

casa_status casa_merge(const casa_state* to, const casa_state* from) {
  using namespace casa::detail::c_api;
  return guarded("casa_merge", [&] {
    const casa_state &a = given(to, "to"), &b = given(from, "from");
    check_same_sizes(b, a);
    with_scalar("state: dtype", a.dtype, [&]<class T>(T) {
      const State<T> into(a), other(b);
      into.for_each_block([&](casa::Index begin, casa::Index count) {
        auto merged = into.read(begin, count);
        casa::merge(merged, other.read(begin, count));
        into.write(begin, merged);
      });
    });
  });
}

casa_status casa_finish(const casa_state* state, void* out, int64_t out_stride, void* lse) {
  using namespace casa::detail::c_api;
  return guarded("casa_finish", [&] {
    const casa_state& s = given(state, "state");
    with_scalar("state: dtype", s.dtype, [&]<class T>(T) {
      const State<T> from(s);
      const auto to = output<T>(out, s.rows, s.num_heads * s.head_dim, out_stride);
      T* const to_lse = pointer<T>(lse, "lse", 0);
      from.for_each_block([&](casa::Index begin, casa::Index count) {
        casa::finish(from.read(begin, count), to.middle_rows(begin, count),
                     to_lse ? to_lse + begin * s.num_heads : nullptr);
      });
    });
  });
}

casa_status casa_stream_intervals(int64_t text_len, const casa_insertion* insertions,
                                  int64_t num_insertions, int32_t keys, int32_t history,
                                  casa_interval* intervals) {
  using namespace casa::detail::c_api;
  return guarded("casa_stream_intervals", [&] {
    using casa::Keys, casa::History;
    casa::require(text_len >= 0, "text_len must not be negative, got ", text_len);
    casa::require(num_insertions >= 0, "num_insertions must not be negative, got ", num_insertions);
    casa::require(keys >= CASA_KEYS_TEXT && keys <= CASA_KEYS_IMAGE_TEXT,
                  "keys must be one of CASA_KEYS_*, got ", keys);
    casa::require(history == CASA_HISTORY_WINDOW || history == CASA_HISTORY_ALL,
                  "history must be one of CASA_HISTORY_*, got ", history);
    check_extent("intervals", text_len, 1, 1, sizeof(casa_interval));
    check_extent("insertions", num_insertions, 1, 1, sizeof(casa_insertion));
    const auto* from = pointer<const casa_insertion>(insertions, "insertions", num_insertions);
    auto* to = pointer<casa_interval>(intervals, "intervals", text_len);
    std::vector<casa::Insertion> images;
    for (int64_t i = 0; i < num_insertions; ++i)
      images.push_back({from[i].position, from[i].num_tokens});
    std::vector<casa::Interval> seen(static_cast<std::size_t>(text_len));
    casa::text_intervals(casa::StreamLayout(text_len, images), {0, text_len},
                         keys == CASA_KEYS_TEXT    ? Keys::text
                         : keys == CASA_KEYS_IMAGE ? Keys::image
                                                   : Keys::image_text,
                         history == CASA_HISTORY_ALL ? History::all : History::window, seen);
    std::transform(seen.begin(), seen.end(), to, [](const casa::Interval& i) {
      return casa_interval{i.begin, i.end};
    });
  });
}

}  // extern "C"

#endif
