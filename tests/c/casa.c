/* The C interface, from C: every function gives the bits that C++ gives, and a wrong call is
   refused by name and writes nothing. */
#include "casa/c/casa.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"

static int failures = 0;

static void check(int ok, const char* what, int line) {
  if (ok) return;
  printf("casa.c:%d: %s (last error: %s)\n", line, what, casa_last_error());
  ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__)
#define SUCCEEDS(call) check((call) == CASA_OK, #call, __LINE__)

/* The call must be refused, and its message must hold `part`. */
static void check_refused(casa_status status, const char* part, const char* call, int line) {
  if (status == CASA_INVALID && strstr(casa_last_error(), part) != NULL) return;
  printf("casa.c:%d: %s gave %d, expected %d and a message with \"%s\"; last error: %s\n", line,
         call, (int)status, (int)CASA_INVALID, part, casa_last_error());
  ++failures;
}
#define REFUSED(part, call) check_refused(call, part, #call, __LINE__)

enum { HEADS = 4, KV_HEADS = 2, DIM = 8, ROWS = 37, KEYS_A = 29, KEYS_B = 18 };
enum {
  COLS = HEADS * DIM,
  STRIDE = COLS + 3,
  KEYS = KEYS_A + KEYS_B,
  KEY_VALUES = KEYS * KV_HEADS * DIM
};

/* Values in [-1, 1), always the same. */
static uint32_t seed = 12345;
static double next_value(void) {
  seed = seed * 1664525u + 1013904223u;
  return (double)(seed >> 8) / 8388608.0 - 1.0;
}

static size_t size_of(casa_dtype dtype) {
  return dtype == CASA_F64 ? 8 : dtype == CASA_F32 ? 4 : 2;
}

static void* random_values(casa_dtype dtype, size_t count) {
  void* p = malloc(count * size_of(dtype));
  size_t i;
  if (p == NULL) exit(3);
  for (i = 0; i < count; ++i) {
    const double x = next_value();
    if (dtype == CASA_F64)
      ((double*)p)[i] = x;
    else if (dtype == CASA_F32)
      ((float*)p)[i] = (float)x;
    else
      ((uint16_t*)p)[i] = reference_narrow((float)x, dtype);
  }
  return p;
}

/* A problem in two pieces of keys, one head-major and one token-major, and a sliding window. */
typedef struct {
  casa_attention a;
  casa_keys pieces[2];
  casa_interval intervals[ROWS];
  void *q, *k, *v;
} Problem;

static void make(Problem* p, casa_dtype dtype, casa_dtype key_dtype) {
  const size_t size = size_of(key_dtype), first = KEYS_A * KV_HEADS * DIM;
  int64_t r;
  p->q = random_values(dtype, ROWS * STRIDE);
  p->k = random_values(key_dtype, KEY_VALUES);
  p->v = random_values(key_dtype, KEY_VALUES);
  memset(&p->a, 0, sizeof(p->a));
  p->pieces[0].k = p->k;
  p->pieces[0].v = p->v;
  p->pieces[0].count = KEYS_A;
  p->pieces[0].token_stride = DIM;
  p->pieces[0].head_stride = KEYS_A * DIM;
  p->pieces[1].k = (char*)p->k + first * size;
  p->pieces[1].v = (char*)p->v + first * size;
  p->pieces[1].count = KEYS_B;
  p->pieces[1].token_stride = KV_HEADS * DIM;
  p->pieces[1].head_stride = DIM;
  for (r = 0; r < ROWS; ++r) {
    p->intervals[r].begin = r < 10 ? 0 : r - 10;
    p->intervals[r].end = r + 6;
  }
  p->intervals[3].end = 0; /* sees nothing */
  p->a.dtype = dtype;
  p->a.key_dtype = key_dtype;
  p->a.num_heads = HEADS;
  p->a.num_kv_heads = KV_HEADS;
  p->a.head_dim = DIM;
  p->a.scale = 0.37;
  p->a.q = p->q;
  p->a.rows = ROWS;
  p->a.q_stride = STRIDE;
  p->a.keys = p->pieces;
  p->a.num_pieces = 2;
  p->a.intervals = p->intervals;
}

static void drop(Problem* p) {
  free(p->q);
  free(p->k);
  free(p->v);
}

typedef struct {
  casa_state s;
  double max[ROWS * HEADS], sum[ROWS * HEADS], out[ROWS * COLS];
} State;

