#include "casa/model/fusion_layer.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstring>

#include "golden_layer.hpp"
#include "random_model.hpp"
#include "stream/random_stream.hpp"
#include "support/allocations.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

/// A layer of random weights of sizes that `random` picks.
template <class T>
FusionLayer<T> random_layer(FusionConfig fusion, RopeConfig rope, std::mt19937& random) {
  const auto one_of = [&](std::initializer_list<Index> values) {
    return values.begin()[random() % values.size()];
  };
  FusionLayerConfig config;
  config.hidden_size = one_of({7, 16, 24});
  const Index kv_heads = one_of({1, 2});
  config.shape = {kv_heads * one_of({1, 2, 3}), kv_heads, one_of({6, 18})};
  if (!rope.mrope_sections.empty()) config.shape.head_dim = 6;
  config.rope = std::move(rope);
  config.fusion = std::move(fusion);
  model_test::RandomWeights weights(static_cast<unsigned>(random()));
  const WeightSource source = weights.source();
  WeightReader<T> read(source, WeightType::native);
  FusionLayerWeights<T> w;
  w.norm = read.vector({"norm", config.hidden_size, 0});
  w.attention =
      read.attention(attention_spec("attention", config.hidden_size, config.shape, true, true));
  w.gate = T(0.7);
  return {config, std::move(w)};
}

/// The updates of a stream that comes in pieces: images one by one, each with its grid if there are
/// grids, text in pieces of up to `longest` tokens.
template <class T>
Matrix<T> in_pieces(const FusionLayer<T>& fusion, FusionLayerState<T>& state,
                    std::span<const Insertion> insertions, std::span<const ImageGrid> grids,
                    MatrixView<const T> x, MatrixView<const T> y, Index longest,
                    std::mt19937& random, const Context& context) {
  Matrix<T> out(x.rows(), x.cols());
  Index text = 0, image = 0;
  const auto text_to = [&](Index end) {
    while (text < end) {
      const Index count =
          (std::min)(end - text, std::uniform_int_distribution<Index>(1, longest)(random));
      fusion.append_text(state, x.middle_rows(text, count), out.view().middle_rows(text, count),
                         context);
      text += count;
    }
  };
  for (std::size_t i = 0; i < insertions.size(); ++i) {
    text_to(insertions[i].position);
    const auto grid = grids.empty() ? std::nullopt : std::optional(grids[i]);
    fusion.append_image(state, y.middle_rows(image, insertions[i].num_tokens), context, grid);
    image += insertions[i].num_tokens;
  }
  text_to(x.rows());
  return out;
}

template <class A, class B>
double largest_difference(const A& a, const B& b) {
  return a.size() == 0 ? 0 : static_cast<double>((a.eigen() - b.eigen()).cwiseAbs().maxCoeff());
}

}  // namespace

TEST_CASE_TEMPLATE("fusion layers give the reference's updates", T, float, double) {
  golden::Tally tally("layer", golden::case_files("layer").size());
  for (const golden::Case& c : golden::cases("layer")) {
    CAPTURE(c.name);
    tally.ran();
    const FusionLayer<T> fusion = golden::fusion_layer<T>(c);
    const auto x = c.matrix<T>("x"), y = c.matrix<T>("y");
    const auto insertions = golden::insertions(c.description().at("insertions"));
    const StreamLayout layout(x.rows(), insertions);
    Matrix<T> fast(x.rows(), x.cols()), naive(x.rows(), x.cols());
    fusion.forward(layout, x, y, fast);
    Context context;
    context.path = Path::naive;
    fusion.forward(layout, x, y, naive, context);
    golden::check_close(fast, naive, c.matrix<double>("out"));
  }
  tally.check_all();
}

