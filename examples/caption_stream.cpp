// Live captions of a stream of frames: text as it comes on stdout, subtitles, one JSON line a
// frame.
//
//   caption_stream -m DIR --video FILE --srt out.srt
//   caption_stream -m DIR --images a.png b.jpg
//   ffmpeg -i FILE -vf fps=2,scale=32:32 -f rawvideo -pix_fmt gray - | caption_stream -m DIR --raw
//   32x32x1
//
// The text alone goes to stdout, everything else to stderr. Ends with 0; 1 after an error (the
// captions so far are complete on disk); 2 for a wrong command line; 130 after Ctrl-C.

#include <CLI/CLI.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "caption_stream/frames.hpp"
#include "caption_stream/outputs.hpp"
#include "caption_stream/words.hpp"
#include "casa/core/build_info.hpp"
#include "casa/generate/captioner.hpp"
#include "casa/io/image_tokens.hpp"
#include "casa/io/session.hpp"

namespace {

using casa::Index;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupt_signal = 0;
bool interrupted() { return interrupt_signal != 0; }

struct Arguments {
  std::string model, raw, video, fps = "2", srt, jsonl, session, truth, ffmpeg = "ffmpeg";
  std::vector<std::string> images;
  std::string prompt, opening, closing, stop;
  std::vector<std::int64_t> restart_at;
  bool greedy = false, deadline = false, quiet = false;
  double skip_similar = 0, temperature = 0.4, eos_bias = 0.95, repetition_penalty = 1.15;
  Index max_new_tokens = 20, top_k = 256, ngram_size = 4, threads = 0, image_size = 0;
  Index text_window = 4096, sinks = 4, horizon = 0, timeout_ms = 10000;
  std::uint64_t seed = 0;
};

casa::CaptionerOptions options(const Arguments& a, const casa::io::Model<float>& model,
                               const Words& words) {
  casa::CaptionerOptions o;
  o.max_new_tokens = a.max_new_tokens;
  o.sampling.temperature = a.temperature;
  o.sampling.top_k = a.top_k;
  o.sampling.eos_bias = a.eos_bias;
  o.sampling.seed = a.seed;
  o.repetition.penalty = a.repetition_penalty;
  o.ngrams.size = a.ngram_size;
  if (a.greedy) {
    o.sampling = {};
    o.repetition.penalty = 1;
    o.ngrams.size = 0;
  }
  const auto& tokens = model.config.tokens;
  o.stop_ids.assign(tokens.eos.begin(), tokens.eos.end());
  o.after_image = words.ids(a.opening);
  if (tokens.vision_start && tokens.vision_end) {  // the image stands between its delimiters
    o.before_image = {*tokens.vision_start};
    o.after_image.insert(o.after_image.begin(), *tokens.vision_end);
  }
  if (!a.stop.empty()) {
    const std::vector<int> stop = words.ids(a.stop);
    o.stop_ids.assign(stop.begin(), stop.end());
  }
  if (!a.closing.empty()) {
    const std::vector<int> closing = words.ids(a.closing);
    casa::require(closing.size() == 1, "--closing: expected one token, got ", closing.size());
    o.cut_id = closing[0];
  }
  const bool grows =
      model.decoder.config().fusion && model.decoder.config().fusion->history == casa::History::all;
  o.state = {.text_window = grows ? 0 : a.text_window, .sinks = a.sinks, .horizon = a.horizon};
  return o;
}

// A frame and its image tokens, made while the one before it is talked about.
struct Shown {
  casa::io::Image image;
  casa::io::EncodedImage<float> encoded;
  Clock::time_point seen;
  double encoding = 0;
  bool similar = false;
};

class Stream {
 public:
  Stream(const Arguments& a, casa::ThreadPool& pool)
      : a_(a),
        context_{.executor = pool},
        rate_(casa::parse_frame_rate(a.fps)),
        model_(casa::io::load_model<float>(a.model)),
        words_(a.model, model_.decoder.config().vocab_size),
        encoder_(model_, a.model),
        captioner_(model_.decoder, context_, options(a, model_, words_)),
        outputs_(a.srt, a.jsonl, a.quiet) {
    if (!a.session.empty()) {
      fingerprint_ = casa::io::model_fingerprint(a.model);
      if (std::filesystem::exists(a.session)) {
        casa::io::load_session(a.session, captioner_, fingerprint_);
        first_frame_ = captioner_.frames();
      }
    }
    if (first_frame_ == 0) begin();
    if (!a.truth.empty()) {
      std::ifstream lines(a.truth);
      casa::require(lines.good(), a.truth, ": cannot open");
      for (std::string line; std::getline(lines, line);) truth_.push_back(line);
    }
    frames_ = open();
  }

