#include "casa/generate/captioner.hpp"

#include <doctest/doctest.h>
#include <malloc.h>

#include <fstream>
#include <thread>

#include "generate/small_captioner.hpp"
#include "support/allocations.hpp"
#include "support/difference.hpp"

using namespace casa;
using namespace captioner_test;

namespace {

// What the process has asked the system for (pages) and what its heap has handed out (bytes): both
// follow from what the program did alone. Resident pages follow from the machine's other work too.
struct Memory {
  Index pages = 0;
  std::size_t heap = 0;
};

Memory memory_in_use() {
  Memory m;
  {
    std::ifstream statm("/proc/self/statm");
    statm >> m.pages;
  }
#ifdef __GLIBC__
  const auto heap = mallinfo2();
  m.heap = heap.uordblks + heap.hblkhd;
#endif
  return m;
}

}  // namespace

TEST_CASE("each token is what the rules give, with everything computed anew") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    CAPTURE(seed);
    Stage<double> stage;
    const Context context;
    CaptionerOptions options = small_options(seed);
    options.state = {};
    if (seed == 1) options.cut_id = 9;
    if (seed == 2) options.before_image = {};
    if (seed == 3) options.sampling.temperature = 0;
    Captioner<double> captioner(stage.model, context, options);
    const std::vector<int> prompt = {3, 1, 4};
    captioner.feed(prompt);

    std::vector<int> text = prompt;
    std::vector<Insertion> insertions;
    SamplingOptions sampling = options.sampling;
    sampling.stop_ids = options.stop_ids;
    EmaRepetitionOptions repetition = options.repetition;
    repetition.stop_ids = options.stop_ids;
    NgramBlockOptions ngrams = options.ngrams;
    ngrams.stop_ids = options.stop_ids;
    Sampler<double> sampler(31, sampling);
    EmaRepetitionPenalty penalty(31, repetition);
    int stopped = 0, cut = 0;
    for (Index f = 0; f < 25; ++f) {
      CAPTURE(f);
      text.insert(text.end(), options.before_image.begin(), options.before_image.end());
      insertions.push_back({static_cast<Index>(text.size()), kImageTokens});
      text.insert(text.end(), options.after_image.begin(), options.after_image.end());
      std::vector<int> ids;
      while (true) {
        const Matrix<double> all = stage.model.logits(
            text, insertions, stage.frames.view().middle_rows(0, (f + 1) * kImageTokens));
        std::vector<double> row(all.row(all.rows() - 1), all.row(all.rows() - 1) + 31);
        penalty.observe(text.back());
        penalty.apply(std::span(row));
        NgramBlock block(31, ngrams);  // sees the last tokens of the whole text
        for (const int id : text) block.observe(id);
        block.apply(std::span(row));
        const int id = static_cast<int>(sampler.next(row));
        text.push_back(id);
        ids.push_back(id);
        if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) break;
        if (ids.size() < 6) continue;
        if (options.cut_id) ids.push_back(*options.cut_id);
        if (options.cut_id) text.push_back(*options.cut_id);
        break;
      }
      captioner.push_frame(stage.frame(f));
      const auto said = captioner.caption();
      CHECK(std::vector<int>(said.begin(), said.end()) == ids);
      const bool ended = std::ranges::find(options.stop_ids, ids.back()) != options.stop_ids.end();
      CHECK(captioner.status() == (ended ? Caption::stopped : Caption::cut));
      CHECK(captioner.text_len() == static_cast<Index>(text.size()));
      CHECK(captioner.frames() == f + 1);
      // Only text is kept for good; of images, those of one window.
      CHECK(captioner.stream().fusion_tokens() <= kImageTokens + 10);
      (ended ? stopped : cut)++;
    }
    CHECK(stopped + cut == 25);
    if (seed < 3) CHECK((stopped > 0 && cut > 0));
  }
}

