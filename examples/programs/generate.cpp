// Continues a text, answers about pictures, or chats, with the model of a folder.
//
//   generate -m DIR -p "Once upon a time"
//   generate -m DIR --chat -p "<image>What is this?" --image cat.jpg
//   generate -m DIR                                       a chat on the terminal
//   generate -m DIR --prompts FILE --batch 16             each line of a file, 16 together
//
// The text alone (or JSON) goes to stdout, everything else to stderr. Ends with 0; 1 after an
// error; 2 for a wrong command line; 130 after Ctrl-C.

#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "casa/core/build_info.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/session/trace.hpp"
#include "generate/batch.hpp"
#include "generate/session.hpp"
#include "support/files.hpp"
#include "support/program.hpp"

namespace {

volatile std::sig_atomic_t interrupted = 0;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Index peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return Index{usage.ru_maxrss} * 1024;
}

// What is said on stderr while the model loads: moving dots on a terminal, nothing elsewhere.
class Progress {
 public:
  explicit Progress(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO)) {
    if (shown_) thread_ = std::thread([this] { run(); });
  }
  ~Progress() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    done_ = true;
    thread_.join();
    std::fputs("\r\033[K", stderr);
  }

 private:
  void run() {
    for (int step = 0; !done_; ++step) {
      const std::string bar = std::string(static_cast<std::size_t>(step % 20), ' ') + "===";
      std::fprintf(stderr, "\rloading [%-22s] %.1f s", bar.c_str(), 0.1 * step);
      std::fflush(stderr);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  bool shown_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

struct Answer {
  std::vector<int> ids;
  std::string text;
  std::string finish_reason;  // "stop": a stop id; "length": a limit; "interrupted": Ctrl-C
  double seconds = 0;
};

// Speaks until a stop id, a limit (--max-new-tokens or the context), or Ctrl-C; each piece goes to
// `say` as soon as it is certain.
template <class Say>
Answer speak(Session& session, const Arguments& a, const casa::Context& context, Say say) {
  Answer answer;
  std::optional<casa::io::StreamDecoder> decoder;
  if (session.has_tokenizer()) decoder.emplace(session.tokenizer());
  const auto stop_ids = a.ignore_eos ? std::vector<int>{} : session.stop_ids();
  const double begin = now();
  const auto emit = [&](const std::string& piece) {
    answer.text += piece;
    say(piece);
  };
  casa::Generator<float>& generator = session.generator();
  while (answer.finish_reason.empty()) {
    if (interrupted) {
      answer.finish_reason = "interrupted";
    } else if (static_cast<Index>(answer.ids.size()) >= a.max_new_tokens ||
               (!answer.ids.empty() && !generator.has_room())) {
      answer.finish_reason = "length";
    } else {
      if (!answer.ids.empty()) generator.advance(context);
      const int id = generator.sample();
      if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
        answer.finish_reason = "stop";
        break;
      }
      answer.ids.push_back(id);
      // An embedding may have more rows than there are tokens.
      if (decoder && session.tokenizer().has_token(id)) emit(decoder->push(id));
    }
  }
  if (decoder) emit(decoder->finish());
  answer.seconds = now() - begin;
  return answer;
}

void say_to_stdout(const std::string& piece) {
  program::put(piece);
  program::flush();
}

std::string ids_text(const std::vector<int>& ids) {
  std::string s;
  for (const int id : ids) s += (s.empty() ? "" : ",") + std::to_string(id);
  return s;
}

void report(std::size_t prompt_tokens, double prefill, const Answer& answer) {
  const auto rate = [](std::size_t n, double s) { return s > 0 ? static_cast<double>(n) / s : 0; };
  std::fprintf(
      stderr,
      "prompt: %zu tokens, %.1f tokens/s; answer: %zu tokens (%s), %.1f tokens/s; peak %.0f MiB\n",
      prompt_tokens, rate(prompt_tokens, prefill), answer.ids.size(), answer.finish_reason.c_str(),
      rate(answer.ids.size(), answer.seconds), static_cast<double>(peak_bytes()) / 1048576);
}

// What a chat begins with: the system message, if there is one, and the first thing said.
std::vector<casa::io::ChatMessage> opening(const Arguments& a, casa::io::ChatMessage user) {
  std::vector<casa::io::ChatMessage> messages;
  if (!a.system.empty()) messages.push_back({"system", a.system});
  messages.push_back(std::move(user));
  return messages;
}

casa::io::EncodedPrompt encoded_prompt(Session& session, const Arguments& a) {
  using namespace casa::io;
  if (!a.prompt_ids.empty())  // pictures stand before the ids
    return {a.prompt_ids, std::vector<Index>(a.images.size(), 0)};
  std::string text = a.prompt;
  if (split_marks(text).image_at.empty())
    for (std::size_t i = 0; i < a.images.size(); ++i) text.insert(0, kImageMark);
  Prompt prompt;
  if (a.chat) {
    const ChatTemplate& chat = session.chat();
    const MarkedText marked = split_marks(text);
    prompt = chat_prompt(chat, opening(a, {"user", marked.text, marked.image_at}),
                         session.chat_options());
  } else {
    prompt = plain_prompt(text, session.vision_delimiters());
  }
  require_images(prompt, static_cast<Index>(a.images.size()));
  return encode(session.tokenizer(), prompt);
}

std::vector<std::string> chat_names() {
  std::vector<std::string> names;
  for (const casa::io::ChatTemplate& t : casa::io::kChatTemplates) names.emplace_back(t.name);
  return names;
}

int run_once(Session& session, const Arguments& a, const casa::Context& context) {
  const casa::io::EncodedPrompt prompt = encoded_prompt(session, a);
  std::vector<Session::Image> images;
  for (const std::string& file : a.images) images.push_back(session.read_image(file));
  const double begin = now();
  session.feed(prompt, images);
  const double prefill = now() - begin;
  const Answer answer = speak(session, a, context, [&](const std::string& piece) {
    if (!a.json) say_to_stdout(piece);
  });
  if (a.json) {
    casa::io::JsonWriter w;
    w.begin_object().key("prompt_ids").begin_array();
    for (const int id : prompt.ids) w.value(id);
    w.end_array().key("ids").begin_array();
    for (const int id : answer.ids) w.value(id);
    w.end_array().member("text", answer.text);
    w.member("finish_reason", answer.finish_reason);
    w.member("prefill_seconds", prefill).member("decode_seconds", answer.seconds);
    w.member("peak_bytes", peak_bytes()).end_object();
    program::put(w.str() + "\n");
  } else {
    if (!session.has_tokenizer()) program::put(ids_text(answer.ids));
    say_to_stdout("\n");
  }
  if (!a.quiet) report(prompt.ids.size(), prefill, answer);
  return interrupted ? 130 : 0;
}

int run_lines(Session& session, const Arguments& a, const casa::Context& context,
              const std::string& lines) {
  const auto encode = [&](const std::string& line) {
    Arguments one = a;
    one.prompt = line;
    return encoded_prompt(session, one);
  };
  continue_lines(session, a, context, lines, encode, [] { return interrupted != 0; });
  return interrupted ? 130 : 0;
}

// A conversation. /image FILE shows a picture with the next turn, /quit (or end of input) ends.
// What can not be said or shown is told, and the conversation goes on as if it had not been.
int run_chat(Session& session, const Arguments& a, const casa::Context& context) {
  using namespace casa::io;
  const ChatTemplate& chat = session.chat();
  std::vector<Session::Image> images;
  for (const std::string& file : a.images) images.push_back(session.read_image(file));
  const auto complain = [](const std::exception& e, const char* what) {
    std::fprintf(stderr, "generate: %s (%s)\n", e.what(), what);
  };
  bool first = true;
  const auto encoded_turn = [&](const ChatMessage& user) {
    return encode(session.tokenizer(),
                  first ? chat_prompt(chat, opening(a, user), session.chat_options())
                        : next_turn(chat, std::vector{user}, session.chat_options()));
  };
  // What the command line alone makes impossible is an error at once, not one of every turn.
  (void)encoded_turn({"user", "?"});
  for (std::string line; !interrupted;) {
    if (isatty(STDIN_FILENO)) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line) || line == "/quit") break;
    if (line.empty()) continue;
    if (line == "/image") {
      std::fputs("generate: /image FILE: the name of a picture is missing\n", stderr);
      continue;
    }
    if (line.starts_with("/image ")) {
      try {
        images.push_back(session.read_image(line.substr(7)));
      } catch (const std::exception& e) {
        complain(e, "there is no such picture in the next turn");
      }
      continue;
    }
    EncodedPrompt prompt;
    try {
      // A picture stands before what is said; <image> in a line is text.
      prompt = encoded_turn({"user", line, std::vector<std::size_t>(images.size(), 0)});
    } catch (const std::exception& e) {
      complain(e, "the turn was not taken");
      continue;
    }
    const double begin = now();
    const Index length = session.generator().state().text_len();
    try {
      session.feed(prompt, std::exchange(images, {}));
    } catch (const std::exception& e) {
      if (session.generator().state().text_len() != length) throw;  // the stream is half fed
      complain(e, "the turn was not taken, nor its pictures");
      continue;
    }
    const double prefill = now() - begin;
    const Answer answer = speak(session, a, context, say_to_stdout);
    say_to_stdout("\n");
    if (!a.quiet) report(prompt.ids.size(), prefill, answer);
    first = false;
  }
  casa::require(interrupted || std::ferror(stdin) == 0, "stdin: cannot read");
  return interrupted ? 130 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Generates text with the model of a folder (Hugging Face layout)."};
  app.add_option("-m,--model", a.model, "model folder")->required()->envname("CASA_MODEL");
  auto* text = app.add_option(
      "-p,--prompt", a.prompt,
      "text to continue; <image> is the place of a picture, \\<image> is that text itself");
  auto* ids =
      app.add_option("--prompt-ids,--prompt_ids", a.prompt_ids, "token ids instead of a text")
          ->delimiter(',');
  auto* file = app.add_option("-f,--file", a.prompt_file, "file that holds the prompt");
  auto* lines =
      app.add_option("--prompts", a.prompts,
                     "file of prompts, one a line: they are continued together, and stdout "
                     "has a JSON object for each, in the order of the lines");
  app.add_option("--batch", a.batch, "most prompts of --prompts that are continued together")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  text->excludes(ids, file, lines);
  ids->excludes(file, lines);
  file->excludes(lines);
  app.add_option("--system", a.system, "system message (implies --chat)");
  app.add_flag(
      "--chat", a.chat,
      "put the prompt into the folder's chat template; special tokens in it are then text");
  app.add_option("--chat-template", a.chat_template,
                 "write chats so, whatever the folder says (implies --chat)")
      ->check(CLI::IsMember(chat_names()));
  app.add_flag("--no-system", a.no_system,
               "without the system turn that the chat template adds by itself");
  app.add_option("--date", a.date,
                 "the date that the chat template writes, as \"26 Jul 2024\" (default: its own)");
  app.add_option_function<std::string>(  // a file name may hold commas and brackets
         "--image", [&a](const std::string& picture) { a.images.push_back(picture); },
         "picture (JPEG, PNG, PPM), once per <image>; without <image> it stands first")
      ->trigger_on_parse();
  a.read_image.add_option(app);
  app.add_flag("--allow-unexpected", a.allow_unexpected,
               "leave out tensors of the files that the model has no place for");
  app.add_flag("--unknown-rope-keys", a.unknown_rope_keys,
               "pass over keys of rope_scaling that are not known (LoadLimits::unknown_rope_keys)");
  app.add_flag("--repeated-tensors", a.repeated_tensors,
               "take a tensor that several files hold (LoadLimits::repeated_tensors)");
  app.add_flag("--stale-index", a.stale_index,
               "take an index that names tensors which its files lack (LoadLimits::stale_index)");
  app.add_flag("--any-pattern", a.any_pattern,
               "take any regular expression of tokenizer.json, not only the published ones");
  app.add_flag("--unknown-fields", a.unknown_fields,
               "pass over fields of tokenizer.json that are not known");
  app.add_option("-n,--max-new-tokens,--max_new_tokens,--predict,--n-predict", a.max_new_tokens,
                 "most tokens to generate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--temperature,--temp", a.temperature, "0 is greedy")->capture_default_str();
  app.add_option("--top-k,--top_k", a.top_k, "0 is off")->capture_default_str();
  app.add_option("--top-p,--top_p", a.top_p, "1 is off")->capture_default_str();
  app.add_option("--min-p,--min_p", a.min_p, "0 is off")->capture_default_str();
  app.add_option("--repeat-penalty,--repetition_penalty", a.repeat_penalty, "1 is off")
      ->capture_default_str();
  app.add_option("-s,--seed", a.seed, "of the random draws")->capture_default_str();
  app.add_option("-t,--threads", a.threads,
                 "worker threads (0: all processors that this process may use)")
      ->check(CLI::NonNegativeNumber)
      ->envname("CASA_THREADS");
  app.add_option("-c,--context,--ctx-size", a.context,
                 "most text tokens of the stream (0: no bound)")
      ->check(CLI::NonNegativeNumber);
  a.decoder.add_options(app, "float; int8 where the files hold 8 bits");
  app.add_option("--packed", a.packed,
                 "keep the weights as they are packed in this file, and map it the next time");
  a.encoder.add_options(app);
  app.add_option(
      "--trace", a.trace,
      "write the hidden state after every sublayer here (safetensors; see compare_traces)");
  app.add_flag("--json", a.json, "one JSON object on stdout instead of the text");
  app.add_flag("--ignore-eos,--ignore_eos", a.ignore_eos, "go on after a stop token");
  app.add_flag("-q,--quiet", a.quiet, "nothing on stderr but errors");
  return program::run("generate", app, argc, argv, [&] {
    a.chat |= !a.system.empty() || !a.chat_template.empty() || a.no_system || !a.date.empty();
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (interrupted) _exit(130);
      interrupted = 1;
    };
    sigaction(SIGINT, &action, nullptr);

    if (!a.quiet) std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    if (file->count() > 0) a.prompt = content_of("-f", a.prompt_file);
    std::string prompts;
    if (lines->count() > 0) {
      casa::require(a.images.empty() && a.trace.empty(),
                    "--prompts takes texts alone: no --image, no --trace");
      prompts = content_of("--prompts", a.prompts);
    }
    const bool chat = text->count() + file->count() + ids->count() + lines->count() == 0;
    casa::require(!chat || !a.json, "--json is of one answer: give -p, -f or --prompt-ids");
    program::Files files;
    files.input_model("-m", a.model);
    files.input("-f", a.prompt_file);
    files.input("--prompts", a.prompts);
    for (const std::string& image : a.images) files.input("--image", image);
    files.output("--trace", a.trace);
    files.output("--packed", a.packed);
    files.standard_output();
    files.require_distinct();
    if (!a.trace.empty()) program::require_replaceable("--trace", a.trace);
    casa::ThreadPool pool(a.threads);
    const casa::Context context{.executor = pool,
                                .precision = program::precision(a.decoder.precision)};
    Progress progress(a.quiet);
    Session session(a, context);
    progress.stop();
    if (session.has_tokenizer() && !a.quiet)
      for (const std::string& warning : session.tokenizer().warnings())
        std::fprintf(stderr, "generate: %s\n", warning.c_str());
    casa::io::TraceRecorder<float> recorder;
    const casa::Trace<float> trace = recorder.hook();
    if (!a.trace.empty()) session.generator().set_trace(&trace);
    const int status = chat                 ? run_chat(session, a, context)
                       : lines->count() > 0 ? run_lines(session, a, context, prompts)
                                            : run_once(session, a, context);
    if (!a.trace.empty()) recorder.save(a.trace);
    return status;
  });
}
