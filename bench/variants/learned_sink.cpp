// learned_sink: causal, and each head has a logit that stands in the denominator alone and takes
// weight from the keys (gpt-oss).
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant learned_sink("learned_sink", [] {
  std::vector<float> sinks;
  for (int h = 0; h < 16; ++h) sinks.push_back(0.25f * static_cast<float>(h));
  return bench::plain({.mask = casa::masks::causal(2048), .sinks = sinks});
});