static void make_state(State* state, casa_dtype dtype) {
  memset(state, 0x5a, sizeof(*state));
  state->s.dtype = dtype;
  state->s.rows = ROWS;
  state->s.num_heads = HEADS;
  state->s.head_dim = DIM;
  state->s.max = state->max;
  state->s.sum = state->sum;
  state->s.out = state->out;
}

static int same_state(const State* a, const State* b) {
  return memcmp(a->max, b->max, sizeof(a->max)) == 0 &&
         memcmp(a->sum, b->sum, sizeof(a->sum)) == 0 && memcmp(a->out, b->out, sizeof(a->out)) == 0;
}

/* Fresh results are filled with the same bytes, so that what is not to be written is compared, too.
 */
static double out[ROWS * STRIDE], expected_out[ROWS * STRIDE], lse[ROWS * HEADS],
    expected_lse[ROWS * HEADS];
static void refill(void) {
  memset(out, 0x5a, sizeof(out));
  memset(lse, 0x5a, sizeof(lse));
  memset(expected_out, 0x5a, sizeof(expected_out));
  memset(expected_lse, 0x5a, sizeof(expected_lse));
}
static int same_results(void) {
  return memcmp(out, expected_out, sizeof(out)) == 0 && memcmp(lse, expected_lse, sizeof(lse)) == 0;
}
static int nothing_written(void) {
  size_t i;
  const unsigned char *o = (const unsigned char*)out, *l = (const unsigned char*)lse;
  for (i = 0; i < sizeof(out); ++i)
    if (o[i] != 0x5a) return 0;
  for (i = 0; i < sizeof(lse); ++i)
    if (l[i] != 0x5a) return 0;
  return 1;
}

static void test_results(casa_dtype dtype, casa_dtype key_dtype, casa_pool* pool) {
  Problem p;
  State state, other, expected;
  casa_attention rest;
  casa_interval first[ROWS], second[ROWS];
  int64_t r;
  make(&p, dtype, key_dtype);
  p.a.pool = pool;

  refill();
  reference_attend(&p.a, expected_out, STRIDE, expected_lse);
  SUCCEEDS(casa_attend(&p.a, out, STRIDE, lse));
  CHECK(same_results());
  refill();
  reference_attend(&p.a, expected_out, COLS, NULL);
  SUCCEEDS(casa_attend(&p.a, out, 0, NULL));
  CHECK(same_results());

  make_state(&state, dtype);
  make_state(&expected, dtype);
  reference_state(&p.a, expected.max, expected.sum, expected.out);
  SUCCEEDS(casa_attend_state(&p.a, &state.s));
  CHECK(same_state(&state, &expected));
  make_state(&other, dtype);
  SUCCEEDS(casa_empty_state(&other.s));
  SUCCEEDS(casa_merge(&state.s, &other.s)); /* with nothing: no bit changes */
  CHECK(same_state(&state, &expected));
  SUCCEEDS(casa_merge(&other.s, &state.s));
  CHECK(same_state(&other, &expected));

  /* The keys of each row in two parts, merged. */
  for (r = 0; r < ROWS; ++r) {
    const int64_t end = p.intervals[r].end, cut = r / 2 + 3;
    first[r].begin = p.intervals[r].begin;
    first[r].end = cut < end ? cut : end;
    second[r].begin = cut;
    second[r].end = end;
  }
  rest = p.a;
  rest.intervals = second;
  p.a.intervals = first;
  refill();
  reference_merged(&p.a, &rest, expected_out, expected_lse);
  make_state(&other, dtype);
  SUCCEEDS(casa_attend_state(&p.a, &state.s));
  SUCCEEDS(casa_attend_state(&rest, &other.s));
  SUCCEEDS(casa_merge(&state.s, &other.s));
  SUCCEEDS(casa_finish(&state.s, out, 0, lse));
  CHECK(same_results());
  drop(&p);
}

static void test_defaults(void) {
  Problem p;
  casa_keys whole;
  float *o = (float*)out, *e = (float*)expected_out;
  make(&p, CASA_F32, CASA_F32);
  memset(&whole, 0, sizeof(whole));
  whole.k = p.k;
  whole.v = p.v;
  whole.count = KEYS;
  p.a.keys = &whole;
  p.a.num_pieces = 1;
  p.a.q_stride = 0;
  p.a.scale = 0;
  refill();
  SUCCEEDS(casa_attend(&p.a, o, 0, NULL));
  whole.token_stride = KV_HEADS * DIM;
  whole.head_stride = DIM;
  p.a.q_stride = COLS;
  p.a.scale = 1 / sqrt((double)DIM);
  reference_attend(&p.a, e, COLS, NULL);
  CHECK(same_results());

  p.a.rows = 0; /* nothing to do, and nothing needed */
  p.a.q = NULL;
  p.a.intervals = NULL;
  SUCCEEDS(casa_attend(&p.a, NULL, 0, NULL));
  drop(&p);
}

