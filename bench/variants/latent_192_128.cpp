// latent_192_128: causal with 16 heads of their own keys of 192 and values of 128, as multi-head
// latent attention (DeepSeek-V2) computes a prompt.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant latent_192_128("latent_192_128", [] {
  return bench::plain(
      {.mask = casa::masks::causal(2048), .num_kv_heads = 16, .head_dim = 192, .value_dim = 128});
});
