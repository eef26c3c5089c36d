// Which windows fusion sees and which it keeps: the last n, every k-th, all, by a rule of one's
// own, and under the names of published models. Logits are those of a decoder written apart
// (support/twin.hpp), caches hold what may still be seen and no more.
#include <doctest/doctest.h>

#include <memory>

#include "casa/model/state_archive.hpp"
#include "random_model.hpp"
#include "stream/random_stream.hpp"
#include "support/difference.hpp"
#include "support/messages.hpp"
#include "support/twin.hpp"

using namespace casa;
using model_test::Twin;
using model_test::TwinToken;

namespace {

// A whole stream of a model, and its cut into chunks.
struct HistoryStream {
  std::vector<int> ids;
  std::vector<Insertion> insertions;
  StreamLayout layout;
  Matrix<double> images;

  HistoryStream(const DecoderConfig& c, std::mt19937& random) {
    const auto s = stream_test::random_stream(random, 24);
    const auto more = stream_test::random_stream(random, 24);  // more windows
    insertions = s.insertions;
    for (const Insertion& i : more.insertions)
      insertions.push_back({std::min(i.position, s.text_len), i.num_tokens});
    std::ranges::stable_sort(insertions, {}, &Insertion::position);
    if (random() % 3 > 0)  // else some begin a window and have no tokens
      for (Insertion& i : insertions) i.num_tokens = std::max<Index>(1, i.num_tokens);
    const auto seed = static_cast<unsigned>(random());
    ids = model_test::random_ids(s.text_len, c.vocab_size, seed);
    layout = StreamLayout(s.text_len, insertions);
    images = model_test::random_matrix<double>(layout.image_len(), c.hidden_size, seed);
  }
  // Windows as the twin takes them: those that images begin.
  std::vector<Insertion> windows() const {
    std::vector<Insertion> all;
    for (const Window& w : layout.windows().subspan(1))
      all.push_back({w.text.begin, w.image.size()});
    return all;
  }
};

// Logits of the stream cut into random chunks; `each` is called behind every chunk.
template <class Each>
Matrix<double> in_chunks(const Decoder<double>& model, DecoderState<double>& state,
                         const HistoryStream& s, std::mt19937& random, Each each) {
  const auto length = static_cast<Index>(s.ids.size());
  Matrix<double> logits(length, model.config().vocab_size);
  std::size_t next = 0;
  Index image = 0;
  for (Index begin = 0; begin < length || next < s.insertions.size();) {
    const Index count =
        std::min(length - begin, std::uniform_int_distribution<Index>(0, 5)(random));
    std::vector<Insertion> here;
    Index tokens = 0;
    while (next < s.insertions.size() && s.insertions[next].position <= begin + count) {
      if (s.insertions[next].position == begin + count && random() % 2 == 0) break;
      here.push_back({s.insertions[next].position - begin, s.insertions[next].num_tokens});
      tokens += s.insertions[next++].num_tokens;
    }
    StreamInput<double> input{
        &state,
        std::span(s.ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)),
        here, s.images.view().middle_rows(image, tokens)};
    input.logits = LogitRows::all;
    model.forward(input, logits.view().middle_rows(begin, count), {});
    begin += count;
    image += tokens;
    each(state);
  }
  return logits;
}

double largest_change(const Matrix<double>& a, const Matrix<double>& b) {
  return a.size() == 0 ? 0 : casa_test::largest_difference(a.eigen(), b.eigen());
}
double bound_of(const Matrix<double>& m) {
  return m.size() == 0 ? 0 : 1e-11 * casa_test::largest(m.eigen());
}

Matrix<double> twin_logits(const Twin& twin, const HistoryStream& s, const Twin::Sees& sees) {
  return twin.logits(
      s.ids, [](Index i, Index j) { return j <= i; }, [](Index i, Index j) { return i - j; },
      s.windows(), s.images.eigen(), std::vector<Index>(s.ids.size(), 0), sees);
}

// What a history sees of another window, told apart from History::sees.
bool sees(const History& h, Index own, Index other) {
  if (own == other || h == History::all) return true;
  if (h.rule == History::Rule::last) return other > own - h.count;
  for (Index kept = 1; kept <= own; kept += h.count)
    if (kept == other) return true;
  return false;
}

const std::vector<History> histories = {History::window,   History::last(2),  History::last(3),
                                        History::every(1), History::every(2), History::every(3),
                                        History::all};

