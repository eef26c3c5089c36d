// What the functions of model/ demand, and that they say so and change nothing.
#include <doctest/doctest.h>

#include <vector>

#include "casa/model/add_fusion.hpp"
#include "casa/model/decoder.hpp"
#include "casa/model/fusion_layer.hpp"
#include "casa/model/image_placeholders.hpp"
#include "casa/model/sinks.hpp"
#include "casa/vision/patch_encoder.hpp"
#include "casa/vision/vision_tower.hpp"
#include "model/random_model.hpp"
#include "support/messages.hpp"
#include "support/naive_token_insertion.hpp"

using namespace casa;
using model_test::RandomWeights;

namespace {

DecoderConfig fused_config() {
  DecoderConfig c = model_test::small_config();
  c.fusion = presets::casa_before({0, 1});
  return c;
}

/// A source whose tensor `name` has another shape.
WeightSource with_wrong(RandomWeights& weights, std::string name, Index rows, Index cols) {
  return {[&weights, name, m = Matrix<float>(rows, cols)](const TensorSpec& spec) -> StoredView {
    if (spec.name == name) return m.view();
    return weights.get(spec).view();
  }};
}

}  // namespace

TEST_CASE("a source that gives another shape is refused, with the tensor's name") {
  const DecoderConfig c = fused_config();
  RandomWeights weights(1);
  const auto said = [&](const char* name, Index rows, Index cols) {
    const WeightSource source = with_wrong(weights, name, rows, cols);
    return message_of([&] { Decoder<float> d(c, source); });
  };
  CHECK(said("model.norm.weight", 1, 25) ==
        "weights: model.norm.weight: expected 1 x 24 values, got 1 x 25");
  CHECK(said("model.norm.weight", 24, 1) ==
        "weights: model.norm.weight: expected 1 x 24 values, got 24 x 1");
  CHECK(said("model.embed_tokens.weight", 30, 24) ==
        "weights: model.embed_tokens.weight: expected 31 x 24 values, got 30 x 24");
  CHECK(has(said("lm_head.weight", 31, 23), "lm_head.weight: expected 31 x 24"));
  CHECK(has(said("model.layers.1.self_attn.k_proj.weight", 24, 24), "expected 12 x 24"));
  CHECK(has(said("model.layers.1.self_attn.k_proj.bias", 1, 24), "expected 1 x 12"));
  CHECK(has(said("model.layers.0.fusion_attn.o_proj.weight", 24, 12), "expected 24 x 24"));
  CHECK(has(said("model.layers.0.mlp.up_proj.weight", 24, 24), "expected 40 x 24"));
}

