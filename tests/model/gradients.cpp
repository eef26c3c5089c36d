// Gradients of decoders at any point of the design space: finite differences of what the forward
// pass gives, zeros, packing, threads, frozen tensors, weights of other types.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <random>

#include "casa/core/executor.hpp"
#include "model/random_model.hpp"
#include "support/allocations.hpp"
#include "support/difference.hpp"
#include "support/messages.hpp"
#include "support/training_instantiations.hpp"

using namespace casa;

namespace {

// A stream with targets, some of them ignored, and room for the gradient of its images.
template <class T>
struct Stream {
  std::vector<int> ids, targets;
  std::vector<Insertion> insertions;
  std::vector<ImageGrid> grids;
  Matrix<T> images, d_images;

  TrainingSample<T> sample() { return {ids, targets, insertions, images, grids, d_images}; }
};

template <class T>
Stream<T> random_stream(const DecoderConfig& c, std::mt19937& random) {
  const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
  Stream<T> s;
  const int length = 1 + below(11);
  for (int i = 0; i < length; ++i) {
    s.ids.push_back(below(static_cast<int>(c.vocab_size)));
    s.targets.push_back(below(4) == 0 ? kIgnoredTarget : below(static_cast<int>(c.vocab_size)));
  }
  s.targets.back() = 1;
  Index images = 0;
  if (c.fusion) {
    std::vector<int> at;
    for (int i = below(4); i > 0; --i) at.push_back(below(length + 1));
    std::sort(at.begin(), at.end());
    for (const int position : at) {
      const ImageGrid grid{below(3), 2};
      s.insertions.push_back({position, grid.rows * grid.cols});
      s.grids.push_back(grid.rows == 0 ? ImageGrid{} : grid);
      images += grid.rows * grid.cols;
    }
  }
  s.images = model_test::random_matrix<T>(images, c.hidden_size, static_cast<unsigned>(random()));
  s.d_images = Matrix<T>(images, c.hidden_size);
  s.d_images.fill(0);
  return s;
}

struct FirstTokens final : VisibilityRule {
  RuleSeen sees(const RuleRow& row, const RuleWindow& w) const override {
    return w.number == row.window ? RuleSeen::all(w) : RuleSeen{{0, 1}, {1, 2}};
  }
  bool keeps(Index window, Index newest) const override { return newest - window < 3; }
};

// A random point of the design space.
DecoderConfig random_config(std::mt19937& random) {
  const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
  for (;;) {
    DecoderConfig c = model_test::small_config(1 + below(3));
    c.hidden_size = 12;
    c.intermediate_size = 10;
    c.vocab_size = 13;
    c.num_key_value_heads = 1 << below(3);
    c.attention_bias = below(2) == 0;
    c.attention_out_bias = below(2) == 0;
    c.mlp_bias = below(2) == 0;
    c.tie_word_embeddings = below(2) == 0;
    c.rope.style = below(2) == 0 ? RopeStyle::half : RopeStyle::interleaved;
    switch (below(6)) {
      case 0:
        c.rope.scaling = LinearScaling{3};
        break;
      case 1:
        c.rope.scaling = Llama3Scaling{4, 1, 4, 16};
        break;
      case 2:
        c.rope.scaling = YarnScaling{.factor = 4, .original_max_position_embeddings = 8};
        break;
      case 3:
        c.rope.scaling = DynamicScaling{2, 4};
        break;
      default:
        break;
    }
    if (below(4) == 0) c.rope.mrope_sections = {1, 1, 1};
    for (int l = 0; l < c.num_hidden_layers; ++l)
      if (below(3) == 0) c.sliding_layers.push_back(l);
    c.sliding_window = 1 + below(4);
    if (below(8) > 0) {
      FusionConfig f;
      f.keys = below(2) == 0 ? Keys::image : Keys::image_text;
      f.placement = std::array{Placement::before, Placement::parallel,
                               Placement::replace}[static_cast<std::size_t>(below(3))];
      f.parameters = below(2) == 0 ? Sharing::own : Sharing::shared;
      f.norm = below(2) == 0 ? Sharing::own : Sharing::shared;
      f.update = std::array{ImageUpdate::none, ImageUpdate::ffn,
                            ImageUpdate::attention_ffn}[static_cast<std::size_t>(below(3))];
      f.history = std::array{History::window, History::last(2), History::every(2),
                             History::all}[static_cast<std::size_t>(below(4))];
      f.image_rope = static_cast<ImageRope>(below(5));
      f.gate = std::array{Gate::none, Gate::tanh, Gate::token}[static_cast<std::size_t>(below(3))];
      if (below(6) == 0) f.rule = std::make_shared<FirstTokens>();
      for (int l = 0; l < c.num_hidden_layers; ++l)
        if (below(3) > 0) f.layers.push_back(l);
      c.fusion = f;
    }
    try {
      check(c);
      return c;
    } catch (const error&) {
      // No point of the design space: another.
    }
  }
}

template <class T>
TensorSet<T> random_parameters(const DecoderConfig& c, unsigned seed) {
  TensorSet<T> set(tensor_specs(decoder_spec(c)));
  model_test::RandomWeights weights(seed);
  for (Index i = 0; i < set.size(); ++i) {
    const auto& from = weights.get(set.specs()[static_cast<std::size_t>(i)]);
    for (Index j = 0; j < from.size(); ++j) set[i].data()[j] = static_cast<T>(from.data()[j]);
  }
  return set;
}

template <class T>
TensorSet<T> zeros(const TensorSet<T>& like) {
  return TensorSet<T>(like.specs());
}

template <class T>
std::vector<TrainingSample<T>> samples_of(std::vector<Stream<T>>& streams) {
  std::vector<TrainingSample<T>> samples;
  for (auto& s : streams) samples.push_back(s.sample());
  return samples;
}

// The mean cross-entropy as the decoder's logits give it.
double loss_of(const Decoder<double>& model, std::vector<Stream<double>>& streams) {
  double sum = 0;
  Index count = 0;
  for (const auto& s : streams) {
    const auto logits = model.logits(s.ids, s.insertions, s.images, {}, s.grids);
    for (Index r = 0; r < logits.rows(); ++r) {
      const int target = s.targets[static_cast<std::size_t>(r)];
      if (target == kIgnoredTarget) continue;
      double z = 0;
      for (Index v = 0; v < logits.cols(); ++v) z += std::exp(logits(r, v));
      sum += std::log(z) - logits(r, target);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

double norm(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum);
}

// d f(x + t u) / dt at 0, of f(t), by differences of fourth order: off by about 1e-12 of what f and
// its fifth derivative are.
template <class F>
double slope(F f) {
  constexpr double h = 1e-3;
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

template <class T>
DecoderConfig gated_config() {
  DecoderConfig c = model_test::small_config(3);
  c.fusion = presets::casa_before({0, 2});
  c.fusion->gate = Gate::tanh;
  c.fusion->update = ImageUpdate::ffn;
  return c;
}

}  // namespace

TEST_CASE("gradients are the finite differences of the forward pass's loss") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const DecoderConfig c = random_config(random);
    TensorSet<double> parameters = random_parameters<double>(c, seed);
    std::vector<Stream<double>> streams;
    for (unsigned i = 0; i < 1 + seed % 3; ++i) streams.push_back(random_stream<double>(c, random));
    TensorSet<double> gradients = zeros(parameters);
    const auto samples = samples_of(streams);
    double targets = 0;
    for (const auto& s : streams)
      for (const int target : s.targets) targets += target != kIgnoredTarget;
    const CrossEntropy loss =
        DecoderGradient<double>(c, gradients,
                                seed % 2 == 0 ? Activations::recompute : Activations::keep)
            .add(Decoder<double>(c, parameters.source()), samples, {}, 1.0 / targets);
    const auto loss_now = [&] { return loss_of(Decoder<double>(c, parameters.source()), streams); };
    CHECK(std::abs(loss.mean() - loss_now()) <= 1e-13 * std::max(1.0, loss.mean()));

    const double scale = norm(gradients.values());
    REQUIRE(std::isfinite(scale));
    // Along a random direction of each tensor, of length 1.
    const auto check_slope = [&](std::span<double> values, std::span<const double> gradient) {
      if (values.empty()) return;
      std::vector<double> before(values.begin(), values.end()), direction(values.size());
      std::normal_distribution<double> normal;
      for (double& u : direction) u = normal(random);
      const double length = norm(direction);
      double expected = 0;
      for (std::size_t i = 0; i < direction.size(); ++i) {
        direction[i] /= length;
        expected += direction[i] * gradient[i];
      }
      const double found = slope([&](double t) {
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = before[i] + t * direction[i];
        return loss_now();
      });
      std::copy(before.begin(), before.end(), values.begin());
      CHECK(std::abs(found - expected) <= 1e-6 * norm(gradient) + 1e-9 * scale);
    };
    for (Index i = 0; i < parameters.size(); ++i) {
      CAPTURE(parameters.specs()[static_cast<std::size_t>(i)].name);
      const Interval at = parameters.range(i);
      const auto begin = static_cast<std::size_t>(at.begin),
                 size = static_cast<std::size_t>(at.size());
      check_slope(parameters.values().subspan(begin, size),
                  gradients.values().subspan(begin, size));
    }
    for (auto& s : streams) {
      INFO("image tokens");
      const auto size = static_cast<std::size_t>(s.images.size());
      check_slope({s.images.data(), size}, {s.d_images.data(), size});
    }
  }
}

TEST_CASE("what stands behind a gate of 0, and rows of ids that do not occur, get zeros") {
  const DecoderConfig c = gated_config<float>();
  TensorSet<float> parameters = random_parameters<float>(c, 1);
  for (const char* gate : {"model.layers.0.fusion_gate", "model.layers.2.fusion_gate"})
    parameters[parameters.find(gate)](0, 0) = 0;
  TensorSet<float> gradients = zeros(parameters);
  std::mt19937 random(2);
  std::vector<Stream<float>> streams;
  while (streams.empty() || streams[0].images.rows() == 0)
    streams.assign(1, random_stream<float>(c, random));
  DecoderGradient<float>(c, gradients)
      .add(Decoder<float>(c, parameters.source()), samples_of(streams), {});
  for (Index i = 0; i < gradients.size(); ++i) {
    const std::string& name = gradients.specs()[static_cast<std::size_t>(i)].name;
    CAPTURE(name);
    const bool behind = has(name, "fusion_attn") || has(name, "fusion_layernorm");
    CHECK((casa_test::largest(gradients[i].eigen()) == 0) == behind);
  }
  CHECK(casa_test::largest(streams[0].d_images.eigen()) == 0);
  const auto embed = gradients[gradients.find("model.embed_tokens.weight")];
  for (Index id = 0; id < embed.rows(); ++id) {
    const auto& ids = streams[0].ids;
    const bool occurs = std::find(ids.begin(), ids.end(), static_cast<int>(id)) != ids.end();
    CHECK((casa_test::largest(embed.middle_rows(id, 1).eigen()) > 0) == occurs);
  }
}

TEST_CASE_TEMPLATE("gradients have the same bits for any number of threads and whatever is kept", T,
                   float, double) {
  ThreadPool pool(3);
  for (unsigned seed = 100; seed < 112; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const DecoderConfig c = random_config(random);
    const TensorSet<T> parameters = random_parameters<T>(c, seed);
    const Decoder<T> model(c, parameters.source());
    std::vector<Stream<T>> streams;
    for (int i = 0; i < 3; ++i) streams.push_back(random_stream<T>(c, random));
    std::vector<TensorSet<T>> found;
    std::vector<Matrix<T>> d_images;
    double first_loss = 0;
    for (const auto activations : {Activations::recompute, Activations::keep})
      for (const bool threads : {false, true}) {
        Context context;
        if (threads) context.executor = pool;
        found.push_back(zeros(parameters));
        for (auto& s : streams) s.d_images.fill(0);
        const double sum = DecoderGradient<T>(c, found.back(), activations)
                               .add(model, samples_of(streams), context)
                               .sum;
        if (found.size() == 1) first_loss = sum;
        CHECK(sum == first_loss);
        CHECK(std::ranges::equal(found.back().values(), found.front().values()));
        d_images.push_back(Matrix<T>(streams[0].d_images.rows(), c.hidden_size));
        std::copy_n(streams[0].d_images.data(), d_images.back().size(), d_images.back().data());
        CHECK(std::equal(d_images[0].data(), d_images[0].data() + d_images[0].size(),
                         d_images.back().data()));
      }
  }
}

TEST_CASE("samples that pass together give the sum of what each gives alone") {
  for (unsigned seed = 200; seed < 212; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const DecoderConfig c = random_config(random);
    const TensorSet<double> parameters = random_parameters<double>(c, seed);
    const Decoder<double> model(c, parameters.source());
    std::vector<Stream<double>> streams;
    for (int i = 0; i < 4; ++i) streams.push_back(random_stream<double>(c, random));
    streams.push_back({});  // a stream of nothing
    streams.back().images = streams.back().d_images = Matrix<double>(0, c.hidden_size);
    TensorSet<double> together = zeros(parameters), alone = zeros(parameters);
    const auto samples = samples_of(streams);
    const CrossEntropy loss = DecoderGradient<double>(c, together).add(model, samples, {}, 0.5);
    std::vector<Matrix<double>> d_images;
    for (auto& s : streams) {
      d_images.push_back(s.d_images);
      s.d_images.fill(0);
    }
    DecoderGradient<double> one(c, alone);
    CrossEntropy sum;
    for (std::size_t i = 0; i < streams.size(); ++i) {
      const CrossEntropy l = one.add(model, {&samples[i], 1}, {}, 0.5);
      sum.sum += l.sum;
      sum.count += l.count;
    }
    CHECK(sum.count == loss.count);
    CHECK(std::abs(sum.sum - loss.sum) <= 1e-12 * loss.sum);
    double scale = 0, off = 0;
    for (std::size_t i = 0; i < alone.values().size(); ++i) {
      scale = std::max(scale, std::abs(alone.values()[i]));
      off = std::max(off, std::abs(alone.values()[i] - together.values()[i]));
    }
    CHECK(off <= 1e-12 * scale);
    for (std::size_t i = 0; i < streams.size(); ++i)
      CHECK(casa_test::largest_difference(d_images[i].eigen(), streams[i].d_images.eigen()) <=
            1e-12 * scale);
  }
}

TEST_CASE("a tensor that the set does not have is frozen, and the others' gradients stay") {
  for (unsigned seed = 300; seed < 306; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const DecoderConfig c = random_config(random);
    const TensorSet<double> parameters = random_parameters<double>(c, seed);
    const Decoder<double> model(c, parameters.source());
    std::vector<Stream<double>> streams{random_stream<double>(c, random)};
    TensorSet<double> all = zeros(parameters);
    DecoderGradient<double>(c, all).add(model, samples_of(streams), {});
    const Matrix<double> d_images = streams[0].d_images;
    for (const unsigned one_of : {0u, 2u, 3u, 40u})
      for (const bool images : {false, true}) {
        std::vector<TensorSpec> some;  // one of so many tensors; of 0: none
        for (const TensorSpec& s : parameters.specs())
          if (one_of > 0 && random() % one_of == 0) some.push_back(s);
        TensorSet<double> few(some);
        streams[0].d_images.fill(0);
        TrainingSample<double> sample = streams[0].sample();
        if (!images) sample.d_image_tokens = {};
        DecoderGradient<double>(c, few).add(model, {&sample, 1}, {});
        for (Index i = 0; i < few.size(); ++i)
          CHECK(few[i].eigen() == all[all.find(some[static_cast<std::size_t>(i)].name)].eigen());
        if (images) CHECK(streams[0].d_images.eigen() == d_images.eigen());
      }
  }
}

// The gradients of a model held as bf16 or int8 are those of the values that it holds.
TEST_CASE("gradients through weights of other types are those of the values held") {
  DecoderConfig c = model_test::small_config(2);
  c.hidden_size = 64;
  c.head_dim = 16;
  c.intermediate_size = 64;
  c.fusion = presets::casa({0, 1});
  const TensorSet<float> parameters = random_parameters<float>(c, 5);
  for (const WeightType type : {WeightType::bfloat16, WeightType::half, WeightType::int8}) {
    CAPTURE(static_cast<int>(type));
    const Decoder<float> model(c, decoder_spec(c), parameters.source(), type);
    TensorSet<double> held(parameters.specs());
    for (std::size_t i = 0; i < held.values().size(); ++i)
      held.values()[i] = static_cast<double>(parameters.values()[i]);
    const auto set = [&](const LinearSpec& spec, const Linear<float>& from, Index piece) {
      const MatrixView<double> to = held[held.find(spec.weight.name)];
      const Matrix<float> w = from.unpacked();
      to.eigen() = w.eigen().middleRows(from.piece_begin(piece), to.rows()).cast<double>();
    };
    const DecoderSpec spec = decoder_spec(c);
    const auto& weights = model.weights();
    set({spec.embed_tokens, {}}, weights.embed, 0);
    set({*spec.lm_head, {}}, weights.lm_head, 0);
    for (std::size_t b = 0; b < 2; ++b) {
      const BlockSpec& s = spec.blocks[b];
      const BlockWeights<float>& w = weights.blocks[b];
      const auto attention = [&](const AttentionSpec& a, const AttentionWeights<float>& from) {
        set(a.q, from.qkv, 0);
        set(a.k, from.qkv, 1);
        set(a.v, from.qkv, 2);
        set(a.o, from.o, 0);
      };
      attention(*s.self_attention, w.self_attention);
      attention(*s.fusion_attention, w.fusion_attention);
      set(s.mlp.gate, w.mlp.gate_up(), 0);
      set(s.mlp.up, w.mlp.gate_up(), 1);
      set(s.mlp.down, w.mlp.down(), 0);
    }
    std::mt19937 random(9);
    Stream<float> stream;
    while (stream.images.rows() < 8) stream = random_stream<float>(c, random);
    Stream<double> exact{stream.ids,
                         stream.targets,
                         stream.insertions,
                         stream.grids,
                         Matrix<double>(stream.images.rows(), 64),
                         Matrix<double>(stream.images.rows(), 64)};
    exact.images.eigen() = stream.images.eigen().cast<double>();
    exact.d_images.fill(0);
    TensorSet<float> found(parameters.specs());
    TensorSet<double> expected(parameters.specs());
    const TrainingSample<float> sample = stream.sample();
    const TrainingSample<double> exact_sample = exact.sample();
    DecoderGradient<float>(c, found).add(model, {&sample, 1}, {});
    DecoderGradient<double>(c, expected)
        .add(Decoder<double>(c, held.source()), {&exact_sample, 1}, {});
    // Some are sums that cancel: what rounding explains is a part of the largest gradient.
    double scale = 0;
    for (const double g : expected.values()) scale = std::max(scale, std::abs(g));
    for (Index i = 0; i < found.size(); ++i) {
      CAPTURE(parameters.specs()[static_cast<std::size_t>(i)].name);
      CHECK(casa_test::largest_difference(found[i].eigen(), expected[i].eigen()) <=
            640 * 0x1p-23 * scale);
    }
  }
}

TEST_CASE("a warm step allocates nothing") {
  if (!casa_test::must_count()) return;
  const DecoderConfig c = gated_config<float>();
  const TensorSet<float> parameters = random_parameters<float>(c, 1);
  const Decoder<float> model(c, parameters.source());
  TensorSet<float> gradients = zeros(parameters);
  std::mt19937 random(4);
  std::vector<Stream<float>> streams;
  for (int i = 0; i < 3; ++i) streams.push_back(random_stream<float>(c, random));
  const auto samples = samples_of(streams);
  DecoderGradient<float> gradient(c, gradients);
  const Context context;
  CHECK(casa_test::warm_allocations([&] { gradient.add(model, samples, context); }) == 0);
}

TEST_CASE("a loss of logits gives what cross-entropy gives, and one that throws leaves no trace") {
  const DecoderConfig c = gated_config<double>();
  const TensorSet<double> parameters = random_parameters<double>(c, 1);
  const Decoder<double> model(c, parameters.source());
  std::mt19937 random(4);
  std::vector<Stream<double>> streams{random_stream<double>(c, random)};
  const auto samples = samples_of(streams);
  TensorSet<double> expected = zeros(parameters), found = zeros(parameters);
  const CrossEntropy loss = DecoderGradient<double>(c, expected).add(model, samples, {});
  DecoderGradient<double> gradient(c, found);
  const auto by_hand = [&](MatrixView<const double> logits, MatrixView<double> d_logits) {
    double sum = 0;
    for (Index r = 0; r < logits.rows(); ++r) {
      const int target = streams[0].targets[static_cast<std::size_t>(r)];
      const double z = logits.eigen().row(r).array().exp().sum();
      for (Index v = 0; v < logits.cols(); ++v)
        d_logits(r, v) =
            target == kIgnoredTarget ? 0 : std::exp(logits(r, v)) / z - (v == target ? 1 : 0);
      if (target != kIgnoredTarget) sum += std::log(z) - logits(r, target);
    }
    return sum;
  };
  CHECK_THROWS_AS(gradient.add(model, samples,
                               [](auto, auto) -> double { throw std::runtime_error("no"); }, {}),
                  std::runtime_error);
  CHECK(norm(found.values()) == 0);
  CHECK(std::abs(gradient.add(model, samples, by_hand, {}) - loss.sum) <= 1e-12 * loss.sum);
  double off = 0;
  for (std::size_t i = 0; i < found.values().size(); ++i)
    off = std::max(off, std::abs(found.values()[i] - expected.values()[i]));
  CHECK(off <= 1e-12 * norm(expected.values()));
}

TEST_CASE("what does not fit is refused by name, before any gradient is touched") {
  const DecoderConfig c = gated_config<float>();
  const TensorSet<float> parameters = random_parameters<float>(c, 1);
  const Decoder<float> model(c, parameters.source());
  TensorSet<float> gradients = zeros(parameters);
  DecoderGradient<float> gradient(c, gradients);
  std::mt19937 random(4);
  Stream<float> good;
  while (good.images.rows() == 0) good = random_stream<float>(c, random);
  const auto refusal = [&](auto change) {
    Stream<float> bad = good;
    TrainingSample<float> samples[] = {good.sample(), bad.sample()};
    change(bad, samples[1]);
    return message_of([&] { gradient.add(model, samples, {}); });
  };
  CHECK(has(refusal([](auto& s, auto& in) {
              s.targets.pop_back();
              in.targets = s.targets;
            }),
            "targets (one per token of ids)"));
  CHECK(
      has(refusal([](auto& s, auto&) { s.targets[0] = 31; }), "[0, 31) or -100 (ignored), got 31"));
  CHECK(has(refusal([](auto& s, auto&) { s.targets[0] = -1; }), "got -1 in sample 1"));
  CHECK(has(refusal([](auto& s, auto&) { s.ids[0] = 31; }), "token id must be in [0, 31), got 31"));
  CHECK(has(refusal([](auto&, auto& in) { in.image_tokens = {}; }), "rows of image_tokens"));
  CHECK(has(refusal([](auto& s, auto& in) {
              in.d_image_tokens = s.d_images.view().middle_rows(0, s.d_images.rows() - 1);
            }),
            "rows of d_image_tokens"));
  const TrainingSample<float> sample = good.sample();
  CHECK(has(message_of([&] {
              gradient.add(model, {&sample, 1}, {}, std::nan(""));
            }),
            "factor must be finite and not 0, got nan"));
  DecoderConfig other = c;
  other.rms_norm_eps *= 2;
  const Decoder<float> another(other, parameters.source());
  CHECK(has(message_of([&] { gradient.add(another, {&sample, 1}, {}); }), "of another config"));
  auto specs = parameters.specs();
  specs[0].rows += 1;
  TensorSet<float> wrong(specs);
  CHECK(has(message_of([&] { DecoderGradient<float>(c, wrong); }),
            "gradients: model.embed_tokens.weight: expected 31 x 24 values, got 32 x 24"));
  for (const float g : gradients.values()) REQUIRE(g == 0);
  CHECK(casa_test::largest(good.d_images.eigen()) == 0);
  CHECK(gradient.add(model, {}, {}).count == 0);
}
