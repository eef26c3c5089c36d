// What casa/c/casa.h is given, as C++ takes it: checked sizes and pointers, types, states in the
// caller's memory, and exceptions made a status.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/c/casa.h"
#include "casa/core/executor.hpp"

CASA_NAMESPACE_BEGIN

namespace detail::c_api {

static_assert(sizeof(Index) == sizeof(std::int64_t), "the C interface needs a 64-bit ptrdiff_t");

/// The message of the last call that failed on this thread. An array: noting that memory ran out
/// must not ask for memory.
inline char (&last_error())[512] {
  static thread_local char message[512] = "";
  return message;
}

inline casa_status note(casa_status status, const char* function, const char* what) noexcept {
  std::snprintf(last_error(), sizeof(last_error()), "%s: %s", function, what);
  return status;
}

/// Runs the body of a function; what it throws becomes a status and a message.
template <class F>
casa_status guarded(const char* function, F&& body) noexcept {
  try {
    body();
    return CASA_OK;
  } catch (const error& e) {
    return note(CASA_INVALID, function, e.what());
  } catch (const std::bad_alloc&) {
    return note(CASA_NO_MEMORY, function, "out of memory");
  } catch (const std::length_error&) {  // a std::vector larger than any may be
    return note(CASA_NO_MEMORY, function, "out of memory");
  } catch (const std::exception& e) {
    return note(CASA_FAILED, function, e.what());
  } catch (...) {
    return note(CASA_FAILED, function, "an unknown exception");
  }
}

/// Throws unless `rows` rows of `cols` values of `size` bytes, `stride` values apart, fit into an
/// address space.
inline void check_extent(std::string_view what, Index rows, Index cols, Index stride, Index size) {
  if (rows <= 0) return;
  checked_mul(checked_add(checked_mul(rows - 1, stride, what), cols, what), size, what);
}

/// A pointer to values of T. Throws if it is null though `count` is positive, or not aligned.
template <class T, class Void>
T* pointer(Void* p, std::string_view name, Index count) {
  require(p != nullptr || count <= 0, name, " is null");
  require(reinterpret_cast<std::uintptr_t>(p) % alignof(T) == 0, name,
          " is not aligned to its values of ", sizeof(T), " bytes");
  return static_cast<T*>(p);
}

inline std::string_view name(casa_dtype dtype) {
  switch (dtype) {
    case CASA_F32:
      return "CASA_F32";
    case CASA_F64:
      return "CASA_F64";
    case CASA_BF16:
      return "CASA_BF16";
    case CASA_F16:
      return "CASA_F16";
    default:
      return "no casa_dtype";
  }
}

/// f(T{}) for what is computed in.
template <class F>
void with_scalar(std::string_view what, casa_dtype dtype, F f) {
  if (dtype == CASA_F32) return f(float{});
  if (dtype == CASA_F64) return f(double{});
  fail(what, " must be CASA_F32 or CASA_F64, got ", dtype, " (", name(dtype), ")");
}

/// f(T{}, S{}) for queries of `dtype` and keys of `key_dtype`.
template <class F>
void with_types(casa_dtype dtype, casa_dtype key_dtype, F f) {
  with_scalar("dtype", dtype, [&](auto t) {
    using T = decltype(t);
    if (key_dtype == dtype) return f(t, T{});
    if constexpr (std::is_same_v<T, float>) {
      if (key_dtype == CASA_BF16) return f(t, bfloat16{});
      if (key_dtype == CASA_F16) return f(t, half{});
      fail("key_dtype must be CASA_F32, CASA_BF16 or CASA_F16 where dtype is CASA_F32, got ",
           key_dtype, " (", name(key_dtype), ")");
    }
    fail("key_dtype must be CASA_F64 where dtype is CASA_F64, got ", key_dtype, " (",
         name(key_dtype), ")");
  });
}

/// casa_attention as C++ takes it. It owns its copies of pieces and intervals.
template <class T, class S>
struct Input {
  std::vector<KeyPiece<S>> pieces;
  Mask mask;
  AttentionInput<T, S> attention;

