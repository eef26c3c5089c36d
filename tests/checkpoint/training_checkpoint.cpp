#include "casa/checkpoint/training_checkpoint.hpp"

#include <doctest/doctest.h>

#include <cstring>

#include "support/messages.hpp"
#include "support/scratch.hpp"

using namespace casa;

namespace {

std::vector<TensorSpec> specs() { return {{"w", 5, 7}, {"norm", 6, 0}, {"b", 3, 4}}; }

// A run whose gradients follow from the parameters and the sample that is drawn.
template <class T>
struct Run {
  Trainer<T> trainer{start(),
                     {.schedule = {.peak = 0.1, .warmup = 3, .total = 40, .decay = Decay::cosine},
                      .clip_norm = 0.5}};
  SampleOrder order{9, 4};

  static TensorSet<T> start() {
    TensorSet<T> set(specs());
    for (std::size_t i = 0; i < set.values().size(); ++i)
      set.values()[i] = static_cast<T>(0.1) * static_cast<T>(i % 11);
    return set;
  }
  void step() {
    const auto sample = static_cast<T>(order.next());
    for (std::size_t i = 0; i < trainer.gradients().values().size(); ++i)
      trainer.gradients().values()[i] =
          trainer.parameters().values()[i] * sample + static_cast<T>(i % 5) - T(2);
    trainer.step(0.125);
  }
  bool equals(const Run& o) const {
    const auto same = [](const TensorSet<T>& a, const TensorSet<T>& b) {
      return std::memcmp(a.values().data(), b.values().data(), a.values().size_bytes()) == 0;
    };
    return same(trainer.parameters(), o.trainer.parameters()) &&
           same(trainer.optimizer().first_moments(), o.trainer.optimizer().first_moments()) &&
           same(trainer.optimizer().second_moments(), o.trainer.optimizer().second_moments()) &&
           trainer.counts() == o.trainer.counts() &&
           trainer.optimizer().updates() == o.trainer.optimizer().updates() &&
           order.state() == o.order.state();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a run that goes on from a file has the bits of one that never stopped", T,
                   float, double) {
  const Scratch scratch;
  for (const int stop : {0, 1, 9, 23}) {
    CAPTURE(stop);
    Run<T> whole, stopped, resumed;
    for (int i = 0; i < 30; ++i) whole.step();
    for (int i = 0; i < stop; ++i) stopped.step();
    const std::vector<std::int64_t> note{42, stop};
    io::save_training(scratch.file("run"), stopped.trainer, stopped.order, "{}",
                      {io::named_tensor("mine", {2}, note)});
    const io::SafeTensors file =
        io::load_training(scratch.file("run"), resumed.trainer, resumed.order, "{}");
    CHECK(file.at("notes.mine").to_vector<std::int64_t>() == note);
    CHECK(resumed.equals(stopped));
    CHECK(!resumed.equals(whole));
    for (int i = stop; i < 30; ++i) resumed.step();
    CHECK(resumed.equals(whole));
  }
  CHECK(scratch.list().size() == 1);
}

TEST_CASE("a skipped step is still skipped after loading") {
  const Scratch scratch;
  const auto made = [] {
    return Trainer<float>(Run<float>::start(), {.not_finite = NotFinite::skip});
  };
  Trainer<float> saved = made(), loaded = made();
  SampleOrder order(3), again(3);
  saved.gradients().fill(1);
  saved.step(1);
  saved.gradients().fill(std::numeric_limits<float>::infinity());
  saved.step(1);
  io::save_training(scratch.file("run"), saved, order, "");
  io::load_training(scratch.file("run"), loaded, again, "");
  CHECK(loaded.counts() == TrainerCounts{2, 1});
  CHECK(loaded.optimizer().updates() == 1);
}

TEST_CASE("files that do not fit are refused by name, and nothing changes") {
  const Scratch scratch;
  const std::string path = scratch.file("run");
  Run<float> saved, into, untouched;
  for (int i = 0; i < 5; ++i) saved.step();
  io::save_training(path, saved.trainer, saved.order, "{\"lr\":1}");
  const auto message = [&](auto&& call) {
    const std::string m = message_of(call);
    CHECK(into.equals(untouched));
    return m;
  };
  const auto load = [&](std::string_view config) {
    io::load_training(path, into.trainer, into.order, config);
  };
  CHECK(has(message([&] { load("{\"lr\":2}"); }),
            "run: saved under another config: {\"lr\":1}, expected {\"lr\":2}"));
  SampleOrder other_seed(9, 5), other_size(10, 4);
  CHECK(has(message([&] { io::load_training(path, into.trainer, other_seed, "{\"lr\":1}"); }),
            "expected 9 samples and seed 5, got 9 and 4"));
  CHECK(has(message([&] { io::load_training(path, into.trainer, other_size, "{\"lr\":1}"); }),
            "expected 10 samples"));
  Trainer<double> wide(TensorSet<double>{specs()});
  CHECK(has(message([&] { io::load_training(path, wide, into.order, "{\"lr\":1}"); }),
            "expected type F64, got F32"));
  Trainer<float> fewer(TensorSet<float>({{"w", 5, 7}, {"norm", 6, 0}}));
  CHECK(has(message([&] { io::load_training(path, fewer, into.order, "{\"lr\":1}"); }),
            "1 parameters of the file are none of the trainer's"));
  Trainer<float> more(TensorSet<float>({{"w", 5, 7}, {"norm", 6, 0}, {"b", 3, 4}, {"c", 1, 1}}));
  CHECK(has(message([&] { io::load_training(path, more, into.order, "{\"lr\":1}"); }),
            "no tensor \"parameters.c\""));
  Trainer<float> turned(TensorSet<float>({{"w", 7, 5}, {"norm", 6, 0}, {"b", 3, 4}}));
  CHECK(has(message([&] { io::load_training(path, turned, into.order, "{\"lr\":1}"); }),
            "expected shape [7, 5], got [5, 7]"));

  const std::string whole = scratch.read("run");
  for (const std::size_t cut :
       {std::size_t{0}, std::size_t{7}, whole.size() / 2, whole.size() - 1}) {
    CAPTURE(cut);
    scratch.write("run", whole.substr(0, cut));
    CHECK(has(message([&] { load("{\"lr\":1}"); }), path));
  }
  const std::vector<float> one{1};
  io::write_safetensors(path, {io::named_tensor("w", {1}, one)});
  CHECK(has(message([&] { load("{\"lr\":1}"); }), "not a training run"));
  io::save_training(path, saved.trainer, saved.order, "{\"lr\":1}");
  load("{\"lr\":1}");
  CHECK(into.equals(saved));
}

TEST_CASE("half a step is not saved, and the old file stays") {
  const Scratch scratch;
  Run<float> run, into;
  io::save_training(scratch.file("run"), run.trainer, run.order, "");
  const std::string before = scratch.read("run");
  run.trainer.gradients().values()[3] = 1;
  CHECK(has(message_of([&] { io::save_training(scratch.file("run"), run.trainer, run.order, ""); }),
            "gradients have been added since the last step"));
  CHECK(scratch.read("run") == before);
}
