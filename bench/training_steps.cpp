// What does a training step of a whole model cost, and where does its time go? A step packs the
// model from the parameters, goes forward and backward, clips the gradients to a norm of 1 and
// updates the parameters by AdamW, in float.
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "casa/model/decoder_backward.hpp"
#include "casa/train/trainer.hpp"
#include "smollm2.hpp"
#include "training.hpp"

namespace {

using namespace casa;

// The decoder of the text reader: 8 streams of 60 text tokens, in which 3 images of 256 tokens
// stand, one after each 20.
DecoderConfig reader() {
  DecoderConfig c;
  c.hidden_size = 192;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.head_dim = 32;
  c.intermediate_size = 512;
  c.vocab_size = 104;
  c.fusion = presets::casa_before({0, 1, 2, 3});
  c.fusion->image_rope = ImageRope::off;
  return c;
}

TensorSet<float> random_parameters(const DecoderConfig& config) {
  TensorSet<float> set(tensor_specs(decoder_spec(config)));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (Index i = 0; i < set.size(); ++i) {
    const bool is_vector = set.specs()[static_cast<std::size_t>(i)].cols == 0;
    const MatrixView<float> m = set[i];
    const float scale = 1 / std::sqrt(static_cast<float>(m.cols()));
    for (Index j = 0; j < m.rows() * m.cols(); ++j)
      m.data()[j] = is_vector ? 1.0f : scale * normal(random);
  }
  return set;
}

// Streams of one shape, which stay the same from step to step.
struct Batch {
  Batch(const DecoderConfig& c, Index streams, Index text, std::vector<Insertion> insertions)
      : images_at(std::move(insertions)) {
    Index images = 0;
    for (const Insertion& i : images_at) images += i.num_tokens;
    std::mt19937 random(2);
    std::uniform_int_distribution<int> token(0, static_cast<int>(c.vocab_size) - 1);
    std::normal_distribution<float> normal;
    for (Index s = 0; s < streams; ++s) {
      auto& all = ids.emplace_back();
      for (Index i = 0; i <= text; ++i) all.push_back(token(random));
      image_tokens.emplace_back(images, c.hidden_size);
      Matrix<float>& m = image_tokens.back();
      for (Index i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
    }
    for (std::size_t s = 0; s < ids.size(); ++s) {
      const std::span<const int> all(ids[s]);
      samples.push_back(
          {all.first(all.size() - 1), all.subspan(1), images_at, image_tokens[s], {}, {}});
    }
  }

  std::vector<Insertion> images_at;
  std::vector<std::vector<int>> ids;
  std::vector<Matrix<float>> image_tokens;
  std::vector<TrainingSample<float>> samples;
};

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

void print_case(const std::string& name, const DecoderConfig& config, const Batch& batch,
                Activations activations, const Context& context, Index threads) {
  TrainerOptions options;
  options.clip_norm = 1;
  Trainer<float> trainer(random_parameters(config), options);
  DecoderGradient<float> gradient(config, trainer.gradients(), activations);
  const DecoderSpec spec = decoder_spec(config);
  Arena memory = Arena::keeping();
  std::optional<Decoder<float>> model;
  double packing = 0, gradients = 0, update = 0, steps = 0, tokens = 0;
  bool warm = false;
  for (const auto& s : batch.samples) tokens += static_cast<double>(s.ids.size());
  bench::print_csv(
      "training", name, activations == Activations::keep ? "casa keep" : "casa", threads,
      tokens / 1e3, "ktok",
      [&] {
        const double begin = bench::wall_seconds();
        model.reset();
        model.emplace(config, spec, trainer.parameters().source(), WeightType::native, &memory);
        const double packed = bench::wall_seconds();
        const CrossEntropy loss = gradient.add(*model, batch.samples, context);
        const double differentiated = bench::wall_seconds();
        trainer.step(1 / static_cast<double>(loss.count), context);
        const double end = bench::wall_seconds();
        if (!warm) return void(warm = true);
        packing += packed - begin;
        gradients += differentiated - packed;
        update += end - differentiated;
        steps += 1;
      },
      2.0);
  std::fprintf(stderr,
               "# %s: packing %.2f ms, forward and backward %.2f ms, clipping and AdamW %.2f ms a "
               "step; peak %.0f MiB\n",
               name.c_str(), 1e3 * packing / steps, 1e3 * gradients / steps, 1e3 * update / steps,
               peak_mib());
}

}  // namespace

namespace bench {

void print_training_steps(Index threads) {
  ThreadPool pool(threads);
  Context context;
  if (threads > 1) context.executor = pool;
  for (const auto activations : {Activations::recompute, Activations::keep}) {
    const DecoderConfig small = reader();
    print_case("reader_B8", small, Batch(small, 8, 60, {{0, 256}, {20, 256}, {40, 256}}),
               activations, context, threads);
    const DecoderConfig large = smollm2();
    print_case("smollm2_T512", large, Batch(large, 1, 512, {}), activations, context, threads);
  }
}

}  // namespace bench