static void test_concurrent(casa_pool* pool) {
  Problem p;
  make(&p, CASA_F32, CASA_F32);
  p.a.pool = pool;
  refill();
  reference_attend(&p.a, expected_out, COLS, NULL);
  CHECK(reference_concurrent(&p.a, expected_out, ROWS * COLS * 4) == 0);
  drop(&p);
}

static void test_varlen(casa_pool* pool) {
  const int32_t cu_q[4] = {0, 5, 5, 30}, cu_k[4] = {0, 20, 24, 40};
  int causal;
  Problem p;
  make(&p, CASA_F32, CASA_F32);
  p.pieces[0].count = KEYS;
  p.pieces[0].token_stride = p.pieces[0].head_stride = 0;
  p.a.num_pieces = 1;
  p.a.scale = 0;
  p.a.q_stride = 0;
  p.a.intervals = NULL;
  p.a.pool = pool;
  for (causal = 0; causal < 2; ++causal) {
    refill();
    reference_varlen(p.q, ROWS, p.k, p.v, KEYS, cu_q, cu_k, 3, causal, (float*)expected_out,
                     (float*)expected_lse);
    SUCCEEDS(casa_varlen(&p.a, cu_q, cu_k, 3, causal, out, 0, lse));
    CHECK(same_results());
  }
  {
    const int32_t falls[4] = {0, 5, 4, 30}, long_q[4] = {0, 5, 5, 38}, long_k[4] = {0, 1, 2, 48};
    const int32_t begins[4] = {1, 5, 5, 30};
    refill();
    REFUSED("cu_seqlens must not decrease", casa_varlen(&p.a, falls, cu_k, 3, 0, out, 0, lse));
    REFUSED("cu_seqlens must begin with 0", casa_varlen(&p.a, begins, cu_k, 3, 0, out, 0, lse));
    REFUSED("cu_seqlens_q ends at 38", casa_varlen(&p.a, long_q, cu_k, 3, 0, out, 0, lse));
    REFUSED("cu_seqlens_k ends at 48", casa_varlen(&p.a, cu_q, long_k, 3, 0, out, 0, lse));
    REFUSED("cu_seqlens_q is null", casa_varlen(&p.a, NULL, cu_k, 3, 0, out, 0, lse));
    REFUSED("cu_seqlens_k is null", casa_varlen(&p.a, cu_q, NULL, 3, 0, out, 0, lse));
    REFUSED("num_sequences", casa_varlen(&p.a, cu_q, cu_k, -1, 0, out, 0, lse));
    REFUSED("num_sequences", casa_varlen(&p.a, cu_q, cu_k, INT64_MAX, 0, out, 0, lse));
    REFUSED("attention is null", casa_varlen(NULL, cu_q, cu_k, 3, 0, out, 0, lse));
    REFUSED("out is null", casa_varlen(&p.a, cu_q, cu_k, 3, 0, NULL, 0, lse));
    p.a.intervals = p.intervals;
    REFUSED("intervals must be null", casa_varlen(&p.a, cu_q, cu_k, 3, 0, out, 0, lse));
    CHECK(nothing_written());
  }
  drop(&p);
}

/* Lists: two intervals a row give what the merged states over each give; one a row what it gives
   without offsets. */
