// Three trained models read pictures of handwritten digits aloud: CASA, cross-attention and token
// insertion, side by side on the same streams.
//
//   read_digits                                         all three, on the images of tests/golden
//   read_digits --model DIR --streams FILE --json OUT   one model, on one file of streams

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/core/build_info.hpp"
#include "casa/files/file.hpp"
#include "casa/json/json_writer.hpp"
#include "support/files.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;
using Ids = std::vector<int>;

// The vocabulary of the digit readers: 0..9, and
constexpr int kRow = 10, kEnd = 11, kBegin = 12;
constexpr int kMaxTokens = 20;  // a caption that has not ended by then is ended

struct Streams {
  casa::Matrix<std::uint8_t> images;  // one a row
  std::vector<Index> begin;           // images of stream s: begin[s] .. begin[s + 1] - 1
  std::vector<Ids> captions;          // the truth, empty where the file has none
  Index count() const { return static_cast<Index>(begin.size()) - 1; }
};

Streams load_streams(const std::string& path) {
  const casa::io::SafeTensors file = casa::io::read_safetensors(path);
  Streams s;
  const auto& images = file.at("images");
  casa::require_equal(images.where() + ": number of axes", images.shape.size(), 3);
  s.images = casa::Matrix<std::uint8_t>(images.shape[0], images.shape[1] * images.shape[2]);
  images.read_into(std::span(s.images.data(), static_cast<std::size_t>(s.images.size())));
  s.begin = file.at("stream_begin").to_vector<Index>();
  casa::require(!s.begin.empty() && s.begin.front() == 0 && s.begin.back() == s.images.rows() &&
                    std::ranges::is_sorted(s.begin),
                path, ": stream_begin must ascend from 0 to the ", s.images.rows(), " images");
  if (const auto* captions = file.find("captions")) {
    const auto ids = captions->to_matrix<int>();
    const auto length = file.at("caption_len").to_vector<Index>();
    casa::require_equal(captions->where() + ": rows", ids.rows(), s.images.rows());
    casa::require_equal("caption_len", static_cast<Index>(length.size()), ids.rows());
    for (Index i = 0; i < ids.rows(); ++i) {
      const Index n = length[static_cast<std::size_t>(i)];
      casa::require(n >= 0 && n <= ids.cols(), "caption_len ", n, " exceeds ", ids.cols());
      s.captions.emplace_back(ids.row(i), ids.row(i) + n);
    }
  }
  return s;
}

// What one model said of all images, and what it took.
struct Reading {
  std::vector<Ids> captions;
  std::vector<std::vector<Index>> cache_bytes;  // per stream, after each image has been read
  double seconds = 0;
};

int most_likely(const casa::Matrix<float>& logits) {
  return static_cast<int>(std::max_element(logits.row(0), logits.row(0) + logits.cols()) -
                          logits.row(0));
}