TEST_CASE("windows do not know of each other: in another order they give the same rows") {
  golden::Tally tally("layer with positions that are off", golden::case_files("layer").size());
  for (const golden::Case& c : golden::cases("layer")) {
    const auto d = c.description();
    if (d.at("image_rope").as_string() != "off") continue;  // else positions follow the order
    CAPTURE(c.name);
    const FusionLayer<double> fusion = golden::fusion_layer<double>(c);
    const auto x = c.matrix<double>("x"), y = c.matrix<double>("y");
    const auto insertions = golden::insertions(d.at("insertions"));
    const StreamLayout layout(x.rows(), insertions);
    Matrix<double> out(x.rows(), x.cols());
    fusion.forward(layout, x, y, out);

    // The windows that an image begins, last first; what stands before the first image stays.
    Matrix<double> x2(x.rows(), x.cols()), y2(y.rows(), y.cols()), expected(x.rows(), x.cols());
    StreamLayout turned;
    Index text = 0, image = 0;
    const auto take = [&](const Window& w, bool begins) {
      if (begins) turned.append_image(w.image.size());
      turned.append_text(w.text.size());
      for (Index i = w.text.begin; i < w.text.end; ++i, ++text) {
        x2.eigen().row(text) = x.eigen().row(i);
        expected.eigen().row(text) = out.eigen().row(i);
      }
      for (Index j = w.image.begin; j < w.image.end; ++j)
        y2.eigen().row(image++) = y.eigen().row(j);
    };
    const auto windows = layout.windows();
    // A window without text would join the next one's image: such streams keep their order.
    if (std::ranges::any_of(windows.subspan(1), [](const Window& w) { return w.text.size() == 0; }))
      continue;
    take(windows[0], false);
    for (std::size_t w = windows.size(); w-- > 1;) take(windows[w], true);
    fusion.forward(turned, x2, y2, out);
    CHECK(golden::distance(out, expected) <= 1e-12);
    if (windows.size() > 2) tally.ran();
  }
  tally.check_some();
}

TEST_CASE("a fusion layer says which shape does not fit") {
  const golden::Case first(golden::repository_root() / "layer" / "casa_bias.safetensors");
  const auto fusion = golden::fusion_layer<double>(first);
  const Index hidden = fusion.config().hidden_size;
  Matrix<double> x(3, hidden), y(2, hidden), out(3, hidden), wide(3, hidden + 1);
  x.fill(0);
  y.fill(0);
  const Insertion image{1, 2};
  const StreamLayout layout(3, {&image, 1}), longer(4, {&image, 1}), bare(3);
  CHECK_NOTHROW(fusion.forward(layout, x, y, out));
  CHECK_THROWS_WITH_AS(fusion.forward(longer, x, y, out),
                       "FusionLayer: rows of x: expected 4, got 3", error);
  CHECK_THROWS_WITH_AS(fusion.forward(bare, x, y, out), "FusionLayer: rows of y: expected 0, got 2",
                       error);
  CHECK_THROWS_AS(fusion.forward(layout, x, y, wide), error);
}

