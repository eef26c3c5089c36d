// The two inner loops of resizing: weighted sums of samples along a row, and of whole rows.
//
// A weight has 23 bits and a sign, a sample 8: too wide for 16-bit products, wasteful in 32-bit
// ones. So a weight is split into high * 2^12 + low, both 16 bits wide, and taps go in pairs: one
// instruction multiplies two 16-bit pairs and adds them to 32 bits. The two sums are joined modulo
// 2^32, which is exact, as the whole sum fits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "casa/core/memory.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail::resample {

inline constexpr int kWeightBits = 22;
inline constexpr int kLowBits = 12;

/// Two neighbouring taps, each weight = high * 2^12 + low.
struct TapPair {
  std::int16_t high[2];
  std::int16_t low[2];
};

/// For each output sample of a pass, which input samples it takes and with what weights, in pairs.
/// Pairs begin at even samples; what a pair holds beyond the taps has weight 0.
class ResampleTaps {
 public:
  /// The taps of the next output: weights (22 fraction bits) of the samples first, first + 1, ...
  /// Zeros at both ends are left out, so a pass that changes no size takes one tap each.
  void append(Index first, std::span<const std::int32_t> weights) {
    auto w = weights;
    for (; w.size() > 1 && w.front() == 0; ++first) w = w.subspan(1);
    while (w.size() > 1 && w.back() == 0) w = w.first(w.size() - 1);
    first_.push_back(first / 2 * 2);
    for (Index t = first / 2 * 2; t < first + static_cast<Index>(w.size()); t += 2) {
      TapPair& pair = pairs_.emplace_back();
      for (Index k = 0; k < 2; ++k) {
        const Index at = t + k - first;
        const bool inside = at >= 0 && at < static_cast<Index>(w.size());
        const std::int32_t weight = inside ? w[static_cast<std::size_t>(at)] : 0;
        const std::int32_t high = (weight + (1 << (kLowBits - 1))) >> kLowBits;
        pair.high[k] = static_cast<std::int16_t>(high);
        pair.low[k] = static_cast<std::int16_t>(weight - high * (1 << kLowBits));
      }
    }
    begin_.push_back(pairs_.size());
    max_pairs_ = (std::max)(max_pairs_, pairs(outputs() - 1).size());
  }

  Index outputs() const { return static_cast<Index>(first_.size()); }
  /// The first sample that output i takes, even.
  Index first(Index i) const { return first_[static_cast<std::size_t>(i)]; }
  std::span<const TapPair> pairs(Index i) const {
    const auto at = static_cast<std::size_t>(i);
    return {pairs_.data() + begin_[at], begin_[at + 1] - begin_[at]};
  }
  /// One past the last sample that output i takes, even: it may be one past the end.
  Index last(Index i) const { return first(i) + 2 * static_cast<Index>(pairs(i).size()); }
  Index max_taps() const { return 2 * static_cast<Index>(max_pairs_); }

 private:
  std::vector<Index> first_;
  std::vector<std::size_t> begin_ = {0};
  std::vector<TapPair> pairs_;
  std::size_t max_pairs_ = 0;
};

#if defined(__AVX2__)
inline constexpr int kSumLanes = 8;
#else
inline constexpr int kSumLanes = 4;
#endif
using Words [[gnu::vector_size(4 * kSumLanes)]] = std::int16_t;
using Sums [[gnu::vector_size(4 * kSumLanes)]] = std::int32_t;
using UnsignedSums [[gnu::vector_size(4 * kSumLanes)]] = std::uint32_t;

/// Lane i: a[2i] b[2i] + a[2i+1] b[2i+1].
inline Sums multiply_pairs(Words a, Words b) {
#if defined(__AVX2__)
  return (Sums)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Sums)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  Sums s = {};
  for (int i = 0; i < kSumLanes; ++i) s[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return s;
#endif
}

/// kSumLanes bytes of a and of b, alternating.
inline Words interleave(const std::uint8_t* a, const std::uint8_t* b) {
#if defined(__AVX2__)
  return (Words)_mm256_cvtepu8_epi16(
      _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(a)),
                        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b))));
#elif defined(__SSE2__)
  const __m128i bytes = _mm_unpacklo_epi8(_mm_loadu_si32(a), _mm_loadu_si32(b));
  return (Words)_mm_unpacklo_epi8(bytes, _mm_setzero_si128());
#else
  Words w = {};
  for (int i = 0; i < kSumLanes; ++i) {
    w[2 * i] = a[i];
    w[2 * i + 1] = b[i];
  }
  return w;
#endif
}

/// The same two weights in all lanes.
inline Words broadcast(const std::int16_t (&pair)[2]) {
  std::int32_t both;
  std::memcpy(&both, pair, sizeof both);
  return (Words)(both - Sums{});
}

