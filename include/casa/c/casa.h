// The C interface: attention on plain pointers, for C and for everything that calls C (Python's
// ctypes, Rust, Julia, Go). C99, and no exception crosses it.
//
// The functions are compiled once, by whoever uses them: compile casa/c/casa.cpp as C++20 with
// Eigen on the include path and with the flags of the program's choice (-O3 -DNDEBUG
// -march=native), or link the CMake target casa::c, which does just that. A library for ctypes:
//
//   c++ -std=c++20 -O3 -DNDEBUG -march=native -shared -fPIC -pthread
//     -I include -I /usr/include/eigen3 include/casa/c/casa.cpp -o libcasa.so
//
// Every function that can fail returns a casa_status (CASA_OK is 0); casa_last_error() then says
// what was wrong, with the name, the expected and the actual value. A call that is refused
// (CASA_INVALID) has written nothing. Sizes and strides count values, not bytes. Everything may be
// called from several threads at once.
/// @file
/// Attention from C: the functions, structs and values of the C interface.
#ifndef CASA_C_CASA_H
#define CASA_C_CASA_H

#include <stdint.h>  // NOLINT(modernize-deprecated-headers): C includes this file, too

#if defined(__GNUC__)
/// Makes a function visible in a shared library that hides its other symbols.
#define CASA_C_API __attribute__((visibility("default")))
#else
#define CASA_C_API
#endif

