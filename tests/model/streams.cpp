// Several streams in one pass: each goes on as it does alone, and an error in one leaves all as
// they were.
#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "casa/model/decoder.hpp"
#include "casa/model/state_archive.hpp"
#include "random_model.hpp"
#include "support/allocations.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using model_test::random_decoder;

namespace {

// A generator of choices.
struct Choices {
  std::mt19937 random;

  Index below(Index n) { return static_cast<Index>(random() % static_cast<unsigned>(n)); }
  template <class V>
  V of(std::initializer_list<V> values) {
    return values.begin()[below(static_cast<Index>(values.size()))];
  }
};

DecoderConfig random_config(Choices& pick) {
  DecoderConfig c = model_test::small_config(2);
  c.num_key_value_heads = pick.of<Index>({1, 2, 4});
  c.attention_bias = pick.below(2) == 1;
  if (pick.below(4) == 0) c.rope.scaling = DynamicScaling{3, 8};
  if (pick.below(5) > 0) {
    FusionConfig f = presets::casa(model_test::all_layers(2));
    if (pick.below(3) == 0) f.layers = {static_cast<int>(pick.below(2))};
    f.keys = pick.of({Keys::image, Keys::image_text});
    f.placement = pick.of({Placement::before, Placement::parallel, Placement::replace});
    f.parameters = pick.of({Sharing::own, Sharing::shared});
    f.norm = pick.of({Sharing::own, Sharing::shared});
    f.update = pick.of({ImageUpdate::none, ImageUpdate::ffn, ImageUpdate::attention_ffn});
    f.history = pick.of({History::window, History::last(2), History::every(2), History::all});
    f.image_rope = pick.of({ImageRope::off, ImageRope::none, ImageRope::window_start,
                            ImageRope::consecutive, ImageRope::stream});
    f.gate = pick.of({Gate::none, Gate::tanh});
    c.fusion = f;
  }
  const bool slides =
      !c.fusion || c.fusion->placement != Placement::replace || c.fusion->history.is_one_interval();
  if (slides && pick.below(3) == 0) {
    c.sliding_window = 4;
    c.sliding_layers = {static_cast<int>(pick.below(2))};
  }
  return c;
}

// What comes next in a stream: text, perhaps none, perhaps with images.
template <class T>
struct RandomChunk {
  std::vector<int> ids;
  std::vector<Insertion> insertions;
  Matrix<T> images;
  LogitRows logits = LogitRows::last;

