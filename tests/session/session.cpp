#include "casa/session/session.hpp"

#include <doctest/doctest.h>

#include "generate/small_captioner.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"

using namespace casa;
using namespace captioner_test;

namespace {

template <class T>
std::vector<T> row(const Captioner<T>& c) {
  return {c.logits().data(), c.logits().data() + c.logits().cols()};
}

}  // namespace

TEST_CASE_TEMPLATE("a stream that was saved and loaded goes on as if never stopped, bit for bit", T,
                   float, double) {
  Stage<T> stage;
  const Context context;
  const Scratch scratch;
  for (const bool half_cache : {false, true}) {
    for (const Index horizon : {0, 60}) {
      CaptionerOptions options = small_options(5);
      options.state.horizon = horizon;
      if (half_cache) {
        if (std::is_same_v<T, double>) continue;
        options.state.cache = CacheType::half;
      }
      Captioner<T> captioner(stage.model, context, options);
      captioner.feed(std::vector<int>{3, 1, 4});
      // Before the first frame, before anything was evicted, after, and at each of the next frames.
      for (Index f = 0; f < 40; ++f) {
        CAPTURE(f);
        const std::string path = scratch.file("session.safetensors");
        // A third of the stops are right behind an image, a third in the middle of a caption.
        const auto go_on = [&](Captioner<T>& c) {
          std::vector<int> said;
          if (f % 3 == 0) c.push_frame(stage.frame(f));
          if (c.status() == Caption::open) {
            const auto ids = c.caption();
            said.assign(ids.begin(), ids.end());
          }
          for (const auto& ids : captions(c, stage, f + 1, f + 4))
            said.insert(said.end(), ids.begin(), ids.end());
          return said;
        };
        if (f % 3 != 0) captioner.push_frame(stage.frame(f));
        if (f % 3 == 2) captioner.step();
        const auto bytes = io::save_session(path, captioner, "a model");
        CHECK(bytes > captioner.stream().cache_bytes());

        Captioner<T> straight = captioner;
        Captioner<T> resumed(stage.model, context, options);
        io::load_session(path, resumed, "a model");
        CHECK(resumed.state() == straight.state());
        CHECK(StateArchive<T>::numbers(resumed.stream()) ==
              StateArchive<T>::numbers(straight.stream()));
        CHECK(go_on(resumed) == go_on(straight));
        CHECK(row(resumed) == row(straight));
        CHECK(resumed.state() == straight.state());

        if (f % 3 == 0) captioner.push_frame(stage.frame(f));
        captioner.caption();
      }
    }
  }
}

TEST_CASE("a session knows which windows its stream kept") {
  for (const History history : {History::last(3), History::every(3), History::all}) {
    Stage<float> stage;
    stage.config.fusion->history = history;
    const Decoder<float> model(stage.config, stage.weights.source());
    CaptionerOptions options = small_options(5);
    options.state = {};
    const Context context;
    const Scratch scratch;
    const std::string path = scratch.file("session");
    Captioner<float> captioner(model, context, options), resumed(model, context, options);
    for (Index f = 0; f < 12; ++f) {
      CAPTURE(f);
      captions(captioner, stage, f, f + 1);
      io::save_session(path, captioner, "m");
      io::load_session(path, resumed, "m");
      CHECK(StateArchive<float>::numbers(resumed.stream()) ==
            StateArchive<float>::numbers(captioner.stream()));
      Captioner<float> straight = captioner;
      CHECK(captions(resumed, stage, f + 1, f + 4) == captions(straight, stage, f + 1, f + 4));
      CHECK(row(resumed) == row(straight));
    }
    const auto kept = std::ssize(StateArchive<float>::numbers(captioner.stream()).windows);
    CHECK(kept == (history == History::last(3) ? 4 : history == History::every(3) ? 6 : 13));
  }
}

TEST_CASE("the same stream gives the same file") {
  Stage<float> stage;
  const Context context;
  const Scratch scratch;
  Captioner<float> captioner(stage.model, context, small_options());
  captions(captioner, stage, 0, 10);
  io::save_session(scratch.file("a"), captioner, "m");
  io::save_session(scratch.file("b"), captioner, "m");
  Captioner<float> resumed(stage.model, context, small_options());
  io::load_session(scratch.file("a"), resumed, "m");
  io::save_session(scratch.file("c"), resumed, "m");
  CHECK(scratch.read("a") == scratch.read("b"));
  CHECK(scratch.read("a") == scratch.read("c"));
}