/// The sums of high and low products, rounded to nearest and clamped, as kSumLanes bytes at `out`.
inline void store_bytes(Sums high, Sums low, std::uint8_t* out) {
  const UnsignedSums joined = ((UnsignedSums)high << kLowBits) + (UnsignedSums)low;
  const Sums s = (Sums)(joined + (1u << (kWeightBits - 1))) >> kWeightBits;
#if defined(__AVX2__)  // packing clamps
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128((__m256i)s), _mm256_extracti128_si256((__m256i)s, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
#elif defined(__SSE2__)
  const __m128i words = _mm_packs_epi32((__m128i)s, (__m128i)s);
  _mm_storeu_si32(out, _mm_packus_epi16(words, words));
#else
  for (int i = 0; i < kSumLanes; ++i)
    out[i] = static_cast<std::uint8_t>((std::min)((std::max)(s[i], 0), 255));
#endif
}

/// One byte of the sum over pairs of rows: the definition, for what fills no vector.
inline std::uint8_t blend_byte(std::span<const TapPair> taps, const std::uint8_t* const* rows,
                               Index x) {
  std::int32_t sum = 1 << (kWeightBits - 1);
  for (const TapPair& t : taps)
    for (int k = 0; k < 2; ++k) sum += (t.high[k] * (1 << kLowBits) + t.low[k]) * (*rows++)[x];
  return static_cast<std::uint8_t>((std::min)((std::max)(sum >> kWeightBits, 0), 255));
}

/// out[x] = sum of weight * row[x] for 0 <= x < size; `rows` holds two rows for each pair.
inline void blend_rows(std::span<const TapPair> taps, const std::uint8_t* const* rows, Index size,
                       std::uint8_t* out) {
  constexpr int kBlock = 4;  // vectors at a time: 8 sums fill half of 16 registers
  Index x = 0;
  for (; x + kBlock * kSumLanes <= size; x += kBlock * kSumLanes) {
    Sums high[kBlock] = {}, low[kBlock] = {};
    const std::uint8_t* const* row = rows;
    for (const TapPair& t : taps) {
      const Words h = broadcast(t.high), l = broadcast(t.low);
      for (int b = 0; b < kBlock; ++b) {
        const Words samples = interleave(row[0] + x + b * kSumLanes, row[1] + x + b * kSumLanes);
        high[b] += multiply_pairs(samples, h);
        low[b] += multiply_pairs(samples, l);
      }
      row += 2;
    }
    for (int b = 0; b < kBlock; ++b) store_bytes(high[b], low[b], out + x + b * kSumLanes);
  }
  for (; x < size; ++x) out[x] = blend_byte(taps, rows, x);
}

/// Rows that are resampled together, four lanes (R, G, B, unused) each: they share the weights.
/// Two, so that the spread samples of a wide image stay in the first-level cache (four were
/// slower).
inline constexpr Index kRowGroup = 2;
inline constexpr int kGroupVectors = 4 * kRowGroup / kSumLanes;

/// Resamples kRowGroup rows of RGB at a time. The rows are first spread to pairs of 16-bit samples
/// (R R G G B B and two unused), as each sample is used by several outputs.
class RowResampler {
 public:
  RowResampler(Index width, const ResampleTaps& taps)
      : width_(width), taps_(&taps), spread_((width + 1) / 2 * kPair) {}

  /// Row `slot` of the group.
  void set_row(Index slot, const std::uint8_t* row) {
    std::int16_t* out = spread_.data() + slot * 8;
    Index x = 0;
#if defined(__AVX2__)
    const __m128i order = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
    for (; x + 6 <= width_; x += 4, out += 2 * kPair) {  // reads 16 bytes, uses 12
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 3 * x));
      const __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(bytes, order));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(words));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + kPair), _mm256_extracti128_si256(words, 1));
    }
#endif
    for (; x + 3 <= width_; x += 2, out += kPair) {  // reads 7 bytes, uses 6
      if constexpr (kSumLanes == 4) {
        const Words words = interleave(row + 3 * x, row + 3 * x + 3);
        std::memcpy(out, &words, sizeof words);
      } else {
        spread(row + 3 * x, 2, out);
      }
    }
    for (; x < width_; x += 2, out += kPair)
      spread(row + 3 * x, (std::min)(width_ - x, Index{2}), out);
  }

  /// Resamples the group; row r goes to target(r).
  template <class Target>
  void run(Target&& target) const {
    std::uint8_t* out[kRowGroup];
    for (Index r = 0; r < kRowGroup; ++r) out[r] = target(r);
    for (Index i = 0; i < taps_->outputs(); ++i) {
      const std::int16_t* at = spread_.data() + taps_->first(i) / 2 * kPair;
      Sums high[kGroupVectors] = {}, low[kGroupVectors] = {};
      for (const TapPair& t : taps_->pairs(i)) {
        const Words h = broadcast(t.high), l = broadcast(t.low);
        for (int v = 0; v < kGroupVectors; ++v) {
          Words samples;
          std::memcpy(&samples, at + v * 2 * kSumLanes, sizeof samples);
          high[v] += multiply_pairs(samples, h);
          low[v] += multiply_pairs(samples, l);
        }
        at += kPair;
      }
      std::uint8_t bytes[4 * kRowGroup];
      for (int v = 0; v < kGroupVectors; ++v) store_bytes(high[v], low[v], bytes + v * kSumLanes);
      const bool more = i + 1 < taps_->outputs();
      for (Index r = 0; r < kRowGroup; ++r) {
        if (more)  // four bytes are one store; the next pixel overwrites the fourth
          std::memcpy(out[r] + 3 * i, bytes + 4 * r, 4);
        else
          std::memcpy(out[r] + 3 * i, bytes + 4 * r, 3);
      }
    }
  }

 private:
  static constexpr Index kPair = 8 * kRowGroup;

  static void spread(const std::uint8_t* pixels, Index count, std::int16_t* out) {
    for (Index c = 0; c < 4; ++c)
      for (Index k = 0; k < 2; ++k) out[2 * c + k] = c < 3 && k < count ? pixels[3 * k + c] : 0;
  }

  Index width_;
  const ResampleTaps* taps_;
  Buffer<std::int16_t> spread_;
};

}  // namespace detail::resample

}  // namespace io
CASA_NAMESPACE_END
