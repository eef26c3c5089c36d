// What does one more frame of a live stream cost? This is the efficiency table of arXiv 2512.19535
// on a CPU: a frame of image tokens and then a few text tokens, over and over, under each variant.
//
//   streaming --csv > streaming.csv          one line a variant and length of the stream, with the
//                                            columns kColumns below
//   streaming --json streaming.json          one record a frame, with the keys of the authors'
//                                            benchmark; bench/streaming/plot.py reads it
//
// The decoder has the ratios of Helium-1-2B (2048 wide, 16 heads of 128 over 8 kv heads, an MLP 4
// times as wide), but is narrower by --scale and has --layers layers. Its weights are random, since
// time does not depend on their values. With one thread, seconds are processor time of that thread,
// which leaves out what other jobs on the machine take.

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "bench_common.hpp"
#include "casa/core/build_info.hpp"
#include "casa/files/file.hpp"
#include "casa/json/json_writer.hpp"
#include "casa/model/decoder.hpp"

namespace {

using casa::Index;

// The columns of --csv: seconds a frame are medians over the first and the last tenth of the
// frames, cache_bytes those after the last frame, peak_bytes the most resident memory since the
// first.
constexpr const char* kColumns =
    "bench,variant,frames,first_tenth_s,last_tenth_s,cache_bytes,peak_bytes";
constexpr const char* kLatencyColumns = "bench,part,seconds";

struct Arguments {
  std::vector<Index> frames = {64, 256, 1024};
  std::vector<std::string> variants = {"cross_attention", "shared",         "casa",
                                       "casa_window",     "casa_replace_2", "casa_ffn",
                                       "token_insertion", "text_only"};
  Index layers = 4, scale = 4, image_tokens = 256, text_tokens = 5, text_window = 256, threads = 1;
  double budget = 120;
  bool csv = false, csv_header = false, latency = false;
  std::string json;
};

casa::DecoderConfig config_of(const std::string& variant, const Arguments& a) {
  casa::DecoderConfig c;
  c.hidden_size = 2048 / a.scale;
  c.head_dim = 128;
  c.num_attention_heads = 16 / a.scale;
  c.num_key_value_heads = 8 / a.scale;
  c.intermediate_size = 4 * c.hidden_size;
  c.num_hidden_layers = a.layers;
  c.vocab_size = 2048;
  c.rope.theta = 100000;
  std::vector<int> all, second;
  for (int l = 0; l < static_cast<int>(a.layers); ++l) {
    all.push_back(l);
    if (l % 2 == 1) second.push_back(l);
  }
  namespace p = casa::presets;
  if (variant == "cross_attention") c.fusion = p::cross_attention(all);
  if (variant == "shared") c.fusion = p::casa_shared(all);
  if (variant == "casa" || variant == "casa_window") c.fusion = p::casa(all);
  if (variant == "casa_replace_2") c.fusion = p::casa_replace(second);
  if (variant == "casa_ffn") {
    c.fusion = p::casa(all);
    c.fusion->update = casa::ImageUpdate::ffn;
  }
  if (variant == "token_insertion") c.fusion = p::token_insertion(all);
  casa::require(c.fusion || variant == "text_only", "no variant is called ", casa::quoted(variant));
  return c;
}

// Every weight is the beginning of one table of random numbers, and every norm's that of one table
// of ones.
class Weights {
 public:
  explicit Weights(Index size) : values_(size), ones_(size) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    for (float& v : values_.span()) v = normal(random);
    std::fill_n(ones_.data(), ones_.size(), 1.0f);
  }
  casa::WeightSource source() const {
    return {[this](const casa::TensorSpec& spec) -> casa::StoredView {
      if (spec.cols == 0)
        return casa::StoredView(ones_.span().first(static_cast<std::size_t>(spec.rows)));
      return casa::StoredView(casa::MatrixView<const float>(values_.data(), spec.rows, spec.cols));
    }};
  }

 private:
  casa::Buffer<float> values_, ones_;
};

// peak_bytes() is the most resident memory in bytes since the last reset_peak(), as Linux counts
// it.
void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }
Index peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

struct Turn {
  double ttft = 0, decode = 0;  // seconds
  Index kv_tokens = 0, cache_bytes = 0, peak = 0;
  double total() const { return ttft + decode; }
};

struct Result {
  std::string variant;
  Index weight_bytes = 0;
  std::vector<Turn> turns;
};

