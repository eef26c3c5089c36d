// The test images of the digit readers as raw grey frames on stdout, for caption_stream and ffmpeg.
//
//   digit_frames | caption_stream -m tests/golden/digits/casa --raw 32x32x1 --opening '>' --stop
//   ';' digit_frames --scale 16 --truth truth.txt | ffmpeg -f rawvideo -pix_fmt gray -s 512x512 -i
//   - ...

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "casa/checkpoint/safetensors.hpp"
#include "casa/files/file.hpp"
#include "support/files.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;

struct Arguments {
  std::string streams = CASA_SOURCE_DIR "/tests/golden/digits/streams.safetensors", truth, begins;
  Index scale = 1, count = 0;
};

// The caption of image i as words of the vocabulary, without its end.
std::string spelled(const casa::Matrix<int>& captions, Index i) {
  std::string s;
  for (const int* id = captions.row(i); *id != 11; ++id) {
    if (*id < 10) s += static_cast<char>('0' + *id);
    if (*id == 10) s += '/';
  }
  return s;
}

void write_frame(const std::uint8_t* image, Index side, Index scale) {
  std::string line(static_cast<std::size_t>(side * scale), '\0');
  for (Index y = 0; y < side * scale; ++y) {
    for (Index x = 0; x < side * scale; ++x)
      line[static_cast<std::size_t>(x)] = static_cast<char>(image[y / scale * side + x / scale]);
    program::put(line);
  }
}

void run(const Arguments& a) {
  program::Files files;
  files.input("--streams", a.streams);
  files.output("--truth", a.truth);
  files.output("--begins", a.begins);
  files.standard_output();
  files.require_distinct();
  const casa::io::SafeTensors file = casa::io::read_safetensors(a.streams);
  const auto& images = file.at("images");
  const Index side = images.shape[1];
  images.require_shape({images.shape[0], side, side});
  const auto pixels = images.to_vector<std::uint8_t>();
  const auto captions = file.at("captions").to_matrix<int>();
  const Index all = images.shape[0], count = a.count > 0 ? std::min(a.count, all) : all;

  std::string truth, begins;
  for (Index i = 0; i < count; ++i) truth += spelled(captions, i) + "\n";
  for (const Index begin : file.at("stream_begin").to_vector<Index>())
    if (begin < count) begins += (begins.empty() ? "" : ",") + std::to_string(begin);
  if (!a.truth.empty()) casa::io::write_file(a.truth, truth);
  if (!a.begins.empty()) casa::io::write_file(a.begins, begins + "\n");
  for (Index i = 0; i < count; ++i) write_frame(pixels.data() + i * side * side, side, a.scale);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"The test images of the digit readers as raw frames on stdout."};
  app.add_option("--streams", a.streams, "file of streams")->capture_default_str();
  app.add_option("--scale", a.scale, "each pixel as so many by so many")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--count", a.count, "the first so many; 0: all");
  app.add_option("--truth", a.truth, "write the true captions here, a line an image");
  app.add_option("--begins", a.begins, "write the numbers of the images that begin a stream here");
  return program::run("digit_frames", app, argc, argv, [&] {
    run(a);
    return 0;
  });
}
