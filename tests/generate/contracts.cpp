// What generators and captioners demand beside their own tests, and that they say so. (Sampling,
// penalties and time lines: their files.)
#include <doctest/doctest.h>

#include <vector>

#include "casa/generate/generator.hpp"
#include "generate/small_captioner.hpp"
#include "support/messages.hpp"

using namespace casa;

TEST_CASE("a generator refuses what cannot be continued, and stays as it was") {
  const Decoder<float> model = model_test::random_decoder<float>(model_test::small_config(), 1);
  const Decoder<float> other = model_test::random_decoder<float>(model_test::small_config(), 2);
  const Context context;
  CHECK(has(message_of([&] { Generator<float> g(model, {.prefill_chunk = 0}); }), "prefill_chunk"));
  CHECK(has(message_of([&] { Generator<float> g(model, {.context = -1}); }), "context"));
  CHECK(has(message_of([&] { Generator<float> g(model, {.sampling = {.temperature = -1}}); }),
            "temperature"));

  Generator<float> one(model, {.context = 5}), two(model), foreign(other);
  CHECK(has(message_of([&] { one.sample(); }), "sample"));
  CHECK(has(message_of([&] { one.advance(context); }), "a stream has sampled no token"));
  const std::vector<int> ids = {1, 2, 3}, beyond = {1, 31}, long_ids = {1, 2, 3, 4, 5, 6};
  CHECK(message_of([&] { one.feed({}, context); }) == "feed: the prompt has no token");
  CHECK(has(message_of([&] { one.feed({.ids = beyond}, context); }), "got 31"));
  CHECK(has(message_of([&] { one.feed({.ids = long_ids}, context); }), "more than the 5"));
  CHECK(one.state().text_len() == 0);
  for (Generator<float>* g : {&one, &two, &foreign}) {
    g->feed({.ids = ids}, context);
    g->sample();
  }
  CHECK(has(message_of([&] { one.sample(); }), "sample"));

  const auto advance = [&](std::vector<Generator<float>*> streams) {
    std::string said = message_of([&] { Generator<float>::advance(streams, context); });
    CHECK(one.state().text_len() == 3);
    CHECK(two.state().text_len() == 3);
    return said;
  };
  CHECK(advance({nullptr}) == "advance: a stream is null");
  CHECK(advance({&one, nullptr}) == "advance: a stream is null");
  CHECK(advance({&one, &foreign}) == "advance: streams of different models");
  CHECK(has(advance({&one, &one}), "are the same stream"));
  CHECK(advance({}).empty());
  Generator<float>* both[] = {&one, &two};
  CHECK_NOTHROW(Generator<float>::advance(both, context));
  CHECK(one.state().text_len() == 4);

  const PromptInput<float> prompt{.ids = ids};
  CHECK(has(message_of([&] { (void)generate<float>(model, prompt, {}, -1, context); }),
            "max_new_tokens"));
  CHECK(has(message_of([&] {
              (void)generate<float>(model, {&prompt, 1}, {}, 1, context);
            }),
            "options (one per prompt)"));
}

TEST_CASE("a captioner refuses states that are not its own, and stays as it was") {
  captioner_test::Stage<float> stage;
  const Context context;
  CaptionerOptions endless = captioner_test::small_options();
  endless.max_new_tokens = (std::numeric_limits<Index>::max)();  // asks for no memory
  CHECK_NOTHROW(Captioner<float>(stage.model, context, endless));

  Captioner<float> captioner(stage.model, context, captioner_test::small_options());
  captioner.push_frame(stage.frame(0));
  captioner.step();
  const CaptionerState before = captioner.state();
  const auto said = [&](const DecoderState<float>& stream, const CaptionerState& state,
                        MatrixView<const float> logits) {
    std::string message = message_of([&] { captioner.restore(stream, state, logits); });
    CHECK(captioner.state() == before);
    return message;
  };
  CaptionerState with_logits = before;
  with_logits.has_logits = true;
  CHECK(has(said(captioner.stream(), with_logits, {}), "rows of logits: expected 1, got 0"));
  CHECK(has(said(captioner.stream(), with_logits, {nullptr, 1, 31}), "logits: a view"));
  DecoderConfig wide = stage.config;
  wide.head_dim = 8;
  const Decoder<float> wider = model_test::random_decoder<float>(wide, 1);
  CHECK(said(wider.new_state(captioner.options().state), before, captioner.logits()) ==
        "Captioner::restore: head_dim: expected 6, got 8");
  CHECK(said({}, before, captioner.logits()) == "Captioner::restore: layers: expected 2, got 0");
  CHECK(
      has(said(stage.model.new_state({.sinks = 1}), before, captioner.logits()), "options differ"));
  CHECK(said(captioner.stream(), before, captioner.logits()).empty());
}
