#include "casa/model/decoder.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "random_model.hpp"
#include "support/allocations.hpp"
#include "support/difference.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using casa_test::same_bits;
using model_test::random_decoder;
using model_test::RandomWeights;

namespace {

const std::vector<Insertion> kInsertions{{0, 3}, {4, 2}, {4, 1}, {7, 0}, {9, 4}, {12, 2}};
constexpr Index kText = 12, kImages = 12;

// Points of the design space that together touch every value of every axis.
std::vector<FusionConfig> design_space(Index layers) {
  const auto all = model_test::all_layers(layers);
  std::vector<FusionConfig> space{
      presets::casa(all),        presets::casa_before(all),     presets::casa_replace(all),
      presets::casa_shared(all), presets::cross_attention(all), presets::token_insertion(all)};
  for (const Keys keys : {Keys::image, Keys::image_text}) {
    for (const ImageUpdate update :
         {ImageUpdate::none, ImageUpdate::ffn, ImageUpdate::attention_ffn}) {
      for (const History history :
           {History::window, History::last(2), History::every(2), History::all}) {
        FusionConfig f = presets::casa({0});
        f.keys = keys;
        f.update = update;
        f.history = history;
        f.gate = Gate::tanh;
        f.image_rope = update == ImageUpdate::none  ? ImageRope::consecutive
                       : update == ImageUpdate::ffn ? ImageRope::none
                                                    : ImageRope::off;
        space.push_back(f);
      }
    }
  }
  for (const Keys keys : {Keys::image, Keys::image_text}) {
    FusionConfig f = presets::mplug_owl3_gated({0, 1});
    f.keys = keys;
    f.norm = keys == Keys::image ? Sharing::own : Sharing::shared;
    f.update = keys == Keys::image ? ImageUpdate::ffn : ImageUpdate::none;
    space.push_back(f);
  }
  return space;
}

template <class T>
Matrix<T> rows_of(const Matrix<T>& m, Index begin, Index end) {
  Matrix<T> part(end - begin, m.cols());
  std::copy_n(m.row(begin), part.size(), part.data());
  return part;
}

// A point of the design space: a model, a stream, its logits, and how far from them others may be.
struct Point {
  Decoder<double> model;
  std::vector<int> ids;
  Matrix<double> images, whole;
  double bound;
};

Point random_point(const FusionConfig& fusion, unsigned seed) {
  auto config = model_test::small_config();
  config.fusion = fusion;
  Point p{
      random_decoder<double>(config, seed), model_test::random_ids(kText, config.vocab_size, seed),
      model_test::random_matrix<double>(kImages, config.hidden_size, seed), Matrix<double>(), 0};
  p.whole = p.model.logits(p.ids, kInsertions, p.images);
  p.bound = 1e-11 * casa_test::largest(p.whole.eigen());
  return p;
}

// Feeds the stream cut behind text tokens where bit i of `cuts` is set.
Matrix<double> in_chunks(const Decoder<double>& model, const std::vector<int>& ids,
                         const Matrix<double>& images, unsigned cuts) {
  auto state = model.new_state();
  Matrix<double> logits(kText, model.config().vocab_size);
  const Context context;
  Index begin = 0, image = 0;
  std::size_t next = 0;
  for (Index i = 0; i < kText; ++i) {
    if (i + 1 < kText && !(cuts >> i & 1)) continue;
    const Index end = i + 1;
    std::vector<Insertion> insertions;
    Index count = 0;
    // What stands at the cut goes behind this chunk or before the next one: both ways are taken.
    while (next < kInsertions.size() &&
           (kInsertions[next].position < end ||
            (kInsertions[next].position == end && (i % 2 == 0 || end == kText)))) {
      insertions.push_back({kInsertions[next].position - begin, kInsertions[next].num_tokens});
      count += kInsertions[next++].num_tokens;
    }
    StreamInput<double> input{&state,
                              std::span(ids).subspan(static_cast<std::size_t>(begin),
                                                     static_cast<std::size_t>(end - begin)),
                              insertions, images.view().middle_rows(image, count)};
    input.logits = LogitRows::all;
    model.forward(input, logits.view().middle_rows(begin, end - begin), context);
    begin = end;
    image += count;
  }
  return logits;
}

double distance(const Matrix<double>& a, const Matrix<double>& b) {
  return casa_test::largest_difference(a.eigen(), b.eigen());
}

}  // namespace