TEST_CASE("with M-RoPE a fusion layer stands images where their grids say, as a decoder does") {
  for (const ImageRope rope : {ImageRope::window_start, ImageRope::stream, ImageRope::consecutive,
                               ImageRope::none, ImageRope::off}) {
    CAPTURE(static_cast<int>(rope));
    DecoderConfig c = model_test::small_config(1);
    c.rope.mrope_sections = {1, 1, 1};
    c.fusion = presets::casa_before({0});
    c.fusion->image_rope = rope;
    model_test::RandomWeights weights(3);
    const Decoder<double> decoder(c, weights.source());

    FusionLayerConfig config{c.hidden_size, c.attention_shape(), c.rms_norm_eps, c.rope, *c.fusion};
    const WeightSource source = weights.source();
    WeightReader<double> read(source, WeightType::native);
    FusionLayerWeights<double> w;
    const BlockSpec block = decoder_spec(c).blocks[0];
    w.norm = read.vector(*block.fusion_norm);
    w.attention = read.attention(*block.fusion_attention);
    const FusionLayer<double> fusion(config, std::move(w));

    const auto ids = model_test::random_ids(7, c.vocab_size, 3);
    const std::vector<Insertion> insertions{{1, 6}, {1, 4}, {4, 6}, {4, 2}, {7, 1}};
    const std::vector<ImageGrid> grids{{2, 3}, {2, 2}, {3, 2}, {0, 0}, {1, 1}};
    const auto y = model_test::random_matrix<double>(19, c.hidden_size, 3);
    Matrix<double> x, expected;
    const Trace<double> trace = [&](Index, const std::string& sublayer,
                                    MatrixView<const double> h) {
      if (sublayer != "embed" && sublayer != "fusion") return;
      Matrix<double>& kept = sublayer == "embed" ? x : expected;
      kept = Matrix<double>(h.rows(), h.cols());
      kept.eigen() = h.eigen();
    };
    auto state = decoder.new_state();
    Matrix<double> logits(7, c.vocab_size), out(7, c.hidden_size), plain(7, c.hidden_size);
    decoder.forward({&state, ids, insertions, y, grids, LogitRows::all}, logits, {}, &trace);
    const StreamLayout layout(7, insertions);
    fusion.forward(layout, x, y, out, {}, grids);
    CHECK((x.eigen() + out.eigen() - expected.eigen()).cwiseAbs().maxCoeff() <= 1e-12);

    // Without grids neither guesses: images are plain sequences only where that is said.
    const std::vector<ImageGrid> sequences(3);  // one a window
    fusion.forward(layout, x, y, plain, {}, sequences);
    const bool matters = reads_grids(rope);
    CHECK(((plain.eigen() - out.eigen()).cwiseAbs().maxCoeff() > 1e-6) == matters);
    auto fresh = decoder.new_state();
    if (matters) {
      CHECK_THROWS_AS(fusion.forward(layout, x, y, out), error);
      CHECK_THROWS_AS(decoder.forward({&fresh, ids, insertions, y}, logits, {}), error);
    } else {
      CHECK_NOTHROW(fusion.forward(layout, x, y, out));
    }
    for (const auto& bad : std::vector<std::vector<ImageGrid>>{
             {{2, 3}, {2, 2}, {3, 2}, {0, 0}},                  // the last image has none
             {{2, 3}, {2, 2}, {3, 2}, {0, 0}, {1, 1}, {1, 1}},  // one too many
             {{2, 3}, {2, 3}, {3, 2}, {0, 0}, {1, 1}},          // over the window's end
             {{2, 3}, {2, 2}, {-3, -2}, {0, 0}, {1, 1}},
             {{2, 3}, {2, 2}, {0, 5}, {0, 0}, {1, 1}},
             {{Index{1} << 40, Index{1} << 40}}})
      CHECK_THROWS_AS(fusion.forward(layout, x, y, out, {}, bad), error);
  }
}

