// A small trained model reads pictures of handwritten digits aloud.
//
//   read_digits                                         the images of tests/golden/digits
//   read_digits --model DIR --streams FILE --json OUT   one model, on one file of streams

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "casa/core/build_info.hpp"
#include "support/digit_reader.hpp"
#include "support/program.hpp"
#include "support/reader_files.hpp"

namespace {

using program::Ids;
using program::Index;

// An image as lines of characters, two pixel rows a line.
void show(const program::Streams& streams, Index i) {
  constexpr std::string_view shades = " .:-=+*#%@";
  const std::uint8_t* pixels = streams.images.row(i);
  for (Index y = 0; y + 1 < streams.height; y += 2) {
    std::string line = "    ";
    for (Index x = 0; x < streams.width; ++x) {
      const int mean = (pixels[y * streams.width + x] + pixels[(y + 1) * streams.width + x]) / 2;
      line += shades[static_cast<std::size_t>(mean) * shades.size() / 256];
    }
    program::put(line + "\n");
  }
}

void read_all(const std::string& data, const casa::Context& context) {
  const program::Streams streams = program::load_streams(data + "/streams.safetensors");
  const program::Reading r = program::read(
      program::load_reader(data + "/casa", program::kDigitSpelling), streams, context);
  constexpr Index shown = 3;
  for (Index i = 0; i < std::min(shown, streams.images.rows()); ++i) {
    const auto u = static_cast<std::size_t>(i);
    program::print("image %td\n", i);
    show(streams, i);
    if (!streams.captions.empty())
      program::print("  %-6s %s\n", "truth", program::spelled_digits(streams.captions[u]).c_str());
    program::print("  %-6s %s\n\n", "read", program::spelled_digits(r.captions[u]).c_str());
  }
  program::print("%td images in %td streams, read by CASA\n\n", streams.images.rows(),
                 streams.count());
  const auto [exact, digits] = program::score_digits(r, streams);
  program::print("exact match %.2f %%, digits right %.2f %%, %.0f tokens/s\n", 100 * exact,
                 100 * digits, static_cast<double>(r.tokens()) / r.seconds);
  program::put("cache KiB after each image of a stream:");
  for (const Index bytes : program::longest_cache(r))
    program::print(" %.0f", static_cast<double>(bytes) / 1024);
  program::put("\n");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Reads images of handwritten digits with a trained model."};
  program::ReaderFiles files;
  std::string data = CASA_SOURCE_DIR "/tests/golden/digits";
  Index threads = 1;
  files.add_options(app);
  app.add_option("--data", data, "folder of the model (casa) and its streams")
      ->capture_default_str();
  app.add_option("-t,--threads", threads, "worker threads")->capture_default_str();
  return program::run("read_digits", app, argc, argv, [&] {
    std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    casa::ThreadPool pool(threads);
    const casa::Context context{.executor = pool};
    if (files.none()) {
      read_all(data, context);
      return 0;
    }
    if (!files.complete("read_digits")) return 2;
    files.check();
    const program::Streams streams = program::load_streams(files.streams);
    const program::Reading reading =
        program::read(program::load_reader(files.model, program::kDigitSpelling), streams, context);
    if (!files.json.empty()) program::write_captions(files.json, reading);
    for (const Ids& caption : reading.captions)
      program::put(program::spelled_digits(caption) + "\n");
    return 0;
  });
}