// Keys of the windows that `kept` says, when the stream has come as far as `state`.
Index keys_kept(const HistoryStream& s, Keys keys, const DecoderState<double>& state,
                const std::function<bool(Index newest, Index window)>& kept) {
  // Of the windows so far: those up to the last that has begun.
  Index newest = 0, count = 0;
  const auto windows = s.layout.windows();
  std::vector<std::pair<Index, Index>> sizes;  // images, text, so far
  for (std::size_t w = 0; w < windows.size(); ++w) {
    const Index images =
        std::clamp<Index>(state.image_len() - windows[w].image.begin, 0, windows[w].image.size());
    const Index text =
        std::clamp<Index>(state.text_len() - windows[w].text.begin, 0, windows[w].text.size());
    sizes.emplace_back(images, text);
    if (images + text > 0) newest = static_cast<Index>(w);
  }
  for (std::size_t w = 0; w < sizes.size(); ++w)
    if (kept(newest, static_cast<Index>(w)))
      count += sizes[w].first + (keys == Keys::image_text ? sizes[w].second : 0);
  return count;
}

// The newest image whole; of those before it the first token alone, for three windows; no text of
// theirs.
struct Summaries final : VisibilityRule {
  RuleSeen sees(const RuleRow& row, const RuleWindow& w) const override {
    return w.number == row.window ? RuleSeen::all(w) : RuleSeen{{0, 1}, {}};
  }
  bool keeps(Index window, Index newest) const override { return newest - window < 3; }
};
bool summaries(const TwinToken& row, const TwinToken& key) {
  if (key.window == row.window) return true;
  return row.window - key.window < 3 && key.image && key.place == 0;
}

// Odd text rows see the last two tokens of what there is of each window's images; even ones their
// own window's text alone. Windows 1 and 4 are kept for ever. Asks for more than there is, too.
struct Odd final : VisibilityRule {
  RuleSeen sees(const RuleRow& row, const RuleWindow& w) const override {
    if (row.place % 2 == 1) return {{w.images - 2, w.images + 9}, {}};
    return w.number == row.window ? RuleSeen{{}, {-3, w.text + 1}} : RuleSeen{};
  }
  bool keeps(Index window, Index) const override { return window == 1 || window == 4; }
};

// A history as a rule.
struct AsRule final : VisibilityRule {
  explicit AsRule(History h) : history(h) {}
  History history;
  RuleSeen sees(const RuleRow&, const RuleWindow& w) const override { return RuleSeen::all(w); }
  bool keeps(Index window, Index newest) const override { return ::sees(history, newest, window); }
};

}  // namespace

TEST_CASE("logits are those of the definition, and caches hold the windows that history says") {
  Index rows = 0, forgotten = 0;
  for (unsigned seed = 0; seed < 12; ++seed)
    for (const Keys keys : {Keys::image, Keys::image_text})
      for (const History history : histories) {
        std::mt19937 random(seed);
        DecoderConfig c = model_test::small_config(2);
        c.fusion = seed % 3 == 0   ? presets::casa_before({0, 1})
                   : seed % 3 == 1 ? presets::casa_replace({1})
                                   : presets::casa_shared({0, 1});
        c.fusion->keys = keys;
        c.fusion->history = history;
        if (seed >= 6) c.fusion->image_rope = ImageRope::stream;
        CAPTURE(seed);
        CAPTURE(static_cast<int>(keys));
        CAPTURE(static_cast<int>(history.rule));
        CAPTURE(history.count);
        model_test::RandomWeights weights(seed);
        const Decoder<double> model(c, weights.source());
        const HistoryStream s(c, random);
        const Matrix<double> expected =
            twin_logits(Twin(c, weights), s, [&](const TwinToken& row, const TwinToken& key) {
              return sees(history, row.window, key.window);
            });
        auto state = model.new_state();
        for (int round = 0; round < 2; ++round, state.reset()) {
          const Matrix<double> logits = in_chunks(model, state, s, random, [&](const auto& now) {
            // (An image that was announced with no tokens cannot be seen in the counts.)
            if (std::ranges::any_of(s.insertions, [](auto& i) { return i.num_tokens == 0; }))
              return;
            const Index held = keys_kept(s, keys, now, [&](Index newest, Index window) {
              return sees(history, newest, window);
            });
            CHECK(now.fusion_tokens() == held);
            const Index all =
                keys == Keys::image ? now.image_len() : now.image_len() + Index{now.text_len()};
            forgotten += all - held;
            const auto fused = static_cast<Index>(c.fusion->layers.size());
            CHECK(now.fusion_bytes() == held * fused * 2 * c.num_key_value_heads * c.head_dim * 8);
          });
          CHECK(largest_change(logits, expected) <= bound_of(expected));
          rows += logits.rows();
        }
      }
  CHECK(rows > 1000);
  CHECK(forgotten > 1000);
}