TEST_CASE_TEMPLATE("a stream in pieces gets the updates of the whole stream", T, float, double) {
  std::mt19937 random(11);
  const double tolerance = std::is_same_v<T, double> ? 1e-12 : 2e-5;
  Index window_starts = 0, forgotten = 0;
  for (const Keys keys : {Keys::image, Keys::image_text})
    for (const History history :
         {History::window, History::last(2), History::every(2), History::all})
      for (const Gate gate : {Gate::none, Gate::tanh})
        for (const ImageRope image_rope : {ImageRope::off, ImageRope::none, ImageRope::window_start,
                                           ImageRope::consecutive, ImageRope::stream})
          for (const bool mrope : {false, true}) {
            FusionConfig f;
            f.keys = keys;
            f.history = history;
            f.gate = gate;
            f.image_rope = image_rope;
            RopeConfig rope;
            if (mrope) rope.mrope_sections = {1, 1, 1};
            const FusionLayer<T> fusion = random_layer<T>(f, rope, random);
            const Index hidden = fusion.config().hidden_size;
            const Context context;
            for (int round = 0; round < 4; ++round) {
              const auto stream = stream_test::random_stream(random, 14);
              const StreamLayout layout(stream.text_len, stream.insertions);
              std::vector<ImageGrid> of_each, of_tokens;  // of_tokens: of images that have some
              for (const Insertion& i : stream.insertions) {
                const Index n = i.num_tokens;
                of_each.push_back(n == 4   ? ImageGrid{2, 2}
                                  : n == 0 ? ImageGrid{}
                                           : ImageGrid{n, 1});
                if (n > 0) of_tokens.push_back(of_each.back());
              }
              const auto x = model_test::random_matrix<T>(stream.text_len, hidden, 1);
              const auto y = model_test::random_matrix<T>(layout.image_len(), hidden, 2);
              Matrix<T> whole(stream.text_len, hidden);
              fusion.forward(layout, x, y, whole, context, of_tokens);
              for (const Index longest : {1, 3, 14}) {
                CAPTURE(static_cast<int>(keys));
                CAPTURE(history.count);
                CAPTURE(static_cast<int>(image_rope));
                CAPTURE(longest);
                auto state = fusion.new_state();
                const Matrix<T> out =
                    in_pieces<T>(fusion, state, stream.insertions,
                                 of_tokens.empty() ? std::span<const ImageGrid>{} : of_each, x, y,
                                 longest, random, context);
                CHECK(largest_difference(out, whole) <= tolerance);
                CHECK(state.text_len() == layout.text_len());
                CHECK(state.image_len() == layout.image_len());
                Index images = 0, texts = 0;  // of the windows that are kept
                const Index newest = std::ssize(layout.windows()) - 1;
                for (Index w = 0; w <= newest; ++w) {
                  const bool kept = history == History::all       ? true
                                    : history == History::window  ? w == newest
                                    : history == History::last(2) ? w + 2 > newest
                                                                  : w == newest || w % 2 == 1;
                  images += kept ? layout.window(w).image.size() : 0;
                  texts += kept ? layout.window(w).text.size() : 0;
                }
                const Index held = images + (keys == Keys::image_text ? texts : 0);
                CHECK(state.num_keys() == held);
                CHECK(state.cache_bytes() == held * 2 * fusion.config().shape.num_kv_heads *
                                                 fusion.config().shape.head_dim *
                                                 static_cast<Index>(sizeof(T)));
                forgotten += layout.image_len() - images;
                // Used again, it is as new.
                state.reset();
                CHECK(state.num_keys() == 0);
                const Matrix<T> again =
                    in_pieces<T>(fusion, state, stream.insertions,
                                 of_tokens.empty() ? std::span<const ImageGrid>{} : of_each, x, y,
                                 2, random, context);
                CHECK(largest_difference(again, whole) <= tolerance);
              }
              window_starts += std::ssize(layout.windows()) - 1;
            }
          }
  CHECK(window_starts > 100);
  CHECK(forgotten > 100);
}

TEST_CASE("in pieces fusion layers give the reference's updates") {
  golden::Tally tally("layer, in pieces", golden::case_files("layer").size());
  std::mt19937 random(5);
  for (const golden::Case& c : golden::cases("layer")) {
    CAPTURE(c.name);
    tally.ran();
    const FusionLayer<double> fusion = golden::fusion_layer<double>(c);
    const auto x = c.matrix<double>("x"), y = c.matrix<double>("y");
    const auto expected = c.matrix<double>("out");
    auto state = fusion.new_state();
    const auto out =
        in_pieces<double>(fusion, state, golden::insertions(c.description().at("insertions")), {},
                          x, y, 3, random, {});
    CHECK(largest_difference(out, expected) <= 1e-10);
  }
  tally.check_all();
}

