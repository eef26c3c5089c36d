#include "casa/model/fusion_layer.hpp"

#include <doctest/doctest.h>

#include "golden_model.hpp"
#include "random_model.hpp"

using namespace casa;

namespace {

template <class T>
FusionLayer<T> layer(const golden::Case& c) {
  const auto d = c.description();
  FusionLayerConfig config;
  config.hidden_size = d.at("hidden_size").as_int();
  config.shape = {d.at("n_heads").as_int(), d.at("n_kv_heads").as_int(), d.at("head_dim").as_int()};
  config.rms_norm_eps = d.at("rms_norm_eps").as_number();
  config.rope.theta = d.at("rope_theta").as_number();
  config.rope.style = io::detail::from_name(d.at("rope_style"), io::detail::rope_style_names);
  config.fusion.image_rope =
      io::detail::from_name(d.at("image_rope"), io::detail::image_rope_names);
  config.fusion.keys = d.at("layer").as_string() == "ca" ? Keys::image : Keys::image_text;
  config.fusion.gate = d.at("gate").as_bool() ? Gate::tanh : Gate::none;

  io::CheckpointWeights source(c.file);
  const WeightSource weights = source.weights();
  WeightReader<T> read(weights, WeightType::native);
  FusionLayerWeights<T> w;
  w.norm = read.vector({"weight.norm.weight", config.hidden_size, 0});
  w.attention = read.attention(attention_spec("weight.attn", config.hidden_size, config.shape,
                                              d.at("bias").as_bool(), d.at("out_bias").as_bool()));
  if (config.fusion.gate == Gate::tanh) w.gate = read.vector({"weight.attn.gate", 1, 0})[0];
  return {config, std::move(w)};
}

}  // namespace

TEST_CASE_TEMPLATE("fusion layers give the reference's updates", T, float, double) {
  golden::Tally tally("layer", golden::case_files("layer").size());
  for (const golden::Case& c : golden::cases("layer")) {
    CAPTURE(c.name);
    tally.ran();
    const FusionLayer<T> fusion = layer<T>(c);
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
    const FusionLayer<double> fusion = layer<double>(c);
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
  const auto fusion = layer<double>(first);
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