static void test_lists(casa_pool* pool) {
  static casa_interval lists[2 * ROWS], first[ROWS], second[ROWS];
  static int64_t offsets[ROWS + 1];
  static State a, b;
  Problem p;
  int64_t r, i;
  make(&p, CASA_F64, CASA_F64);
  p.a.pool = pool;
  refill();
  for (r = 0; r <= ROWS; ++r) offsets[r] = r;
  for (r = 0; r < ROWS; ++r) lists[r] = p.intervals[r];
  lists[3].end = lists[3].begin + 1; /* a list has no empty interval */
  p.intervals[3] = lists[3];
  SUCCEEDS(casa_attend(&p.a, expected_out, 0, expected_lse));
  p.a.intervals = lists;
  p.a.interval_offsets = offsets;
  SUCCEEDS(casa_attend(&p.a, out, 0, lse));
  for (i = 0; i < ROWS * COLS; ++i) CHECK(fabs(out[i] - expected_out[i]) <= 1e-14);

  for (r = 0; r < ROWS; ++r) { /* with a hole between; row 5 sees nothing */
    first[r].begin = r;
    first[r].end = r == 5 ? r : r + 2;
    second[r].begin = r + 3;
    second[r].end = r == 5 ? r + 3 : r + 6;
    offsets[r + 1] = offsets[r] + (r == 5 ? 0 : 2);
    lists[offsets[r]] = first[r];
    if (r != 5) lists[offsets[r] + 1] = second[r];
  }
  make_state(&a, CASA_F64);
  make_state(&b, CASA_F64);
  p.a.interval_offsets = NULL;
  p.a.intervals = first;
  SUCCEEDS(casa_attend_state(&p.a, &a.s));
  p.a.intervals = second;
  SUCCEEDS(casa_attend_state(&p.a, &b.s));
  SUCCEEDS(casa_merge(&a.s, &b.s));
  SUCCEEDS(casa_finish(&a.s, expected_out, 0, expected_lse));
  p.a.intervals = lists;
  p.a.interval_offsets = offsets;
  SUCCEEDS(casa_attend(&p.a, out, 0, lse));
  for (i = 0; i < ROWS * COLS; ++i) CHECK(fabs(out[i] - expected_out[i]) <= 1e-13);
  for (i = 0; i < ROWS * HEADS; ++i)
    CHECK(lse[i] == expected_lse[i] || fabs(lse[i] - expected_lse[i]) <= 1e-13);
  CHECK(out[5 * COLS] == 0 && isinf(lse[5 * HEADS]));
  SUCCEEDS(casa_attend_state(&p.a, &b.s));
  SUCCEEDS(casa_finish(&b.s, out, 0, lse));
  for (i = 0; i < ROWS * COLS; ++i) CHECK(fabs(out[i] - expected_out[i]) <= 1e-13);

  lists[1].begin = lists[0].begin;
  REFUSED("row 0 must ascend", casa_attend(&p.a, out, 0, lse));
  lists[1] = second[0];
  lists[1].end = lists[1].begin;
  REFUSED("row 0 has an empty interval", casa_attend(&p.a, out, 0, lse));
  lists[1] = second[0];
  offsets[2] = 99;
  REFUSED("interval_offsets must not decrease", casa_attend(&p.a, out, 0, lse));
  offsets[2] = 4;
  offsets[0] = 1;
  REFUSED("interval_offsets[0]", casa_attend(&p.a, out, 0, lse));
  offsets[0] = 0;
  offsets[ROWS] = -1;
  REFUSED("must not be negative, got -1", casa_attend(&p.a, out, 0, lse));
  offsets[ROWS] = 2 * ROWS - 2;
  p.a.intervals = NULL;
  REFUSED("intervals is null", casa_attend(&p.a, out, 0, lse));
  drop(&p);
}

static void test_stream(void) {
  const casa_insertion images[2] = {{2, 3}, {5, 2}}, unsorted[2] = {{5, 3}, {2, 2}};
  casa_interval seen[7], expected[7];
  int32_t keys, history;
  for (keys = CASA_KEYS_TEXT; keys <= CASA_KEYS_IMAGE_TEXT; ++keys)
    for (history = CASA_HISTORY_WINDOW; history <= CASA_HISTORY_ALL; ++history) {
      reference_stream(keys, history, expected);
      SUCCEEDS(casa_stream_intervals(7, images, 2, keys, history, seen));
      CHECK(memcmp(seen, expected, sizeof(seen)) == 0);
    }
  SUCCEEDS(casa_stream_intervals(7, images, 2, CASA_KEYS_IMAGE_TEXT, CASA_HISTORY_WINDOW, seen));
  CHECK(seen[6].begin == 8 && seen[6].end == 12); /* the second image and its words */
  SUCCEEDS(casa_stream_intervals(0, NULL, 0, CASA_KEYS_TEXT, CASA_HISTORY_ALL, NULL));
  REFUSED("sorted", casa_stream_intervals(7, unsorted, 2, 2, 0, seen));
  REFUSED("insertions is null", casa_stream_intervals(7, NULL, 2, 2, 0, seen));
  REFUSED("intervals is null", casa_stream_intervals(7, images, 2, 2, 0, NULL));
  REFUSED("text_len", casa_stream_intervals(-1, images, 2, 2, 0, seen));
  REFUSED("intervals: size overflows", casa_stream_intervals(INT64_MAX, images, 2, 2, 0, seen));
  REFUSED("insertions: size overflows", casa_stream_intervals(7, images, INT64_MAX, 2, 0, seen));
  REFUSED("num_insertions", casa_stream_intervals(7, images, -1, 2, 0, seen));
  REFUSED("CASA_KEYS_", casa_stream_intervals(7, images, 2, 3, 0, seen));
  REFUSED("CASA_HISTORY_", casa_stream_intervals(7, images, 2, 2, -1, seen));
}