TEST_CASE("every point of the design space: the fast path computes what the definitions compute") {
  constexpr Index layers = 2;
  unsigned seed = 0;
  for (const FusionConfig& fusion : design_space(layers)) {
    CAPTURE(++seed);
    auto config = model_test::small_config(layers);
    config.fusion = fusion;
    const auto model = random_decoder<double>(config, seed);
    const auto ids = model_test::random_ids(kText, config.vocab_size, seed);
    const auto images = model_test::random_matrix<double>(kImages, config.hidden_size, seed);
    Context naive;
    naive.path = Path::naive;
    const auto reference = model.logits(ids, kInsertions, images, naive);
    const auto fast = model.logits(ids, kInsertions, images);
    CHECK(distance(fast, reference) <= 1e-11 * casa_test::largest(reference.eigen()));
  }
}

TEST_CASE("a stream is the same however it is cut") {
  unsigned seed = 0;
  for (const FusionConfig& fusion : design_space(2)) {
    CAPTURE(++seed);
    const auto [model, ids, images, whole, bound] = random_point(fusion, seed);
    // All 2^11 compositions of the text for the first two points, every 37th for the others.
    for (unsigned cuts = 0; cuts < (1u << (kText - 1)); cuts += seed <= 2 ? 1 : 37) {
      CAPTURE(cuts);
      REQUIRE(distance(in_chunks(model, ids, images, cuts), whole) <= bound);
    }
  }
}

TEST_CASE("rows without logits are left out of the last block and change nothing else") {
  unsigned seed = 0;
  for (const FusionConfig& fusion : design_space(2)) {
    CAPTURE(++seed);
    const auto [model, ids, images, whole, bound] = random_point(fusion, seed);
    const Context context;

    // Three streams of the same ids, of which 12, 1 and 0 rows are asked for, in every order.
    std::array asked{LogitRows::none, LogitRows::last, LogitRows::all};
    do {
      std::vector<DecoderState<double>> states(3, model.new_state());
      std::vector<StreamInput<double>> inputs;
      for (std::size_t s = 0; s < 3; ++s)
        inputs.push_back({&states[s], ids, kInsertions, images, {}, asked[s]});
      Matrix<double> logits(kText + 1, whole.cols());
      model.forward(inputs, logits, context);
      Index row = 0;
      for (const auto& in : inputs) {
        const Index rows = in.logit_rows();
        if (rows > 0)
          CHECK(distance(rows_of(logits, row, row + rows), rows_of(whole, kText - rows, kText)) <=
                bound);
        row += rows;
      }
      // And all three go on alike.
      const std::vector<int> next{3, 1};
      Matrix<double> on(6, whole.cols());
      for (std::size_t s = 0; s < 3; ++s)
        inputs[s] = {&states[s], next, {}, {}, {}, LogitRows::all};
      model.forward(inputs, on, context);
      CHECK(distance(rows_of(on, 0, 2), rows_of(on, 2, 4)) <= bound);
      CHECK(distance(rows_of(on, 0, 2), rows_of(on, 4, 6)) <= bound);
    } while (std::ranges::next_permutation(asked).found);
  }
}