TEST_CASE("histories are told apart: those of another give other logits") {
  std::mt19937 random(5);
  DecoderConfig c = model_test::small_config(1);
  c.fusion = presets::casa_before({0});
  model_test::RandomWeights weights(5);
  HistoryStream s(c, random);
  s.insertions = {{1, 2}, {2, 2}, {3, 2}, {4, 2}, {5, 2}, {6, 2}};
  s.ids = model_test::random_ids(8, c.vocab_size, 5);
  s.layout = StreamLayout(8, s.insertions);
  s.images = model_test::random_matrix<double>(12, c.hidden_size, 5);
  std::vector<Matrix<double>> all;
  for (const History history : histories) {
    c.fusion->history = history;
    const Decoder<double> model(c, weights.source());
    all.push_back(model.logits(s.ids, s.insertions, s.images));
    for (std::size_t other = 0; other + 1 < all.size(); ++other) {
      CAPTURE(other);
      CHECK(largest_change(all.back(), all[other]) > 1e-3);
    }
  }
}

TEST_CASE("a rule of one's own is followed as if the library knew it") {
  for (unsigned seed = 0; seed < 8; ++seed)
    for (const Keys keys : {Keys::image, Keys::image_text})
      for (const bool odd : {false, true}) {
        std::mt19937 random(seed);
        DecoderConfig c = model_test::small_config(2);
        c.fusion = seed % 2 == 0 ? presets::casa({0, 1}) : presets::casa_before({1});
        c.fusion->keys = keys;
        if (odd)
          c.fusion->rule = std::make_shared<Odd>();
        else
          c.fusion->rule = std::make_shared<Summaries>();
        CAPTURE(seed);
        CAPTURE(static_cast<int>(keys));
        CAPTURE(odd);
        model_test::RandomWeights weights(seed);
        const Decoder<double> model(c, weights.source());
        const HistoryStream s(c, random);
        const auto windows = s.layout.windows();
        const Matrix<double> expected =
            twin_logits(Twin(c, weights), s, [&](const TwinToken& row, const TwinToken& key) {
              if (!odd) return summaries(row, key);
              if (row.place % 2 == 0) return row.window == key.window && !key.image;
              const bool kept = key.window == row.window || key.window == 1 || key.window == 4;
              const Index images = windows[static_cast<std::size_t>(key.window)].image.size();
              return kept && key.image && key.place >= images - 2;
            });
        auto state = model.new_state();
        const Matrix<double> logits = in_chunks(model, state, s, random, [](const auto&) {});
        CHECK(largest_change(logits, expected) <= bound_of(expected));
        CHECK(largest_change(model.logits(s.ids, s.insertions, s.images), expected) <=
              bound_of(expected));
      }
}

TEST_CASE("a history written as a rule is that history, for image rows too") {
  for (unsigned seed = 0; seed < 4; ++seed)
    for (const History history : histories) {
      std::mt19937 random(seed);
      DecoderConfig c = model_test::small_config(2);
      c.fusion = presets::token_insertion({0, 1});
      if (seed % 2 == 1) c.fusion->keys = Keys::image;
      c.fusion->history = history;
      CAPTURE(seed);
      CAPTURE(static_cast<int>(history.rule));
      CAPTURE(history.count);
      model_test::RandomWeights weights(seed);
      const Decoder<double> model(c, weights.source());
      c.fusion->rule = std::make_shared<AsRule>(history);
      const Decoder<double> by_rule(c, weights.source());
      const HistoryStream s(c, random);
      const Matrix<double> whole = model.logits(s.ids, s.insertions, s.images);
      CHECK(by_rule.logits(s.ids, s.insertions, s.images).eigen() == whole.eigen());
      auto state = by_rule.new_state();
      const Matrix<double> pieces = in_chunks(by_rule, state, s, random, [](const auto&) {});
      CHECK(largest_change(pieces, whole) <= bound_of(whole));
    }
}