static void test_wrong_attention(void) {
  Problem p;
  casa_attention a;
  casa_interval wrong[ROWS];
  make(&p, CASA_F32, CASA_F32);
  refill();
#define WRONG(part, change) \
  a = p.a;                  \
  change;                   \
  REFUSED(part, casa_attend(&a, out, 0, lse))
  REFUSED("casa_attend: attention is null", casa_attend(NULL, out, 0, lse));
  REFUSED("out is null", casa_attend(&p.a, NULL, 0, lse));
  REFUSED("out_stride must be at least 32, got 31", casa_attend(&p.a, out, 31, lse));
  REFUSED("out_stride", casa_attend(&p.a, out, -40, lse));
  REFUSED("out: size overflows", casa_attend(&p.a, out, INT64_MAX / 4, lse));
  REFUSED("out is not aligned", casa_attend(&p.a, (char*)out + 1, 0, lse));
  REFUSED("lse is not aligned", casa_attend(&p.a, out, 0, (char*)lse + 2));
  WRONG("q is null", a.q = NULL);
  WRONG("keys is null", a.keys = NULL);
  WRONG("intervals is null", a.intervals = NULL);
  WRONG("dtype must be CASA_F32 or CASA_F64, got 2 (CASA_BF16)", a.dtype = CASA_BF16);
  WRONG("dtype must be CASA_F32 or CASA_F64, got 77 (no casa_dtype)", a.dtype = 77);
  WRONG("key_dtype must be CASA_F32, CASA_BF16 or CASA_F16", a.key_dtype = CASA_F64);
  WRONG("key_dtype", a.key_dtype = -1);
  WRONG("key_dtype must be CASA_F64", a.dtype = CASA_F64);
  WRONG("must be positive, got 0, 2, 8", a.num_heads = 0);
  WRONG("must be positive", a.num_kv_heads = -2);
  WRONG("must be positive", a.head_dim = INT64_MIN);
  WRONG("num_kv_heads must divide num_heads", a.num_kv_heads = 3);
  WRONG("num_heads * head_dim: size overflows", a.head_dim = INT64_MAX / 2);
  WRONG("scale must be finite", a.scale = HUGE_VAL);
  WRONG("rows must not be negative, got -1", a.rows = -1);
  WRONG("q: size overflows", a.rows = INT64_MAX);
  WRONG("q_stride must be at least 32, got 5", a.q_stride = 5);
  WRONG("q: size overflows", a.q_stride = INT64_MAX);
  WRONG("num_pieces must not be negative", a.num_pieces = -1);
  WRONG("keys: size overflows", a.num_pieces = INT64_MAX);
  a = p.a;
#define WRONG_PIECE(part, change)                \
  do {                                           \
    const casa_keys kept = p.pieces[1];          \
    change;                                      \
    REFUSED(part, casa_attend(&a, out, 0, lse)); \
    p.pieces[1] = kept;                          \
  } while (0)
  WRONG_PIECE("keys[1].k is null", p.pieces[1].k = NULL);
  WRONG_PIECE("keys[1].v is null", p.pieces[1].v = NULL);
  WRONG_PIECE("keys[1].count must not be negative, got -1", p.pieces[1].count = -1);
  WRONG_PIECE("keys[1]: size overflows", p.pieces[1].count = INT64_MAX);
  WRONG_PIECE("keys[1]: size overflows", p.pieces[1].head_stride = INT64_MAX);
  WRONG_PIECE("keys[1]: strides must not be negative", p.pieces[1].token_stride = -16);
  WRONG_PIECE("keys[1].k is not aligned", p.pieces[1].k = (const char*)p.pieces[1].k + 1);
  memcpy(wrong, p.intervals, sizeof(wrong));
  a.intervals = wrong;
  wrong[5].end = KEYS + 1;
  REFUSED("intervals[5] must lie within [0, 47)", casa_attend(&a, out, 0, lse));
  wrong[5].begin = -1;
  wrong[5].end = 3;
  REFUSED("intervals[5]", casa_attend(&a, out, 0, lse));
  CHECK(nothing_written());
  drop(&p);
}

