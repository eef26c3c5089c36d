// Continues a text, answers about pictures, or chats, with the model of a folder.
//
//   generate -m DIR -p "Once upon a time"
//   generate -m DIR --chat -p "<image>What is this?" --image cat.jpg
//   generate -m DIR                                       a chat on the terminal
//
// The text alone goes to stdout, everything else to stderr. Ends with 0; 1 after an error; 2 for a
// wrong command line; 130 after Ctrl-C.

#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "casa/core/build_info.hpp"
#include "casa/generate/generator.hpp"
#include "casa/io/chat_template.hpp"
#include "casa/io/image.hpp"
#include "casa/io/image_tokens.hpp"
#include "casa/io/json_writer.hpp"
#include "casa/io/load_model.hpp"
#include "casa/io/tokenizer.hpp"
#include "casa/io/trace.hpp"
#include "support/files.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;

volatile std::sig_atomic_t interrupted = 0;

struct Arguments {
  std::string model, prompt, prompt_file, system, trace, dtype = "float", precision = "full";
  std::vector<int> prompt_ids;
  std::vector<std::string> images;
  Index max_new_tokens = 128, threads = 0, context = 0, top_k = 0;
  double temperature = 0, top_p = 1, min_p = 0, repeat_penalty = 1;
  std::uint64_t seed = 0;
  bool json = false, chat = false, ignore_eos = false, quiet = false;
};

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

// A model folder, its tokenizer and image encoder, and one stream that goes on.
class Session {
 public:
  Session(const Arguments& a, const casa::Context& context)
      : context_(context),
        folder_(a.model),
        model_(casa::io::load_model<float>(a.model, options(a))),
        generator_(model_.decoder, generate_options(a)) {
    if (casa::io::detail::file_exists(a.model + "/tokenizer.json")) {
      tokenizer_.emplace(a.model);
      tokenizer_->require_fits(model_.decoder.config().vocab_size);
    }
  }

  const casa::io::Tokenizer& tokenizer() const {
    casa::require(tokenizer_.has_value(),
                  "the folder has no tokenizer.json: give the prompt as --prompt-ids");
    return *tokenizer_;
  }
  bool has_tokenizer() const { return tokenizer_.has_value(); }
  bool vision_delimiters() const { return tokenizer().find("<|vision_start|>").has_value(); }

  // The template that the special tokens of the tokenizer tell of.
  casa::io::ChatFamily chat_family() const {
    if (vision_delimiters()) return casa::io::ChatFamily::qwen2_5_vl;
    if (tokenizer().find("<|im_start|>")) return casa::io::ChatFamily::smollm2;
    if (tokenizer().find("<|start_header_id|>")) return casa::io::ChatFamily::llama3;
    casa::fail("no chat template is known for this tokenizer: give a raw text with --prompt");
  }

  // Images given as files, at the insertion points of the prompt.
  void feed(const std::vector<int>& ids, const std::vector<Index>& points,
            const std::vector<std::string>& images) {
    if (!images.empty() && !encoder_) encoder_.emplace(model_, folder_);
    std::vector<casa::io::EncodedImage<float>> encoded;
    Index rows = 0;
    for (const std::string& file : images) {
      encoded.push_back(encoder_->encode(casa::io::read_image(file), context_));
      rows += encoded.back().tokens.rows();
    }
    casa::Matrix<float> tokens(rows, model_.decoder.config().hidden_size);
    std::vector<casa::Insertion> insertions;
    std::vector<casa::ImageGrid> grids;
    Index row = 0;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
      const auto& [image, grid] = encoded[i];
      std::copy_n(image.data(), image.size(), tokens.row(row));
      row += image.rows();
      insertions.push_back({points[i], image.rows()});
      grids.push_back(grid);
    }
    generator_.feed({ids, insertions, tokens, grids}, context_);
  }

  std::vector<int> stop_ids() const { return model_.config.tokens.eos; }
  casa::Generator<float>& generator() { return generator_; }
  const casa::io::Model<float>& model() const { return model_; }

 private:
  static casa::io::ModelOptions options(const Arguments& a) {
    casa::io::ModelOptions o;
    o.weights = a.dtype == "bf16"   ? casa::WeightType::bfloat16
                : a.dtype == "int8" ? casa::WeightType::int8
                                    : casa::WeightType::native;
    o.files.map = true;  // packed as it is read: the file's pages are given back on the way
    return o;
  }
  casa::GenerateOptions generate_options(const Arguments& a) const {
    casa::GenerateOptions o;
    o.sampling.temperature = a.temperature;
    o.sampling.top_k = a.top_k;
    o.sampling.top_p = a.top_p;
    o.sampling.min_p = a.min_p;
    o.sampling.repetition_penalty = a.repeat_penalty;
    o.sampling.seed = a.seed;
    o.context = a.context;
    return o;
  }

  const casa::Context& context_;
  std::string folder_;
  casa::io::Model<float> model_;
  casa::Generator<float> generator_;
  std::optional<casa::io::Tokenizer> tokenizer_;
  std::optional<casa::io::ImageEncoder<float>> encoder_;
};

