// Live captions of a stream of frames: text as it comes on stdout, subtitles, one JSON line a
// frame.
//
//   caption_stream -m DIR --video FILE --srt out.srt
//   caption_stream -m DIR --images a.png b.jpg
//   ffmpeg -i FILE -vf fps=2,scale=32:32 -f rawvideo -pix_fmt gray - | caption_stream -m DIR --raw
//   32x32x1
//
// The text alone goes to stdout, everything else to stderr. Ends with 0; 1 after an error (the
// captions so far are complete on disk, and so is the session); 2 for a wrong command line; 130
// after Ctrl-C (143 after SIGTERM, 129 after SIGHUP); 141 when whoever read stdout has closed it.
//
// Everything is looked at before anything is written: no typo costs an old file its content.

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "caption_stream/frames.hpp"
#include "caption_stream/outputs.hpp"
#include "caption_stream/words.hpp"
#include "casa/core/build_info.hpp"
#include "casa/generate/captioner.hpp"
#include "casa/image/image_tokens.hpp"
#include "casa/session/session.hpp"
#include "support/files.hpp"
#include "support/images.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupt_signal = 0;
std::atomic<bool> given_up = false;  // an error ends the stream: nobody waits for frames
bool interrupted() { return interrupt_signal != 0 || given_up || program::reader_has_gone(); }

struct Arguments {
  std::string model, raw, video, fps = "2", srt, jsonl, session, truth, ffmpeg = "ffmpeg";
  std::vector<std::string> images;
  program::ImageReader read_image{"caption_stream"};
  std::string prompt, opening, closing, stop;
  std::vector<std::int64_t> restart_at;
  bool greedy = false, deadline = false, quiet = false, overwrite = false;
  double skip_similar = 0, temperature = 0.4, eos_bias = 0.95, repetition_penalty = 1.15;
  Index max_new_tokens = 20, top_k = 256, ngram_size = 4, threads = 0, image_size = 0;
  Index text_window = 4096, sinks = 4, horizon = 0, timeout_ms = 10000;
  std::uint64_t seed = 0;
};

// The files that the command line names, by what is done with them.
program::Files files(const Arguments& a) {
  program::Files f;
  f.input_model("-m", a.model);
  for (const std::string& image : a.images) f.input("--images", image);
  f.input("--video", a.video);
  f.input("--truth", a.truth);
  if (!a.raw.empty()) f.standard_input();
  f.output("--session", a.session);
  f.output("--srt", a.srt);
  f.output("--jsonl", a.jsonl);
  f.standard_output();
  return f;
}

std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  if (path.empty()) return lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  casa::require(file.eof() && !file.bad(), "--truth ", path, ": cannot read");
  return lines;
}

