// How fast does a whole small language model read and write? The shape of SmolLM2-135M (30 layers,
// 576 wide, 9/3 heads of 64, MLP 1536, vocabulary 49,152, tied), random weights.
//
//   model/pp512/<type>/threads:<n>   512 prompt tokens in one pass: tokens/s, FLOP/s, and the part
//                                    of the multiply-add peak (`peak`)
//   model/tg64/<type>/threads:<n>    64 further tokens, one a pass: tokens/s, bytes of weights a
//                                    second, and the part of the read rate of one thread (`read`)
//   model/streams/<type>/streams:<s>/threads:<n>
//                                    the next token of each of s streams in one pass, which reads
//                                    the weights once; each looks back at 256 tokens in a cache of
//                                    its own, in bfloat16: tokens/s of all streams, and the
//                                    multiply-adds as part of the peak (`peak`)
//
// <type> is that of the weights; bf16_rounded rounds what meets them to bfloat16, too
// (Precision::storage), int8_rounded to int8 (Precision::int8).
#include <benchmark/benchmark.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "bench_common.hpp"
#include "casa/model/decoder.hpp"
#include "smollm2.hpp"

namespace {

using namespace casa;

// Random weights, made when the model asks for them and freed when it has packed them.
WeightSource random_weights(std::map<std::string, Matrix<float>>& tensors) {
  return {[&tensors](const TensorSpec& spec) -> StoredView {
            Matrix<float>& m = tensors[spec.name];
            m = Matrix<float>(spec.cols == 0 ? 1 : spec.rows,
                              spec.cols == 0 ? spec.rows : spec.cols);
            const auto values = bench::random_values<float>(
                m.size(), static_cast<unsigned>(std::hash<std::string>{}(spec.name)));
            const float scale = 1 / std::sqrt(static_cast<float>(m.cols()));
            for (Index i = 0; i < m.size(); ++i)
              m.data()[i] = spec.cols == 0 ? 1.0f : values[i] * scale;
            return m;
          },
          [&tensors](const TensorSpec& spec) { tensors.erase(spec.name); }};
}

// The model with weights of this type. Only one is kept at a time, to bound the memory.
const Decoder<float>& model(WeightType type) {
  static std::map<WeightType, std::unique_ptr<Decoder<float>>> held;
  if (!held.contains(type)) {
    held.clear();
    std::map<std::string, Matrix<float>> tensors;
    held.emplace(type,
                 std::make_unique<Decoder<float>>(bench::smollm2(), random_weights(tensors), type));
  }
  return *held.at(type);
}

// The number of weights in the blocks. The head, which only some rows reach, is counted by run().
double weights_per_token() {
  const DecoderConfig c = bench::smollm2();
  const double d = static_cast<double>(c.hidden_size), f = static_cast<double>(c.intermediate_size);
  const double kv = static_cast<double>(c.num_key_value_heads * c.head_dim);
  return static_cast<double>(c.num_hidden_layers) * (2 * d * d + 2 * d * kv + 3 * d * f);
}

constexpr Index kPrompt = 512, kAnswer = 64;

void run(benchmark::State& state, WeightType type, Precision precision, bool prefill) {
  const Decoder<float>& m = model(type);
  const Index threads = state.range(0);
  ThreadPool pool(threads);
  const Context context{.executor = pool, .precision = precision};
  std::vector<int> prompt(kPrompt);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int>(i * 83 % 49152);
  Matrix<float> logits(1, m.config().vocab_size);
  auto stream = m.new_state();
  const int token = 7;
  for (auto _ : state) {
    stream.reset();
    if (!prefill) state.PauseTiming();
    m.forward({&stream, prompt}, logits, context);
    if (prefill) continue;
    state.ResumeTiming();
    for (Index i = 0; i < kAnswer; ++i) m.forward({&stream, {&token, 1}}, logits, context);
  }

  using benchmark::Counter;
  const double tokens = static_cast<double>(prefill ? kPrompt : kAnswer);
  const double head = static_cast<double>(m.config().vocab_size * m.config().hidden_size);
  state.counters["tokens/s"] = Counter(tokens, Counter::kIsIterationInvariantRate);
  if (prefill) {
    // Attention: two products over 512 * 513 / 2 pairs for each of 9 heads in each of 30 layers.
    const double pairs = 0.5 * tokens * (tokens + 1) * 9 * 30;
    const double flop = 2 * (tokens * weights_per_token() + head) + 4 * 64 * pairs;
    state.counters["FLOP/s"] = Counter(flop, Counter::kIsIterationInvariantRate);
    state.counters["peak"] =
        Counter(flop / (bench::fma_peak<float>() * static_cast<double>(threads)),
                Counter::kIsIterationInvariantRate);
  } else {
    const double bytes = tokens * static_cast<double>(m.weight_bytes());
    state.counters["bytes/s"] = Counter(bytes, Counter::kIsIterationInvariantRate);
    state.counters["read"] =
        Counter(bytes / bench::read_bandwidth(), Counter::kIsIterationInvariantRate);
  }
}

// Every stream holds kPast tokens and forgets one with each that comes, so that all passes cost the
// same.
constexpr Index kPast = 256;

void run_streams(benchmark::State& state, WeightType type, Precision precision) {
  const Decoder<float>& m = model(type);
  const Index count = state.range(0), threads = state.range(1);
  ThreadPool pool(threads);
  const Context context{.executor = pool, .precision = precision};
  std::vector<DecoderState<float>> states;
  for (Index s = 0; s < count; ++s)
    states.push_back(m.new_state({.cache = CacheType::bfloat16, .text_window = kPast, .sinks = 0}));
  std::vector<int> prompt(kPast);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int>(i * 83 % 49152);
  m.forward({.state = &states[0], .ids = prompt, .logits = LogitRows::none}, {}, context);
  for (std::size_t s = 1; s < states.size(); ++s) states[s] = states[0];

  std::vector<int> tokens(states.size());
  std::vector<StreamInput<float>> inputs;
  for (std::size_t s = 0; s < states.size(); ++s) {
    tokens[s] = static_cast<int>(7 + s);
    inputs.push_back({&states[s], {&tokens[s], 1}});
  }
  Matrix<float> logits(count, m.config().vocab_size);
  for (auto _ : state) m.forward(inputs, logits, context);

  using benchmark::Counter;
  const auto rows = static_cast<double>(count);
  const double head = static_cast<double>(m.config().vocab_size * m.config().hidden_size);
  const double pairs = rows * static_cast<double>(kPast + 1) * 9 * 30;
  const double flop = 2 * rows * (weights_per_token() + head) + 4 * 64 * pairs;
  state.counters["tokens/s"] = Counter(rows, Counter::kIsIterationInvariantRate);
  state.counters["peak"] = Counter(flop / (bench::fma_peak<float>() * static_cast<double>(threads)),
                                   Counter::kIsIterationInvariantRate);
}

const int registered = [] {
  constexpr std::tuple<WeightType, Precision, const char*> types[] = {
      {WeightType::native, Precision::full, "float"},
      {WeightType::bfloat16, Precision::full, "bf16"},
      {WeightType::bfloat16, Precision::storage, "bf16_rounded"},
      {WeightType::int8, Precision::full, "int8"},
      {WeightType::int8, Precision::int8, "int8_rounded"}};
  for (const auto& [type, precision, name] : types)
    for (const bool prefill : {true, false})
      benchmark::RegisterBenchmark(
          (std::string(prefill ? "model/pp512/" : "model/tg64/") + name).c_str(),
          [type = type, precision = precision, prefill](benchmark::State& state) {
            run(state, type, precision, prefill);
          })
          ->ArgName("threads")
          ->Arg(1)
          ->Arg(2)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
  for (const auto& [type, precision, name] : types)
    benchmark::RegisterBenchmark((std::string("model/streams/") + name).c_str(),
                                 [type = type, precision = precision](benchmark::State& state) {
                                   run_streams(state, type, precision);
                                 })
        ->ArgNames({"streams", "threads"})
        ->ArgsProduct({{1, 4, 16, 64}, {1, 2}})
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  return 0;
}();

}  // namespace