  /// `a` without its intervals.
  explicit Input(const casa_attention& a) {
    const AttentionShape shape{a.num_heads, a.num_kv_heads, a.head_dim};
    detail::check_shape(shape);
    constexpr Index size = sizeof(S);
    const Index cols = checked_mul(shape.num_heads, shape.head_dim, "num_heads * head_dim");
    const Index key_cols = checked_mul(shape.num_kv_heads, shape.head_dim, "num_kv_heads");
    require(a.rows >= 0, "rows must not be negative, got ", a.rows);
    require(a.num_pieces >= 0, "num_pieces must not be negative, got ", a.num_pieces);
    const Index q_stride = a.q_stride == 0 ? cols : a.q_stride;
    require(q_stride >= cols || a.rows <= 1, "q_stride must be at least ", cols, ", got ",
            q_stride);
    check_extent("q", a.rows, cols, q_stride, sizeof(T));

    const auto* keys = pointer<const casa_keys>(a.keys, "keys", a.num_pieces);
    check_extent("keys", a.num_pieces, 1, 1, sizeof(casa_keys));
    pieces.reserve(static_cast<std::size_t>(a.num_pieces));
    for (Index p = 0; p < a.num_pieces; ++p) {
      const std::string at = text("keys[", p, "]");
      const casa_keys& k = keys[p];
      require(k.count >= 0, at, ".count must not be negative, got ", k.count);
      const Index token = k.token_stride == 0 ? key_cols : k.token_stride;
      const Index head = k.head_stride == 0 ? shape.head_dim : k.head_stride;
      require(token >= 0 && head >= 0, at, ": strides must not be negative, got ", token, " and ",
              head);
      const Index heads = checked_mul(shape.num_kv_heads - 1, head, at);
      check_extent(at, k.count, checked_add(heads, shape.head_dim, at), token, size);
      pieces.push_back({pointer<const S>(k.k, at + ".k", k.count),
                        pointer<const S>(k.v, at + ".v", k.count), k.count, token, head});
    }
    attention.shape = shape;
    attention.scale = a.scale == 0 ? default_scale(shape.head_dim) : a.scale;
    attention.q = {pointer<const T>(a.q, "q", a.rows), a.rows, cols, q_stride};
    attention.keys = pieces;
  }

  void set_mask(Mask given) {
    mask = std::move(given);
    attention.intervals = mask.intervals;
    attention.interval_offsets = mask.offsets;
  }
};

/// The intervals that the caller gave: one a row, or lists.
inline Mask given_mask(const casa_attention& a) {
  Mask mask{{}, {}};
  Index count = a.rows;
  if (a.interval_offsets != nullptr) {
    const Index rows = checked_add(a.rows, 1, "interval_offsets");
    check_extent("interval_offsets", rows, 1, 1, sizeof(int64_t));
    const auto* offsets = pointer<const int64_t>(a.interval_offsets, "interval_offsets", rows);
    mask.offsets.assign(offsets, offsets + rows);
    count = mask.offsets.back();
    require(count >= 0, "interval_offsets[", a.rows, "] must not be negative, got ", count);
    // Before intervals are read by them: none may lead past the last.
    for (Index r = 0; r < a.rows; ++r)
      require(offsets[r] <= offsets[r + 1], "interval_offsets must not decrease, got ", offsets[r],
              " and ", offsets[r + 1], " for row ", r);
  }
  const auto* from = pointer<const casa_interval>(a.intervals, "intervals", count);
  check_extent("intervals", count, 1, 1, sizeof(casa_interval));
  mask.intervals.resize(static_cast<std::size_t>(count));
  std::transform(from, from + count, mask.intervals.begin(), [](const casa_interval& i) {
    return Interval{i.begin, i.end};
  });
  return mask;
}

/// The output of `rows` rows.
template <class T>
MatrixView<T> output(void* out, Index rows, Index cols, Index stride) {
  if (stride == 0) stride = cols;
  require(stride >= cols || rows <= 1, "out_stride must be at least ", cols, ", got ", stride);
  check_extent("out", rows, cols, stride, sizeof(T));
  return {pointer<T>(out, "out", rows), rows, cols, stride};
}

/// A caller's state in T; its rows are copied to and from states of C++, some at a time, so that
/// they stay in the cache.
template <class T>
class State {
 public:
  explicit State(const casa_state& s) : shape_{s.num_heads, s.num_heads, s.head_dim} {
    detail::check_shape(shape_);
    rows_ = s.rows;
    require(rows_ >= 0, "state: rows must not be negative, got ", rows_);
    cols_ = checked_mul(s.num_heads, s.head_dim, "state: num_heads * head_dim");
    check_extent("state", rows_, cols_, cols_, sizeof(T));
    max_ = pointer<T>(s.max, "state: max", rows_);
    sum_ = pointer<T>(s.sum, "state: sum", rows_);
    out_ = pointer<T>(s.out, "state: out", rows_);
  }