  void run() {
    start_ = Clock::now();
    auto next = std::async(std::launch::async, [this] { return fetch(); });
    try {
      for (std::int64_t number = first_frame_;; ++number) {
        std::optional<Shown> frame = next.get();
        if (!frame) break;
        if (!frame->similar) last_ = frame->image;
        // The encoder works on the next frame while this one is talked about.
        next = std::async(std::launch::async, [this] { return fetch(); });
        caption(number, *frame);
        if (interrupted()) break;
      }
    } catch (...) {
      outputs_.finish();
      if (next.valid()) next.wait();
      throw;
    }
    if (next.valid()) next.wait();
    outputs_.finish();
    if (!a_.session.empty()) {
      const auto bytes = casa::io::save_session(a_.session, captioner_, fingerprint_);
      say("session of %lld bytes saved\n", static_cast<long long>(bytes));
    }
    report();
  }

 private:
  void begin() {
    if (!a_.prompt.empty()) captioner_.feed(words_.ids(a_.prompt));
  }

  FrameSource open() const {
    const auto timeout = std::chrono::milliseconds(a_.timeout_ms);
    if (!a_.raw.empty())
      return frames::raw(STDIN_FILENO, parse_frame_shape(a_.raw), timeout, interrupted);
    if (!a_.images.empty()) return frames::images(a_.images, interrupted);
    Index side = a_.image_size;
    if (side == 0) side = model_.patch_encoder ? model_.patch_encoder->config().image_size : 448;
    return frames::video(a_.ffmpeg, a_.video, rate_, {side, side, 3}, timeout, interrupted);
  }

  std::optional<Shown> fetch() {
    auto image = frames_();
    if (!image) return std::nullopt;
    Shown s;
    s.seen = Clock::now();
    s.similar = a_.skip_similar > 0 && last_ && difference(*image, *last_) < a_.skip_similar;
    s.image = std::move(*image);
    if (!s.similar) s.encoded = encoder_.encode(s.image, encoder_context_);
    s.encoding = seconds_since(s.seen);
    return s;
  }

  void caption(std::int64_t number, const Shown& frame) {
    FrameRecord r;
    r.frame = number;
    r.begin_ms = casa::frame_milliseconds(number, rate_);
    r.end_ms = casa::frame_milliseconds(number + 1, rate_);
    r.skipped = frame.similar;
    if (!r.skipped) speak(r, frame);
    if (static_cast<std::size_t>(number) < truth_.size()) {
      r.truth = truth_[static_cast<std::size_t>(number)];
      right_ += r.subtitle == r.truth;
    }
    r.lag = seconds_since(start_) -
            static_cast<double>(r.begin_ms - casa::frame_milliseconds(first_frame_, rate_)) / 1000;
    r.cache_bytes = captioner_.stream().cache_bytes();
    outputs_.frame_done(r);
    outputs_.status(r, static_cast<double>(tokens_) / seconds_since(start_));
    ++count_;
  }

  void speak(FrameRecord& r, const Shown& frame) {
    if (std::ranges::find(a_.restart_at, r.frame) != a_.restart_at.end()) {
      captioner_.reset();
      begin();
    }
    const auto shown = Clock::now();
    const auto deadline = shown + std::chrono::milliseconds(r.end_ms - r.begin_ms);
    captioner_.push_frame(frame.encoded.tokens, frame.encoded.grid);
    const double pushed = seconds_since(shown);
    Words::Speaker speaker(words_);
    const auto say = [&](const std::string& piece) {
      r.subtitle += piece;
      outputs_.say(piece);
    };
    while (captioner_.status() == casa::Caption::open && !interrupted()) {
      if (a_.deadline && !captioner_.ids().empty() && Clock::now() >= deadline) break;
      const auto before = Clock::now();
      const int id = captioner_.step();
      if (captioner_.ids().size() == 1)
        r.ttft = frame.encoding + seconds_since(shown);
      else
        steps_.add(seconds_since(before));
      if (!is_stop(id)) say(speaker.push(id));
    }
    captioner_.cut();
    say(speaker.finish());
    r.cut = captioner_.status() == casa::Caption::cut;
    r.ids.assign(captioner_.ids().begin(), captioner_.ids().end());
    tokens_ += r.ids.size();
    encoding_.add(frame.encoding);
    pushing_.add(pushed);
    first_.add(r.ttft);
  }

  bool is_stop(int id) const {
    const auto& stop = captioner_.options().stop_ids;
    return std::ranges::find(stop, id) != stop.end();
  }
  static double seconds_since(Clock::time_point t) {
    return std::chrono::duration<double>(Clock::now() - t).count();
  }
  template <class... Values>
  void say(const char* format, Values... values) const {
    if (!a_.quiet) std::fprintf(stderr, format, values...);
  }

