// How do I train a model?
//
// A small decoder with CASA learns to say which of 8 kinds of picture it is shown. A stream has two
// pictures of 4 tokens, after each a question and its answer: text tokens `? k0 ? k1`, and a loss
// for the answers alone. Prints the loss on the way (in nats; guessing costs ln 8 = 2.1), and how
// many of 100 new pictures are named right in the end.
#include <algorithm>
#include <casa/casa.hpp>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

constexpr casa::Index kKinds = 8, kHidden = 32;

struct Stream {
  explicit Stream(casa::Random& random) {
    for (casa::Index token = 0; token < 8; ++token) {
      if (token % 4 == 0) kinds.push_back(static_cast<int>(casa::uniform_below(random, kKinds)));
      for (casa::Index c = 0; c < kHidden; ++c)  // a kind's own pattern, in a lot of noise
        pictures(token, c) = static_cast<float>(2 * random.uniform() - 1) +
                             ((c * (kinds.back() + 3)) % 11 < 5 ? 0.5f : -0.5f);
    }
    for (const int kind : kinds) {
      ids.insert(ids.end(), {kKinds, kind});  // id 8 is the question
      targets.insert(targets.end(), {kind, casa::kIgnoredTarget});
    }
  }
  casa::TrainingSample<float> sample() const {
    return {.ids = ids, .targets = targets, .insertions = images, .image_tokens = pictures};
  }
  std::vector<int> kinds, ids, targets;
  std::vector<casa::Insertion> images = {{0, 4}, {2, 4}};
  casa::RowMatrix<float> pictures{8, kHidden};
};

int main() {
  casa::DecoderConfig config;
  config.hidden_size = kHidden;
  config.num_hidden_layers = 2;
  config.num_attention_heads = config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.intermediate_size = 64;
  config.vocab_size = kKinds + 1;
  config.fusion = casa::presets::casa({0, 1});

  casa::Random random(1);
  casa::TensorSet<float> start(casa::tensor_specs(casa::decoder_spec(config)));
  for (casa::Index i = 0; i < start.size(); ++i)  // norms are 1, matrices of variance 1 / columns
    for (float& value : start[i].eigen().reshaped<Eigen::RowMajor>())
      value = start[i].rows() == 1
                  ? 1.0f
                  : static_cast<float>((2 * random.uniform() - 1) *
                                       std::sqrt(3.0 / static_cast<double>(start[i].cols())));

  constexpr int kSteps = 60;
  casa::Trainer<float> trainer(
      std::move(start),
      {.schedule = {.peak = 3e-3, .warmup = 10, .total = kSteps, .decay = casa::Decay::cosine},
       .clip_norm = 1});
  casa::DecoderGradient<float> gradient(config, trainer.gradients());
  const casa::Context context;  // keep it: once warm, a step allocates no scratch memory
  double mean = 0;
  for (int step = 1; step <= kSteps; ++step) {
    std::vector<Stream> streams;
    std::vector<casa::TrainingSample<float>> samples;
    for (int i = 0; i < 16; ++i) streams.emplace_back(random);
    for (const Stream& s : streams) samples.push_back(s.sample());
    const casa::Decoder<float> model(config, trainer.parameters().source());
    const casa::CrossEntropy loss =
        gradient.add(model, samples, context, 1);                  // adds to gradients()
    trainer.step(1.0 / static_cast<double>(loss.count), context);  // and these are 0 again
    mean += loss.mean() / 20;
    if (step % 20 == 0)
      std::printf("steps %2d to %2d: loss %.1f\n", step - 19, step, mean), mean = 0;
  }

  const casa::Decoder<float> model(config, trainer.parameters().source());
  int right = 0;
  for (int i = 0; i < 50; ++i) {
    const Stream s(random);
    const casa::Matrix<float> logits = model.logits(s.ids, s.images, s.pictures, context);
    for (const casa::Index row : {0, 2}) {
      const float* best = std::max_element(logits.row(row), logits.row(row) + kKinds);
      right += best - logits.row(row) == s.kinds[static_cast<std::size_t>(row / 2)];
    }
  }
  std::printf("named right: %s of 100 new pictures\n", right >= 95 ? "more than 95" : "too few");
}