static void test_wrong_states(void) {
  Problem p;
  State state, other;
  casa_state s;
  make(&p, CASA_F32, CASA_F32);
  make_state(&state, CASA_F32);
  make_state(&other, CASA_F32);
  refill();
#define WRONG_STATE(part, change)             \
  s = state.s;                                \
  change;                                     \
  REFUSED(part, casa_attend_state(&p.a, &s)); \
  REFUSED(part, casa_merge(&other.s, &s))
  WRONG_STATE("state: rows: expected 37, got 36", s.rows = 36);
  WRONG_STATE("state: num_heads: expected 4, got 2", s.num_heads = 2);
  WRONG_STATE("state: head_dim: expected 8, got 16", s.head_dim = 16);
  WRONG_STATE("state: dtype: expected CASA_F32, got CASA_F64", s.dtype = CASA_F64);
  WRONG_STATE("state: max is null", s.max = NULL);
  WRONG_STATE("state: sum is null", s.sum = NULL);
  WRONG_STATE("state: out is null", s.out = NULL);
  REFUSED("attention is null", casa_attend_state(NULL, &state.s));
  REFUSED("state is null", casa_attend_state(&p.a, NULL));
  REFUSED("state is null", casa_empty_state(NULL));
  REFUSED("to is null", casa_merge(NULL, &state.s));
  REFUSED("from is null", casa_merge(&state.s, NULL));
  REFUSED("state is null", casa_finish(NULL, out, 0, lse));
  REFUSED("out is null", casa_finish(&state.s, NULL, 0, lse));
  REFUSED("out_stride", casa_finish(&state.s, out, 8, lse));
  s = state.s;
  s.rows = -1;
  REFUSED("state: rows must not be negative", casa_empty_state(&s));
  s.rows = INT64_MAX / 2;
  REFUSED("state: size overflows", casa_empty_state(&s));
  s = state.s;
  s.head_dim = INT64_MAX;
  REFUSED("size overflows", casa_finish(&s, out, 0, lse));
  s = state.s;
  s.num_heads = 0;
  REFUSED("must be positive", casa_finish(&s, out, 0, lse));
  s = state.s;
  s.dtype = CASA_F16;
  REFUSED("dtype must be CASA_F32 or CASA_F64, got 3 (CASA_F16)", casa_finish(&s, out, 0, lse));
  make_state(&other, CASA_F32);
  CHECK(same_state(&state, &other));
  CHECK(nothing_written());
  drop(&p);
}

int main(void) {
  casa_pool *one = NULL, *three = NULL, *none = (casa_pool*)&one;
  CHECK(strcmp(casa_last_error(), "") == 0); /* before any call */
  CHECK(strncmp(casa_version(), "casa ", 5) == 0);
  SUCCEEDS(casa_pool_create(1, &one));
  SUCCEEDS(casa_pool_create(3, &three));
  CHECK(casa_pool_threads(NULL) == 1 && casa_pool_threads(one) == 1 &&
        casa_pool_threads(three) == 3);
  REFUSED("num_threads must be in", casa_pool_create(-1, &none));
  CHECK(none == NULL);
  REFUSED("num_threads must be in", casa_pool_create(INT64_MAX, &none));
  REFUSED("casa_pool_create: pool is null", casa_pool_create(1, NULL));

  test_results(CASA_F32, CASA_F32, NULL);
  test_results(CASA_F64, CASA_F64, one);
  test_results(CASA_F32, CASA_BF16, three);
  test_results(CASA_F32, CASA_F16, three);
  test_defaults();
  test_concurrent(NULL);
  test_concurrent(three);
  test_varlen(NULL);
  test_varlen(three);
  test_lists(NULL);
  test_lists(three);
  test_stream();
  test_wrong_attention();
  test_wrong_states();

  casa_pool_destroy(NULL);
  casa_pool_destroy(one);
  casa_pool_destroy(three);
  if (failures == 0) puts("the C interface: all as it should be");
  return failures != 0;
}
