// For the trained text readers the map follows the letters: as one is read after the other, what a
// head looks at goes from left to right along a line, and from line to line downwards.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/generate/captioner.hpp"
#include "golden.hpp"

using namespace casa;

namespace {

constexpr int kNewline = 95, kBegin = 96, kEnd = 97;

// Where a map stands on its image, in patches: its centre of mass.
struct Look {
  double x = 0, y = 0;
};
using Line = std::vector<Look>;     // one for each letter
using Reading = std::vector<Line>;  // of one picture

Look centre(std::span<const float> weights, Index cols) {
  double mass = 0;
  Look at;
  for (std::size_t j = 0; j < weights.size(); ++j) {
    const double w = static_cast<double>(weights[j]);
    mass += w;
    at.x += w * static_cast<double>(static_cast<Index>(j) % cols);
    at.y += w * static_cast<double>(static_cast<Index>(j) / cols);
  }
  return {at.x / mass, at.y / mass};
}

// Spearman's rank correlation of a line's letters' order with their x; 0 where all x are equal.
double rank_correlation(const Line& line) {
  const auto n = line.size();
  std::vector<double> rank(n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      rank[i] += j != i ? (line[j].x < line[i].x) + 0.5 * (line[j].x == line[i].x) : 0;
  const double mean = static_cast<double>(n - 1) / 2;
  double product = 0, order = 0, ranks = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const double a = static_cast<double>(i) - mean, b = rank[i] - mean;
    product += a * b;
    order += a * a;
    ranks += b * b;
  }
  return ranks > 0 ? product / std::sqrt(order * ranks) : 0;
}

struct Agreement {
  double along = 0;  // mean rank correlation of lines of four letters and more, by their letters
  double worst_line = 1;
  double down = 0;  // of pairs of letters of two lines, the share in which y agrees
  Index letters = 0, pairs = 0;
};

Agreement agreement(const std::vector<Reading>& readings) {
  Agreement a;
  double agree = 0;
  for (const Reading& lines : readings)
    for (std::size_t l = 0; l < lines.size(); ++l) {
      if (lines[l].size() >= 4) {
        const double rho = rank_correlation(lines[l]);
        a.along += rho * static_cast<double>(lines[l].size());
        a.letters += std::ssize(lines[l]);
        a.worst_line = std::min(a.worst_line, rho);
      }
      for (std::size_t below = l + 1; below < lines.size(); ++below)
        for (const Look& upper : lines[l])
          for (const Look& lower : lines[below]) {
            agree += upper.y < lower.y;
            ++a.pairs;
          }
    }
  a.along /= static_cast<double>(a.letters);
  a.down = agree / static_cast<double>(a.pairs);
  return a;
}

// The looks of every picture's letters, dealt anew among them.
std::vector<Reading> shuffled(std::vector<Reading> readings, unsigned seed) {
  std::mt19937 random(seed);
  for (Reading& lines : readings) {
    Line all;
    for (const Line& line : lines) all.insert(all.end(), line.begin(), line.end());
    std::ranges::shuffle(all, random);
    auto next = all.begin();
    for (Line& line : lines)
      for (Look& look : line) look = *next++;
  }
  return readings;
}

// What `head` looks at for each letter of the easy pictures among the first streams.
std::vector<Reading> read(const std::string& variant, AttentionHead head) {
  const auto root = golden::repository_root() / "reader";
  const golden::Case streams(root / "streams.safetensors");
  const auto begin = streams.values<Index>("stream_begin");
  const io::Json description = streams.description();
  const auto shape = streams.shape("images");
  Matrix<std::uint8_t> images(shape[0], shape[1] * shape[2]);
  streams.file.at("images").read_into(
      std::span(images.data(), static_cast<std::size_t>(images.size())));
  const io::Model<float> model = io::load_model<float>((root / variant).string());
  const Context context;
  CaptionerOptions options;
  options.sampling = {};
  options.max_new_tokens = 72;
  options.repetition.penalty = 1;
  options.ngrams.size = 0;
  options.stop_ids = {kEnd};
  options.after_image = {kBegin};
  options.cut_id = kEnd;
  options.state = {};
  Captioner<float> captioner(model.decoder, context, options);
  AttentionMaps<float> maps{.heads = {head}};
  captioner.set_maps(&maps);
  PatchEncoder<float>::Scratch scratch;
  const auto& encoder = model.patch_encoder->config();
  Matrix<float> tokens(encoder.num_patches(), encoder.out_hidden_size);
  std::vector<Reading> readings;
  for (std::size_t s = 0; s < 8; ++s) {
    if (description.at("hard").at(s).as_int() != 0) continue;
    captioner.reset();
    for (Index i = begin[s]; i < begin[s + 1]; ++i) {
      model.patch_encoder->encode(images.view().middle_rows(i, 1), tokens, scratch, context);
      captioner.push_frame(tokens);
      Reading lines(1);
      while (captioner.status() == Caption::open) {
        const int id = captioner.step();
        if (id == kNewline) lines.emplace_back();
        if (id >= kNewline) continue;
        const auto weights = maps.image_weights(0, 0);
        REQUIRE(std::ssize(weights) == encoder.num_patches());
        lines.back().push_back(centre(weights, encoder.image_size / encoder.patch_size));
      }
      readings.push_back(std::move(lines));
    }
  }
  return readings;
}

}  // namespace

TEST_CASE("the map follows the letters: left to right, line by line") {
  struct Case {
    const char* variant;
    AttentionHead head;
  };
  // Heads (layer.head) whose mean correlation along lines exceeds 0.95, measured over the 56 easy
  // pictures: CASA 1.1, 1.3 to 1.5, 2.3 to 2.5, 3.0 to 3.2, 3.4, 3.5; cross-attention 1.1, 1.3 to
  // 1.5, 2.1, 2.3 to 2.5, 3.0 to 3.5; token insertion 3.3 to 3.5. No head of layer 0 reaches 0.4.
  // Those chosen here: 0.999 and more along lines, and every pair of two lines' letters in order.
  for (const Case& c : {Case{"casa", {3, 0}}, Case{"casa", {2, 5}}, Case{"cross_attention", {3, 0}},
                        Case{"token_insertion", {3, 4}}}) {
    CAPTURE(c.variant);
    CAPTURE(c.head.layer);
    CAPTURE(c.head.head);
    const std::vector<Reading> readings = read(c.variant, c.head);
    const Agreement a = agreement(readings);
    CHECK(a.letters > 300);
    CHECK(a.pairs > 3000);
    CHECK(a.along >= 0.95);
    CHECK(a.worst_line >= 0.9);
    CHECK(a.down >= 0.99);
    // The bounds mean something: the same looks in another order are far below them, and a map that
    // looks everywhere alike agrees with nothing.
    for (unsigned seed = 1; seed <= 5; ++seed) {
      const Agreement other = agreement(shuffled(readings, seed));
      CHECK(other.along < 0.5);
      CHECK(other.down < 0.7);
    }
    std::vector<Reading> uniform = readings;
    const std::vector<float> even(256, 1.0f / 256);
    for (Reading& lines : uniform)
      for (Line& line : lines) std::fill(line.begin(), line.end(), centre(even, 16));
    CHECK(agreement(uniform).along == 0);
    CHECK(agreement(uniform).down == 0);
  }
}