TEST_CASE("a copied state goes on by itself, and 16-bit keys are near the others") {
  std::mt19937 random(3);
  const FusionLayer<float> fusion = random_layer<float>({}, {}, random);
  const Index hidden = fusion.config().hidden_size;
  const auto y = model_test::random_matrix<float>(5, hidden, 1);
  const auto x = model_test::random_matrix<float>(9, hidden, 2);
  const StreamLayout layout(9, std::vector<Insertion>{{0, 5}});
  Matrix<float> whole(9, hidden), half_out(9, hidden), out(9, hidden);
  fusion.forward(layout, x, y, whole);
  auto state = fusion.new_state();
  fusion.append_image(state, y);
  fusion.append_text(state, x.view().middle_rows(0, 4), out.view().middle_rows(0, 4));
  auto copy = state;
  fusion.append_image(copy, y);  // the copy looks at another frame
  fusion.append_text(state, x.view().middle_rows(4, 5), out.view().middle_rows(4, 5));
  CHECK(largest_difference(out, whole) <= 2e-5);

  for (const CacheType type : {CacheType::bfloat16, CacheType::half}) {
    auto narrow = fusion.new_state(type);
    fusion.append_image(narrow, y);
    fusion.append_text(narrow, x, half_out);
    CHECK(largest_difference(half_out, whole) <= 0.05);
    CHECK(largest_difference(half_out, whole) > 0);
    CHECK(narrow.cache_bytes() == state.cache_bytes() / 2);
  }
  CHECK_THROWS_AS(random_layer<double>({}, {}, random).new_state(CacheType::half), error);
}

TEST_CASE("with dynamic scaling pieces agree with the whole stream up to the trained length") {
  std::mt19937 random(9);
  RopeConfig rope;
  rope.scaling = DynamicScaling{.factor = 2, .max_position_embeddings = 16};
  const FusionLayer<double> fusion = random_layer<double>({}, rope, random);
  const Index hidden = fusion.config().hidden_size;
  for (const Index length : {16, 40}) {
    const auto x = model_test::random_matrix<double>(length, hidden, 1);
    const auto y = model_test::random_matrix<double>(3, hidden, 2);
    const std::vector<Insertion> insertions{{2, 3}};
    Matrix<double> whole(length, hidden);
    fusion.forward(StreamLayout(length, insertions), x, y, whole);
    auto state = fusion.new_state();
    const auto out = in_pieces<double>(fusion, state, insertions, {}, x, y, 1, random, {});
    CHECK((largest_difference(out, whole) <= 1e-12) == (length == 16));
  }
}

TEST_CASE("a warm fusion layer appends without allocating") {
  if (!casa_test::must_count()) return;
  std::mt19937 random(4);
  for (const History history : {History::window, History::last(3), History::every(2), History::all})
    for (const ImageRope image_rope : {ImageRope::window_start, ImageRope::stream}) {
      FusionConfig f;
      f.history = history;
      f.image_rope = image_rope;
      const FusionLayer<float> fusion = random_layer<float>(f, {}, random);
      const Index hidden = fusion.config().hidden_size;
      const auto y = model_test::random_matrix<float>(6, hidden, 1);
      const auto x = model_test::random_matrix<float>(1, hidden, 2);
      Matrix<float> out(1, hidden);
      const Context context;
      auto state = fusion.new_state();
      const auto read_frame = [&] {
        fusion.append_image(state, y, context);
        for (int i = 0; i < 5; ++i) fusion.append_text(state, x, out, context);
      };
      for (int frame = 0; frame < 60; ++frame) read_frame();
      // Keys for which there is room cost nothing.
      state.reserve(state.num_keys() + 100);
      read_frame();
      const long long before = casa_test::allocation_count();
      for (int i = 0; i < 40; ++i) fusion.append_text(state, x, out, context);
      if (history.rule == History::Rule::last)
        for (int frame = 0; frame < 50; ++frame) read_frame();
      CHECK(casa_test::allocation_count() == before);
    }
}