TEST_CASE("weights of another size are refused, with the name of what is wrong") {
  const DecoderConfig c = fused_config();
  const Decoder<float> good = model_test::random_decoder<float>(c, 1);
  const auto said = [&](auto change) {
    DecoderWeights<float> w = good.weights();
    change(w);
    return message_of([&] { Decoder<float> d(c, std::move(w)); });
  };
  CHECK(said([](auto&) {}).empty());
  CHECK(said([](auto& w) { w.blocks.pop_back(); }) == "weights: blocks: expected 2, got 1");
  CHECK(said([](auto& w) { w.embed = {}; }) ==
        "weights: embed: expected 31 x 24 values, got 0 x 0");
  CHECK(said([](auto& w) { w.lm_head = {}; }) ==
        "weights: lm_head: expected 31 x 24 values, got 0 x 0");
  CHECK(said([](auto& w) { w.norm = Buffer<float>(23); }) ==
        "weights: values of norm: expected 24, got 23");
  CHECK(said([](auto& w) { w.blocks[1].input_norm = {}; }) ==
        "weights: block 1 input_norm: expected 24 values, got 0");
  CHECK(said([](auto& w) { w.blocks[0].post_attention_norm = Buffer<float>(25); }) ==
        "weights: block 0 post_attention_norm: expected 24 values, got 25");
  CHECK(has(said([](auto& w) { w.blocks[1].fusion_norm = {}; }), "block 1 fusion_norm"));
  CHECK(has(said([](auto& w) { w.blocks[1].fusion_attention = {}; }),
            "block 1 fusion_attention q, k, v: expected 48 x 24"));
  CHECK(has(said([](auto& w) { w.blocks[1].self_attention.o = {}; }), "block 1 self_attention o"));
  CHECK(has(said([](auto& w) { w.blocks[1].self_attention.qkv = w.blocks[1].self_attention.o; }),
            "block 1 self_attention q, k, v"));
  CHECK(has(said([](auto& w) { w.blocks[0].mlp = {}; }), "block 0 mlp gate, up: expected 80 x 24"));
  const Matrix<float> one = model_test::random_matrix<float>(48, 24, 1);  // q, k, v in one piece
  CHECK(has(said([&](auto& w) {
              w.blocks[0].self_attention.qkv = Linear<float>({one.view(), {}});
            }),
            "expected three pieces of 24, 12 and 12 outputs"));
  DecoderConfig tied = c;
  tied.tie_word_embeddings = true;
  DecoderWeights<float> w = good.weights();
  w.lm_head = {};
  CHECK_NOTHROW(Decoder<float>(tied, w));
  CHECK(message_of([&] {
          Decoder<float> d;
          d.new_state();
        }).empty());
}

TEST_CASE("a forward that cannot be leaves every stream as it was") {
  const Decoder<float> model = model_test::random_decoder<float>(fused_config(), 1);
  const Context context;
  DecoderState<float> state = model.new_state(), second = model.new_state();
  const std::vector<int> ids = {1, 2, 3};
  Matrix<float> logits(1, 31);
  model.forward({&state, ids}, logits, context);
  const Matrix<float> images = model_test::random_matrix<float>(4, 24, 1);
  const std::vector<Insertion> one = {{1, 4}};

  const auto said = [&](StreamInput<float> in, MatrixView<float> out) {
    const std::string message = message_of([&] { model.forward(in, out, context); });
    CHECK(!message.empty());
    CHECK(state.text_len() == 3);
    CHECK(state.image_len() == 0);
    CHECK(state.self_tokens() == 3);
    return message;
  };
  const std::vector<int> negative = {1, -1}, beyond = {31};
  CHECK(said({nullptr, ids}, logits) == "forward: input 0 has no state");
  CHECK(said({&state, negative}, logits) == "forward: token id must be in [0, 31), got -1");
  CHECK(said({&state, beyond}, logits) == "forward: token id must be in [0, 31), got 31");
  CHECK(said({&state, ids, one}, logits) == "forward: rows of image_tokens: expected 4, got 0");
  CHECK(said({&state, ids, {}, images}, logits) ==
        "forward: rows of image_tokens: expected 0, got 4");
  CHECK(has(said({&state, ids, one, {nullptr, 4, 24}}, logits), "forward: image_tokens: a view"));
  CHECK(has(said({&state, ids, one, {images.data(), 4, 24, 23}}, logits), "a stride of 23"));
  CHECK(said({&state, ids, one, {images.data(), 4, 23}}, logits) ==
        "forward: columns of image_tokens: expected 24, got 23");
  const std::vector<ImageGrid> other = {{2, 3}}, two = {{2, 2}, {2, 2}};
  CHECK(said({&state, ids, one, images, other}, logits) ==
        "forward: rows * cols of a grid: expected 4, got 6");
  CHECK(said({&state, ids, one, images, two}, logits) == "forward: 2 grids for 1 insertions");
  const std::vector<Insertion> behind = {{4, 4}}, torn = {{2, 2}, {1, 2}}, less = {{1, -4}};
  CHECK(has(said({&state, ids, behind, images}, logits), "insertion position 4 must be in [0, 3]"));
  CHECK(has(said({&state, ids, torn, images}, logits), "insertion position 1 must be in [2, 3]"));
  CHECK(has(said({&state, ids, less, images}, logits), "num_tokens must not be negative, got -4"));
  CHECK(said({&state, ids}, {}) == "forward: rows of logits: expected 1, got 0");
  CHECK(said({&state, ids}, {logits.data(), 1, 30}) ==
        "forward: columns of logits: expected 31, got 30");
  CHECK(has(said({&state, ids}, {nullptr, 1, 31}), "forward: logits: a view"));
  const StreamInput<float> twice[] = {{&state, ids}, {&state, ids}};
  Matrix<float> both(2, 31);
  CHECK(message_of([&] { model.forward(twice, both, context); }) ==
        "forward: inputs 0 and 1 are the same stream");
  const StreamInput<float> mixed[] = {{&second, ids}, {&state, beyond}};
  CHECK(!message_of([&] { model.forward(mixed, both, context); }).empty());
  CHECK(second.text_len() == 0);

  // A state of another model.
  DecoderConfig wide = fused_config();
  wide.head_dim = 8;
  const Decoder<float> wider = model_test::random_decoder<float>(wide, 1);
  DecoderState<float> foreign = wider.new_state();
  CHECK(foreign.num_kv_heads() == 2);
  CHECK(foreign.head_dim() == 8);
  CHECK(said({&foreign, ids}, logits) ==
        "forward: the state of input 0 has keys of 2 heads x 8, the model 2 x 6 (states are made "
        "by new_state of the same model)");
  DecoderState<float> empty;
  CHECK(has(said({&empty, ids}, logits), "has 0 blocks, the model 2"));

  // What is right goes on from where it was.
  DecoderState<float> fresh = model.new_state();
  Matrix<float> expected(1, 31);
  model.forward({&fresh, ids}, expected, context);
  model.forward({&fresh, ids, one, images}, expected, context);
  model.forward({&state, ids, one, images}, logits, context);
  CHECK(std::equal(logits.data(), logits.data() + 31, expected.data()));
}