double now(const Arguments& a) {
  return a.threads == 1 ? bench::thread_seconds() : bench::wall_seconds();
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Median seconds of the first and of the last tenth of the first `frames` turns. The very first
// turn is left out, because it grows every buffer.
std::pair<double, double> tenths(const Result& r, Index frames) {
  const Index tenth = std::max<Index>(1, frames / 10);
  std::vector<double> first, last;
  for (Index i = 1; i <= tenth && i < frames; ++i)
    first.push_back(r.turns[static_cast<std::size_t>(i)].total());
  for (Index i = frames - tenth; i < frames; ++i)
    last.push_back(r.turns[static_cast<std::size_t>(i)].total());
  return {median(first), median(last)};
}

Result measure(const std::string& variant, const Weights& weights, const Arguments& a,
               const casa::Context& context) {
  const casa::DecoderConfig config = config_of(variant, a);
  const casa::Decoder<float> model(config, weights.source());
  casa::StateOptions options;
  if (variant == "casa_window") options.text_window = a.text_window;
  auto state = model.new_state(options);
  const bool sees = config.fusion.has_value();
  casa::Matrix<float> image(sees ? a.image_tokens : 0, config.hidden_size);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (Index i = 0; i < image.size(); ++i) image.data()[i] = normal(random);
  casa::Matrix<float> logits(1, config.vocab_size);
  const casa::Insertion insertion{0, image.rows()};
  const std::span<const casa::Insertion> insertions(&insertion, sees ? 1 : 0);

  Result r{variant, model.weight_bytes(), {}};
  reset_peak();
  int id = 1;
  const auto step = [&](std::span<const casa::Insertion> at, casa::MatrixView<const float> tokens) {
    model.forward({&state, {&id, 1}, at, tokens}, logits, context);
    id = static_cast<int>(std::max_element(logits.row(0), logits.row(0) + logits.cols()) -
                          logits.row(0));
  };
  const double start = bench::wall_seconds();
  const Index most = *std::max_element(a.frames.begin(), a.frames.end());
  for (Index f = 0; f < most && bench::wall_seconds() - start < a.budget; ++f) {
    Turn t;
    const double begin = now(a);
    step(insertions, image);
    const double first = now(a);
    for (Index i = 1; i < a.text_tokens; ++i) step({}, {});
    t.ttft = first - begin;
    t.decode = now(a) - first;
    t.kv_tokens = state.self_tokens() + state.fusion_tokens();
    t.cache_bytes = state.cache_bytes();
    t.peak = peak_bytes();
    r.turns.push_back(t);
  }
  return r;
}

// Where the time of a frame goes. Measured are its pass with and without the image, and the
// projections of image tokens to keys and values alone; the rest is attention to the image.
void print_latency(const Weights& weights, const Arguments& a, const casa::Context& context) {
  const casa::DecoderConfig config = config_of("casa", a);
  const casa::Decoder<float> model(config, weights.source());
  const casa::BlockWeights<float> block =
      casa::WeightReader<float>(weights.source(), casa::WeightType::native)
          .block(casa::decoder_spec(config).blocks[0]);
  auto state = model.new_state({.text_window = a.text_window});
  casa::Matrix<float> image(a.image_tokens, config.hidden_size), normed = image;
  image.fill(0.5f);
  casa::Matrix<float> kv(a.image_tokens, 2 * config.num_key_value_heads * config.head_dim);
  casa::Matrix<float> logits(1, config.vocab_size);
  const int id = 1;
  const auto pass = [&](Index tokens) {
    const casa::Insertion at{0, tokens};
    model.forward({&state, {&id, 1}, {&at, 1}, image.view().middle_rows(0, tokens)}, logits,
                  context);
  };
  std::vector<double> with_image, without, token, projection;
  const auto time = [&](std::vector<double>& times, auto&& f) {
    const double begin = now(a);
    f();
    times.push_back(now(a) - begin);
  };
  for (int i = 0; i < 200; ++i) {
    time(with_image, [&] { pass(a.image_tokens); });
    time(token, [&] { model.forward({&state, {&id, 1}}, logits, context); });
    time(without, [&] { pass(0); });
    time(projection, [&] {
      for (Index l = 0; l < a.layers; ++l) {
        casa::rms_norm<float>(image, block.input_norm.span(), 1e-5, normed, context);
        block.fusion_attention.qkv.forward_pieces(normed, kv, 1, 3, context);
      }
    });
  }
  const auto line = [&](const char* what, double seconds) {
    std::printf(a.csv ? "latency,%s,%.6g\n" : "%-28s %9.3f ms\n", what,
                (a.csv ? 1 : 1e3) * seconds);
  };
  const double whole = median(with_image), text = median(without), images = median(projection);
  line("frame to first logits", whole);
  line("  image keys and values", images);
  line("  text and weights", text);
  line("  attention to the image", std::max(0.0, whole - text - images));
  line("each further token", median(token));
  std::ranges::sort(with_image);
  std::ranges::sort(token);
  line("frame to first logits, p99", with_image[197]);
  line("each further token, p99", token[197]);
}

// One result for each length of the stream that was reached. The text cache grows in all variants
// but casa_window; the growth of text_only's time shows what that alone costs.
void print(const Result& r, const Arguments& a) {
  std::vector<Index> lengths = a.frames;
  const auto reached = static_cast<Index>(r.turns.size());
  std::erase_if(lengths, [&](Index n) { return n > reached; });
  if (lengths.size() < a.frames.size() && reached > 1) lengths.push_back(reached);
  for (const Index frames : lengths) {
    const auto [first, last] = tenths(r, frames);
    const Turn& end = r.turns[static_cast<std::size_t>(frames - 1)];
    const double bytes = static_cast<double>(end.cache_bytes - r.turns[0].cache_bytes) /
                         static_cast<double>(frames - 1);
    if (a.csv)
      std::printf("streaming,%s,%td,%.6g,%.6g,%td,%td\n", r.variant.c_str(), frames, first, last,
                  end.cache_bytes, end.peak);
    else
      std::printf(
          "%-16s %5td frames %9.2f ms -> %9.2f ms a frame (%+6.1f %%) %8.2f frames/s "
          "cache %8.2f MiB, %.0f KiB more a frame, peak %.1f MiB\n",
          r.variant.c_str(), frames, 1e3 * first, 1e3 * last, 100 * (last / first - 1), 1 / last,
          static_cast<double>(end.cache_bytes) / 1048576, bytes / 1024,
          static_cast<double>(end.peak) / 1048576);
  }
  std::fflush(stdout);
}

void write_json(const std::vector<Result>& results, const Arguments& a) {
  constexpr double gib = 1073741824.0;
  casa::io::JsonWriter w;
  const casa::DecoderConfig c = config_of("casa", a);
  w.begin_object().member("build", casa::build_info().summary()).key("shape").begin_object();
  w.member("hidden_size", c.hidden_size).member("num_hidden_layers", c.num_hidden_layers);
  w.member("num_attention_heads", c.num_attention_heads);
  w.member("num_key_value_heads", c.num_key_value_heads).member("head_dim", c.head_dim);
  w.member("intermediate_size", c.intermediate_size).member("image_tokens", a.image_tokens);
  w.member("text_tokens", a.text_tokens).member("threads", a.threads).end_object();
  w.member("clock", a.threads == 1 ? "processor seconds of the thread" : "wall seconds");
  w.key("variants").begin_array();
  for (const Result& r : results) {
    w.begin_object().member("variant", r.variant).member("weight_bytes", r.weight_bytes);
    w.key("turns").begin_array();
    for (std::size_t i = 0; i < r.turns.size(); ++i) {
      const Turn& t = r.turns[i];
      w.begin_object().member("turn", i).member("ttft_s", t.ttft).member("decode_s", t.decode);
      w.member("decode_tok_per_s", static_cast<double>(a.text_tokens - 1) / t.decode);
      w.member("kv_tokens", t.kv_tokens).member("cache_bytes", t.cache_bytes);
      w.member("peak_mem_gib", static_cast<double>(t.peak) / gib).end_object();
    }
    w.end_array().key("summary").begin_object();
    const auto frames = static_cast<Index>(r.turns.size());
    if (frames > 1) {
      const auto [first, last] = tenths(r, frames);
      w.member("turns", frames).member("first_tenth_s", first).member("last_tenth_s", last);
      w.member("frames_per_s", 1 / last);
      w.member("peak_mem_gib", static_cast<double>(r.turns.back().peak) / gib);
    }
    w.end_object().end_object();
  }
  w.end_array().end_object();
  casa::io::write_file(a.json, w.str() + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"What one more frame of a live stream costs."};
  app.add_option("--frames", a.frames, "lengths of the stream")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--variants", a.variants, "ways of looking at images")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--layers", a.layers, "decoder layers")->capture_default_str();
  app.add_option("--scale", a.scale, "how much narrower than Helium-1-2B: 1, 2, 4 or 8")
      ->capture_default_str()
      ->check(CLI::IsMember({1, 2, 4, 8}));
  app.add_option("--image-tokens", a.image_tokens, "of a frame")->capture_default_str();
  app.add_option("--text-tokens", a.text_tokens, "of a frame")
      ->capture_default_str()
      ->check(CLI::Range(2, 1024));
  app.add_option("--text-window", a.text_window, "of casa_window")->capture_default_str();
  app.add_option("-t,--threads", a.threads, "worker threads")->capture_default_str();
  app.add_option("--budget", a.budget, "wall seconds after which a variant ends")
      ->capture_default_str();
  app.add_flag("--latency", a.latency, "instead: where the time of a CASA frame goes");
  app.add_flag("--csv", a.csv, "comma-separated values, one line a result");
  app.add_flag("--csv-header", a.csv_header, "--csv with the names of the columns as first line");
  app.add_option("--json", a.json, "a file of all turns");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  const casa::BuildInfo info = casa::build_info();
  std::fprintf(stderr, "%s\n", info.summary().c_str());
  if (!info.hint().empty()) std::fprintf(stderr, "warning: %s\n", info.hint().c_str());
  const char* columns = a.latency ? kLatencyColumns : kColumns;
  if (a.csv_header) {
    a.csv = true;
    std::printf("%s\n", columns);
  } else if (a.csv) {
    std::fprintf(stderr, "columns: %s\n", columns);
  }
  try {
    casa::ThreadPool pool(a.threads);
    const casa::Context context{.executor = pool};
    const Weights weights(4 * (2048 / a.scale) * std::max<Index>(2048 / a.scale, 1024));
    if (a.latency) {
      print_latency(weights, a, context);
      return 0;
    }
    std::vector<Result> results;
    for (const std::string& variant : a.variants) {
      results.push_back(measure(variant, weights, a, context));
      print(results.back(), a);
    }
    if (!a.json.empty()) write_json(results, a);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "streaming: %s\n", e.what());
    return 1;
  }
}