TEST_CASE("nothing leaks: what a row must not see does not touch its bits") {
  unsigned seed = 0;
  for (const FusionConfig& fusion : design_space(2)) {
    CAPTURE(++seed);
    auto config = model_test::small_config();
    config.fusion = fusion;
    const auto model = random_decoder<float>(config, seed);
    auto ids = model_test::random_ids(kText, config.vocab_size, seed);
    auto images = model_test::random_matrix<float>(kImages, config.hidden_size, seed);
    const auto before = model.logits(ids, kInsertions, images);

    // Image tokens 0..2 stand before row 0, 3..5 before row 4, 6..9 before row 9, 10 and 11 at the
    // end.
    auto later_image = images;
    for (Index j = 6; j < kImages; ++j) later_image.eigen().row(j).setConstant(5);
    const auto with_later = model.logits(ids, kInsertions, later_image);
    CHECK(same_bits(rows_of(with_later, 0, 9), rows_of(before, 0, 9)));
    CHECK_FALSE(same_bits(rows_of(with_later, 9, kText), rows_of(before, 9, kText)));

    auto later_text = ids;
    later_text[8] = (later_text[8] + 1) % static_cast<int>(config.vocab_size);
    const auto with_text = model.logits(later_text, kInsertions, images);
    CHECK(same_bits(rows_of(with_text, 0, 8), rows_of(before, 0, 8)));

    // One layer, window history, text of its own in self-attention alone: an earlier image reaches
    // the text of later windows in no way at all.
    auto one = model_test::small_config(1);
    one.fusion = fusion;
    one.fusion->layers = {0};
    if (!(fusion.history == History::window)) continue;
    const auto shallow = random_decoder<float>(one, seed);
    auto earlier_image = images;
    for (Index j = 0; j < 3; ++j) earlier_image.eigen().row(j).setConstant(5);
    const auto a = shallow.logits(ids, kInsertions, images);
    const auto b = shallow.logits(ids, kInsertions, earlier_image);
    if (fusion.placement != Placement::before)  // there the update goes on into self-attention
      CHECK(same_bits(rows_of(a, 4, kText), rows_of(b, 4, kText)));
    CHECK_FALSE(same_bits(rows_of(a, 0, 4), rows_of(b, 0, 4)));
  }
}

TEST_CASE("results do not depend on threads, nor on the streams that go together") {
  auto config = model_test::small_config(3);
  config.fusion = presets::casa_before({0, 2});
  const auto model = random_decoder<float>(config, 5);
  const auto ids = model_test::random_ids(kText, config.vocab_size, 5);
  const auto images = model_test::random_matrix<float>(kImages, config.hidden_size, 5);
  const auto alone = model.logits(ids, kInsertions, images);
  for (const Index threads : {1, 2, 3, 4, 7}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    const Context context{.executor = pool};
    for (const std::size_t batch : {1u, 2u, 5u}) {
      CAPTURE(batch);
      std::vector<DecoderState<float>> states(batch, model.new_state());
      std::vector<std::vector<int>> texts;
      std::vector<StreamInput<float>> inputs;
      for (std::size_t s = 0; s < batch; ++s)
        texts.push_back(s + 1 == batch ? ids
                                       : model_test::random_ids(3 + static_cast<Index>(s),
                                                                config.vocab_size, 9));
      for (std::size_t s = 0; s < batch; ++s) {
        StreamInput<float> input{&states[s], texts[s]};
        if (s + 1 == batch) {
          input.insertions = kInsertions;
          input.image_tokens = images;
          input.logits = LogitRows::all;
        }
        inputs.push_back(input);
      }
      Matrix<float> logits(static_cast<Index>(batch) - 1 + kText, config.vocab_size);
      model.forward(inputs, logits, context);
      const auto last = static_cast<Index>(batch) - 1;
      CHECK(same_bits(rows_of(logits, last, last + kText), alone));
    }
  }
}

TEST_CASE("a decode step allocates nothing once warm") {
  if (!casa_test::must_count()) return;
  model_test::FrameReader reader;
  const auto before = casa_test::allocation_count();
  for (int i = 0; i < 50; ++i) reader.read_frame();
  CHECK(casa_test::allocation_count() == before);
}

