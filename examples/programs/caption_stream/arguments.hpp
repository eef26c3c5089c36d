// The command line of caption_stream: its options, what is wrong with them by themselves, and what
// they and the model's captioner.json say together of how to caption.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "caption_stream/frames.hpp"
#include "caption_stream/outputs.hpp"
#include "caption_stream/same_frame.hpp"
#include "caption_stream/words.hpp"
#include "casa/checkpoint/captioner_config.hpp"
#include "casa/vision/frame_reuse.hpp"
#include "support/encoder_options.hpp"
#include "support/files.hpp"
#include "support/images.hpp"
#include "support/program.hpp"

struct Arguments {
  std::string model, raw, video, fps = "2", srt, jsonl, session, truth, ffmpeg = "ffmpeg";
  std::string packed;
  std::string dash;  // says that --raw reads stdin
  std::vector<std::string> images;
  program::ImageReader read_image{"caption_stream"};
  program::DecoderOptions decoder;
  program::EncoderOptions encoder;
  std::optional<std::string> prompt, opening, closing, stop;
  casa::io::CaptionerConfig captions;  // but for these four, which need the model's tokens
  std::vector<std::int64_t> restart_at;
  bool greedy = false, deadline = false, realtime = false, quiet = false, overwrite = false;
  std::string same_frame = casa::text(kSameFrame);
  std::string reuse = "off";
  casa::FrameReuse reuse_options;  // but for what --reuse-patches says
  casa::Index encoder_threads = 1;
  casa::Index threads = 0, timeout_ms = 10000, keep_pictures = 64;
  std::uint64_t seed = 0;

  /// The largest difference of a frame that is the same as the one before it; none: all are read.
  std::optional<double> largest_difference() const {
    if (same_frame == "off") return std::nullopt;
    return std::stod(same_frame);
  }
};

// The files that the command line names, by what is done with them.
inline program::Files files(const Arguments& a) {
  program::Files f;
  f.input_model("-m", a.model);
  for (const std::string& image : a.images) f.input("--images", image);
  f.input("--video", a.video);
  f.input("--truth", a.truth);
  if (!a.raw.empty()) f.standard_input();
  f.output("--session", a.session);
  f.output("--packed", a.packed);
  f.output("--srt", a.srt);
  f.output("--jsonl", a.jsonl);
  f.standard_output();
  return f;
}

inline std::vector<std::string> read_lines(const std::string& path) {
  std::vector<std::string> lines;
  if (path.empty()) return lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  casa::require(file.eof() && !file.bad(), "--truth ", path, ": cannot read");
  return lines;
}