struct Answer {
  std::vector<int> ids;
  std::string text;
  double seconds = 0;
};

// Speaks until a stop id, the limit, or Ctrl-C; each piece goes to `say` as soon as it is certain.
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
  while (static_cast<Index>(answer.ids.size()) < a.max_new_tokens && !interrupted) {
    if (!answer.ids.empty()) session.generator().advance(context);
    const int id = session.generator().sample();
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) break;
    answer.ids.push_back(id);
    if (decoder) emit(decoder->push(id));
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
      "prompt: %zu tokens, %.1f tokens/s; answer: %zu tokens, %.1f tokens/s; peak %.0f MiB\n",
      prompt_tokens, rate(prompt_tokens, prefill), answer.ids.size(),
      rate(answer.ids.size(), answer.seconds), static_cast<double>(peak_bytes()) / 1048576);
}

casa::io::Prompt prompt_text(const Session& session, const Arguments& a) {
  std::string text = a.prompt;
  if (!a.images.empty() && text.find(casa::io::kImageMark) == std::string::npos)
    for (std::size_t i = 0; i < a.images.size(); ++i) text.insert(0, casa::io::kImageMark);
  if (!a.chat && a.system.empty()) return casa::io::plain_prompt(text, session.vision_delimiters());
  std::vector<casa::io::ChatMessage> messages;
  if (!a.system.empty()) messages.push_back({"system", a.system});
  messages.push_back({"user", text});
  return casa::io::chat_prompt(session.chat_family(), messages);
}

