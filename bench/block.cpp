// What does one more frame cost in one block of a real model, under each variant, and which parts
// of the block take the time?
//
//   block/<shape>/<variant>/threads:<n>   4 frames of 256 image and 20 text tokens
//   block/<shape>/<text|image>/...        in CASA, 20 text tokens alone, or one image alone (its
//                                         keys and values)
//   part/<shape>/<what>/...               one part of the block for one frame
#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "bench_common.hpp"
#include "casa/model/decoder.hpp"

namespace {

using namespace casa;

constexpr Index kImage = 256, kText = 20, kFrames = 4;

// The shape of one block of Helium-1-2B ("helium") or Qwen2.5-VL-3B ("qwen").
DecoderConfig shape(const std::string& name) {
  DecoderConfig c;
  c.hidden_size = 2048;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 16;
  c.num_key_value_heads = name == "helium" ? 8 : 2;
  c.head_dim = 128;
  c.intermediate_size = name == "helium" ? 8192 : 11008;
  c.vocab_size = 16;
  c.tie_word_embeddings = true;
  return c;
}

std::optional<FusionConfig> variant(const std::string& name) {
  if (name == "sa") return std::nullopt;
  if (name == "ca") return presets::cross_attention({0});
  if (name == "casa") return presets::casa({0});
  if (name == "casa_before") return presets::casa_before({0});
  if (name == "casa_shared") return presets::casa_shared({0});
  if (name == "replace") return presets::casa_replace({0});
  return presets::token_insertion({0});
}

// The random weight of this name, made once and used by all variants of a shape.
const Matrix<float>& weight(const std::string& shape_name, const TensorSpec& spec) {
  static std::map<std::string, Matrix<float>> weights;
  const auto [at, is_new] = weights.try_emplace(shape_name + spec.name);
  if (!is_new) return at->second;
  const Index rows = spec.cols == 0 ? 1 : spec.rows, cols = spec.cols == 0 ? spec.rows : spec.cols;
  Matrix<float> m(rows, cols);
  const auto values = bench::random_values<float>(m.size(), static_cast<unsigned>(m.size()));
  const float scale = 1 / std::sqrt(static_cast<float>(cols));
  for (Index i = 0; i < m.size(); ++i) m.data()[i] = spec.cols == 0 ? 1.0f : values[i] * scale;
  return at->second = std::move(m);
}

Decoder<float> block(const std::string& shape_name, const std::string& variant_name) {
  DecoderConfig config = shape(shape_name);
  config.fusion = variant(variant_name);
  return Decoder<float>(
      config, {[&](const TensorSpec& spec) -> StoredView { return weight(shape_name, spec); }});
}

Matrix<float> random_rows(Index rows, Index cols) {
  Matrix<float> m(rows, cols);
  const auto values = bench::random_values<float>(m.size(), 7);
  std::copy_n(values.data(), m.size(), m.data());
  return m;
}

// Operations of the projections for one frame; those of attention itself are not counted.
double projection_flop(const DecoderConfig& c, const std::string& what) {
  const double d = static_cast<double>(c.hidden_size), f = static_cast<double>(c.intermediate_size);
  const double q = static_cast<double>(c.num_attention_heads * c.head_dim);
  const double kv = static_cast<double>(c.num_key_value_heads * c.head_dim);
  const double attention = d * (q + 2 * kv) + q * d, mlp = 3 * d * f;
  const double text = static_cast<double>(kText), image = static_cast<double>(kImage);
  if (what == "sa") return 2 * text * (attention + mlp);
  if (what == "insertion") return 2 * (text + image) * (attention + mlp);
  if (what == "replace") return 2 * (text * (attention + mlp) + image * d * 2 * kv);
  if (what == "casa_shared") return 2 * (text * (attention + q * d + mlp) + image * d * 2 * kv);
  if (what == "ca") return 2 * (text * (attention + 2 * q * d + mlp) + image * d * 2 * kv);
  return 2 * (text * (2 * attention + mlp) + image * d * 2 * kv);
}

void run_frames(benchmark::State& state, const std::string& shape_name,
                const std::string& variant_name) {
  const auto model = block(shape_name, variant_name);
  const bool sees = model.config().fusion.has_value();
  const auto image = random_rows(kImage, model.config().hidden_size);
  const std::vector<int> ids(kText, 3);
  const Insertion insertion{0, kImage};
  ThreadPool pool(state.range(0));
  const Context context{.executor = pool};
  auto stream = model.new_state();
  for (auto _ : state) {
    stream.reset();
    for (Index f = 0; f < kFrames; ++f) {
      StreamInput<float> input{&stream, ids};
      input.logits = LogitRows::none;
      if (sees) {
        input.insertions = {&insertion, 1};
        input.image_tokens = image;
      }
      model.forward(input, {}, context);
    }
  }
  using benchmark::Counter;
  const auto frames = static_cast<double>(kFrames);
  state.counters["frames/s"] = Counter(frames, Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s"] = Counter(frames * projection_flop(model.config(), variant_name),
                                     Counter::kIsIterationInvariantRate);
  state.counters["cache_bytes"] = static_cast<double>(stream.cache_bytes());
}

// The image alone or the text alone of one frame, through a CASA block.
void run_alone(benchmark::State& state, const std::string& shape_name, bool is_image) {
  const auto model = block(shape_name, "casa");
  const auto image = random_rows(kImage, model.config().hidden_size);
  const std::vector<int> ids(kText, 3);
  const Insertion insertion{0, kImage};
  ThreadPool pool(state.range(0));
  const Context context{.executor = pool};
  auto stream = model.new_state();
  for (auto _ : state) {
    stream.reset();
    StreamInput<float> input{&stream};
    input.logits = LogitRows::none;
    if (is_image) {
      input.insertions = {&insertion, 1};
      input.image_tokens = image;
    } else {
      input.ids = ids;
    }
    model.forward(input, {}, context);
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(is_image ? kImage : kText),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

// One part of a CASA block for one frame: text rows go through all of the block, image rows only to
// their keys and values.
void run_part(benchmark::State& state, const std::string& shape_name, const std::string& part) {
  const DecoderConfig c = shape(shape_name);
  const Index q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const Context context;
  const auto x = random_rows(kText, c.hidden_size), y = random_rows(kImage, c.hidden_size);
  const WeightSource source{
      [&](const TensorSpec& s) -> StoredView { return weight(shape_name, s); }};
  WeightReader<float> read(source, WeightType::native);
  const BlockSpec spec = block_spec(c, 0, "model.layers.0");
  BlockWeights<float> w;
  if (part == "mlp") {
    w.mlp = read.mlp(spec.mlp);
  } else if (part != "norm" && part != "rope" && part != "attention") {
    w.self_attention = read.attention(*spec.self_attention);
  }
  const auto norm = read.vector(*spec.input_norm);
  Matrix<float> text_norm(kText, c.hidden_size), image_norm(kImage, c.hidden_size),
      qkv(kText, q + 2 * kv), image_kv(kImage, 2 * kv), out(kText, c.hidden_size);
  const auto heads = random_rows(kText, q);
  const Rope rope = make_rope<float>(c.rope, c.head_dim);
  RopeTable<float> table;
  table.assign(rope, std::vector<Position>(kImage, Position{5}), context);
  KvCache<float> cache(c.num_key_value_heads, c.head_dim);
  const auto keys = random_rows(kImage + kText, kv);
  cache.append(MatrixView<const float>(keys), MatrixView<const float>(keys));
  std::vector<Interval> intervals;
  for (Index t = 0; t < kText; ++t) intervals.push_back({0, kImage + t + 1});
  qkv.fill(0.5f);
  image_kv.fill(0.5f);
  const auto pieces = cache.pieces();

  for (auto _ : state) {
    if (part == "norm") {
      rms_norm<float>(x.view(), norm.span(), 1e-6, text_norm, context);
      rms_norm<float>(y.view(), norm.span(), 1e-6, image_norm, context);
    } else if (part == "text_qkv") {
      w.self_attention.qkv.forward(x, qkv, context);
    } else if (part == "image_kv") {
      w.self_attention.qkv.forward_pieces(y, image_kv, 1, 3, context);
    } else if (part == "rope") {
      apply_rope(qkv.view().middle_cols(0, q + kv), table, c.head_dim, context);
      apply_rope(image_kv.view().middle_cols(0, kv), table, c.head_dim, context);
    } else if (part == "attention") {
      attend(AttentionInput<float, float>{c.attention_shape(), default_scale(c.head_dim), heads,
                                          pieces, intervals},
             qkv.view().middle_cols(0, q), nullptr, context);
    } else if (part == "text_o") {
      w.self_attention.o.forward(heads, out, context);
    } else {
      w.mlp.forward(x, out, context);
    }
    benchmark::ClobberMemory();
  }
}

const int registered = [] {
  for (const std::string s : {"helium", "qwen"}) {
    for (const std::string v :
         {"sa", "ca", "casa", "casa_before", "casa_shared", "replace", "insertion"})
      benchmark::RegisterBenchmark(("block/" + s + "/" + v).c_str(),
                                   [s, v](benchmark::State& state) { run_frames(state, s, v); })
          ->ArgName("threads")
          ->Arg(1)
          ->Arg(2)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    for (const bool image : {false, true})
      benchmark::RegisterBenchmark(
          ("block/" + s + (image ? "/image" : "/text")).c_str(),
          [s, image](benchmark::State& state) { run_alone(state, s, image); })
          ->ArgName("threads")
          ->Arg(1)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    for (const std::string p :
         {"norm", "text_qkv", "image_kv", "rope", "attention", "text_o", "mlp"})
      benchmark::RegisterBenchmark(("part/" + s + "/" + p).c_str(), [s,
                                                                     p](benchmark::State& state) {
        run_part(state, s, p);
      })->Unit(benchmark::kMicrosecond);
  }
  return 0;
}();

}  // namespace