TEST_CASE("notes come back with the session, and the checksum holds them") {
  Stage<float> stage;
  const Context context;
  const Scratch scratch;
  Captioner<float> captioner(stage.model, context, small_options());
  captions(captioner, stage, 0, 3);
  const std::vector<std::int64_t> frames = {7, 30000, 1001};
  const auto plain = io::save_session(scratch.file("plain"), captioner, "m");
  const auto bytes = io::save_session(scratch.file("s"), captioner, "m",
                                      {io::named_tensor("frames", {3}, frames)});
  CHECK(bytes == plain + 24);
  Captioner<float> resumed(stage.model, context, small_options());
  const auto file = io::load_session(scratch.file("s"), resumed, "m");
  CHECK(file.at("notes.frames").to_vector<std::int64_t>() == frames);
  CHECK(resumed.state() == captioner.state());
  CHECK(io::load_session(scratch.file("plain"), resumed, "m").find("notes.frames") == nullptr);

  std::string changed = scratch.read("s");
  const std::string note(reinterpret_cast<const char*>(frames.data()), 24);
  const std::size_t at = changed.find(note);
  REQUIRE(at != std::string::npos);
  changed[at] = 8;
  scratch.write("s", changed);
  CHECK(has(message_of([&] { io::load_session(scratch.file("s"), resumed, "m"); }),
            "checksum differs"));
}

TEST_CASE("a wrong, changed or cut session is refused by name, and nothing changes") {
  Stage<float> stage;
  const Context context;
  const Scratch scratch;
  Captioner<float> captioner(stage.model, context, small_options());
  captions(captioner, stage, 0, 12);
  captioner.push_frame(stage.frame(12));
  const std::string path = scratch.file("session");
  io::save_session(path, captioner, "model A");
  const std::string good = scratch.read("session");

  Captioner<float> other(stage.model, context, small_options());
  captions(other, stage, 3, 5);
  const CaptionerState before = other.state();
  const auto refused = [&](const std::string& model = "model A") {
    const std::string why = message_of([&] { io::load_session(path, other, model); });
    CHECK(has(why, path));
    CHECK(other.state() == before);
    return why;
  };

  CHECK(has(refused("model B"), "another model"));
  for (std::size_t cut = 0; cut < good.size(); cut += 1 + good.size() / 97) {
    CAPTURE(cut);
    scratch.write("session", good.substr(0, cut));
    refused();
  }
  for (std::size_t at = 0; at < good.size(); at += 1 + good.size() / 211) {
    CAPTURE(at);
    std::string changed = good;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    scratch.write("session", changed);
    refused();
  }
  scratch.write("session", good);
  CHECK(message_of([&] { io::load_session(scratch.file("none"), other, "model A"); }) != "");

  CaptionerOptions wide = small_options();
  wide.state.text_window = 25;
  Captioner<float> wider(stage.model, context, wide);
  CHECK(has(message_of([&] { io::load_session(path, wider, "model A"); }), "state options"));
  Stage<double> in_double;
  Captioner<double> doubles(in_double.model, context, small_options());
  CHECK(has(message_of([&] { io::load_session(path, doubles, "model A"); }), "F64"));

  io::write_safetensors(path, {}, {});
  CHECK(has(refused(), "not a session"));
}

TEST_CASE("numbers that do not fit each other are refused, also with a right checksum") {
  Stage<float> stage;
  const Context context;
  const Scratch scratch;
  Captioner<float> captioner(stage.model, context, small_options());
  captions(captioner, stage, 0, 12);
  const std::string path = scratch.file("session");
  io::save_session(path, captioner, "m");
  const io::SafeTensors file = io::read_safetensors(path);
  const auto numbers = file.at("numbers").to_vector<std::int64_t>();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (i == 1 || i == 2 || i == 3 || i == 5 || i == 16) continue;  // any value may stand there
    for (const std::int64_t value : {std::int64_t{-1} << 40, numbers[i] + 1000000}) {
      if (value > 0 && (i == 0 || i == 13)) continue;  // so much text, so many frames are possible
      CAPTURE(i);
      CAPTURE(value);
      auto changed = numbers;
      changed[i] = value;
      std::vector<io::NamedTensor> tensors;
      for (const auto& t : file.tensors())
        if (t.name != "numbers") tensors.push_back(io::named_tensor(t));
      tensors.push_back(io::named_tensor("numbers", {static_cast<Index>(changed.size())}, changed));
      auto metadata = file.metadata();
      metadata["checksum"] = io::detail::session_checksum(tensors);
      const std::string bad = scratch.file("bad");
      io::write_safetensors(bad, tensors, metadata);
      Captioner<float> other(stage.model, context, small_options());
      CHECK(has(message_of([&] { io::load_session(bad, other, "m"); }), bad));
    }
  }
}

TEST_CASE("a model's fingerprint knows its config, its weights and how they are held") {
  const Scratch scratch;
  scratch.write("config.json", "{}");
  scratch.write("model.safetensors", "weights");
  const std::string one = io::model_fingerprint(scratch.path());
  CHECK(one.size() == 16);
  CHECK(io::model_fingerprint(scratch.path()) == one);
  CHECK(io::model_fingerprint(scratch.path(), WeightType::int8) != one);
  scratch.write("model.safetensors", "weightz");
  const std::string two = io::model_fingerprint(scratch.path());
  CHECK(two != one);
  scratch.write("config.json", "{ }");
  CHECK(io::model_fingerprint(scratch.path()) != two);
}