// What can be known to be wrong before the model is read.
void check(const Arguments& a) {
  if (!a.raw.empty()) parse_frame_shape(a.raw);
  for (const std::string& image : a.images) program::require_readable("--images", image);
  if (!a.truth.empty()) program::require_readable("--truth", a.truth);
  files(a).require_distinct();
  if (!a.session.empty()) {
    program::require_replaceable("--session", a.session);
    const std::filesystem::path session = std::filesystem::absolute(a.session);
    std::error_code ignored;
    casa::require(session.extension() != ".safetensors" ||
                      !std::filesystem::equivalent(session.parent_path(), a.model, ignored),
                  "--session ", a.session,
                  " would be one of the model's *.safetensors: give another folder or ending");
    if (std::filesystem::exists(a.session)) return;  // outputs may be gone on with
  }
  if (a.overwrite) return;
  require_absent_or_empty(a.srt);
  require_absent_or_empty(a.jsonl);
}

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
        truth_(read_lines(a.truth)),
        context_{.executor = pool},
        rate_(casa::parse_frame_rate(a.fps)),
        model_(casa::io::load_model<float>(a.model)),
        words_(a.model, model_.decoder.config().vocab_size),
        encoder_(model_, a.model),
        captioner_(model_.decoder, context_, options(a, model_, words_)) {
    std::optional<Resumed> resumed;
    if (!a.session.empty()) {
      fingerprint_ = casa::io::model_fingerprint(a.model);
      if (std::filesystem::exists(a.session)) resumed = resume();
    }
    if (!resumed || captioner_.frames() == 0) begin();
    frames_ = open();
    // Outputs last: all else is known to work. What is the same file under two names that did not
    // exist before is seen now.
    outputs_.emplace(OutputOptions{a.srt, a.jsonl, a.overwrite, a.quiet}, resumed);
    files(a).require_distinct();
  }

  /// Captions to the end of the frames; the status to end with.
  int run() {
    start_ = Clock::now();
    auto next = std::async(std::launch::async, [this] { return fetch(); });
    try {
      while (std::optional<Shown> frame = next.get()) {
        if (!frame->similar) last_ = frame->image;
        // The encoder works on the next frame while this one is talked about.
        next = std::async(std::launch::async, [this] { return fetch(); });
        caption(*frame);
        if (outputs_->failure()) given_up = true;
        if (interrupted()) break;
      }
    } catch (...) {
      given_up = true;
      if (next.valid()) next.wait();
      save_what_is_there();
      throw;
    }
    if (next.valid()) next.wait();
    outputs_->finish();
    if (!a_.session.empty()) {
      const auto bytes = save();
      say("session of %lld bytes saved\n", static_cast<long long>(bytes));
    }
    if (const auto failure = outputs_->failure())
      return program::status_of("caption_stream", *failure);
    if (interrupt_signal == 0 && program::reader_has_gone()) return program::kReaderGone;
    report();
    return interrupt_signal == 0 ? 0 : 128 + interrupt_signal;
  }

 private:
  void begin() {
    if (!a_.prompt.empty()) captioner_.feed(words_.ids(a_.prompt));
  }

  // Goes on where the session stopped, in its frames, its times and the picture shown last.
  Resumed resume() {
    const auto file = casa::io::load_session(a_.session, captioner_, fingerprint_);
    next_frame_ = captioner_.frames();  // what a session without notes says of it
    if (const auto* notes = file.find("notes.frames")) {
      const auto n = notes->to_vector<std::int64_t>();
      casa::require(n.size() == 3 && n[0] >= 0, notes->where(), ": expected a frame and a rate");
      next_frame_ = n[0];
      casa::require(n[1] == rate_.numerator && n[2] == rate_.denominator, "--fps ", a_.fps,
                    ": the times of ", a_.session, " are those of --fps ", n[1], "/", n[2],
                    ", and would not go on: give that, or another --session");
    }
    if (const auto* shown = file.find("notes.shown")) {
      casa::require(shown->shape.size() == 3 && shown->shape[2] == 3, shown->where(),
                    ": expected (height, width, 3)");
      casa::io::Image image(shown->shape[0], shown->shape[1]);
      shown->read_into(std::span(image.data(), static_cast<std::size_t>(image.size())));
      last_ = std::move(image);
    }
    first_frame_ = fetched_ = next_frame_;
    return {next_frame_, casa::frame_milliseconds(next_frame_, rate_)};
  }

  std::int64_t save() const {
    const std::vector<std::int64_t> frames{next_frame_, rate_.numerator, rate_.denominator};
    std::vector<casa::io::NamedTensor> notes{casa::io::named_tensor("frames", {3}, frames)};
    if (a_.skip_similar > 0 && last_)
      notes.push_back(casa::io::named_tensor<std::uint8_t>(
          "shown", {last_->height(), last_->width(), 3},
          std::span(last_->data(), static_cast<std::size_t>(last_->size()))));
    return casa::io::save_session(a_.session, captioner_, fingerprint_, notes);
  }

  // After an error, which is what will be told: the files get their ends if they can, and so does
  // the session, unless the stream stopped inside a frame.
  void save_what_is_there() {
    const auto attempt = [](const auto& work) {
      try {
        work();
      } catch (const std::exception& e) {
        std::fprintf(stderr, "caption_stream: %s\n", e.what());
      }
    };
    if (count_ == 0) return;
    attempt([this] { outputs_->finish(); });
    if (!a_.session.empty() && between_frames_) attempt([this] { save(); });
  }

  FrameSource open() const {
    const auto timeout = std::chrono::milliseconds(a_.timeout_ms);
    if (!a_.raw.empty())
      return frames::raw(STDIN_FILENO, parse_frame_shape(a_.raw), timeout, interrupted);
    if (!a_.images.empty()) return frames::images(a_.images, a_.read_image, interrupted);
    Index side = a_.image_size;
    if (side == 0) side = model_.patch_encoder ? model_.patch_encoder->config().image_size : 448;
    return frames::video(a_.ffmpeg, a_.video, rate_, {side, side, 3}, timeout, interrupted);
  }

  std::optional<Shown> fetch() {
    auto image = frames_();
    if (!image) return std::nullopt;
    Shown s;
    s.seen = Clock::now();
    s.similar = a_.skip_similar > 0 && last_ && !restarts(fetched_) &&
                difference(*image, *last_) < a_.skip_similar;
    ++fetched_;
    s.image = std::move(*image);
    if (!s.similar) s.encoded = encoder_.encode(s.image, encoder_context_);
    s.encoding = seconds_since(s.seen);
    return s;
  }

  bool restarts(std::int64_t frame) const {
    return std::ranges::find(a_.restart_at, frame) != a_.restart_at.end();
  }

  void caption(const Shown& frame) {
    const std::int64_t number = next_frame_;
    FrameRecord r;
    r.frame = number;
    r.begin_ms = casa::frame_milliseconds(number, rate_);
    r.end_ms = casa::frame_milliseconds(number + 1, rate_);
    between_frames_ = false;
    r.skipped = frame.similar;
    if (!r.skipped) speak(r, frame);
    ++next_frame_;
    ++count_;
    between_frames_ = true;
    if (static_cast<std::size_t>(number) < truth_.size()) {
      r.truth = truth_[static_cast<std::size_t>(number)];
      right_ += r.subtitle == r.truth;
    }
    r.lag = seconds_since(start_) -
            static_cast<double>(r.begin_ms - casa::frame_milliseconds(first_frame_, rate_)) / 1000;
    r.cache_bytes = captioner_.stream().cache_bytes();
    outputs_->frame_done(r, interrupted);
    outputs_->status(r, static_cast<double>(tokens_) / seconds_since(start_));
  }

  void speak(FrameRecord& r, const Shown& frame) {
    if (restarts(r.frame)) {
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
      outputs_->say(piece, interrupted);
      if (outputs_->failure()) given_up = true;
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
  std::vector<std::string> truth_;
  casa::Context context_;
  casa::Context encoder_context_;  // on a thread of its own
  casa::FrameRate rate_;
  casa::io::Model<float> model_;
  Words words_;
  casa::io::ImageEncoder<float> encoder_;
  casa::Captioner<float> captioner_;
  FrameSource frames_;
  std::optional<Outputs> outputs_;
  std::string fingerprint_;
  std::optional<casa::io::Image> last_;  // shown to the model
  std::int64_t first_frame_ = 0, next_frame_ = 0, count_ = 0, right_ = 0;
  std::int64_t fetched_ = 0;    // the frame that fetch() reads next
  bool between_frames_ = true;  // the captioner has ended what it began
  std::size_t tokens_ = 0;
  Clock::time_point start_;
  Times encoding_, pushing_, first_, steps_;
};

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { interrupt_signal = signal; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);  // not under nohup
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Captions a stream of frames, for as long as it runs."};
  app.add_option("-m,--model", a.model, "model folder")->required()->envname("CASA_MODEL");
  auto* source = app.add_option_group("frames", "where frames come from");
  source->add_option("--raw", a.raw, "raw frames WIDTHxHEIGHTxCHANNELS (8 bits) from stdin");
  source->add_option("--images", a.images, "image files, one a frame");
  a.read_image.add_option(app);
  source->add_option("--video", a.video, "a video file, decoded by ffmpeg");
  source->require_option(1);
  std::string dash;
  app.add_option("stdin", dash, "\"-\", to say that --raw reads stdin")
      ->check(CLI::IsMember({"-"}));
  app.add_option("--fps", a.fps, "frames per second: 2, 29.97 or 30000/1001")
      ->capture_default_str();
  app.add_option("--image-size", a.image_size, "side of --video frames; 0: the model's own");
  app.add_option("--srt", a.srt,
                 "subtitles, complete after each frame; a file that is there is gone on with if "
                 "--session is, and else never touched without --overwrite");
  app.add_option("--jsonl", a.jsonl, "one JSON line a frame, complete after each; as --srt");
  app.add_flag("--overwrite", a.overwrite,
               "replace the --srt and --jsonl files that cannot be gone on with");
  app.add_option("--truth", a.truth, "a file of what should be read, a line a frame: for --srt");
  app.add_option("--session", a.session,
                 "go on where this file stopped (frames, times, numbers), and save there in the "
                 "end, also after a signal or an error of the frames");
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
                 "skip frames whose mean difference from the last one shown is below (0 .. 1)")
      ->check([](const std::string& value) {
        double share = -1;
        const bool number = CLI::detail::lexical_cast(value, share);
        return number && share >= 0 && share <= 1 ? std::string()
                                                  : "expected a share from 0 to 1, got " + value;
      });
  app.add_option("--timeout", a.timeout_ms, "milliseconds to wait for a frame")
      ->capture_default_str();
  app.add_option("--ffmpeg", a.ffmpeg, "the program that decodes videos")->capture_default_str();
  app.add_option("-t,--threads", a.threads, "0: all processors that this process may use")
      ->capture_default_str();
  app.add_flag("-q,--quiet", a.quiet, "nothing on stderr but errors");
  return program::run("caption_stream", app, argc, argv, [&] {
    if (!a.quiet) std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    catch_signals();
    check(a);
    casa::ThreadPool pool(a.threads);
    return Stream(a, pool).run();
  });
}
