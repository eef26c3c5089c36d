// Small trained models read text from pictures: CASA, cross-attention and token insertion.
//
//   read_text                                         all three, on the pictures of tests/golden
//   read_text --images FILES...                       all three, on pictures of your own
//   read_text --model DIR --images FILES...           one model
//   read_text --model DIR --streams FILE --json OUT   one model, on one file of streams
//   read_text --cost 256                              time and cache of so many tiles in one stream
//   read_text --attention OUT.png                     where CASA looked for each letter

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "casa/core/build_info.hpp"
#include "read_text/compare.hpp"
#include "read_text/cost.hpp"
#include "read_text/pages.hpp"
#include "support/encoder_options.hpp"
#include "support/images.hpp"
#include "support/program.hpp"
#include "support/reader_files.hpp"
#ifndef PROGRAM_WITHOUT_IMAGE_FILES
#include "read_text/attention.hpp"
#endif

namespace {

using program::Index;
using read_text::TextReader;

const char* const kVariants[] = {"casa", "cross_attention", "token_insertion"};

void compare_all(const std::string& data, const casa::io::ModelOptions& model_options,
                 const casa::Context& context, Index threads) {
  const program::Streams streams = program::load_streams(data + "/streams.safetensors");
  casa::require(!streams.captions.empty(), data, "/streams.safetensors: has no captions");
  std::vector<std::string> truth;
  std::vector<read_text::Column> columns;
  for (const char* variant : kVariants) {
    const TextReader model(data + "/" + variant, model_options);
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

void put_costs(const std::string& data, const casa::io::ModelOptions& model_options, Index tiles,
               const casa::Context& context) {
  const program::Streams streams = program::load_streams(data + "/streams.safetensors");
  program::put("variant,tile,cpu_seconds,cache_bytes\n");
  for (const char* variant : kVariants) {
    const auto costs = read_text::tile_costs(TextReader(data + "/" + variant, model_options).reader,
                                             streams, tiles, context);
    for (std::size_t i = 0; i < costs.cpu_seconds.size(); ++i)
      program::print("%s,%zu,%.6f,%td\n", variant, i + 1, costs.cpu_seconds[i],
                     costs.cache_bytes[i]);
  }
}

struct ImageOptions {
  std::vector<std::string> files;
  std::string truth;
  read_text::PageOptions page;
};

void read_images(const ImageOptions& options, const std::vector<std::string>& folders,
                 const casa::io::ModelOptions& model_options, const program::ImageReader& read_file,
                 const casa::Context& context) {
  std::vector<TextReader> models;
  for (const std::string& folder : folders) models.emplace_back(folder, model_options);
  std::string truth, table;
  if (!options.truth.empty()) {
    const casa::io::Bytes bytes = casa::io::read_file(options.truth);
    truth.assign(reinterpret_cast<const char*>(bytes.span().data()), bytes.size());
    while (truth.ends_with('\n')) truth.pop_back();
    casa::require(!truth.empty(), "--truth ", options.truth, ": the file has no text");
    casa::require(options.files.size() == 1, "--truth: the text of one picture, expected one of ",
                  "--images, got ", options.files.size());
  }
  for (const std::string& file : options.files) {
    const read_text::Grey grey = read_text::to_grey(read_file(file));
    for (const TextReader& model : models) {
      const auto frames = read_text::frames_of(grey, model.reader.side(), options.page);
      if (&model == &models.front())
        std::fprintf(stderr, "%s: %td x %td%s%s\n", file.c_str(), grey.cols(), grey.rows(),
                     frames.done.empty() ? "" : ", ", frames.done.c_str());
      const auto page = read_text::read_frames(model, frames, options.page, context);
      if (options.files.size() > 1 || models.size() > 1)
        program::print("== %s: %s\n", file.c_str(), model.name.c_str());
      program::put(page.text + "\n");
      if (options.truth.empty()) continue;
      read_text::Score score;
      score.add(truth, page.text);
      table += casa::text(model.name,
                          std::string(17 - std::min(model.name.size(), std::size_t{16}), ' '));
      char line[128];
      std::snprintf(line, sizeof line, "%6.2f %% of %td characters right, %zu frames in %.2f s\n",
                    score.right_percent(), score.letters, frames.pixels.size(),
                    page.reading.seconds);
      table += line;
    }
  }
  if (!table.empty()) program::put("\n" + table);
}

#ifndef PROGRAM_WITHOUT_IMAGE_FILES
struct AttentionOptions {
  std::string out;
  std::vector<Index> head;  // layer and head, or none

  void add_options(CLI::App& app) {
    auto* sheet = app.add_option(
        "--attention", out,
        "write a PNG of where the model looked for each letter of a picture: the one of "
        "--images, or the first of the data");
    app.add_option("--attention-head", head, "layer and head (the one that looks most sharply)")
        ->expected(2)
        ->needs(sheet);
  }
};

int show_attention(const AttentionOptions& options, const program::ReaderFiles& files,
                   const ImageOptions& image_options, const std::string& data,
                   const casa::io::ModelOptions& model_options,
                   const program::ImageReader& read_file, const casa::Context& context) {
  const std::vector<std::string>& images = image_options.files;
  if (!files.streams.empty() || !files.json.empty() || images.size() > 1) {
    std::fprintf(stderr,
                 "read_text: --attention goes with one of --images at most, not with --streams or "
                 "--json\n");
    return 2;
  }
  const std::string folder = files.model.empty() ? data + "/casa" : files.model;
  const std::string streams_file = data + "/streams.safetensors";
  program::Files distinct;
  distinct.input_model("--model", folder);
  distinct.input(images.empty() ? "--data" : "--images", images.empty() ? streams_file : images[0]);
  distinct.output("--attention", options.out);
  distinct.require_distinct();
  program::require_replaceable("--attention", options.out);
  const TextReader model(folder, model_options);
  read_text::Grey picture;
  if (images.empty()) {
    const program::Streams streams = program::load_streams(streams_file);
    const read_text::GreyView first(streams.images.row(0), streams.height, streams.width);
    picture = read_text::in_frame(first, model.reader.side()).pixels;
  } else {
    const read_text::Grey grey = read_text::to_grey(read_file(images[0]));
    const Index side = model.reader.side();
    casa::require(
        (grey.rows() <= side && grey.cols() <= side) || image_options.page.tiles == "none",
        images[0], ": --attention shows one frame of ", side, " x ", side, ", got ", grey.cols(),
        " x ", grey.rows(), " (--tiles none makes the picture smaller)");
    picture = read_text::in_frame(grey, model.reader.side()).pixels;
  }
  std::optional<casa::AttentionHead> head;
  if (!options.head.empty()) head = {.layer = options.head[0], .head = options.head[1]};
  program::put(read_text::write_attention(options.out, model, picture, head, context) + "\n");
  return 0;
}
#endif

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Reads text from pictures with small trained models."};
  program::ReaderFiles files;
  std::string data = CASA_SOURCE_DIR "/tests/golden/reader";
  ImageOptions images;
  Index threads = 1, cost_tiles = 0;
  const program::ImageReader read_file("read_text");
  files.add_options(app);
  auto* image_files =
      app.add_option("-i,--images", images.files, "image files to read (PNG, JPEG, PPM, PGM)");
  app.add_option("--tiles", images.page.tiles,
                 "how larger pictures come into frames: pieces of lines, a grid, or made smaller")
      ->check(CLI::IsMember({"auto", "lines", "grid", "none"}))
      ->needs(image_files)
      ->capture_default_str();
  app.add_option("--x-height", images.page.x_height,
                 "pixels that small letters are made in tiles (9 in lines, 10 in a grid)")
      ->check(CLI::Range(3.0, 100.0))
      ->needs(image_files);
  app.add_option("--restart", images.page.tiles_per_stream,
                 "tiles after which the model begins anew")
      ->check(CLI::Range(Index{1}, Index{1'000'000}))
      ->needs(image_files)
      ->capture_default_str();
  app.add_option("--truth", images.truth,
                 "text file with what stands in the picture: how much is right")
      ->needs(image_files);
  app.add_option("--data", data, "folder of the three models and their streams")
      ->capture_default_str();
  app.add_option("--cost", cost_tiles,
                 "print time and cache of each of so many tiles in one stream, as CSV")
      ->check(CLI::Range(Index{1}, Index{100'000}))
      ->excludes(image_files);
  program::DecoderOptions decoder;
  decoder.add_options(app, "16 and 8 bits as in the files, else float");
  program::EncoderOptions encoder;
  encoder.add_options(app);
  app.add_option("-t,--threads", threads, "worker threads")->capture_default_str();
#ifndef PROGRAM_WITHOUT_IMAGE_FILES
  AttentionOptions attention;
  attention.add_options(app);
#endif
  return program::run("read_text", app, argc, argv, [&] {
    std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    casa::ThreadPool pool(threads);
    const casa::Context context{.executor = pool,
                                .precision = program::precision(decoder.precision)};
    const casa::io::ModelOptions options = program::model_options(decoder, encoder);
#ifndef PROGRAM_WITHOUT_IMAGE_FILES
    if (!attention.out.empty())
      return show_attention(attention, files, images, data, options, read_file, context);
#endif
    if (!images.files.empty()) {
      if (!files.streams.empty() || !files.json.empty()) {
        std::fprintf(stderr, "read_text: --images goes with neither --streams nor --json\n");
        return 2;
      }
      std::vector<std::string> folders{files.model};
      if (files.model.empty()) {
        folders.clear();
        for (const char* variant : kVariants) folders.push_back(data + "/" + variant);
      }
      read_images(images, folders, options, read_file, context);
      return 0;
    }
    if (cost_tiles > 0) {
      put_costs(data, options, cost_tiles, context);
      return 0;
    }
    if (files.none()) {
      compare_all(data, options, context, threads);
      return 0;
    }
    if (!files.complete("read_text")) return 2;
    files.check();
    const program::Streams streams = program::load_streams(files.streams);
    const TextReader model(files.model, options);
    const program::Reading reading = program::read(model.reader, streams, context);
    if (!files.json.empty()) program::write_captions(files.json, reading);
    for (const std::string& text : model.texts(reading))
      program::put(read_text::on_one_line(text) + "\n");
    return 0;
  });
}
