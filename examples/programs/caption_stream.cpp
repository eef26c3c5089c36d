// Live captions of a stream of frames: text as it comes on stdout, subtitles, one JSON line a
// picture.
//
//   caption_stream -m DIR --video FILE --srt out.srt
//   caption_stream -m DIR --images a.png b.jpg
//   ffmpeg -i FILE -vf fps=2,scale=32:32 -f rawvideo -pix_fmt gray - | caption_stream -m DIR --raw
//   32x32x1
//
// How a model wants to be asked stands in DIR/captioner.json; options go before it. A frame that
// shows the same picture as the last one is not read: the caption lasts until the picture changes.
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
#include <future>

#include "caption_stream/arguments.hpp"
#include "caption_stream/frames.hpp"
#include "caption_stream/outputs.hpp"
#include "caption_stream/same_frame.hpp"
#include "caption_stream/words.hpp"
#include "casa/core/build_info.hpp"
#include "casa/generate/captioner.hpp"
#include "casa/image/image_tokens.hpp"
#include "casa/image/resize.hpp"
#include "casa/session/session.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupt_signal = 0;
std::atomic<bool> given_up = false;  // an error ends the stream: nobody waits for frames
bool interrupted() { return interrupt_signal != 0 || given_up || program::reader_has_gone(); }

// A frame and its image tokens, made while the one before it is talked about.
struct Shown {
  casa::io::Image image;
  casa::io::EncodedImage<float> encoded;
  Clock::time_point seen;
  double encoding = 0;
  bool same = false;  // as the last one that was encoded: this one is not
};

casa::io::ModelOptions model_options(const Arguments& a) {
  casa::io::ModelOptions options = program::model_options(a.decoder, a.encoder);
  options.files.map = !a.packed.empty();
  options.packed_file = a.packed;
  return options;
}

class Stream {
 public:
  Stream(const Arguments& a, casa::ThreadPool& pool)
      : a_(a),
        truth_(read_lines(a.truth)),
        context_{.executor = pool, .precision = program::precision(a.decoder.precision)},
        encoder_pool_(a.encoder_threads),
        rate_(casa::parse_frame_rate(a.fps)),
        model_(casa::io::load_model<float>(a.model, model_options(a))),
        words_(a.model, model_.decoder.config().vocab_size),
        config_(caption_config(a, words_)),
        encoder_(model_, a.model),
        captioner_(model_.decoder, context_, options()) {
    encoder_.keep_pictures(a.keep_pictures << 20);
    if (a.reuse != "off") {
      casa::FrameReuse reuse = a.reuse_options;
      reuse.reuse = a.reuse == "exact" ? casa::PatchReuse::exact : casa::PatchReuse::approximate;
      encoder_.reuse_patches(reuse);
    }
    std::optional<Resumed> resumed;
    if (!a.session.empty()) {
      fingerprint_ = casa::io::model_fingerprint(a.model);
      if (std::filesystem::exists(a.session)) resumed = resume();
    }
    if (!resumed || captioner_.frames() == 0) begin();
    frames_ = open();
    // Outputs last: all else is known to work. What is the same file under two names that did not
    // exist before is seen now.
    outputs_.emplace(OutputOptions{a.srt, a.jsonl, a.overwrite, a.quiet, skips_.has_value()},
                     resumed);
    files(a).require_distinct();
  }