  RandomChunk(const DecoderConfig& c, Index most, Choices& pick) {
    ids = model_test::random_ids(pick.below(most + 1), c.vocab_size,
                                 static_cast<unsigned>(pick.random()));
    logits = pick.of({LogitRows::last, LogitRows::last, LogitRows::all, LogitRows::none});
    Index tokens = 0;
    if (c.fusion && pick.below(2) == 0) {
      Index at = 0;
      for (Index i = 1 + pick.below(2); i > 0; --i) {
        at += pick.below(static_cast<Index>(ids.size()) - at + 1);
        insertions.push_back({at, pick.below(4)});
        tokens += insertions.back().num_tokens;
      }
    }
    images =
        model_test::random_matrix<T>(tokens, c.hidden_size, static_cast<unsigned>(pick.random()));
  }
  StreamInput<T> input(DecoderState<T>& state) const {
    return {&state, ids, insertions, images, {}, logits};
  }
};

// Whether two states hold the same numbers, keys and values.
template <class T>
bool same(const DecoderState<T>& a, const DecoderState<T>& b) {
  const auto keys_of = [](const AnyKvCache<T>& cache) {
    return std::visit(
        []<class S>(const KvCache<S>& c) {
          std::vector<T> values;
          for (Index h = 0; h < c.num_kv_heads(); ++h)
            for (Index t = 0; t < c.size(); ++t)
              for (Index i = 0; i < c.head_dim(); ++i) {
                values.push_back(static_cast<T>(widen(c.key(h, t)[i])));
                values.push_back(static_cast<T>(widen(c.value(h, t)[i])));
              }
          return values;
        },
        cache);
  };
  using Archive = StateArchive<T>;
  const auto of_a = Archive::caches(a), of_b = Archive::caches(b);
  bool equal = Archive::numbers(a) == Archive::numbers(b) && of_a.size() == of_b.size();
  for (std::size_t layer = 0; equal && layer < of_a.size(); ++layer)
    equal = keys_of(of_a[layer].self) == keys_of(of_b[layer].self) &&
            keys_of(of_a[layer].fusion) == keys_of(of_b[layer].fusion);
  return equal;
}

// Streams with pasts of their own go on together, three times; copies of them go on alone.
template <class T>
void check_streams(unsigned seed, Index& compared) {
  CAPTURE(seed);
  Choices pick{std::mt19937(seed)};
  const DecoderConfig config = random_config(pick);
  const auto model = random_decoder<T>(config, seed);
  ThreadPool pool(pick.of<Index>({1, 3}));
  const Context context{.executor = pool};
  std::vector<DecoderState<T>> together, alone;
  for (Index s = pick.of<Index>({1, 2, 5, 9}); s > 0; --s) {
    StateOptions options;
    if constexpr (std::is_same_v<T, float>)
      options.cache = pick.of({CacheType::native, CacheType::native, CacheType::bfloat16});
    if (pick.below(3) == 0 && (!config.fusion || config.fusion->is_bounded())) {
      options.text_window = 6;
      options.sinks = 2;
    }
    DecoderState<T> state = model.new_state(options);
    if (pick.below(4) > 0) {
      const RandomChunk<T> past(config, 20, pick);
      StreamInput<T> input = past.input(state);
      input.logits = LogitRows::none;
      model.forward(input, {}, context);
    }
    together.push_back(state);
    alone.push_back(state);
  }
  for (int pass = 0; pass < 3; ++pass) {
    CAPTURE(pass);
    std::vector<RandomChunk<T>> chunks;
    for (std::size_t s = 0; s < together.size(); ++s)
      chunks.emplace_back(config, pick.of<Index>({1, 1, 1, 4}), pick);
    std::vector<StreamInput<T>> inputs;
    Index rows = 0;
    for (std::size_t s = 0; s < together.size(); ++s) {
      inputs.push_back(chunks[s].input(together[s]));
      rows += inputs.back().logit_rows();
    }
    Matrix<T> logits(rows, config.vocab_size);
    model.forward(inputs, logits, context);
    Index row = 0;
    for (std::size_t s = 0; s < together.size(); ++s) {
      CAPTURE(s);
      const StreamInput<T> input = chunks[s].input(alone[s]);
      Matrix<T> expected(input.logit_rows(), config.vocab_size);
      model.forward(input, expected, context);
      const auto got = logits.view().middle_rows(row, expected.rows());
      row += expected.rows();
      REQUIRE(together[s].text_len() == alone[s].text_len());
      REQUIRE(together[s].fusion_tokens() == alone[s].fusion_tokens());
      if (expected.rows() == 0) continue;
      ++compared;
      REQUIRE(casa_test::same_bits(got.data(), expected.data(), expected.size()));
    }
  }
}

}  // namespace

TEST_CASE("streams that go together give the bits that each gives alone") {
  Index compared = 0;
  for (unsigned seed = 1; seed <= 150; ++seed) check_streams<double>(seed, compared);
  for (unsigned seed = 151; seed <= 300; ++seed) check_streams<float>(seed, compared);
  CHECK(compared > 1000);
}

// (Products of one row and of many are other kernels, and deep ones are cut into blocks.)
TEST_CASE("at the width of a real model, too, whatever the weights are stored as") {
  DecoderConfig config = model_test::small_config(1);
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_attention_heads = 9;
  config.num_key_value_heads = 3;
  config.head_dim = 64;
  model_test::RandomWeights weights(4);
  for (const WeightType type :
       {WeightType::native, WeightType::bfloat16, WeightType::half, WeightType::int8}) {
    CAPTURE(static_cast<int>(type));
    const Decoder<float> model(config, weights.source(), type);
    const Context context;
    for (const std::size_t count : {2u, 9u, 17u, 40u}) {
      CAPTURE(count);
      std::vector<DecoderState<float>> together(count, model.new_state()), alone;
      std::vector<int> next;
      for (std::size_t s = 0; s < count; ++s) {
        const auto past = model_test::random_ids(static_cast<Index>(1 + s), config.vocab_size,
                                                 static_cast<unsigned>(s));
        model.forward({&together[s], past, {}, {}, {}, LogitRows::none}, {}, context);
        next.push_back(past[0]);
      }
      alone = together;
      std::vector<StreamInput<float>> inputs;
      for (std::size_t s = 0; s < count; ++s) inputs.push_back({&together[s], {&next[s], 1}});
      Matrix<float> logits(static_cast<Index>(count), config.vocab_size);
      Matrix<float> expected(1, config.vocab_size);
      model.forward(inputs, logits, context);
      for (std::size_t s = 0; s < count; ++s) {
        CAPTURE(s);
        model.forward({&alone[s], {&next[s], 1}}, expected, context);
        REQUIRE(casa_test::same_bits(logits.row(static_cast<Index>(s)), expected.data(),
                                     config.vocab_size));
      }
    }
  }
}