TEST_CASE_TEMPLATE("streams that append text together get the bits that each gets alone", T, float,
                   double) {
  std::mt19937 random(8);
  for (int turn = 0; turn < 60; ++turn) {
    CAPTURE(turn);
    const auto one_of = [&](auto... values) {
      const std::array list{values...};
      return list[random() % list.size()];
    };
    FusionConfig f;
    f.keys = one_of(Keys::image, Keys::image_text);
    f.history = one_of(History::window, History::last(2), History::every(2), History::all);
    f.image_rope = one_of(ImageRope::off, ImageRope::none, ImageRope::window_start,
                          ImageRope::consecutive, ImageRope::stream);
    f.gate = one_of(Gate::none, Gate::tanh);
    RopeConfig rope;
    if (turn % 4 == 0) rope.scaling = DynamicScaling{3, 8};
    const auto fusion = random_layer<T>(f, rope, random);
    const Index hidden = fusion.config().hidden_size;
    const auto numbers = [&](Index rows) {
      return model_test::random_matrix<T>(rows, hidden, static_cast<unsigned>(random()));
    };
    const Context context;
    std::vector<FusionLayerState<T>> together, alone;
    for (std::size_t s = one_of(1u, 2u, 6u); s > 0; --s) {
      FusionLayerState<T> state = fusion.new_state();
      for (unsigned i = one_of(0u, 1u, 3u); i > 0; --i) {
        fusion.append_image(state, numbers(one_of(0, 1, 5)), context);
        const auto x = numbers(one_of(1, 2));
        Matrix<T> out(x.rows(), hidden);
        fusion.append_text(state, x, out, context);
      }
      together.push_back(state);
      alone.push_back(state);
    }
    const auto count = static_cast<Index>(together.size());
    std::vector<FusionLayerState<T>*> states;
    for (auto& state : together) states.push_back(&state);
    for (const Index rows : {1, 1, 3, 1}) {
      CAPTURE(rows);
      const auto x = numbers(rows * count);
      Matrix<T> out(rows * count, hidden), expected(rows, hidden);
      fusion.append_text(states, x, out, context);
      for (Index s = 0; s < count; ++s) {
        CAPTURE(s);
        auto& state = alone[static_cast<std::size_t>(s)];
        fusion.append_text(state, x.view().middle_rows(s * rows, rows), expected, context);
        REQUIRE(std::memcmp(out.row(s * rows), expected.data(),
                            static_cast<std::size_t>(expected.size()) * sizeof(T)) == 0);
        REQUIRE(state.num_keys() == together[static_cast<std::size_t>(s)].num_keys());
      }
      // (One stream gets another image meanwhile.)
      const auto y = numbers(2);
      fusion.append_image(together[0], y, context);
      fusion.append_image(alone[0], y, context);
    }
  }
}

TEST_CASE("what several streams are refused leaves all as they were") {
  std::mt19937 random(9);
  const auto fusion = random_layer<float>(FusionConfig{}, {}, random);
  const Index hidden = fusion.config().hidden_size;
  const auto x = model_test::random_matrix<float>(3, hidden, 1);
  Matrix<float> out(3, hidden);
  auto a = fusion.new_state(), b = fusion.new_state();
  FusionLayerState<float> of_nobody;
  const auto said = [&](std::vector<FusionLayerState<float>*> states) {
    return message_of([&] { fusion.append_text(states, x, out); });
  };
  CHECK(said({&a, &b, &a}) == "FusionLayer: states 0 and 2 are the same stream");
  CHECK(said({&a, nullptr, &b}) == "FusionLayer: states[1] is null");
  CHECK(said({&a, &b}) ==
        "FusionLayer: rows of x must be equally many of each of 2 streams, got 3");
  CHECK(said({}) == "FusionLayer: rows of x must be equally many of each of 0 streams, got 3");
  CHECK(said({&a, &b, &of_nobody}) ==
        "FusionLayer: a state is made by new_state of the layer that it is used with");
  CHECK(a.text_len() == 0);
  CHECK(b.text_len() == 0);
  CHECK(a.num_keys() == 0);
  fusion.append_text({}, {}, Matrix<float>(0, hidden).view());  // no stream: nothing
}