  void report() {
    if (a_.quiet || count_ == 0) return;
    const double seconds = seconds_since(start_);
    std::fprintf(stderr, "%lld frames, %zu tokens in %.2f s: %.2f frames/s, cache %lld bytes\n",
                 static_cast<long long>(count_), tokens_, seconds,
                 static_cast<double>(count_) / seconds,
                 static_cast<long long>(captioner_.stream().cache_bytes()));
    if (!truth_.empty())
      std::fprintf(stderr, "%lld of %lld frames as the truth says\n",
                   static_cast<long long>(right_), static_cast<long long>(count_));
    encoding_.print("image encoder");
    pushing_.print("image and opening to logits");
    first_.print("time to first token");
    steps_.print("each further token");
  }

  const Arguments& a_;
  casa::Context context_;
  casa::Context encoder_context_;  // on a thread of its own
  casa::FrameRate rate_;
  casa::io::Model<float> model_;
  Words words_;
  casa::io::ImageEncoder<float> encoder_;
  casa::Captioner<float> captioner_;
  Outputs outputs_;
  FrameSource frames_;
  std::string fingerprint_;
  std::optional<casa::io::Image> last_;  // shown to the model
  std::vector<std::string> truth_;
  std::int64_t first_frame_ = 0, count_ = 0, right_ = 0;
  std::size_t tokens_ = 0;
  Clock::time_point start_;
  Times encoding_, pushing_, first_, steps_;
};

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { interrupt_signal = signal; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Captions a stream of frames, for as long as it runs."};
  app.add_option("-m,--model", a.model, "model folder")->required()->envname("CASA_MODEL");
  auto* source = app.add_option_group("frames", "where frames come from");
  source->add_option("--raw", a.raw, "raw frames WIDTHxHEIGHTxCHANNELS (8 bits) from stdin");
  source->add_option("--images", a.images, "image files, one a frame");
  source->add_option("--video", a.video, "a video file, decoded by ffmpeg");
  source->require_option(1);
  std::string dash;
  app.add_option("stdin", dash, "\"-\", to say that --raw reads stdin")
      ->check(CLI::IsMember({"-"}));
  app.add_option("--fps", a.fps, "frames per second: 2, 29.97 or 30000/1001")
      ->capture_default_str();
  app.add_option("--image-size", a.image_size, "side of --video frames; 0: the model's own");
  app.add_option("--srt", a.srt, "subtitles, complete after each frame");
  app.add_option("--jsonl", a.jsonl, "one JSON line a frame, complete after each");
  app.add_option("--truth", a.truth, "a file of what should be read, a line a frame: for --srt");
  app.add_option("--session", a.session,
                 "go on where this file stopped, and save there in the end");
  app.add_option("-p,--prompt", a.prompt, "text before the first frame");
  app.add_option("--opening", a.opening, "text between a frame's image and its caption");
  app.add_option("--closing", a.closing, "the token that ends a caption that was cut (none)");
  app.add_option("--stop", a.stop, "tokens that end a caption (the model's own)");
  app.add_option("--restart-at", a.restart_at, "frames at which a new stream begins")
      ->delimiter(',');
  app.add_option("-n,--max-new-tokens,--max_new_tokens", a.max_new_tokens, "of a frame")
      ->capture_default_str();
  app.add_flag("--greedy", a.greedy, "the likeliest token, no penalties");
  app.add_option("--temp,--temperature", a.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k,--top_k", a.top_k, "0: off")->capture_default_str();
  app.add_option("--eos-bias,--eos_bias", a.eos_bias, "of stop tokens; 1: off")
      ->capture_default_str();
  app.add_option("--repetition-penalty,--repetition_penalty", a.repetition_penalty, "1: off")
      ->capture_default_str();
  app.add_option("--ngram-size,--ngram_size", a.ngram_size, "never repeated; 0: off")
      ->capture_default_str();
  app.add_option("-s,--seed", a.seed, "of the random numbers")->capture_default_str();
  app.add_option("--text-window", a.text_window, "last text tokens kept; 0: all")
      ->capture_default_str();
  app.add_option("--sinks", a.sinks, "first text tokens kept")->capture_default_str();
  app.add_option("--horizon", a.horizon, "positions restart below this number; 0: never")
      ->capture_default_str();
  app.add_flag("--deadline", a.deadline, "cut a frame's text after 1 / fps seconds");
  app.add_option("--skip-similar", a.skip_similar,
                 "skip frames whose mean difference from the last one shown is below (0 .. 1)");
  app.add_option("--timeout", a.timeout_ms, "milliseconds to wait for a frame")
      ->capture_default_str();
  app.add_option("--ffmpeg", a.ffmpeg, "the program that decodes videos")->capture_default_str();
  app.add_option("-t,--threads", a.threads, "0: as many as the machine has")->capture_default_str();
  app.add_flag("-q,--quiet", a.quiet, "nothing on stderr but errors");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (!a.quiet) std::fprintf(stderr, "%s\n", casa::build_info().summary().c_str());
  catch_signals();
  try {
    casa::ThreadPool pool(a.threads);
    Stream(a, pool).run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "caption_stream: %s\n", e.what());
    return 1;
  }
  return interrupted() ? 130 : 0;
}
