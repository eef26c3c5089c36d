// Scaled rotary embeddings and sliding windows: tiny models past the length they were trained to,
// against what transformers computes (tests/golden/config_variants).
#include <doctest/doctest.h>

#include <filesystem>

#include "golden_folder.hpp"

using namespace casa;

namespace {

std::filesystem::path folder() { return golden::repository_root() / "config_variants"; }

std::vector<std::string> names() {
  std::vector<std::string> v;
  for (const auto& entry : std::filesystem::directory_iterator(folder()))
    if (entry.path().extension() == ".json") v.push_back(entry.path().stem().string());
  std::ranges::sort(v);
  return v;
}

template <class T>
Decoder<T> load(const std::string& name) {
  const io::Json config = io::read_json((folder() / (name + ".json")).string());
  io::ModelOptions options;
  options.config_file = "../" + name + ".json";
  return io::load_model<T>((folder() / config.at("model_type").as_string()).string(), options)
      .decoder;
}

// The logits of a variant's text rows; chunks of the stream, which images count in, one after the
// other.
template <class T>
Matrix<T> run(const Decoder<T>& decoder, const golden::Case& io, const std::string& name,
              std::vector<std::int64_t> chunks, Path path, StateOptions options = {}) {
  constexpr int image = 15;
  const Context context = golden::context_of(path);
  const auto all = golden::ids(io, name + ".ids");
  std::vector<ImageGrid> grids;
  Matrix<T> tokens;
  if (io.has(name + ".image_tokens")) {
    const auto grid = io.ints(name + ".grid");
    grids.push_back({static_cast<Index>(grid[0]), static_cast<Index>(grid[1])});
    tokens = io.matrix<T>(name + ".image_tokens");
  }
  if (chunks.empty()) chunks = {static_cast<std::int64_t>(all.size())};
  auto state = decoder.new_state(options);
  Matrix<T> logits(std::ranges::count_if(all, [](int id) { return id != image; }),
                   decoder.config().vocab_size);
  Index row = 0;
  std::size_t begin = 0;
  for (const std::int64_t count : chunks) {
    const std::vector<int> part(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                all.begin() + static_cast<std::ptrdiff_t>(begin) + count);
    const bool seen = std::ranges::count(part, image) > 0;
    SplitIds split = split_placeholders(part, image, seen ? grids : std::vector<ImageGrid>{});
    const auto rows = static_cast<Index>(split.ids.size());
    decoder.forward({&state, split.ids, split.insertions,
                     seen ? MatrixView<const T>(tokens) : MatrixView<const T>(),
                     seen ? grids : std::vector<ImageGrid>{}, LogitRows::all},
                    logits.view().middle_rows(row, rows), context);
    row += rows;
    begin += static_cast<std::size_t>(count);
  }
  REQUIRE(begin == all.size());
  REQUIRE(row == logits.rows());
  return logits;
}

golden::Case data() { return golden::Case(folder() / "io.safetensors"); }

Matrix<double> reference(const golden::Case& io, const std::string& name,
                         const std::string& tensor) {
  return golden::rows_without(io.matrix<double>(name + "." + tensor),
                              golden::ids(io, name + ".ids"), 15);
}

}  // namespace

TEST_CASE_TEMPLATE("variants of configs give transformers' logits past the trained length", T,
                   float, double) {
  const golden::Case io = data();
  CHECK(names().size() >= 18);
  for (const std::string& name : names()) {
    CAPTURE(name);
    const auto decoder = load<T>(name);
    const auto in_float = load<float>(name);
    const auto in_double = load<double>(name);
    golden::check_close_to_float(
        run(decoder, io, name, {}, Path::fast), run(in_float, io, name, {}, Path::naive),
        run(in_double, io, name, {}, Path::naive), reference(io, name, "logits"));
  }
}

TEST_CASE_TEMPLATE("variants in chunks give what transformers' cache gives", T, float, double) {
  const golden::Case io = data();
  int cut = 0;
  for (const std::string& name : names()) {
    if (!io.has(name + ".chunks")) continue;
    CAPTURE(name);
    ++cut;
    const auto chunks = io.ints(name + ".chunks");
    const auto decoder = load<T>(name);
    const auto in_float = load<float>(name);
    const auto in_double = load<double>(name);
    golden::check_close_to_float(
        run(decoder, io, name, chunks, Path::fast), run(in_float, io, name, chunks, Path::naive),
        run(in_double, io, name, chunks, Path::naive), reference(io, name, "chunk_logits"));
  }
  CHECK(cut >= 8);
}

TEST_CASE("where scaling does not depend on the length, the cut into chunks is no part of it") {
  const golden::Case io = data();
  for (const std::string& name : names()) {
    const auto decoder = load<double>(name);
    if (decoder.config().rope.is_dynamic() || io.has(name + ".image_tokens")) continue;
    CAPTURE(name);
    const auto whole = run(decoder, io, name, {}, Path::fast);
    for (const std::int64_t step : {1, 3, 7}) {
      std::vector<std::int64_t> chunks(static_cast<std::size_t>(40 / step), step);
      if (40 % step > 0) chunks.push_back(40 % step);
      CHECK(golden::distance(run(decoder, io, name, chunks, Path::fast), whole) < 1e-12);
    }
  }
}