TEST_CASE("options of a stream that fit no model are refused") {
  const Decoder<float> model = model_test::random_decoder<float>(fused_config(), 1);
  const auto said = [&](StateOptions o) { return message_of([&] { model.new_state(o); }); };
  constexpr Index most = std::numeric_limits<Index>::max();
  CHECK(has(said({.text_window = -1}), "must not be negative, got -1 and 4"));
  CHECK(has(said({.sinks = -1}), "must not be negative, got 0 and -1"));
  CHECK(has(said({.text_window = most, .sinks = 1}), "text_window + sinks: size overflows"));
  CHECK(has(said({.text_window = 8, .sinks = 4, .horizon = 12}), "horizon must exceed"));
  CHECK(has(said({.horizon = 12}), "horizon must exceed"));
  DecoderState<float> state = model.new_state();
  CHECK(has(message_of([&] { state.start_at(-1); }), "must not be negative"));
  const std::vector<int> ids = {1};
  Matrix<float> logits(1, 31);
  model.forward({&state, ids}, logits, {});
  CHECK(has(message_of([&] { state.start_at(5); }), "the stream has begun"));
  CHECK(state.text_len() == 1);
}

TEST_CASE("FusionLayer refuses weights and views that do not fit") {
  const auto weights = [](Index kv_outputs, Index norm) {
    const Matrix<float> q = model_test::random_matrix<float>(24, 24, 1),
                        kv = model_test::random_matrix<float>(kv_outputs, 24, 2);
    const LinearPiece pieces[] = {{q.view(), {}}, {kv.view(), {}}, {kv.view(), {}}};
    FusionLayerWeights<float> w;
    w.norm = Buffer<float>(norm);
    std::fill_n(w.norm.data(), norm, 1.0f);
    w.attention = {Linear<float>(pieces), Linear<float>({q.view(), {}})};
    return w;
  };
  FusionLayerConfig c{.hidden_size = 24, .shape = {4, 2, 6}};
  c.fusion.layers = {0};
  const FusionLayer<float> layer(c, weights(12, 24));
  CHECK(has(message_of([&] { FusionLayer<float> l(c, weights(18, 24)); }), "outputs of q, k, v"));
  CHECK(has(message_of([&] { FusionLayer<float> l(c, weights(12, 23)); }), "values of norm"));
  {
    const Matrix<float> all = model_test::random_matrix<float>(48, 24, 1);
    auto w = weights(12, 24);
    w.attention.qkv = Linear<float>({all.view(), {}});
    CHECK(has(message_of([&] { FusionLayer<float> l(c, std::move(w)); }), "three pieces"));
  }
  const std::vector<Insertion> images = {{1, 2}};
  const StreamLayout layout(3, images);
  const Matrix<float> x = model_test::random_matrix<float>(3, 24, 3),
                      y = model_test::random_matrix<float>(2, 24, 4);
  Matrix<float> out(3, 24);
  using View = MatrixView<const float>;
  const auto said = [&](View text, View image, MatrixView<float> to) {
    return message_of([&] { layer.forward(layout, text, image, to); });
  };
  CHECK(said(x, y, out).empty());
  CHECK(has(said(y, y, out), "FusionLayer: rows of x: expected 3, got 2"));
  CHECK(has(said(x, x, out), "FusionLayer: rows of y: expected 2, got 3"));
  CHECK(has(said(x, y, out.view().middle_rows(0, 2)), "FusionLayer: rows of out"));
  CHECK(has(said(x.view().middle_cols(0, 23), y, out), "FusionLayer: columns of x"));
  CHECK(has(said(x, y.view().middle_cols(0, 23), out), "FusionLayer: columns of y"));
  CHECK(has(said(x, y, out.view().middle_cols(0, 23)), "FusionLayer: columns of out"));
  CHECK(has(said({nullptr, 3, 24}, y, out), "FusionLayer: x: a view"));
  CHECK(has(said(x, {nullptr, 2, 24}, out), "FusionLayer: y: a view"));
  CHECK(has(said(x, y, {nullptr, 3, 24}), "FusionLayer: out: a view"));
}

