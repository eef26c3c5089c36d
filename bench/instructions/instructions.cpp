// Runs one small case once, so that count.sh can count its instructions. Unlike times, these do not
// depend on other jobs on the machine.
//
//   instructions <nothing|causal|stream|decode|projection|step>
//
// causal, stream, decode: attention; projection: Linear::forward of 20 rows; step: 20 decode steps
// of a small CASA decoder.
#include <cstdio>
#include <deque>
#include <string>

#include "bench_common.hpp"
#include "casa/attention/attend.hpp"
#include "casa/linear/linear.hpp"
#include "casa/model/decoder.hpp"

namespace {

using namespace casa;

void attention(Index rows, Index keys, std::vector<Interval> intervals) {
  constexpr Index heads = 4, kv_heads = 2, head_dim = 64;
  const auto q = bench::random_values<float>(rows * heads * head_dim, 1);
  const auto k = bench::random_values<float>(keys * kv_heads * head_dim, 2);
  Matrix<float> out(rows, heads * head_dim);
  const KeyPiece<float> piece{k.data(), k.data(), keys, head_dim, keys * head_dim};
  attend(AttentionInput<float, float>{{heads, kv_heads, head_dim},
                                      default_scale(head_dim),
                                      MatrixView<const float>(q.data(), rows, heads * head_dim),
                                      {&piece, 1},
                                      intervals},
         out.view());
}

void causal() {
  std::vector<Interval> intervals;
  for (Index r = 0; r < 256; ++r) intervals.push_back({0, r + 1});
  attention(256, 256, intervals);
}

void stream() {
  std::vector<Interval> intervals;
  for (Index w = 0; w < 4; ++w)
    for (Index t = 0; t < 20; ++t) intervals.push_back({w * 84, w * 84 + 64 + t + 1});
  attention(80, 4 * 84, intervals);
}

void decode() { attention(1, 4096, {{0, 4096}}); }

void projection() {
  Matrix<float> weight(256, 256), x(20, 256), y(20, 256);
  weight.fill(0.5f);
  x.fill(0.25f);
  const Linear<float> linear(LinearPiece{weight, {}});
  for (int i = 0; i < 10; ++i) linear.forward(x, y, {});
}

void step() {
  DecoderConfig c;
  c.hidden_size = 64;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.intermediate_size = 128;
  c.vocab_size = 64;
  c.tie_word_embeddings = true;
  c.fusion = presets::casa_before({0, 1});
  const Decoder<float> model(c, {[](const TensorSpec& s) -> StoredView {
                               const Index rows = s.cols == 0 ? 1 : s.rows;
                               const Index cols = s.cols == 0 ? s.rows : s.cols;
                               static std::deque<Matrix<float>> kept;
                               kept.emplace_back(rows, cols).fill(0.05f);
                               return kept.back();
                             }});
  Matrix<float> image(16, 64), logits(1, 64);
  image.fill(0.5f);
  const Insertion insertion{0, 16};
  const std::vector<int> ids{1};
  auto state = model.new_state();
  const Context context;
  model.forward({&state, ids, {&insertion, 1}, image}, logits, context);
  for (int i = 0; i < 20; ++i) model.forward({&state, ids}, logits, context);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "nothing") {  // what a program of this size takes to start
  } else if (name == "causal") {
    causal();
  } else if (name == "stream") {
    stream();
  } else if (name == "decode") {
    decode();
  } else if (name == "projection") {
    projection();
  } else if (name == "step") {
    step();
  } else {
    std::fprintf(stderr, "instructions <nothing|causal|stream|decode|projection|step>\n");
    return 2;
  }
}