TEST_CASE("what is wrong is named, and the stream is as it was") {
  auto config = model_test::small_config();
  config.fusion = presets::casa({0});
  const auto model = random_decoder<double>(config, 4);
  const auto images = model_test::random_matrix<double>(4, config.hidden_size, 4);
  auto state = model.new_state(), fresh = model.new_state();
  Matrix<double> logits(1, config.vocab_size), expected(1, config.vocab_size);
  const Context context;
  const std::vector<int> ids{1, 2, 3}, too_large{1, 31}, negative{-1};
  const Insertion image{1, 4}, outside{4, 4}, less{1, 3};

  CHECK_THROWS_WITH_AS(model.forward({&state, too_large}, logits, context),
                       "forward: token id must be in [0, 31), got 31", error);
  CHECK_THROWS_AS(model.forward({&state, negative}, logits, context), error);
  CHECK_THROWS_WITH_AS(model.forward({&state, ids, {&outside, 1}, images}, logits, context),
                       "forward: insertion position 4 must be in [0, 3]", error);
  CHECK_THROWS_WITH_AS(model.forward({&state, ids, {&less, 1}, images}, logits, context),
                       "forward: rows of image_tokens: expected 3, got 4", error);
  const ImageGrid grid{3, 2};
  CHECK_THROWS_AS(model.forward({&state, ids, {&image, 1}, images, {&grid, 1}}, logits, context),
                  error);
  CHECK_THROWS_AS(model.forward({nullptr, ids}, logits, context), error);
  const std::vector<StreamInput<double>> twice{{&state, ids}, {&state, ids}};
  Matrix<double> two(2, config.vocab_size), wide(1, config.vocab_size + 1);
  CHECK_THROWS_WITH_AS(model.forward(twice, two, context),
                       "forward: inputs 0 and 1 are the same stream", error);
  CHECK_THROWS_AS(model.forward({&state, ids}, two, context), error);
  CHECK_THROWS_AS(model.forward({&state, ids}, wide, context), error);

  // An exception in the middle of a pass: the trace throws after the first block has filled caches.
  const Trace<double> thrower = [](Index layer, const char*, MatrixView<const double>) {
    if (layer == 1) throw std::runtime_error("stop");
  };
  CHECK_THROWS_AS(model.forward({&state, ids, {&image, 1}, images}, logits, context, &thrower),
                  std::runtime_error);
  CHECK(state.text_len() == 0);
  CHECK(state.cache_bytes() == 0);
  model.forward({&state, ids, {&image, 1}, images}, logits, context);
  model.forward({&fresh, ids, {&image, 1}, images}, expected, context);
  CHECK(same_bits(logits, expected));

  auto plain = model_test::small_config();
  const auto text_only = random_decoder<double>(plain, 4);
  auto other = text_only.new_state();
  CHECK_THROWS_WITH_AS(text_only.forward({&other, ids, {&image, 1}, images}, logits, context),
                       "forward: images were given, but the model has no fusion", error);
}

TEST_CASE("a config out of range is named") {
  RandomWeights weights(1);
  const auto refuses = [&](auto change) {
    auto config = model_test::small_config();
    change(config);
    CHECK_THROWS_AS(Decoder<float>(config, weights.source()), error);
  };
  refuses([](DecoderConfig& c) { c.num_attention_heads = 0; });
  refuses([](DecoderConfig& c) { c.num_key_value_heads = 3; });
  refuses([](DecoderConfig& c) { c.head_dim = 7; });
  refuses([](DecoderConfig& c) { c.hidden_size = Index{1} << 40; });
  refuses([](DecoderConfig& c) { c.rms_norm_eps = 0; });
  refuses([](DecoderConfig& c) { c.fusion = presets::casa({0, 0}); });
  refuses([](DecoderConfig& c) { c.fusion = presets::casa({2}); });
}

TEST_CASE("a reset stream and a forked stream are as good as new") {
  auto config = model_test::small_config();
  config.fusion = presets::token_insertion({0, 1});
  const auto model = random_decoder<float>(config, 6);
  const auto images = model_test::random_matrix<float>(4, config.hidden_size, 6);
  const std::vector<int> ids{1, 2, 3, 4, 5};
  const Insertion image{2, 4};
  const Context context;
  Matrix<float> first(1, config.vocab_size), second(1, config.vocab_size);
  auto state = model.new_state();
  model.forward({&state, ids, {&image, 1}, images}, first, context);
  auto fork = state;
  state.reset();
  CHECK(state.cache_bytes() == 0);
  model.forward({&state, ids, {&image, 1}, images}, second, context);
  CHECK(same_bits(first, second));
  model.forward({&state, ids}, first, context);
  model.forward({&fork, ids}, second, context);
  CHECK(same_bits(first, second));
}