TEST_CASE("encoders without weights, and grids and pixels that do not fit, are refused") {
  const Context context;
  Matrix<float> tokens(1, 8);
  const VisionTower<float> no_tower;
  VisionTower<float>::Scratch scratch;
  CHECK(message_of([&] { no_tower.encode({}, {}, {}, scratch, context); }) ==
        "vision tower: it was made without weights");
  const PatchEncoder<float> no_encoder;
  PatchEncoder<float>::Scratch small;
  CHECK(message_of([&] { no_encoder.encode({}, {}, small, context); }) ==
        "encode: the encoder was made without weights");

  VisionTowerConfig c;
  c.spatial_merge_size = 0;
  VisionOrder order;
  const std::vector<VisionGrid> grids = {{1, 2, 2}};
  CHECK(has(message_of([&] { order.assign(c, grids); }), "spatial_merge_size must be positive"));
  CHECK(has(message_of([&] { (void)num_patches(c, grids); }), "must be positive, got 0"));
  CHECK(has(message_of([&] { (void)num_tokens(c, grids[0]); }), "must be positive, got 0"));
  CHECK(has(message_of([&] { (void)merged_grid(c, grids[0]); }), "must be positive, got 0"));
  c.spatial_merge_size = 2;
  c.window_size = 1;
  CHECK(has(message_of([&] { order.assign(c, grids); }), "window_size must hold a token, got 1"));
  c.window_size = 112;
  for (const VisionGrid bad : {VisionGrid{0, 2, 2}, {1, 3, 2}, {1, 2, 0}, {1, -2, 2}})
    CHECK(has(message_of([&] { order.assign(c, {&bad, 1}); }), "vision grid 0"));

  RandomWeights weights(1);
  const PatchEncoderConfig config{.image_size = 4,
                                  .patch_size = 2,
                                  .hidden_size = 8,
                                  .num_hidden_layers = 1,
                                  .num_attention_heads = 2,
                                  .intermediate_size = 8,
                                  .out_hidden_size = 8};
  const PatchEncoder<float> encoder(config, weights.source());
  const std::vector<std::uint8_t> pixels(16);
  Matrix<float> four(4, 8);
  const auto encode = [&](MatrixView<const std::uint8_t> images, MatrixView<float> to) {
    return message_of([&] { encoder.encode(images, to, small, context); });
  };
  CHECK(encode({pixels.data(), 1, 16}, four).empty());
  CHECK(has(encode({pixels.data(), 1, 15}, four), "pixels of an image: expected 16, got 15"));
  CHECK(has(encode({pixels.data(), 1, 16}, tokens), "rows of tokens: expected 4, got 1"));
  CHECK(has(encode({pixels.data(), 1, 16}, four.view().middle_cols(0, 7)), "columns of tokens"));
  CHECK(has(encode({nullptr, 1, 16}, four), "encode: images: a view"));
  CHECK(has(encode({pixels.data(), 1, 16}, {nullptr, 4, 8}), "encode: tokens: a view"));
  CHECK(has(message_of([&] {
              PatchEncoder<float> e(config, with_wrong(weights, "vision.pos_embed", 3, 8));
            }),
            "weights: vision.pos_embed: expected 4 x 8 values, got 3 x 8"));
}