  /// Captions to the end of the frames; the status to end with.
  int run() {
    start_ = Clock::now();
    auto next = std::async(std::launch::async, [this] { return fetch(); });
    try {
      const auto wait = [&] {
        const auto since = Clock::now();
        auto frame = next.get();
        spent_.idle += seconds_since(since);
        return frame;
      };
      while (std::optional<Shown> frame = wait()) {
        if (!frame->same) last_ = frame->image;
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
  casa::CaptionerOptions options() const {
    casa::CaptionerOptions o = casa::io::captioner_options(config_, model_.config);
    o.sampling.seed = a_.seed;
    return o;
  }
  void begin() {
    if (config_.prompt) captioner_.feed(*config_.prompt);
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
    Words::Speaker speaker(words_);
    for (const int id : captioner_.ids())
      if (!is_stop(id)) said_ += speaker.push(id);
    said_ += speaker.finish();
    first_frame_ = fetched_ = next_frame_;
    return {next_frame_, casa::frame_milliseconds(next_frame_, rate_)};
  }

  std::int64_t save() const {
    const std::vector<std::int64_t> frames{next_frame_, rate_.numerator, rate_.denominator};
    std::vector<casa::io::NamedTensor> notes{casa::io::named_tensor("frames", {3}, frames)};
    if (skips_ && last_)
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
    Index side = config_.image_size.value_or(0);
    if (side == 0) side = model_.patch_encoder ? model_.patch_encoder->config().image_size : 448;
    return frames::video(a_.ffmpeg, a_.video, rate_, {side, side, 3}, a_.realtime, timeout,
                         interrupted);
  }

  std::optional<Shown> fetch() {
    const auto asked = Clock::now();
    auto image = frames_();
    if (!image) return std::nullopt;
    Shown s;
    s.seen = Clock::now();
    spent_.reading += std::chrono::duration<double>(s.seen - asked).count();
    s.image = as_the_model_sees(std::move(*image));
    s.same = skips_ && last_ && !restarts(fetched_) &&
             largest_patch_difference(s.image, *last_, patch()) <= *skips_;
    ++fetched_;
    spent_.scaling += seconds_since(s.seen);
    if (!s.same) s.encoded = encoder_.encode(s.image, encoder_context_);
    s.encoding = seconds_since(s.seen);
    return s;
  }

  // In the size and the grey that the encoder would make of it, where it makes one size of all.
  casa::io::Image as_the_model_sees(casa::io::Image image) const {
    if (!model_.patch_encoder) return image;
    const Index side = model_.patch_encoder->config().image_size;
    if (image.height() != side || image.width() != side)
      image = casa::io::resize_bicubic(image, side, side);
    for (Index i = 0; i < image.size(); i += 3)
      std::fill_n(image.data() + i, 3, casa::io::luma(image.data() + i));
    return image;
  }
  // The side in pixels of what becomes an image token.
  Index patch() const {
    if (model_.patch_encoder) return model_.patch_encoder->config().patch_size;
    const auto& tower = model_.vision_tower->config();
    return tower.patch_size * tower.spatial_merge_size;
  }

  bool restarts(std::int64_t frame) const {
    return std::ranges::find(a_.restart_at, frame) != a_.restart_at.end();
  }

  void caption(const Shown& frame) {
    const std::int64_t number = next_frame_;
    const std::int64_t begin_ms = casa::frame_milliseconds(number, rate_);
    const std::int64_t end_ms = casa::frame_milliseconds(number + 1, rate_);
    CaptionRecord r;
    r.frame = number;
    r.begin_ms = begin_ms;
    r.end_ms = end_ms;
    if (static_cast<std::size_t>(number) < truth_.size())
      r.truth = truth_[static_cast<std::size_t>(number)];
    if (!frame.same) {
      between_frames_ = false;
      speak(r, frame);
      said_ = r.subtitle;
    }
    ++next_frame_;
    ++count_;
    between_frames_ = true;
    right_ += static_cast<std::size_t>(number) < truth_.size() && said_ == r.truth;
    r.lag = seconds_since(start_) -
            static_cast<double>(begin_ms - casa::frame_milliseconds(first_frame_, rate_)) / 1000;
    r.cache_bytes = captioner_.stream().cache_bytes();
    if (frame.same) {
      ++same_;
      outputs_->hold(begin_ms, end_ms);
    } else {
      lags_.add(r.lag);
      outputs_->caption_done(r, interrupted);
    }
    outputs_->status(number, static_cast<double>(tokens_) / seconds_since(start_), r.lag,
                     r.cache_bytes);
  }

  void speak(CaptionRecord& r, const Shown& frame) {
    const Index every = config_.restart_every.value_or(0);
    if (restarts(r.frame) || (every > 0 && captioner_.frames() >= every)) {
      captioner_.reset();
      begin();
    }
    const auto shown = Clock::now();
    const auto deadline = shown + std::chrono::milliseconds(r.end_ms - r.begin_ms);
    captioner_.push_frame(frame.encoded.tokens, frame.encoded.grid);
    const double pushed = seconds_since(shown);
    spent_.prefill += pushed;
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
      spent_.text += seconds_since(before);
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
    if (same_ > 0)
      std::fprintf(stderr, "%lld of them showed the picture before them, and were not read\n",
                   static_cast<long long>(same_));
    if (const auto& kept = encoder_.cache_counts(); kept.hits > 0)
      std::fprintf(stderr,
                   "%lld pictures came back and were not encoded again (%lld held, %.1f MiB)\n",
                   static_cast<long long>(kept.hits), static_cast<long long>(kept.pictures),
                   static_cast<double>(kept.bytes) / 1048576);
    if (const auto* reuse = encoder_.reuse_counts()) report_reuse(*reuse);
    encoding_.print("image encoder");
    pushing_.print("image and opening to logits");
    first_.print("time to first token");
    steps_.print("each further token");
    if (a_.realtime) lags_.print("a caption behind its frame");
    report_parts(seconds);
  }

  static void report_reuse(const casa::FrameReuseCounts& reuse) {
    if (reuse.frames == 0) return;
    const auto share = [](std::int64_t part, std::int64_t all) {
      return 100 * static_cast<double>(part) / static_cast<double>(all);
    };
    std::fprintf(stderr,
                 "%lld frames went through the vision tower, %lld of them in part and %lld not at "
                 "all: %.1f %% of the patches\n",
                 static_cast<long long>(reuse.frames), static_cast<long long>(reuse.in_part),
                 static_cast<long long>(reuse.unchanged), share(reuse.computed, reuse.patches));
    if (reuse.measured > 0)
      std::fprintf(stderr,
                   "tokens of %lld frames off by %.4f of their size in the mean, %.4f at most\n",
                   static_cast<long long>(reuse.measured),
                   reuse.error_sum / static_cast<double>(reuse.measured), reuse.largest_error);
  }

  // Where a frame's time went. The image side works on the next frame while text is written, so
  // each side is compared with the whole time by itself.
  void report_parts(double seconds) const {
    const auto part = [&](const char* what, double spent) {
      std::fprintf(stderr, "  %-36s %9.3f ms %5.1f %%\n", what,
                   1e3 * spent / static_cast<double>(count_), 100 * spent / seconds);
    };
    const casa::io::ImageEncoderTimes& images = encoder_.times();
    const double text = spent_.prefill + spent_.text + spent_.idle;
    std::fprintf(stderr, "a frame's time and its share, on the side of images:\n");
    part("waiting for a frame and decoding it", spent_.reading);
    part("scaling, comparing with the last", spent_.scaling);
    part("preprocessing", images.preprocessing);
    part(model_.vision_tower ? "vision tower and projection" : "patch encoder", images.encoder);
    std::fprintf(stderr, "beside that, on the side of text:\n");
    part("waiting for the side of images", spent_.idle);
    part("image and opening to logits", spent_.prefill);
    part("text, token by token", spent_.text);
    part("files, output and the rest", seconds - text);
  }

  const Arguments& a_;
  std::vector<std::string> truth_;
  casa::Context context_;
  // Of the thread that reads frames, whose workers are not those of the text: a step of text would
  // wait for their turn.
  casa::ThreadPool encoder_pool_;
  casa::Context encoder_context_{.executor = encoder_pool_, .precision = context_.precision};
  casa::FrameRate rate_;
  casa::io::Model<float> model_;
  Words words_;
  casa::io::CaptionerConfig config_;
  casa::io::ImageEncoder<float> encoder_;
  casa::Captioner<float> captioner_;
  FrameSource frames_;
  std::optional<Outputs> outputs_;
  std::string fingerprint_;
  std::optional<double> skips_ = a_.largest_difference();
  std::optional<casa::io::Image> last_;  // shown to the model
  std::string said_;                     // of that
  std::int64_t first_frame_ = 0, next_frame_ = 0, count_ = 0, right_ = 0, same_ = 0;
  std::int64_t fetched_ = 0;    // the frame that fetch() reads next
  bool between_frames_ = true;  // the captioner has ended what it began
  std::size_t tokens_ = 0;
  Clock::time_point start_;
  // Seconds of all frames. The image side writes the first two, and has ended when they are read.
  struct {
    double reading = 0, scaling = 0;
    double idle = 0, prefill = 0, text = 0;
  } spent_;
  Times encoding_, pushing_, first_, steps_, lags_;
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
  add_options(app, a);
  return program::run("caption_stream", app, argc, argv, [&] {
    if (!a.quiet) std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    catch_signals();
    check(a);
    casa::ThreadPool pool(a.threads);
    return Stream(a, pool).run();
  });
}