Reading read(const casa::io::Model<float>& model, const Streams& streams,
             const casa::Context& context) {
  const casa::PatchEncoder<float>& encoder = *model.patch_encoder;
  casa::PatchEncoder<float>::Scratch scratch;
  casa::Matrix<float> tokens(encoder.config().num_patches(), encoder.config().out_hidden_size);
  casa::Matrix<float> logits(1, model.decoder.config().vocab_size);
  const casa::Insertion image{0, tokens.rows()};

  Reading result;
  const auto start = std::chrono::steady_clock::now();
  for (Index s = 0; s < streams.count(); ++s) {
    auto state = model.decoder.new_state();
    result.cache_bytes.emplace_back();
    for (Index i = streams.begin[static_cast<std::size_t>(s)];
         i < streams.begin[static_cast<std::size_t>(s) + 1]; ++i) {
      encoder.encode(streams.images.view().middle_rows(i, 1), tokens, scratch, context);
      Ids caption{kBegin};
      model.decoder.forward({&state, caption, {&image, 1}, tokens}, logits, context);
      for (int n = 0; caption.back() != kEnd; ++n) {
        caption.push_back(n < kMaxTokens ? most_likely(logits) : kEnd);
        model.decoder.forward({&state, std::span(caption).last(1)}, logits, context);
      }
      result.captions.push_back(std::move(caption));
      result.cache_bytes.back().push_back(state.cache_bytes());
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string spelled(const Ids& ids) {
  static const char* const names[] = {"0", "1", "2",   "3", "4", "5", "6", "7",
                                      "8", "9", " / ", "",  "",  "?", "?", "?"};
  std::string s;
  for (const int id : ids) s += names[static_cast<std::size_t>(id)];
  return s;
}

// An image as lines of characters, two pixel rows a line.
void show(const Streams& streams, Index i) {
  constexpr std::string_view shades = " .:-=+*#%@";
  const std::uint8_t* pixels = streams.images.row(i);
  for (Index y = 0; y < 32; y += 2) {
    std::string line = "    ";
    for (Index x = 0; x < 32; ++x) {
      const int mean = (pixels[y * 32 + x] + pixels[(y + 1) * 32 + x]) / 2;
      line += shades[static_cast<std::size_t>(mean) * shades.size() / 256];
    }
    program::put(line + "\n");
  }
}

struct Score {
  double exact = 0, digits = 0;
};

Score score(const Reading& reading, const Streams& streams) {
  Index exact = 0, right = 0, digits = 0;
  for (std::size_t i = 0; i < streams.captions.size(); ++i) {
    const Ids &truth = streams.captions[i], &said = reading.captions[i];
    exact += truth == said;
    for (std::size_t t = 0; t < truth.size(); ++t) {
      if (truth[t] >= kRow) continue;
      ++digits;
      right += t < said.size() && said[t] == truth[t];
    }
  }
  const auto share = [](Index part, Index all) {
    return all ? static_cast<double>(part) / static_cast<double>(all) : 0.0;
  };
  return {share(exact, static_cast<Index>(streams.captions.size())), share(right, digits)};
}

Index tokens_read(const Reading& r) {
  Index sum = 0;
  for (const Ids& c : r.captions) sum += static_cast<Index>(c.size()) - 1;
  return sum;
}

casa::io::Model<float> load(const std::string& folder) {
  auto model = casa::io::load_model<float>(folder);
  casa::require(model.patch_encoder.has_value(), folder, ": config.json has no vision_config");
  casa::require(model.decoder.config().vocab_size > kBegin, folder, ": vocab_size must exceed ",
                kBegin, ", got ", model.decoder.config().vocab_size);
  return model;
}

void write_json(const std::string& path, const Reading& reading) {
  casa::io::JsonWriter w;
  w.begin_object().key("captions").begin_array();
  for (const Ids& caption : reading.captions) {
    w.begin_array();
    for (const int id : caption) w.value(id);
    w.end_array();
  }
  w.end_array().end_object();
  casa::io::write_file(path, w.str() + "\n");
}

void compare_all(const std::string& data, const casa::Context& context) {
  const Streams streams = load_streams(data + "/streams.safetensors");
  const char* const variants[] = {"casa", "cross_attention", "token_insertion"};
  std::vector<Reading> readings;
  for (const char* variant : variants)
    readings.push_back(read(load(data + "/" + variant), streams, context));

  constexpr Index shown = 3;
  for (Index i = 0; i < std::min(shown, streams.images.rows()); ++i) {
    const auto u = static_cast<std::size_t>(i);
    program::print("image %td\n", i);
    show(streams, i);
    if (!streams.captions.empty())
      program::print("  %-16s %s\n", "truth", spelled(streams.captions[u]).c_str());
    for (std::size_t v = 0; v < readings.size(); ++v)
      program::print("  %-16s %s\n", variants[v], spelled(readings[v].captions[u]).c_str());
    program::put("\n");
  }

  program::print("%td images in %td streams\n\n", streams.images.rows(), streams.count());
  program::print("%-16s %11s %14s %9s   cache KiB after each image of a stream\n", "variant",
                 "exact match", "digits right", "tokens/s");
  for (std::size_t v = 0; v < readings.size(); ++v) {
    const Reading& r = readings[v];
    const auto [exact, digits] = score(r, streams);
    program::print("%-16s %9.2f %% %12.2f %% %9.0f  ", variants[v], 100 * exact, 100 * digits,
                   static_cast<double>(tokens_read(r)) / r.seconds);
    const auto longest =
        std::ranges::max_element(r.cache_bytes, {}, [](const auto& after) { return after.size(); });
    for (const Index bytes : *longest) program::print(" %7.0f", static_cast<double>(bytes) / 1024);
    program::put("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Reads images of handwritten digits with trained models."};
  std::string model, streams, json, data = CASA_SOURCE_DIR "/tests/golden/digits";
  Index threads = 1;
  app.add_option("-m,--model", model, "folder of one model (config.json, model.safetensors)");
  app.add_option("--streams", streams, "file of streams (images, stream_begin)");
  app.add_option("--json", json, "write the ids of every caption here");
  app.add_option("--data", data, "folder of the three models and their streams")
      ->capture_default_str();
  app.add_option("-t,--threads", threads, "worker threads")->capture_default_str();
  return program::run("read_digits", app, argc, argv, [&] {
    std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    casa::ThreadPool pool(threads);
    const casa::Context context{.executor = pool};
    if (model.empty() && streams.empty() && json.empty()) {
      compare_all(data, context);
      return 0;
    }
    if (model.empty() || streams.empty()) {
      std::fprintf(stderr, "read_digits: --model and --streams go together\n");
      return 2;
    }
    program::Files files;
    files.input_model("--model", model);
    files.input("--streams", streams);
    files.output("--json", json);
    files.standard_output();
    files.require_distinct();
    if (!json.empty()) program::require_replaceable("--json", json);
    const Streams input = load_streams(streams);
    const Reading reading = read(load(model), input, context);
    if (!json.empty()) write_json(json, reading);
    for (const Ids& caption : reading.captions) program::put(spelled(caption) + "\n");
    return 0;
  });
}
