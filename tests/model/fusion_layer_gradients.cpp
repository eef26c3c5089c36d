// Gradients of a fusion layer by itself: the reference's, and finite differences.
#include <doctest/doctest.h>

#include <random>

#include "casa/model/fusion_layer_backward.hpp"
#include "golden_layer.hpp"
#include "random_model.hpp"
#include "support/difference.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

template <class T>
struct Gradients {
  TensorSet<T> weights;
  Matrix<T> x, y;
};

template <class T>
Gradients<T> differentiate(const FusionLayer<T>& layer, const FusionLayerSpec& spec,
                           const StreamLayout& layout, const Matrix<T>& x, const Matrix<T>& y,
                           const Matrix<T>& d_out, const Context& context = {}) {
  Gradients<T> g{TensorSet<T>(tensor_specs(spec)), {x.rows(), x.cols()}, {y.rows(), x.cols()}};
  FusionLayerGradient<T>(spec, g.weights).add(layer, layout, x, y, d_out, g.x, g.y, context);
  return g;
}

template <class T>
Matrix<T> copy(MatrixView<const T> m) {
  Matrix<T> c(m.rows(), m.cols());
  c.eigen() = m.eigen();
  return c;
}

}  // namespace

// In double 1e-11 of the largest gradient of the case, in float four times what the definitions are
// off by in the same tensor, plus 640 eps of the largest.
TEST_CASE_TEMPLATE("gradients of fusion layers are the reference's", T, float, double) {
  golden::Tally tally("layer", golden::case_files("layer").size());
  for (const golden::Case& c : golden::cases("layer")) {
    CAPTURE(c.name);
    tally.ran();
    const FusionLayer<T> layer = golden::fusion_layer<T>(c);
    FusionLayerSpec spec{
        {"weight.norm.weight", layer.config().hidden_size, 0},
        golden::layer_attention(c, layer.config().hidden_size, layer.config().shape),
        {}};
    if (layer.config().fusion.gate == Gate::tanh) spec.gate = TensorSpec{"weight.attn.gate", 1, 0};
    const auto x = c.matrix<T>("x"), y = c.matrix<T>("y"), d_out = c.matrix<T>("d_out");
    const StreamLayout layout(x.rows(), golden::insertions(c.description().at("insertions")));
    Context naive_context;
    naive_context.path = Path::naive;
    const auto fast = differentiate(layer, spec, layout, x, y, d_out);
    const auto naive = differentiate(layer, spec, layout, x, y, d_out, naive_context);
    double scale = golden::largest(c.matrix<double>("d_x"));
    for (const TensorSpec& s : fast.weights.specs())
      scale = std::max(scale, golden::largest(c.matrix<double>("d_" + s.name)));
    REQUIRE(std::isfinite(scale));
    const auto check_close = [&](const Matrix<T>& actual, const Matrix<T>& defined,
                                 const Matrix<double>& reference) {
      if (reference.size() == 0) return;
      const double off = golden::distance(defined, reference);
      CHECK(off <= 1e-2 * scale);
      CHECK(golden::distance(actual, reference) <=
            (std::is_same_v<T, double> ? 1e-11 * scale : 4 * off + 640 * 0x1p-23 * scale));
    };
    check_close(fast.x, naive.x, c.matrix<double>("d_x"));
    check_close(fast.y, naive.y, c.matrix<double>("d_y"));
    for (Index i = 0; i < fast.weights.size(); ++i) {
      const std::string& name = fast.weights.specs()[static_cast<std::size_t>(i)].name;
      CAPTURE(name);
      check_close(copy(fast.weights[i]), copy(naive.weights[i]), c.matrix<double>("d_" + name));
    }
  }
  tally.check_all();
}

TEST_CASE("an object serves layers of any config, and refuses gradients of another size") {
  FusionLayerConfig config;
  config.hidden_size = 12;
  config.shape = {2, 1, 6};
  model_test::RandomWeights random(3);
  const FusionLayerSpec spec = fusion_layer_spec(config, "f.", true, true);
  const auto make = [&](ImageRope rope) {
    config.fusion.image_rope = rope;
    const WeightSource source = random.source();
    WeightReader<float> read(source, WeightType::native);
    return FusionLayer<float>(config, {read.vector(spec.norm), read.attention(spec.attention)});
  };
  const auto x = model_test::random_matrix<float>(5, 12, 1),
             d = model_test::random_matrix<float>(5, 12, 2);
  const auto y = model_test::random_matrix<float>(4, 12, 3);
  const Insertion image{2, 4};
  const StreamLayout layout(5, {&image, 1});
  TensorSet<float> gradients(tensor_specs(spec));
  FusionLayerGradient<float> gradient(spec, gradients);
  for (const ImageRope rope : {ImageRope::window_start, ImageRope::consecutive, ImageRope::off}) {
    const auto layer = make(rope);
    const auto alone = differentiate(layer, spec, layout, x, y, d);
    Matrix<float> d_x(5, 12), d_y(4, 12);
    gradients.fill(0);
    gradient.add(layer, layout, x, y, d, d_x, d_y);
    CHECK(d_x.eigen() == alone.x.eigen());
    CHECK(d_y.eigen() == alone.y.eigen());
    for (Index i = 0; i < gradients.size(); ++i)
      CHECK(gradients[i].eigen() == alone.weights[i].eigen());
    gradient.add(layer, layout, x, y, d, d_x, {});  // images are not wanted
    CHECK(d_x.eigen() == alone.x.eigen());
    Matrix<float> small(4, 12);
    CHECK(has(message_of([&] { gradient.add(layer, layout, x, y, d, small, d_y); }),
              "d_x: expected (5, 12), got (4, 12)"));
  }
}