TEST_CASE("an error in one stream leaves all as they were") {
  Index thrown = 0;
  for (unsigned seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    Choices pick{std::mt19937(seed)};
    const DecoderConfig config = random_config(pick);
    const auto model = random_decoder<float>(config, seed);
    const Context context;
    std::vector<DecoderState<float>> states;
    std::vector<RandomChunk<float>> chunks;
    for (std::size_t s = 0; s < 4; ++s) {
      states.push_back(model.new_state({.text_window = 0}));
      chunks.emplace_back(config, 6, pick);
      StreamInput<float> past = chunks[s].input(states[s]);
      past.logits = LogitRows::none;
      model.forward(past, {}, context);
    }
    const std::vector<DecoderState<float>> before = states;
    std::vector<StreamInput<float>> inputs;
    Index rows = 0;
    chunks.clear();
    for (std::size_t s = 0; s < 4; ++s) chunks.emplace_back(config, 3, pick);
    for (std::size_t s = 0; s < 4; ++s) {
      inputs.push_back(chunks[s].input(states[s]));
      rows += inputs[s].logit_rows();
    }
    Matrix<float> logits(rows, config.vocab_size);
    const auto unchanged = [&] {
      for (std::size_t s = 0; s < 4; ++s)
        if (!same(states[s], before[s])) return false;
      return true;
    };

    const std::size_t bad = static_cast<std::size_t>(pick.below(4));
    std::vector<StreamInput<float>> wrong = inputs;
    const int beyond = static_cast<int>(config.vocab_size);
    wrong[bad].ids = {&beyond, 1};
    wrong[bad].logits = LogitRows::none;
    wrong[bad].insertions = {};
    wrong[bad].image_tokens = {};
    CHECK(message_of([&] { model.forward(wrong, logits, context); }) ==
          "forward: token id must be in [0, 31), got 31");
    CHECK(unchanged());
    wrong = inputs;
    wrong[3].state = wrong[bad % 3].state;
    CHECK(message_of([&] { model.forward(wrong, logits, context); }) ==
          text("forward: inputs ", bad % 3, " and 3 are the same stream"));
    CHECK(unchanged());

    // In the middle: when every sublayer in turn has been computed for all streams.
    for (int at = 0;; ++at) {
      CAPTURE(at);
      int seen = 0;
      const Trace<float> trace = [&](Index, const char*, MatrixView<const float>) {
        if (seen++ == at) throw error("enough");
      };
      const std::string message =
          message_of([&] { model.forward(inputs, logits, context, &trace); });
      if (message.empty()) break;
      ++thrown;
      REQUIRE(message == "enough");
      REQUIRE(unchanged());
    }
    CHECK_FALSE(unchanged());
  }
  CHECK(thrown > 300);
}

TEST_CASE("a warm step of several streams allocates nothing") {
  if (!casa_test::must_count()) return;
  DecoderConfig config = model_test::small_config(2);
  config.fusion = presets::casa_before({0, 1});
  const auto model = random_decoder<float>(config, 3);
  const auto image = model_test::random_matrix<float>(4, config.hidden_size, 3);
  const Context context;
  std::vector<DecoderState<float>> states;
  for (const CacheType type : {CacheType::native, CacheType::native, CacheType::bfloat16,
                               CacheType::half, CacheType::half})
    states.push_back(model.new_state({.cache = type, .text_window = 16}));
  const std::vector<int> ids{1, 2, 3};
  const Insertion insertion{1, 4};
  std::vector<StreamInput<float>> inputs;
  // (An image in each chunk, or the window without images would grow for ever.)
  for (auto& state : states)
    inputs.push_back({&state, {ids.data(), 1}, {&insertion, 1}, image, {}, LogitRows::last});
  inputs[3].ids = ids;
  Matrix<float> logits(5, config.vocab_size);
  for (int i = 0; i < 60; ++i) model.forward(inputs, logits, context);
  const auto before = casa_test::allocation_count();
  for (int i = 0; i < 60; ++i) model.forward(inputs, logits, context);
  CHECK(casa_test::allocation_count() == before);
}