TEST_CASE("text fed between frames, and a caption that is cut, are part of the text") {
  Stage<double> stage;
  const Context context;
  CaptionerOptions options = small_options();
  options.sampling = {};  // greedy
  options.repetition.penalty = 1;
  options.ngrams.size = 0;
  options.stop_ids = {};
  options.state = {};
  Captioner<double> captioner(stage.model, context, options);
  captioner.push_frame(stage.frame(0));
  const int first = captioner.step(), second = captioner.step();
  CHECK(captioner.status() == Caption::open);
  const std::vector<int> more = {20, 21};
  captioner.feed(more);
  const int third = captioner.step();
  captioner.push_frame(stage.frame(1));  // cuts

  const std::vector<int> text = {5, 7, 8, first, second, 20, 21, third, 5, 7, 8};
  const std::vector<Insertion> insertions = {{1, kImageTokens}, {9, kImageTokens}};
  const Matrix<double> logits =
      stage.model.logits(text, insertions, stage.frames.view().middle_rows(0, 2 * kImageTokens));
  CHECK(casa_test::largest_difference(logits.eigen().bottomRows(1), captioner.logits().eigen()) <
        1e-12);
}

TEST_CASE("a frame with numbers that are none is an error, not a caption") {
  Stage<float> stage;
  const Context context;
  Captioner<float> captioner(stage.model, context, small_options());
  captions(captioner, stage, 0, 3);
  Matrix<float> bad(kImageTokens, stage.config.hidden_size);
  bad.fill(std::numeric_limits<float>::quiet_NaN());
  captioner.push_frame(bad);
  try {
    captioner.step();
    FAIL("no error");
  } catch (const error& e) {
    const std::string message = e.what();
    CHECK(message.find("frame 4, token 1") != std::string::npos);
    CHECK(message.find("nan") != std::string::npos);
  }
  CHECK(captioner.ids().empty());
  CHECK(captioner.status() == Caption::open);
}

TEST_CASE("what does not fit is refused and changes nothing") {
  Stage<float> stage;
  const Context context;
  for (const auto& change : std::vector<std::function<void(CaptionerOptions&)>>{
           [](auto& o) { o.max_new_tokens = 0; }, [](auto& o) { o.stop_ids = {31}; },
           [](auto& o) { o.before_image = {-1}; }, [](auto& o) { o.after_image = {31}; },
           [](auto& o) { o.cut_id = 31; }, [](auto& o) { o.sampling.top_p = 0; },
           [](auto& o) { o.state.text_window = -1; }}) {
    CaptionerOptions options = small_options();
    change(options);
    CHECK_THROWS_AS(Captioner<float>(stage.model, context, options), error);
  }
  Captioner<float> captioner(stage.model, context, small_options()), same = captioner;
  CHECK_THROWS_AS(captioner.step(), error);
  const std::vector<int> bad = {3, 31};
  CHECK_THROWS_AS(captioner.feed(bad), error);
  CHECK_THROWS_AS(captioner.push_frame(MatrixView<const float>(stage.frames.data(), 5, 3)), error);
  CHECK_THROWS_AS(captioner.push_frame(stage.frame(0), {2, 3}), error);
  CHECK(captioner.state() == same.state());
  CHECK(captions(captioner, stage, 0, 5) == captions(same, stage, 0, 5));

  CaptionerOptions silent = small_options();
  silent.after_image = {};
  Captioner<float> unprompted(stage.model, context, silent);
  unprompted.push_frame(stage.frame(0));
  CHECK_THROWS_AS(unprompted.step(), error);
  unprompted.feed(std::vector<int>{4});
  unprompted.step();
  CHECK(unprompted.ids().size() == 1);
}

TEST_CASE("a copy is a fork, an earlier copy rewinds, reset begins again") {
  Stage<float> stage;
  const Context context;
  Captioner<float> captioner(stage.model, context, small_options());
  const auto beginning = captions(captioner, stage, 0, 9);
  const Captioner<float> checkpoint = captioner;
  Captioner<float> fork = captioner;
  const auto straight = captions(captioner, stage, 9, 30);
  captions(fork, stage, 20, 25);
  CHECK(captions(fork, stage, 9, 30) != straight);
  fork = checkpoint;
  CHECK(captions(fork, stage, 9, 30) == straight);
  captioner.reset();
  CHECK(captioner.frames() == 0);
  CHECK(captions(captioner, stage, 0, 9) == beginning);
}