TEST_CASE("presets of published models are their definitions") {
  // The last image before a row, and no text; without positions; times tanh of the gate.
  const auto previous_image = [](const TwinToken& row, const TwinToken& key) {
    return key.image && key.window == row.window;
  };
  const auto everything = [](const TwinToken&, const TwinToken&) { return true; };
  struct Case {
    FusionConfig fusion;
    Twin::Sees sees;
  };
  for (const Case& preset :
       {Case{presets::flamingo({0, 2}), previous_image}, Case{presets::evlm({1}), previous_image},
        Case{presets::llama_vision({1, 2}), previous_image},
        Case{presets::mplug_owl3({0, 2}), everything},
        Case{presets::mplug_owl3_gated({0, 2}), everything}})
    for (unsigned seed = 0; seed < 3; ++seed) {
      CAPTURE(seed);
      std::mt19937 random(seed);
      DecoderConfig c = model_test::small_config(3);
      c.fusion = preset.fusion;
      model_test::RandomWeights weights(seed);
      const Decoder<double> model(c, weights.source());
      const HistoryStream s(c, random);
      const Matrix<double> expected = twin_logits(Twin(c, weights), s, preset.sees);
      auto state = model.new_state();
      const Matrix<double> logits = in_chunks(model, state, s, random, [](const auto&) {});
      CHECK(largest_change(logits, expected) <= bound_of(expected));
    }
  for (const FusionConfig& f : {presets::flamingo({0}), presets::evlm({0})}) {
    CHECK(f.gate == Gate::tanh);
    CHECK(f.placement == Placement::before);
  }
  CHECK(presets::llama_vision({0}).placement == Placement::replace);
  CHECK(presets::mplug_owl3({0}).history == History::all);
  CHECK(presets::mplug_owl3_gated({0}).gate == Gate::token);
}

// Fault: rows that ask for no logits are left out, and those that do take their lists from the
// wrong place.
TEST_CASE("the last row alone gets the logits that it gets among all rows") {
  for (const History history : histories) {
    CAPTURE(static_cast<int>(history.rule));
    CAPTURE(history.count);
    DecoderConfig c = model_test::small_config(2);
    c.fusion = presets::casa_replace({0, 1});
    c.fusion->history = history;
    model_test::RandomWeights weights(3);
    const Decoder<double> model(c, weights.source());
    const std::vector<Insertion> insertions = {{0, 2}, {2, 1}, {4, 3}, {6, 2}, {9, 1}};
    const auto ids = model_test::random_ids(12, c.vocab_size, 3);
    const auto images = model_test::random_matrix<double>(9, c.hidden_size, 3);
    const Matrix<double> all = model.logits(ids, insertions, images);
    for (const std::size_t count : {12u, 10u, 8u, 5u, 3u}) {
      std::vector<Insertion> here;
      Index tokens = 0;
      for (const Insertion& i : insertions)
        if (i.position < static_cast<Index>(count)) {
          here.push_back(i);
          tokens += i.num_tokens;
        }
      auto state = model.new_state();
      Matrix<double> last(1, c.vocab_size);
      model.forward(
          {&state, std::span(ids).first(count), here, images.view().middle_rows(0, tokens)}, last,
          {});
      const auto row = all.eigen().row(static_cast<Index>(count) - 1);
      CHECK((last.eigen().row(0) - row).cwiseAbs().maxCoeff() <= bound_of(all));
    }
  }
}

TEST_CASE("a saved stream goes on with the windows it kept, bit for bit") {
  for (const History history : histories) {
    CAPTURE(static_cast<int>(history.rule));
    CAPTURE(history.count);
    std::mt19937 random(3);
    DecoderConfig c = model_test::small_config(2);
    c.fusion = presets::casa({0, 1});
    c.fusion->history = history;
    model_test::RandomWeights weights(3);
    const Decoder<double> model(c, weights.source());
    auto state = model.new_state();
    const auto images = model_test::random_matrix<double>(2, c.hidden_size, 3);
    const auto step = [&](DecoderState<double>& to, int i) {
      const std::vector<int> id{i % 31};
      const Insertion image{0, 2};
      Matrix<double> logits(1, c.vocab_size);
      model.forward({&to,
                     id,
                     {&image, i % 3 == 0 ? 1u : 0u},
                     images.view().middle_rows(0, i % 3 == 0 ? 2 : 0)},
                    logits, {});
      return logits;
    };
    for (int i = 0; i < 20; ++i) step(state, i);
    using Archive = StateArchive<double>;
    auto restored = model.new_state();
    for (std::size_t l = 0; l < 2; ++l)
      Archive::caches(restored)[l] = Archive::caches(std::as_const(state))[l];
    StreamNumbers numbers = Archive::numbers(state);
    Archive::restore(restored, numbers, c);
    CHECK(Archive::numbers(restored) == numbers);
    for (int i = 20; i < 40; ++i) CHECK(step(restored, i).eigen() == step(state, i).eigen());

    auto fresh = model.new_state();
    for (std::size_t l = 0; l < 2; ++l)
      Archive::caches(fresh)[l] = Archive::caches(std::as_const(state))[l];
    numbers = Archive::numbers(state);
    if (numbers.windows.size() > 1) {
      numbers.windows.back().number = 0;
      CHECK(message_of([&] { Archive::restore(fresh, numbers, c); }) ==
            "stream: numbers of windows must ascend up to 41, got 0");
      numbers.windows.back().number = std::int64_t{1} << 62;
      CHECK(message_of([&] { Archive::restore(fresh, numbers, c); }) ==
            "stream: numbers of windows must ascend up to 41, got 4611686018427387904");
    }
    numbers = Archive::numbers(state);
    numbers.windows[0].number = 1;
    CHECK(message_of([&] { Archive::restore(fresh, numbers, c); }) ==
          "stream: number of the first window: expected 0, got 1");
  }
}