TEST_CASE("what a fusion layer refuses to append leaves the stream as it was") {
  std::mt19937 random(6);
  RopeConfig rope;
  rope.mrope_sections = {1, 1, 1};
  FusionConfig f;
  f.image_rope = ImageRope::stream;
  const FusionLayer<double> fusion = random_layer<double>(f, rope, random);
  const Index hidden = fusion.config().hidden_size;
  const auto x = model_test::random_matrix<double>(6, hidden, 1);
  const auto y = model_test::random_matrix<double>(6, hidden, 2);
  Matrix<double> whole(6, hidden), out(6, hidden), wide(6, hidden + 1);
  wide.fill(0);
  const std::vector<Insertion> insertions{{2, 6}};
  const std::vector<ImageGrid> grids{{2, 3}};
  fusion.forward(StreamLayout(6, insertions), x, y, whole, {}, grids);

  auto state = fusion.new_state();
  const auto refuse = [&] {
    CHECK_THROWS_WITH_AS(fusion.append_text(state, x, out.view().middle_rows(0, 5)),
                         "FusionLayer: rows of out: expected 6, got 5", error);
    CHECK_THROWS_AS(fusion.append_text(state, wide, out), error);
    CHECK_THROWS_AS(fusion.append_text(state, x, wide), error);
    CHECK_THROWS_AS(fusion.append_image(state, wide, {}, ImageGrid{2, 3}), error);
    CHECK_THROWS_AS(fusion.append_image(state, y), error);  // no grid
    CHECK_THROWS_AS(fusion.append_image(state, y, {}, ImageGrid{2, 2}), error);
    CHECK_THROWS_AS(fusion.append_image(state, y, {}, ImageGrid{-2, -3}), error);
  };
  refuse();
  fusion.append_text(state, x.view().middle_rows(0, 2), out.view().middle_rows(0, 2));
  refuse();
  fusion.append_image(state, y, {}, ImageGrid{2, 3});
  fusion.append_text(state, x.view().middle_rows(2, 1), out.view().middle_rows(2, 1));
  refuse();
  fusion.append_text(state, x.view().middle_rows(3, 3), out.view().middle_rows(3, 3));
  CHECK(largest_difference(out, whole) <= 1e-12);

  FusionLayerState<double> of_nobody;
  CHECK_THROWS_AS(fusion.append_text(of_nobody, x, out), error);
  f.image_rope = ImageRope::none;
  std::mt19937 same_sizes(6);
  auto other = random_layer<double>(f, rope, same_sizes).new_state();
  CHECK_THROWS_AS(fusion.append_text(other, x, out), error);
  CHECK_THROWS_AS(state.reserve(-1), error);
}

TEST_CASE("an image of no tokens begins a window, in a decoder and in a fusion layer alike") {
  // With consecutive positions the text behind it stands where it would stand without images.
  std::mt19937 random(8);
  FusionConfig f;
  f.image_rope = ImageRope::consecutive;
  f.history = History::all;
  const FusionLayer<double> fusion = random_layer<double>(f, {}, random);
  const Index hidden = fusion.config().hidden_size;
  const auto x = model_test::random_matrix<double>(6, hidden, 1);
  const auto y = model_test::random_matrix<double>(3, hidden, 2);
  const std::vector<Insertion> insertions{{1, 3}, {4, 0}}, one{{1, 3}};
  Matrix<double> out(6, hidden), without(6, hidden);
  fusion.forward(StreamLayout(6, insertions), x, y, out);
  fusion.forward(StreamLayout(6, one), x, y, without);
  CHECK(largest_difference(out, without) > 1e-6);
  auto state = fusion.new_state();
  const auto pieces = in_pieces<double>(fusion, state, insertions, {}, x, y, 2, random, {});
  CHECK(largest_difference(out, pieces) <= 1e-12);
}
