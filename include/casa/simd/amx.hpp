// The tile instructions of Intel's AMX, and for tests the same instructions in plain C++.
//
// Eight registers hold up to 16 rows of 64 bytes each. One instruction multiplies a tile A of rows
// of x by a tile B of weights and adds the products to a tile C of sums:
//
//   A   16 rows of x,                  each the next 32 (bfloat16) or 64 (int8) values of k
//   B   a pair or quad of k in a row,  each row that pair or quad for 16 outputs
//   C   16 rows of x,                  each the sums of 16 outputs, float or int32
//
// Fewer rows and shorter ones are set by the configuration, which belongs to the thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "casa/core/amx.hpp"
#include "casa/core/error.hpp"
#include "casa/simd/vector.hpp"

CASA_NAMESPACE_BEGIN

namespace simd {

/// Rows of a tile, bytes of a row and registers, at most.
inline constexpr Index kAmxRows = 16;
inline constexpr Index kAmxBytes = 64;
inline constexpr Index kAmxTiles = 8;

/// The configuration of a thread's tiles, as the processor reads it.
struct AmxConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};  ///< of each tile; 0 after the last of kAmxTiles
  std::uint8_t rows[16] = {};        ///< likewise
};
static_assert(sizeof(AmxConfig) == 64);

/// Tiles 0 to 3 for sums, 4 and 5 for rows of x with `row_bytes` bytes each, 6 and 7 for the
/// weights that meet them.
constexpr AmxConfig amx_config(Index row_bytes) {
  AmxConfig config;
  for (Index t = 0; t < kAmxTiles; ++t) {
    config.rows[t] = static_cast<std::uint8_t>(t < 6 ? kAmxRows : row_bytes / 4);
    config.row_bytes[t] = static_cast<std::uint16_t>(t == 4 || t == 5 ? row_bytes : kAmxBytes);
  }
  return config;
}

#if CASA_AMX && defined(CASA_EMULATE_AMX)

/// The instructions as Intel's manual defines them, on registers of each thread. What a processor
/// answers with an exception of its own throws casa::error.
struct Amx {
  struct State {
    bool configured = false;
    AmxConfig config;
    std::uint8_t rows[std::size_t{kAmxTiles}][std::size_t{kAmxRows}][std::size_t{kAmxBytes}];
  };
  static State& state() {
    static thread_local State s;
    return s;
  }
  /// Products of two tiles in the whole process: a test sees that tiles were used.
  static inline std::atomic<Index> products{0};

  static void configure(const AmxConfig& config) {
    require(config.palette == 1 && config.start_row == 0, "AMX: palette or start row");
    for (Index t = 0; t < 16; ++t) {
      const Index rows = config.rows[t], bytes = config.row_bytes[t];
      require(t < kAmxTiles || (rows == 0 && bytes == 0), "AMX: there is no tile ", t);
      require(rows <= kAmxRows && bytes <= kAmxBytes && (rows == 0) == (bytes == 0), "AMX: tile ",
              t, " of ", rows, " rows of ", bytes, " bytes");
    }
    state() = State{true, config, {}};
  }
  static void release() { state() = State{}; }