TEST_CASE("a rule that throws leaves the stream as it was") {
  struct Throws final : VisibilityRule {
    mutable int left = 1 << 20;
    RuleSeen sees(const RuleRow&, const RuleWindow& w) const override { return RuleSeen::all(w); }
    bool keeps(Index, Index) const override {
      if (--left < 0) throw std::runtime_error("stop here");
      return true;
    }
  };
  const auto rule = std::make_shared<Throws>();
  DecoderConfig c = model_test::small_config(1);
  c.fusion = presets::casa_before({0});
  c.fusion->rule = rule;
  model_test::RandomWeights weights(1);
  const Decoder<double> model(c, weights.source());
  auto state = model.new_state();
  const auto images = model_test::random_matrix<double>(2, c.hidden_size, 3);
  const Insertion image{0, 2};
  const std::vector<int> ids{1, 2};
  Matrix<double> logits(1, c.vocab_size), again(1, c.vocab_size);
  for (int i = 0; i < 3; ++i) model.forward({&state, ids, {&image, 1}, images}, logits, {});
  auto fork = state;
  for (int calls = 0; calls < 12; ++calls) {
    rule->left = calls;
    CHECK_THROWS_WITH(model.forward({&state, ids, {&image, 1}, images}, logits, {}), "stop here");
    CHECK(state.fusion_tokens() == 12);
    CHECK(state.image_len() == 6);
  }
  rule->left = 1 << 20;
  model.forward({&state, ids, {&image, 1}, images}, logits, {});
  model.forward({&fork, ids, {&image, 1}, images}, again, {});
  CHECK(logits.eigen() == again.eigen());
}

TEST_CASE("histories that mean nothing, or do not go with what else is asked, are refused") {
  DecoderConfig c = model_test::small_config(1);
  c.fusion = presets::casa_replace({0});
  model_test::RandomWeights weights(1);
  const auto said = [&](const StateOptions& options = {}) {
    return message_of([&] { Decoder<double>(c, weights.source()).new_state(options); });
  };
  c.fusion->history = History::last(0);
  CHECK(said() == "config: fusion.history: count of History::last must be positive, got 0");
  c.fusion->history = History::every(-2);
  CHECK(said() == "config: fusion.history: count of History::every must be positive, got -2");
  const std::string needs =
      "StateOptions: text_window is 4, which needs fusion.history window or last: with all and "
      "every, fusion layers grow too. With text_window 0 (of a captioner: CaptionerOptions::state) "
      "nothing is forgotten";
  c.fusion->history = History::last(3);
  CHECK(said({.text_window = 4}) == "");
  c.fusion->history = History::every(3);
  CHECK(said({.text_window = 4}) == needs);
  c.fusion->history = History::all;
  CHECK(said({.text_window = 4}) == needs);
  c.fusion->rule = std::make_shared<Summaries>();
  CHECK(said({.text_window = 4}) == "");
  c.sliding_window = 3;
  c.sliding_layers = {0};
  CHECK(has(said(), "history window, last or all"));
  c.fusion->rule = nullptr;
  CHECK(said() == "");
  c.fusion->history = History::every(2);
  CHECK(has(said(), "history window, last or all"));
  c.fusion->placement = Placement::before;
  CHECK(said() == "");
}