TEST_CASE("the rest of model/ refuses what does not fit") {
  AnyKvCache<float> cache = KvCache<float>(2, 3);
  Matrix<float> noted(4, 6);
  const Matrix<float> five = model_test::random_matrix<float>(2, 5, 1);
  CHECK(has(message_of([&] { detail::store_sink_keys<float>(cache, five, noted); }),
            "store_sink_keys: columns of k"));
  const std::vector<int> ids = {1, 9, 9, 2};
  const std::vector<ImageGrid> three = {{1, 3}}, none = {{0, 2}}, two = {{1, 2}, {1, 2}};
  const auto split = [&](std::span<const ImageGrid> grids) {
    return message_of([&] { (void)split_placeholders(ids, 9, grids); });
  };
  CHECK(has(split(three), "image 0 has 3 tokens, found 2"));
  CHECK(has(split(none), "image 0 has no tokens"));
  CHECK(has(split(two), "2 images are given, there are places for 1"));
  CHECK(has(split({}), "token 1 begins image 0, given are 0"));

  const DecoderConfig c = model_test::small_config(1);
  RandomWeights weights(1);
  const auto get = [&](const TensorSpec& s) {
    const Matrix<float>& m = weights.get(s);
    NaiveTokenInsertion::Dense d = m.eigen().cast<double>();
    return s.cols == 0 ? NaiveTokenInsertion::Dense(d.transpose()) : d;
  };
  const NaiveTokenInsertion naive(c, get);
  const NaiveTokenInsertion::Dense images = NaiveTokenInsertion::Dense::Zero(3, 24);
  const std::vector<Insertion> at_one = {{1, 3}}, too_many = {{1, 4}}, behind = {{5, 3}};
  const std::vector<int> beyond = {31};
  const auto logits = [&](std::span<const int> text, std::span<const Insertion> insertions) {
    return message_of([&] { (void)naive.logits(text, insertions, images); });
  };
  CHECK(logits(ids, at_one).empty());
  CHECK(has(logits(beyond, at_one), "token id must be in [0, 31), got 31"));
  CHECK(has(logits(ids, too_many), "rows of image_tokens: expected 4, got 3"));
  CHECK(has(logits(ids, behind), "insertion position 5"));
  CHECK(has(message_of([&] {
              NaiveTokenInsertion n(c, [&](const TensorSpec& s) {
                return s.name == "model.norm.weight" ? images : get(s);
              });
            }),
            "weights: model.norm.weight: expected 24 x 1 values, got 3 x 24"));
}