  Index rows() const { return rows_; }
  const AttentionShape& shape() const { return shape_; }

  /// Calls f(begin, count) for all rows, some at a time.
  template <class F>
  void for_each_block(F f) const {
    constexpr Index block = 16;
    for (Index begin = 0; begin < rows_; begin += block) f(begin, (std::min)(block, rows_ - begin));
  }
  /// Rows [begin, begin + count).
  AttentionState<T> read(Index begin, Index count) const {
    AttentionState<T> s = empty_state<T>(count, shape_);
    const Index heads = shape_.num_heads;
    std::copy_n(max_ + begin * heads, count * heads, s.max.data());
    std::copy_n(sum_ + begin * heads, count * heads, s.sum.data());
    std::copy_n(out_ + begin * cols_, count * cols_, s.out.data());
    return s;
  }
  /// Rows from `begin` on become those of s.
  void write(Index begin, const AttentionState<T>& s) const {
    const Index heads = shape_.num_heads;
    std::copy_n(s.max.data(), s.max.size(), max_ + begin * heads);
    std::copy_n(s.sum.data(), s.sum.size(), sum_ + begin * heads);
    std::copy_n(s.out.data(), s.out.size(), out_ + begin * cols_);
  }

 private:
  AttentionShape shape_;
  Index rows_ = 0, cols_ = 0;
  T *max_ = nullptr, *sum_ = nullptr, *out_ = nullptr;
};

inline void check_same_sizes(const casa_state& s, const casa_state& other) {
  require(s.dtype == other.dtype, "state: dtype: expected ", name(other.dtype), ", got ",
          name(s.dtype));
  require_equal("state: rows", s.rows, other.rows);
  require_equal("state: num_heads", s.num_heads, other.num_heads);
  require_equal("state: head_dim", s.head_dim, other.head_dim);
}

/// A caller's struct. Throws if it is null.
template <class T>
const T& given(const T* p, std::string_view name) {
  require(p != nullptr, name, " is null");
  return *p;
}

/// A pool's threads, and a Context for each call that runs at the same time: its scratch memory
/// serves one of them, and stays warm for the next.
class Pool {
 public:
  explicit Pool(Index num_threads) : threads_(num_threads) {}

  Index num_threads() const { return threads_.num_threads(); }

  std::unique_ptr<Context> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) {
      idle_.reserve(++made_);  // so that giving back cannot fail
      return std::make_unique<Context>(Context{threads_});
    }
    auto context = std::move(idle_.back());
    idle_.pop_back();
    return context;
  }
  void give_back(std::unique_ptr<Context> context) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(context));
  }

 private:
  ThreadPool threads_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Context>> idle_;
  std::size_t made_ = 0;
};

/// f(context), with the pool's threads and memory, or without a pool.
template <class F>
void with_context(Pool* pool, F f) {
  if (pool == nullptr) return f(Context{});
  struct Lent {
    Pool& pool;
    std::unique_ptr<Context> context;
    ~Lent() { pool.give_back(std::move(context)); }
  } lent{*pool, pool->take()};
  f(*lent.context);
}

}  // namespace detail::c_api

CASA_NAMESPACE_END