int run_once(Session& session, const Arguments& a, const casa::Context& context) {
  casa::io::EncodedPrompt prompt;
  if (!a.prompt_ids.empty()) {
    prompt.ids = a.prompt_ids;
    prompt.insertions.assign(a.images.size(), 0);  // pictures stand before the ids
  } else {
    const casa::io::Prompt text = prompt_text(session, a);
    casa::io::require_images(text, static_cast<Index>(a.images.size()));
    prompt = casa::io::encode(session.tokenizer(), text);
  }
  const double begin = now();
  session.feed(prompt.ids, prompt.insertions, a.images);
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

// A conversation. /image FILE shows a picture with the next turn, /quit (or end of input) ends.
int run_chat(Session& session, const Arguments& a, const casa::Context& context) {
  using namespace casa::io;
  const ChatFamily family = session.chat_family();
  const bool llama = family == ChatFamily::llama3;
  std::vector<std::string> images = a.images;
  bool first = true;
  for (std::string line; !interrupted;) {
    if (isatty(STDIN_FILENO)) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line) || line == "/quit") break;
    if (line.starts_with("/image ")) {
      images.push_back(line.substr(7));
      continue;
    }
    if (line.empty()) continue;
    std::string said = line;
    for (std::size_t i = 0; i < images.size(); ++i) said.insert(0, kImageMark);
    std::vector<ChatMessage> messages;
    if (first && !a.system.empty()) messages.push_back({"system", a.system});
    messages.push_back({"user", said});
    Prompt turn = chat_prompt(family, messages);
    if (!first) {  // the opening stands once; before a new turn the last answer ends as turns do
      const auto user = turn.text.find(llama ? "<|start_header_id|>user" : "<|im_start|>user");
      const std::string end = llama ? "<|eot_id|>" : "<|im_end|>\n";
      turn.text = end + turn.text.substr(user);
      for (std::size_t& at : turn.image_at) at = at - user + end.size();
    }
    const EncodedPrompt prompt = encode(session.tokenizer(), turn);
    const double begin = now();
    session.feed(prompt.ids, prompt.insertions, images);
    const double prefill = now() - begin;
    const Answer answer = speak(session, a, context, say_to_stdout);
    say_to_stdout("\n");
    if (!a.quiet) report(prompt.ids.size(), prefill, answer);
    images.clear();
    first = false;
  }
  return interrupted ? 130 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Generates text with the model of a folder (Hugging Face layout)."};
  app.add_option("-m,--model", a.model, "model folder")->required()->envname("CASA_MODEL");
  auto* text = app.add_option("-p,--prompt", a.prompt, "text to continue; <image> marks a picture");
  auto* ids =
      app.add_option("--prompt-ids,--prompt_ids", a.prompt_ids, "token ids instead of a text")
          ->delimiter(',');
  auto* file = app.add_option("-f,--file", a.prompt_file, "file that holds the prompt");
  text->excludes(ids, file);
  ids->excludes(file);
  app.add_option("--system", a.system, "system message (implies --chat)");
  app.add_flag("--chat", a.chat, "put the prompt into the model's chat template");
  app.add_option("--image", a.images, "picture (JPEG, PNG, PPM), once per <image>")->delimiter(',');
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
  app.add_option("-t,--threads", a.threads, "worker threads (0: all of the machine)")
      ->check(CLI::NonNegativeNumber)
      ->envname("CASA_THREADS");
  app.add_option("-c,--context,--ctx-size", a.context,
                 "most text tokens of the stream (0: no bound)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--dtype", a.dtype, "how weights are held")
      ->check(CLI::IsMember({"float", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--precision", a.precision,
                 "storage: the prompt is rounded to bf16 where it meets bf16 weights, if the "
                 "machine multiplies that faster")
      ->check(CLI::IsMember({"full", "storage"}))
      ->capture_default_str();
  app.add_option(
      "--trace", a.trace,
      "write the hidden state after every sublayer here (safetensors; see compare_traces)");
  app.add_flag("--json", a.json, "one JSON object on stdout instead of the text");
  app.add_flag("--ignore-eos,--ignore_eos", a.ignore_eos, "go on after a stop token");
  app.add_flag("-q,--quiet", a.quiet, "nothing on stderr but errors");
  return program::run("generate", app, argc, argv, [&] {
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (interrupted) _exit(130);
      interrupted = 1;
    };
    sigaction(SIGINT, &action, nullptr);

    if (!a.quiet) std::fprintf(stderr, "%s\n", casa::build_info().summary().c_str());
    if (file->count() > 0) {
      std::ifstream in(a.prompt_file, std::ios::binary);
      casa::require(in.good(), "cannot read ", a.prompt_file);
      std::ostringstream content;
      content << in.rdbuf();
      a.prompt = content.str();
    }
    program::Files files;
    files.input_model("-m", a.model);
    files.input("-f", a.prompt_file);
    for (const std::string& image : a.images) files.input("--image", image);
    files.output("--trace", a.trace);
    files.standard_output();
    files.require_distinct();
    if (!a.trace.empty()) program::require_replaceable("--trace", a.trace);
    casa::ThreadPool pool(a.threads);
    const casa::Context context{
        .executor = pool,
        .precision = a.precision == "full" ? casa::Precision::full : casa::Precision::storage};
    Progress progress(a.quiet);
    Session session(a, context);
    progress.stop();
    casa::io::TraceRecorder<float> recorder;
    const casa::Trace<float> trace = recorder.hook();
    if (!a.trace.empty()) session.generator().set_trace(&trace);
    const bool chat = text->count() + file->count() + ids->count() == 0;
    const int status = chat ? run_chat(session, a, context) : run_once(session, a, context);
    if (!a.trace.empty()) recorder.save(a.trace);
    return status;
  });
}
