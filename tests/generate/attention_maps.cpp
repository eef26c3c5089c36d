// Maps of a captioner and a generator: of the row that each token was drawn from, and at no bit.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "casa/generate/generator.hpp"
#include "small_captioner.hpp"
#include "support/messages.hpp"

using namespace casa;
using captioner_test::kImageTokens;
using captioner_test::Stage;

namespace {

template <class T>
double sum(const T& weights) {
  double s = 0;
  for (const auto w : weights) s += static_cast<double>(w);
  return s;
}

}  // namespace

TEST_CASE("a captioner shows what it looked at for each token, and says the same") {
  Stage<float> stage;
  const Context context;
  const auto options = captioner_test::small_options();
  Captioner<float> plain(stage.model, context, options), shows(stage.model, context, options);
  AttentionMaps<float> maps{.heads = {{1, 2}, {0, 0, BlockAttention::self}}};
  shows.set_maps(&maps);
  for (Index frame = 0; frame < 12; ++frame) {
    CAPTURE(frame);
    plain.push_frame(stage.frame(frame));
    shows.push_frame(stage.frame(frame));
    while (plain.status() == Caption::open) {
      // The newest token that has gone through the model, or goes with this step.
      const std::int64_t asks = shows.text_len() - 1;
      const int id = shows.step();
      CHECK(id == plain.step());
      REQUIRE(maps.num_rows() == 1);
      CHECK(maps.rows[0] == MapRow{asks, 0});
      const auto image = maps.image_weights(0, 0);
      REQUIRE(image.size() == static_cast<std::size_t>(kImageTokens));
      CHECK(sum(image) > 0);
      CHECK(sum(image) < 1);  // the text of the window has its share
      const auto newest = maps.fusion_keys[static_cast<std::size_t>(
          maps.image_weights(0, 0).data() - maps.weights[0].data())];
      CHECK(newest == MapKey{true, frame * kImageTokens, 0, 0});
      for (const auto& map : maps.weights)
        CHECK(std::abs(sum(std::span(map.row(0), static_cast<std::size_t>(map.cols()))) - 1) <=
              1e-5);
    }
    CHECK(shows.status() == plain.status());
    CHECK(std::vector<int>(shows.ids().begin(), shows.ids().end()) ==
          std::vector<int>(plain.ids().begin(), plain.ids().end()));
    CHECK((shows.logits().eigen().array() == plain.logits().eigen().array()).all());
  }
  shows.set_maps(nullptr);
  const auto before = maps.rows;
  shows.push_frame(stage.frame(12));
  CHECK(maps.rows == before);
  maps.heads[0].layer = 2;
  CHECK(has(message_of([&] { shows.set_maps(&maps); }), "heads[0].layer must be in [0, 2), got 2"));
  maps = {.heads = {{1, 2}}, .chunk_rows = {0}};
  CHECK(has(message_of([&] { shows.set_maps(&maps); }), "chunk_rows must be empty"));
}

TEST_CASE("generators show the row that their logits come from, alone and together") {
  Stage<double> stage;
  const Context context;
  const std::vector<int> ids{3, 1, 4, 1, 5, 9};
  const Insertion image{2, kImageTokens};
  const auto make = [&] {
    Generator<double> g(stage.model, {.prefill_chunk = 4});
    return g;
  };
  auto plain = make(), first = make(), second = make();
  AttentionMaps<double> of_first{.heads = {{0, 1}}}, of_second{.heads = {{0, 1}, {1, 3}}};
  first.set_maps(&of_first);
  second.set_maps(&of_second);
  for (auto* g : {&plain, &first, &second}) g->feed({ids, {&image, 1}, stage.frame(0)}, context);
  CHECK(of_first.rows == std::vector<MapRow>{{5, 0}});
  CHECK(of_first.image_weights(0, 0).size() == static_cast<std::size_t>(kImageTokens));
  for (int n = 0; n < 5; ++n) {
    const int id = plain.sample();
    CHECK(first.sample() == id);
    CHECK(second.sample() == id);
    std::vector<Generator<double>*> all{&plain, &first, &second};
    Generator<double>::advance(all, context);
    CHECK(of_first.rows == std::vector<MapRow>{{6 + n, 0}});
    CHECK(of_second.rows == of_first.rows);
    CHECK(of_second.weights[0].eigen() == of_first.weights[0].eigen());
    CHECK(std::vector(first.logits().begin(), first.logits().end()) ==
          std::vector(plain.logits().begin(), plain.logits().end()));
  }
  of_first.heads[0].head = 4;
  CHECK(has(message_of([&] { first.set_maps(&of_first); }),
            "heads[0].head must be in [0, 4), got 4"));
}