TEST_CASE("a warm frame allocates nothing, and 10,000 of them take no memory") {
  // Sanitizers have allocators of their own: a short run without figures.
  const Index frames = casa_test::kSanitized ? 200 : 10'000;
  Stage<float> stage;
  const Context context;
  Captioner<float> captioner(stage.model, context, small_options());
  memory_in_use();  // reading it the first time may itself take memory
  Memory warm;
  long long warm_allocations = 0;
  std::size_t tokens = 0;
  for (Index f = 0; f < frames; ++f) {
    if (f == frames / 10) {
      warm = memory_in_use();
      warm_allocations = casa_test::allocation_count();
    }
    captioner.push_frame(stage.frame(f));
    tokens += captioner.caption().size();
  }
  CHECK(tokens > static_cast<std::size_t>(frames));
  CHECK(captioner.stream().self_tokens() == 28);
  CHECK(captioner.stream().origin() > 0);
  if (casa_test::kSanitized) return;
  CHECK(casa_test::counts_allocations());
  CHECK(casa_test::allocation_count() - 1 == warm_allocations);
  const Memory after = memory_in_use();
  CHECK(after.pages == warm.pages);
  CHECK(after.heap == warm.heap);
}

TEST_CASE("streams that begin behind 2^24, 2^31 and 2^32 tokens say the same") {
  Stage<double> stage;
  const Context context;
  Captioner<double> captioner(stage.model, context, small_options());
  const auto expected = captions(captioner, stage, 0, 20);
  for (const int bits : {24, 31, 32}) {
    const std::int64_t start = (std::int64_t{1} << bits) - 2;
    captioner.reset(start);
    CHECK(captions(captioner, stage, 0, 20) == expected);
    CHECK(captioner.text_len() > start + 100);
  }
}

TEST_CASE("several streams on one model and one thread pool say what each says alone") {
  Stage<float> stage;
  constexpr std::size_t kStreams = 5;
  std::vector<std::vector<std::vector<int>>> alone, together(kStreams);
  std::vector<std::vector<float>> logits_alone, logits_together(kStreams);
  const auto run = [&](const Context& context, std::size_t s) {
    CaptionerOptions options = small_options(s);
    options.max_new_tokens = 4 + static_cast<Index>(s);
    Captioner<float> captioner(stage.model, context, options);
    auto said =
        captions(captioner, stage, static_cast<Index>(3 * s), static_cast<Index>(3 * s) + 30);
    captioner.push_frame(stage.frame(static_cast<Index>(s)));
    const auto row = captioner.logits();
    return std::pair(std::move(said), std::vector<float>(row.data(), row.data() + row.cols()));
  };
  for (std::size_t s = 0; s < kStreams; ++s) {
    const Context context;
    auto [said, logits] = run(context, s);
    alone.push_back(said);
    logits_alone.push_back(logits);
  }
  ThreadPool pool(3);
  std::vector<std::thread> threads;
  for (std::size_t s = 0; s < kStreams; ++s)
    threads.emplace_back([&, s] {
      const Context context{.executor = pool};
      std::tie(together[s], logits_together[s]) = run(context, s);
    });
  for (auto& t : threads) t.join();
  CHECK(together == alone);
  CHECK(logits_together == logits_alone);
}

TEST_CASE("a captioner follows a history, and a rule of one's own") {
  struct LastTwo final : VisibilityRule {
    RuleSeen sees(const RuleRow&, const RuleWindow& w) const override { return RuleSeen::all(w); }
    bool keeps(Index window, Index newest) const override { return newest - window < 2; }
  };
  Stage<double> stage;
  const Context context;
  // Captions of ten frames, and the image tokens that fusion keeps behind the last.
  const auto run = [&](const FusionConfig& fusion) {
    stage.config.fusion = fusion;
    stage.config.fusion->keys = Keys::image;
    const Decoder<double> model(stage.config, stage.weights.source());
    Captioner<double> captioner(model, context, small_options());
    auto said = captions(captioner, stage, 0, 10);
    return std::pair(said, captioner.stream().fusion_tokens());
  };
  FusionConfig fusion = *stage.config.fusion;
  const auto window = run(fusion);
  fusion.history = History::last(2);
  const auto last_two = run(fusion);
  fusion.history = History::window;
  fusion.rule = std::make_shared<LastTwo>();
  const auto by_rule = run(fusion);
  CHECK(by_rule == last_two);
  CHECK(last_two.first != window.first);
  CHECK(window.second == kImageTokens);
  CHECK(last_two.second == 2 * kImageTokens);
}
