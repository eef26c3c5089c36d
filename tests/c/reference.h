/* What the C++ library gives for the problem of tests/c/casa.c, to be compared bit for bit. */
#ifndef CASA_TESTS_C_REFERENCE_H
#define CASA_TESTS_C_REFERENCE_H

#include <stdint.h>

#include "casa/c/casa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* casa::attend over the pieces and intervals of `a`, whose strides are all given. */
void reference_attend(const casa_attention* a, void* out, int64_t out_stride, void* lse);
/* casa::attend_state, in packed arrays. */
void reference_state(const casa_attention* a, void* max, void* sum, void* out);
/* The state over the intervals of `a` merged with that over those of `b`, and then finished. */
void reference_merged(const casa_attention* a, const casa_attention* b, void* out, void* lse);
/* casa_attend on four threads at once, some hundred times each: how many results were not
 * `expected`. */
int reference_concurrent(const casa_attention* a, const void* expected, int64_t bytes);
/* casa::varlen for packed float arrays of 4 heads over 2, head_dim 8. */
void reference_varlen(const float* q, int64_t rows, const float* k, const float* v, int64_t keys,
                      const int32_t* cu_q, const int32_t* cu_k, int64_t sequences, int causal,
                      float* out, float* lse);
/* casa::text_intervals of a stream of 7 words with images of 3 and 2 tokens before words 2 and 5.
 */
void reference_stream(int32_t keys, int32_t history, casa_interval* out);
/* A value rounded to a 16-bit type. */
uint16_t reference_narrow(float value, casa_dtype dtype);

#ifdef __cplusplus
}
#endif

#endif
