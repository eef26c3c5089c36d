// Small trained models read text from pictures: CASA, cross-attention and token insertion.
//
//   read_text                                         all three, on the pictures of tests/golden
//   read_text --images FILES...                       all three, on pictures of your own
//   read_text --model DIR --images FILES...           one model
//   read_text --model DIR --streams FILE --json OUT   one model, on one file of streams

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "casa/core/build_info.hpp"
#include "read_text/compare.hpp"
#include "support/images.hpp"
#include "support/program.hpp"
#include "support/reader_files.hpp"

namespace {

using program::Index;
using read_text::TextReader;

const char* const kVariants[] = {"casa", "cross_attention", "token_insertion"};

void compare_all(const std::string& data, const casa::Context& context, Index threads) {
  const program::Streams streams = program::load_streams(data + "/streams.safetensors");
  casa::require(!streams.captions.empty(), data, "/streams.safetensors: has no captions");
  std::vector<std::string> truth;
  std::vector<read_text::Column> columns;
  for (const char* variant : kVariants) {
    const TextReader model(data + "/" + variant);
    if (truth.empty())
      for (const auto& caption : streams.captions) truth.push_back(model.vocabulary.text(caption));
    auto reading = program::read(model.reader, streams, context);
    columns.push_back({variant, model.texts(reading), std::move(reading)});
  }
  const auto screen = read_text::Screen::of_stdout();
  const auto shown = read_text::worth_showing(truth, columns, streams.hard);
  for (std::size_t n = 0; n < shown.size(); ++n)
    read_text::show_picture(streams, shown[n], truth[shown[n]], columns, screen, n == 1);
  read_text::put_table(streams, truth, columns, threads);
}

void read_images(const std::vector<std::string>& files, const std::vector<std::string>& folders,
                 const program::ImageReader& read_file, const casa::Context& context) {
  std::vector<TextReader> models;
  for (const std::string& folder : folders) models.emplace_back(folder);
  for (const std::string& file : files) {
    const read_text::Grey grey = read_text::to_grey(read_file(file));
    for (const TextReader& model : models) {
      const Index side = model.reader.side();
      const read_text::Framed framed = read_text::in_frame(grey, side);
      if (&model == &models.front())
        std::fprintf(stderr, "%s: %td x %td%s%s\n", file.c_str(), grey.cols(), grey.rows(),
                     framed.done.empty() ? "" : ", ", framed.done.c_str());
      program::Streams one{side, side, casa::Matrix<std::uint8_t>(1, side * side), {0, 1}, {}, {}};
      std::copy_n(framed.pixels.data(), framed.pixels.size(), one.images.data());
      const auto reading = program::read(model.reader, one, context);
      if (files.size() > 1 || models.size() > 1)
        program::print("== %s: %s\n", file.c_str(), model.name.c_str());
      program::put(model.vocabulary.text(reading.captions[0]) + "\n");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Reads text from pictures with small trained models."};
  program::ReaderFiles files;
  std::string data = CASA_SOURCE_DIR "/tests/golden/reader";
  std::vector<std::string> images;
  Index threads = 1;
  const program::ImageReader read_file("read_text");
  files.add_options(app);
  app.add_option("-i,--images", images, "image files to read (PNG, JPEG, PPM, PGM)");
  app.add_option("--data", data, "folder of the three models and their streams")
      ->capture_default_str();
  app.add_option("-t,--threads", threads, "worker threads")->capture_default_str();
  return program::run("read_text", app, argc, argv, [&] {
    std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    casa::ThreadPool pool(threads);
    const casa::Context context{.executor = pool};
    if (!images.empty()) {
      if (!files.streams.empty() || !files.json.empty()) {
        std::fprintf(stderr, "read_text: --images goes with neither --streams nor --json\n");
        return 2;
      }
      std::vector<std::string> folders{files.model};
      if (files.model.empty()) {
        folders.clear();
        for (const char* variant : kVariants) folders.push_back(data + "/" + variant);
      }
      read_images(images, folders, read_file, context);
      return 0;
    }
    if (files.none()) {
      compare_all(data, context, threads);
      return 0;
    }
    if (!files.complete("read_text")) return 2;
    files.check();
    const program::Streams streams = program::load_streams(files.streams);
    const TextReader model(files.model);
    const program::Reading reading = program::read(model.reader, streams, context);
    if (!files.json.empty()) program::write_captions(files.json, reading);
    for (const std::string& text : model.texts(reading))
      program::put(read_text::on_one_line(text) + "\n");
    return 0;
  });
}
