// Gradients of whole decoders against the reference's: of every weight and of the image tokens, for
// a linear loss and for cross-entropy. They are read from CASA_GOLDEN_DIR (golden/gradients, 4.5
// MB) alone; gradients.cpp has what needs no data.
#include <doctest/doctest.h>

#include <algorithm>

#include "model/golden_model.hpp"
#include "support/difference.hpp"
#include "support/training_instantiations.hpp"

using namespace casa;

namespace {

// What came of a loss: its value, and the gradients of all weights and of the image tokens.
template <class T>
struct Result {
  double loss = 0;
  TensorSet<T> weights;
  Matrix<T> image_tokens;
};

template <class T>
struct Problem {
  golden::Case forward, gradients;
  DecoderConfig config = golden::config(forward);
  DecoderSpec spec = decoder_spec(config, "weight.model.", "weight.lm_head.weight");
  Decoder<T> model = golden::decoder<T>(forward, config);
  std::vector<int> ids = golden::ids(forward, "ids"), targets = golden::ids(gradients, "targets");
  std::vector<Insertion> insertions = golden::insertions(forward.description().at("insertions"));
  Matrix<T> image_tokens = forward.has("image_tokens") ? forward.matrix<T>("image_tokens")
                                                       : Matrix<T>(0, config.hidden_size);

  // With `targets` of their cross-entropy, else of sum(logits * d_logits).
  Result<T> run(bool cross_entropy, Path path, Activations activations) const {
    Result<T> r{.weights = TensorSet<T>(tensor_specs(spec)),
                .image_tokens = Matrix<T>(image_tokens.rows(), image_tokens.cols())};
    r.image_tokens.fill(0);
    Context context;
    context.path = path;
    DecoderGradient<T> gradient(config, spec, r.weights, activations);
    const TrainingSample<T> sample{ids, targets, insertions, image_tokens, {}, r.image_tokens};
    if (cross_entropy) {
      const auto ignored = std::count(targets.begin(), targets.end(), kIgnoredTarget);
      r.loss = gradient
                   .add(model, {&sample, 1}, context,
                        1.0 / static_cast<double>(std::ssize(targets) - ignored))
                   .mean();
      return r;
    }
    const Matrix<T> given = gradients.matrix<T>("d_logits");
    r.loss = gradient.add(
        model, {&sample, 1},
        [&](MatrixView<const T> logits, MatrixView<T> d_logits) {
          d_logits.eigen() = given.eigen();
          return static_cast<double>(logits.eigen().cwiseProduct(given.eigen()).sum());
        },
        context);
    return r;
  }
};

template <class T>
Matrix<T> copy_of(MatrixView<const T> m) {
  Matrix<T> c(m.rows(), m.cols());
  c.eigen() = m.eigen();
  return c;
}

// In double 1e-11 of the largest gradient of the loss. In float four times what the definitions,
// computed in float, are off by in the same tensor, plus 640 eps of it (ten times the 64 that
// logits get).
template <class T>
void check_gradients(const Problem<T>& p, bool cross_entropy, Activations activations) {
  CAPTURE(cross_entropy);
  CAPTURE(static_cast<int>(activations));
  const std::string prefix = cross_entropy ? "ce.d_" : "d_";
  const auto fast = p.run(cross_entropy, Path::fast, activations);
  const auto naive = p.run(cross_entropy, Path::naive, activations);

  double scale = 0;
  for (const TensorSpec& spec : fast.weights.specs())
    scale =
        std::max(scale, golden::largest(p.gradients.template matrix<double>(prefix + spec.name)));
  REQUIRE(std::isfinite(scale));
  REQUIRE(scale > 0);
  const auto check_close = [&](const Matrix<T>& actual, const Matrix<T>& defined,
                               const Matrix<double>& reference) {
    if (reference.size() == 0) return;
    const double off = golden::distance(defined, reference);
    CHECK(off <= 1e-2 * scale);  // the bound must mean something
    CHECK(golden::distance(actual, reference) <=
          (std::is_same_v<T, double> ? 1e-11 * scale : 4 * off + 640 * 0x1p-23 * scale));
  };
  for (Index i = 0; i < fast.weights.size(); ++i) {
    const std::string& name = fast.weights.specs()[static_cast<std::size_t>(i)].name;
    CAPTURE(name);
    check_close(copy_of(fast.weights[i]), copy_of(naive.weights[i]),
                p.gradients.template matrix<double>(prefix + name));
  }
  {
    INFO("image tokens");
    check_close(fast.image_tokens, naive.image_tokens,
                p.gradients.template matrix<double>(prefix + "image_tokens"));
  }
  const double loss = p.gradients.template values<double>(cross_entropy ? "ce_loss" : "loss").at(0);
  const double terms = std::max(1.0, std::abs(loss)) * static_cast<double>(p.config.vocab_size);
  CHECK(std::abs(fast.loss - loss) <= (std::is_same_v<T, double> ? 1e-11 : 1e-5) * terms);

  // Of an embedding that is not the head, rows whose ids do not occur.
  if (p.config.tie_word_embeddings) return;
  const auto embed = fast.weights[fast.weights.find(p.spec.embed_tokens.name)];
  for (Index id = 0; id < embed.rows(); ++id)
    if (std::find(p.ids.begin(), p.ids.end(), static_cast<int>(id)) == p.ids.end())
      CHECK(casa_test::largest(embed.middle_rows(id, 1).eigen()) == 0);
}

// Behind a gate of 0 nothing learns but the gate.
template <class T>
void check_closed_gates(const Problem<T>& p) {
  for (const BlockSpec& b : p.spec.blocks) {
    if (!b.fusion_gate || !b.fusion_attention ||
        p.forward.template values<double>(b.fusion_gate->name).at(0) != 0)
      continue;
    const auto r = p.run(true, Path::fast, Activations::recompute);
    for_each_tensor(*b.fusion_attention, [&](const TensorSpec& spec) {
      CAPTURE(spec.name);
      CHECK(casa_test::largest(r.weights[r.weights.find(spec.name)].eigen()) == 0);
    });
    CHECK(r.weights[r.weights.find(b.fusion_gate->name)](0, 0) != 0);
    CHECK(casa_test::largest(r.image_tokens.eigen()) == 0);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("gradients of decoders are the reference's", T, float, double) {
  std::size_t cases = 0;
  for (const std::string kind : {"decoder", "ladder"})
    for (const auto& path : golden::detail::list_files(golden::root() / "gradients" / kind)) {
      const Problem<T> p{golden::Case(golden::root() / kind / path.filename()), golden::Case(path)};
      CAPTURE(p.gradients.name);
      for (const bool cross_entropy : {false, true})
        for (const auto activations : {Activations::recompute, Activations::keep})
          check_gradients(p, cross_entropy, activations);
      check_closed_gates(p);
      ++cases;
    }
  if (cases == 0) MESSAGE("skipped: no golden case of kind gradients in ", golden::root().string());
}