  template <int T>
  static void zero() {
    shape<T>();
    std::memset(state().rows[T], 0, sizeof state().rows[T]);
  }
  template <int T>
  static void load(const void* p, Index stride) {
    zero<T>();
    const Shape s = shape<T>();
    for (Index r = 0; r < s.rows; ++r)
      std::memcpy(state().rows[T][r], static_cast<const std::byte*>(p) + r * stride,
                  static_cast<std::size_t>(s.bytes));
  }
  template <int T>
  static void store(void* p, Index stride) {
    const Shape s = shape<T>();
    for (Index r = 0; r < s.rows; ++r)
      std::memcpy(static_cast<std::byte*>(p) + r * stride, state().rows[T][r],
                  static_cast<std::size_t>(s.bytes));
  }
  /// Even and odd k are summed apart from zero, in order, one rounding for each multiply-add; then
  /// the two sums are added to each other, and that to C. Subnormal numbers count as 0 everywhere.
  template <int C, int A, int B>
  static void multiply_bfloat16() {
    const Shape s = check<C, A, B>();
    for (Index m = 0; m < s.rows; ++m)
      for (Index n = 0; n < s.bytes / 4; ++n) {
        float sum[2] = {};
        for (Index k = 0; k < shape<A>().bytes / 4; ++k)
          for (Index i = 0; i < 2; ++i) {
            const float a = widen(get<bfloat16>(A, m, 2 * k + i));
            const float b = widen(get<bfloat16>(B, k, 2 * n + i));
            sum[i] = flush(std::fma(flush(a), flush(b), sum[i]));
          }
        const float c = flush(get<float>(C, m, n));
        set(C, m, n, flush(c + flush(sum[0] + sum[1])));
      }
    ++products;
  }
  /// Signed bytes of A times bytes of B, those signed or not.
  template <int C, int A, int B, class Byte>
  static void multiply_bytes() {
    const Shape s = check<C, A, B>();
    for (Index m = 0; m < s.rows; ++m)
      for (Index n = 0; n < s.bytes / 4; ++n) {
        std::int32_t sum = get<std::int32_t>(C, m, n);
        for (Index k = 0; k < shape<A>().bytes; ++k)
          sum += get<std::int8_t>(A, m, k) * get<Byte>(B, k / 4, 4 * n + k % 4);
        set(C, m, n, sum);
      }
    ++products;
  }

 private:
  struct Shape {
    Index rows, bytes;
  };
  template <int T>
  static Shape shape() {
    static_assert(T >= 0 && T < kAmxTiles);
    const State& s = state();
    require(s.configured, "AMX: a tile instruction in a thread that has not configured its tiles");
    require(s.config.rows[T] > 0, "AMX: tile ", T, " is not configured");
    return {s.config.rows[T], s.config.row_bytes[T]};
  }
  template <int C, int A, int B>
  static Shape check() {
    static_assert(C != A && C != B && A != B);
    const Shape c = shape<C>(), a = shape<A>(), b = shape<B>();
    require(c.rows == a.rows && c.bytes == b.bytes && a.bytes == 4 * b.rows && c.bytes % 4 == 0,
            "AMX: tiles of ", c.rows, " x ", c.bytes, ", ", a.rows, " x ", a.bytes, " and ", b.rows,
            " x ", b.bytes, " bytes do not meet");
    return c;
  }
  template <class T>
  static T get(int tile, Index row, Index i) {
    T value;
    std::memcpy(&value, state().rows[tile][row] + i * Index{sizeof value}, sizeof value);
    return value;
  }
  template <class T>
  static void set(int tile, Index row, Index i, T value) {
    std::memcpy(state().rows[tile][row] + i * Index{sizeof value}, &value, sizeof value);
  }
  static float flush(float x) {
    return std::abs(x) < (std::numeric_limits<float>::min)() ? std::copysign(0.0f, x) : x;
  }
};

#elif CASA_AMX

/// The instructions. (Written as such: the intrinsics of g++ 12 say nothing of the memory that they
/// read and write, and are macros of literal register numbers.)
struct Amx {
  static void configure(const AmxConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  static void release() { asm volatile("tilerelease"); }

  template <int T>
  CASA_INLINE static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <int T>
  CASA_INLINE static void load(const void* p, Index stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  CASA_INLINE static void store(void* p, Index stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  CASA_INLINE static void multiply_bfloat16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
  template <int C, int A, int B, class Byte>
  CASA_INLINE static void multiply_bytes() {
    if constexpr (std::is_signed_v<Byte>)
      asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
    else
      asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
};

#endif

#if CASA_AMX
/// The calling thread's tiles while it lives. Like vector registers, tiles are nobody's across a
/// call, so what another library left in them is not kept.
class AmxScope {
 public:
  explicit AmxScope(const AmxConfig& config) { Amx::configure(config); }
  AmxScope(const AmxScope&) = delete;
  AmxScope& operator=(const AmxScope&) = delete;
  ~AmxScope() { Amx::release(); }
};
#endif

}  // namespace simd

CASA_NAMESPACE_END
