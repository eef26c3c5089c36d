#include <doctest/doctest.h>

#include <random>

#include "golden_model.hpp"
#include "support/difference.hpp"

using namespace casa;

namespace {

Context naive_context() {
  Context c;
  c.path = Path::naive;
  return c;
}

// The insertions of `all` that come before the text tokens [begin, end) (and behind the last one,
// if the stream ends there), relative to begin.
struct Chunk {
  std::vector<Insertion> insertions;
  Index first_image = 0, images = 0;
};
Chunk chunk_of(const std::vector<Insertion>& all, Index begin, Index end, bool last) {
  Chunk c;
  for (const auto& [position, count] : all) {
    if (position < begin) c.first_image += count;
    if (position < begin || (position >= end && !(last && position == end))) continue;
    c.insertions.push_back({position - begin, count});
    c.images += count;
  }
  return c;
}

template <class T>
Matrix<T> logits_in_chunks(const Decoder<T>& model, const std::vector<int>& ids,
                           const std::vector<Insertion>& insertions, const Matrix<T>& images,
                           const std::vector<Index>& cuts, StateOptions options = {}) {
  auto state = model.new_state(options);
  Matrix<T> logits(static_cast<Index>(ids.size()), model.config().vocab_size);
  const Context context;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Index begin = cuts[i], end = cuts[i + 1];
    const Chunk c = chunk_of(insertions, begin, end, i + 2 == cuts.size());
    StreamInput<T> input{&state,
                         std::span(ids).subspan(static_cast<std::size_t>(begin),
                                                static_cast<std::size_t>(end - begin)),
                         c.insertions, images.view().middle_rows(c.first_image, c.images)};
    input.logits = LogitRows::all;
    model.forward(input, logits.view().middle_rows(begin, end - begin), context);
  }
  return logits;
}

template <class T>
std::vector<int> greedy(const Decoder<T>& model, const golden::Case& c) {
  const auto description = c.description();
  const auto insertions = golden::insertions(description.at("greedy").at("insertions"));
  const auto steps = description.at("greedy").at("steps").as_int();
  const auto images = c.matrix<T>("greedy.image_tokens");
  std::vector<int> ids = golden::ids(c, "greedy.prompt_ids");
  const auto prompt = static_cast<Index>(ids.size());

  auto state = model.new_state();
  Matrix<T> logits(1, model.config().vocab_size);
  const Context context;
  Index fed = 0;
  // An insertion at K comes right before token K: it goes in with that token.
  const auto feed = [&] {
    const auto end = static_cast<Index>(ids.size());
    const Chunk chunk = chunk_of(insertions, fed, end, false);
    model.forward({&state, std::span(ids).subspan(static_cast<std::size_t>(fed)), chunk.insertions,
                   images.view().middle_rows(chunk.first_image, chunk.images)},
                  logits, context);
    fed = end;
  };
  for (std::int64_t s = 0; s < steps; ++s) {
    feed();
    ids.push_back(static_cast<int>(std::max_element(logits.row(0), logits.row(0) + logits.cols()) -
                                   logits.row(0)));
  }
  return {ids.begin() + prompt, ids.end()};
}

// `decided` counts the cases whose greedy ids T can tell.
template <class T>
void check_case(const golden::Case& c, golden::Tally& decided) {
  const auto model = golden::decoder<T>(c, golden::config(c));
  const auto insertions = golden::insertions(c.description().at("insertions"));
  const auto ids = golden::ids(c, "ids");
  const auto images = c.has("image_tokens") ? c.matrix<T>("image_tokens")
                                            : Matrix<T>(0, model.config().hidden_size);
  const auto reference = c.matrix<double>("logits");

  const auto naive = model.logits(ids, insertions, images, naive_context());
  const auto fast = model.logits(ids, insertions, images);
  golden::check_close(fast, naive, reference);

  const auto length = static_cast<Index>(ids.size());
  std::vector<Index> each;
  for (Index i = 0; i <= length; ++i) each.push_back(i);
  INFO("token by token");
  golden::check_close(logits_in_chunks(model, ids, insertions, images, each), naive, reference);

  std::mt19937 random(static_cast<unsigned>(length));
  for (int round = 0; round < 4; ++round) {
    std::vector<Index> cuts{0, length};
    for (int i = 0; i < 3; ++i)
      cuts.push_back(std::uniform_int_distribution<Index>(0, length)(random));
    std::ranges::sort(cuts);
    CAPTURE(cuts[1]);
    CAPTURE(cuts[2]);
    CAPTURE(cuts[3]);
    golden::check_close(logits_in_chunks(model, ids, insertions, images, cuts), naive, reference);
  }

  // Ties closer than float can see are not decided by float.
  const auto margins = c.values<double>("greedy.margins");
  const bool no_tie = margins.empty() || std::ranges::min(margins) > 1e-4;
  if (std::is_same_v<T, double> || no_tie) {
    CHECK(greedy(model, c) == golden::ids(c, "greedy.new_ids"));
    decided.ran();
  }
}

}  // namespace

TEST_CASE_TEMPLATE("decoders give the reference's logits and greedy ids", T, float, double) {
  for (const char* kind : {"decoder", "ladder"}) {
    const std::size_t cases = golden::case_files(kind).size();
    golden::Tally tally(kind, cases), decided(kind + std::string(" without ties"), cases);
    for (const golden::Case& c : golden::cases(kind)) {
      CAPTURE(c.name);
      check_case<T>(c, decided);
      tally.ran();
    }
    tally.check_all();
    std::is_same_v<T, double> ? decided.check_all() : decided.check_some();
  }
}

TEST_CASE("the top rung of the ladder is token insertion") {
  int rungs = 0;
  for (const golden::Case& c : golden::cases("ladder")) {
    const auto config = golden::config(c);
    const auto insertions = golden::insertions(c.description().at("insertions"));
    const bool one_first = insertions.size() == 1 && insertions[0].position == 0;
    if (!config.fusion) continue;
    FusionConfig top = presets::token_insertion(config.fusion->layers);
    if (one_first && config.fusion->history == History::window) {
      // One image that stands first: its window is the whole stream, also for positions.
      top.history = History::window;
      top.image_rope = config.fusion->image_rope;
      if (top.image_rope != ImageRope::stream && top.image_rope != ImageRope::consecutive) continue;
    }
    const auto layers = static_cast<Index>(config.fusion->layers.size());
    if (*config.fusion != top || layers != config.num_hidden_layers) continue;
    ++rungs;
    CAPTURE(c.name);
    const auto ids = golden::ids(c, "ids");
    const auto images = c.matrix<double>("image_tokens");
    const auto naive = golden::naive_token_insertion(c).logits(ids, insertions, images.eigen());
    const auto logits = golden::decoder<double>(c, config).logits(ids, insertions, images);
    CHECK(casa_test::largest_difference(logits.eigen(), naive) <=
          1e-11 * casa_test::largest(naive));
    // The same weights under the name of the rival.
    auto rival = config;
    rival.fusion = presets::token_insertion(config.fusion->layers);
    const auto same = golden::decoder<double>(c, rival).logits(ids, insertions, images);
    CHECK(casa_test::largest_difference(same.eigen(), naive) <= 1e-11 * casa_test::largest(naive));
  }
  if (!golden::is_foreign()) CHECK(rungs >= 3);
}