#if defined(__cplusplus)
extern "C" {
#endif

/// What functions return: one of the values below.
typedef int32_t casa_status;
/// The values of a casa_status.
enum {
  CASA_OK = 0,         ///< done
  CASA_INVALID = 1,    ///< an argument was refused, before anything was written
  CASA_NO_MEMORY = 2,  ///< memory ran out; what was to be written may have been written in part
  CASA_FAILED = 3      ///< anything else; what was to be written may have been written in part
};

/// Types of values. Queries, outputs and states are CASA_F32 or CASA_F64. Keys and values have the
/// same type, or are CASA_BF16 or CASA_F16 below queries in CASA_F32.
typedef int32_t casa_dtype;
/// The values of a casa_dtype.
enum {
  CASA_F32 = 0,   ///< float
  CASA_F64 = 1,   ///< double
  CASA_BF16 = 2,  ///< bfloat16: the upper half of a float
  CASA_F16 = 3    ///< IEEE binary16
};

/// Threads and scratch memory: made once, used by many calls, also by several at once.
typedef struct casa_pool casa_pool;

/// The half-open range [begin, end) of keys; empty where begin >= end.
typedef struct casa_interval {
  int64_t begin;  ///< the first place
  int64_t end;    ///< one past the last
} casa_interval;

/// `count` keys and their values where they lie: value i of token t of head h is
/// k[h * head_stride + t * token_stride + i]. Head-major keys (token_stride = head_dim) are read
/// fastest.
typedef struct casa_keys {
  const void* k;         ///< keys, of the attention's key_dtype
  const void* v;         ///< values, in the strides of the keys
  int64_t count;         ///< keys, and values, in this piece
  int64_t token_stride;  ///< 0: num_kv_heads * head_dim, as in a packed (count, heads, dim) array
  int64_t head_stride;   ///< 0: head_dim
} casa_keys;

/// Queries, keys and what each query sees. A struct of zeros is a valid start: what may be left
/// zero says so.
typedef struct casa_attention {
  casa_dtype dtype;       ///< of q, of the output, of its log-sum-exp and of states
  casa_dtype key_dtype;   ///< of all keys and values
  int64_t num_heads;      ///< heads of queries
  int64_t num_kv_heads;   ///< divides num_heads: query head h reads h / (num_heads / num_kv_heads)
  int64_t head_dim;       ///< values of a head, in q, k and v
  double scale;           ///< of the scores q.k; 0: 1 / sqrt(head_dim)
  const void* q;          ///< (rows, num_heads * head_dim), heads side by side
  int64_t rows;           ///< number of queries
  int64_t q_stride;       ///< from row to row; 0: num_heads * head_dim
  const casa_keys* keys;  ///< pieces laid end to end: key j of the first has place j, and so on
  int64_t num_pieces;     ///< entries of keys
  const casa_interval* intervals;  ///< (rows): the places that each query sees; or lists, see below
  casa_pool* pool;                 ///< null: the calling thread alone, with fresh scratch memory
  /// Null: one interval a row. Else (rows + 1), from 0: row r sees the places of
  /// intervals[interval_offsets[r]] up to intervals[interval_offsets[r + 1] - 1], which ascend,
  /// have no place in common and are not empty. (The last member: sets of fields of older versions
  /// end before it, and must be compiled anew.)
  const int64_t* interval_offsets;
} casa_attention;

/// The state of attention over some of the keys, in the caller's memory; merged with the states
/// over the other keys it gives exactly the attention over all of them. Scores are counted in
/// base 2. Arrays are packed.
typedef struct casa_state {
  casa_dtype dtype;   ///< of all three arrays: CASA_F32 or CASA_F64
  int64_t rows;       ///< number of queries
  int64_t num_heads;  ///< heads of queries
  int64_t head_dim;   ///< values of a head
  void* max;          ///< (rows, num_heads): the largest score; -inf: no key was seen
  void* sum;          ///< (rows, num_heads): the sum of 2^(score - max)
  void* out;          ///< (rows, num_heads * head_dim): the weighted values, not divided by sum
} casa_state;

/// `num_tokens` image tokens stand right before text token `position`.
typedef struct casa_insertion {
  int64_t position;    ///< 0 to the number of text tokens
  int64_t num_tokens;  ///< image tokens
} casa_insertion;

/// Which tokens of a stream give keys, and thereby their order: the text, the images, or both as
/// they stand in the stream.
enum {
  CASA_KEYS_TEXT = 0,       ///< text tokens: self-attention
  CASA_KEYS_IMAGE = 1,      ///< image tokens: cross-attention
  CASA_KEYS_IMAGE_TEXT = 2  ///< both: CASA, token insertion
};
/// Whether a text token sees the keys of its own window only or those of all windows so far.
enum {
  CASA_HISTORY_WINDOW = 0,  ///< its window: the image before it, and the text since
  CASA_HISTORY_ALL = 1      ///< everything so far
};

/// The version and how the library was compiled, one line of text.
CASA_C_API const char* casa_version(void);

/// Why the last call on this thread that failed did so; empty if none has. Valid until the next
/// call on this thread fails.
CASA_C_API const char* casa_last_error(void);

/// Starts a pool of num_threads workers, the calling thread among them (0: one for each processor
/// that this process may use). With one thread it is still worth having: scratch memory is kept
/// from call to call. Results do not depend on the number of threads, bit for bit.
CASA_C_API casa_status casa_pool_create(int64_t num_threads, casa_pool** pool);

/// Ends the threads. No call may be using the pool. Null is allowed.
CASA_C_API void casa_pool_destroy(casa_pool* pool);

/// Workers of the pool; 1 for null.
CASA_C_API int64_t casa_pool_threads(const casa_pool* pool);

/// out (rows, num_heads * head_dim), rows out_stride apart (0: num_heads * head_dim) =
/// softmax(scale q k^T) v over the keys that each row sees; lse, unless null, (rows, num_heads) =
/// ln sum exp(scale q.k). A row that sees no key gives zeros and -inf. `out` may be q itself; other
/// overlaps of what is written with what is read are not allowed.
CASA_C_API casa_status casa_attend(const casa_attention* attention, void* out, int64_t out_stride,
                                   void* lse);

/// casa_attend for num_sequences sequences packed end to end, as flash-attention takes them:
/// sequence b has queries [cu_seqlens_q[b], cu_seqlens_q[b + 1]) and keys [cu_seqlens_k[b],
/// cu_seqlens_k[b + 1]); both lists have num_sequences + 1 entries, begin with 0 and do not fall.
/// Causal unless 0, aligned at the bottom right: the last query of a sequence sees all its keys.
/// Rows of q after the last sequence see nothing. attention->intervals must be null.
CASA_C_API casa_status casa_varlen(const casa_attention* attention, const int32_t* cu_seqlens_q,
                                   const int32_t* cu_seqlens_k, int64_t num_sequences,
                                   int32_t causal, void* out, int64_t out_stride, void* lse);

/// As casa_attend, but writes the state, whose type and sizes must be those of the attention.
CASA_C_API casa_status casa_attend_state(const casa_attention* attention, const casa_state* state);

/// Writes the state that has seen no key.
CASA_C_API casa_status casa_empty_state(const casa_state* state);

/// `to` becomes the state over the keys of both, which must have none in common.
CASA_C_API casa_status casa_merge(const casa_state* to, const casa_state* from);

/// What casa_attend would have given for the keys of a state: out and, unless null, lse, as there.
CASA_C_API casa_status casa_finish(const casa_state* state, void* out, int64_t out_stride,
                                   void* lse);

/// What the text_len text tokens of a stream with images see, one interval each (CASA:
/// CASA_KEYS_IMAGE_TEXT and CASA_HISTORY_WINDOW). Insertions are sorted by position, within
/// [0, text_len].
CASA_C_API casa_status casa_stream_intervals(int64_t text_len, const casa_insertion* insertions,
                                             int64_t num_insertions, int32_t keys, int32_t history,
                                             casa_interval* intervals);

#if defined(__cplusplus)
}
#endif

#if defined(CASA_C_IMPLEMENTATION)
#include "casa/c/implementation.hpp"
#endif

#endif