// What can be known to be wrong before the model is read.
inline void check(const Arguments& a) {
  if (!a.raw.empty()) parse_frame_shape(a.raw);
  for (const std::string& image : a.images) program::require_readable("--images", image);
  if (!a.truth.empty()) program::require_readable("--truth", a.truth);
  const casa::FrameReuse& reuse = a.reuse_options;
  casa::require(a.reuse == "approximate" || (reuse.largest_difference == 0 &&
                                             reuse.refresh_every == 0 && !reuse.measure_error),
                "--patch-difference, --refresh-every and --measure-reuse go with --reuse-patches "
                "approximate, got --reuse-patches ",
                a.reuse);
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

/// The options of captions: the command line's, and what they leave open, the folder's. One that
/// bounds the text or restarts positions replaces all that the folder says of that.
inline casa::io::CaptionerConfig caption_config(const Arguments& a, const Words& words) {
  casa::io::CaptionerConfig asked = a.captions;
  const auto ids = [&](std::string_view text) { return words.ids(text); };
  if (a.prompt) asked.prompt = ids(*a.prompt);
  if (a.opening) asked.opening = ids(*a.opening);
  if (a.closing) asked.closing = ids(*a.closing);
  if (a.stop) asked.stop = ids(*a.stop);
  casa::require(!asked.closing || asked.closing->size() <= 1, "--closing: expected one token, got ",
                asked.closing ? asked.closing->size() : 0);
  if (a.greedy) {
    asked.temperature = 0;
    asked.top_k = asked.ngram_size = 0;
    asked.eos_bias = asked.repetition_penalty = 1;
  }
  casa::io::CaptionerConfig own = casa::io::read_captioner_config(a.model, ids);
  if (asked.text_window || asked.sinks || asked.horizon || asked.restart_every ||
      !a.restart_at.empty())
    own.text_window = own.sinks = own.horizon = own.restart_every = std::nullopt;
  return casa::io::overlay(asked, own);
}

inline void add_options(CLI::App& app, Arguments& a) {
  app.add_option("-m,--model", a.model, "model folder")->required()->envname("CASA_MODEL");
  auto* source = app.add_option_group("frames", "where frames come from");
  source->add_option("--raw", a.raw, "raw frames WIDTHxHEIGHTxCHANNELS (8 bits) from stdin");
  source->add_option("--images", a.images, "image files, one a frame");
  a.read_image.add_option(app);
  source->add_option("--video", a.video, "a video file, decoded by ffmpeg");
  source->require_option(1);
  app.add_option("stdin", a.dash, "\"-\", to say that --raw reads stdin")
      ->check(CLI::IsMember({"-"}));
  app.add_option("--fps", a.fps, "frames per second: 2, 29.97 or 30000/1001")
      ->capture_default_str();
  app.add_flag("--realtime", a.realtime, "frames of --video come when they would be shown");
  app.add_option("--image-size", a.captions.image_size,
                 "side of --video frames; 0: the model's own");
  app.add_option("--srt", a.srt,
                 "subtitles, complete after each frame; a file that is there is gone on with if "
                 "--session is, and else never touched without --overwrite");
  app.add_option("--jsonl", a.jsonl,
                 "one JSON line a picture, complete after each frame; as --srt");
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
  app.add_option("-n,--max-new-tokens,--max_new_tokens", a.captions.max_new_tokens,
                 "of a frame (20)");
  app.add_flag("--greedy", a.greedy, "the likeliest token, no penalties");
  app.add_option("--temp,--temperature", a.captions.temperature, "0: greedy (0.4)");
  app.add_option("--top-k,--top_k", a.captions.top_k, "0: off (256)");
  app.add_option("--eos-bias,--eos_bias", a.captions.eos_bias, "of stop tokens; 1: off (0.95)");
  app.add_option("--repetition-penalty,--repetition_penalty", a.captions.repetition_penalty,
                 "1: off (1.15)");
  app.add_option("--ngram-size,--ngram_size", a.captions.ngram_size, "never repeated; 0: off (4)");
  app.add_option("-s,--seed", a.seed, "of the random numbers")->capture_default_str();
  const char* bounds = "What bounds the text (one of these: none of the model's own is taken)";
  app.add_option("--text-window", a.captions.text_window, "last text tokens kept; 0: all (4096)")
      ->group(bounds);
  app.add_option("--sinks", a.captions.sinks, "first text tokens kept (4)")->group(bounds);
  app.add_option("--horizon", a.captions.horizon,
                 "positions restart below this number; 0: never (0)")
      ->group(bounds);
  app.add_option("--restart-every", a.captions.restart_every,
                 "a new stream begins after so many frames that were read; 0: never (0)")
      ->check(CLI::NonNegativeNumber)
      ->group(bounds);
  app.add_option("--restart-at", a.restart_at, "frames at which a new stream begins")
      ->delimiter(',')
      ->group(bounds);
  app.add_flag("--deadline", a.deadline, "cut a frame's text after 1 / fps seconds");
  app.add_option(
         "--same-frame,--skip-similar", a.same_frame,
         "a frame that differs from the last one read by at most this share of the range (0 .. "
         "1, the mean of the patch that differs most) shows the same picture: it is not read, "
         "and the caption lasts; off: all are read")
      ->capture_default_str()
      ->check([](const std::string& value) {
        double share = -1;
        const bool number = CLI::detail::lexical_cast(value, share);
        return value == "off" || (number && share >= 0 && share <= 1)
                   ? std::string()
                   : "expected a share from 0 to 1, or off, got " + value;
      });
  app.add_option("--keep-pictures", a.keep_pictures,
                 "MiB for pictures and their embeddings, of those that came last: a picture that "
                 "comes back, pixel for pixel, is not encoded again; 0: none")
      ->check(CLI::Range(casa::Index{0}, casa::Index{1} << 20))
      ->capture_default_str();
  app.add_option("--reuse-patches", a.reuse,
                 "what a vision tower does not compute again of a frame in part like the last one. "
                 "exact: windows that did not change, up to its first block over the whole frame "
                 "(same bits); approximate: all of them, as if nothing in the frame had changed")
      ->check(CLI::IsMember({"off", "exact", "approximate"}))
      ->capture_default_str();
  const char* approximate = "With --reuse-patches approximate";
  app.add_option("--patch-difference", a.reuse_options.largest_difference,
                 "a patch has not changed if its values, of deviation 1, differ by at most this "
                 "in the mean")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(approximate);
  app.add_option("--refresh-every", a.reuse_options.refresh_every,
                 "after so many frames that were computed in part, one is as a whole; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(approximate);
  app.add_flag("--measure-reuse", a.reuse_options.measure_error,
               "compute every frame as a whole, too, and say how far its tokens are off")
      ->group(approximate);
  app.add_option("--encoder-threads", a.encoder_threads,
                 "that encode the next frame while text is written, beside --threads; 0: all "
                 "processors that this process may use")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--packed", a.packed,
                 "keep the weights as they are packed in this file, and map it the next time");
  app.add_option("--timeout", a.timeout_ms, "milliseconds to wait for a frame")
      ->capture_default_str();
  app.add_option("--ffmpeg", a.ffmpeg, "the program that decodes videos")->capture_default_str();
  a.decoder.add_options(app, "16 and 8 bits as in the files, else float");
  a.encoder.add_options(app);
  app.add_option("-t,--threads", a.threads, "0: all processors that this process may use")
      ->capture_default_str();
  app.add_flag("-q,--quiet", a.quiet, "nothing on stderr but errors");
}
