// Folders in the Hugging Face layout, run as they are, against what transformers computed.
#include <doctest/doctest.h>

#include <filesystem>

#include "golden_folder.hpp"

using namespace casa;

namespace {

std::vector<std::string> config_files(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("config") && name.ends_with(".json")) files.push_back(name);
  }
  std::ranges::sort(files);
  REQUIRE(!files.empty());
  return files;
}

// Every folder with each of its configs.
std::vector<std::pair<std::filesystem::path, std::string>> folders_and_configs() {
  std::vector<std::pair<std::filesystem::path, std::string>> all;
  for (const auto& folder : golden::folders("hf_"))
    for (const std::string& config_file : config_files(folder))
      all.emplace_back(folder, config_file);
  return all;
}

template <class T>
io::Model<T> load(const std::filesystem::path& folder, const std::string& config_file) {
  io::ModelOptions options;
  options.config_file = config_file;
  return io::load_model<T>(folder.string(), options);
}

// The stream that a case's input_ids are: images in the places of image_token_id.
template <class T>
golden::Stream<T> stream_of_ids(const io::Model<T>& model, const golden::Case& io,
                                const Context& context) {
  golden::Stream<T> s;
  if (!model.vision_tower) {
    s.ids = golden::ids(io, "input_ids");
    return s;
  }
  const auto grids = golden::grids(io, "image_grid_thw");
  s.image_tokens =
      golden::encode(*model.vision_tower, io.matrix<T>("pixel_values"), grids, context);
  s.grids = golden::merged_grids(*model.vision_tower, grids);
  SplitIds split =
      split_placeholders(golden::ids(io, "input_ids"), model.config.tokens.image.value(), s.grids);
  s.ids = std::move(split.ids);
  s.insertions = std::move(split.insertions);
  return s;
}

template <class T>
golden::Run<T> run(const io::Model<T>& model, const golden::Case& io, Path path) {
  const Context context = golden::context_of(path);
  return golden::run(model.decoder, stream_of_ids(model, io, context), context);
}

// `decided` counts the folders whose greedy ids T can tell.
template <class T>
void check_folder(const std::filesystem::path& folder, const std::string& config_file,
                  golden::Tally& decided) {
  const golden::Case io(folder / "io.safetensors");
  const auto model = load<T>(folder, config_file);
  const auto in_float = load<float>(folder, config_file);
  const auto in_double = load<double>(folder, config_file);
  const auto fast = run(model, io, Path::fast);
  const auto naive_float = run(in_float, io, Path::naive);
  const auto exact = run(in_double, io, Path::naive);
  const auto input_ids = golden::ids(io, "input_ids");
  const auto image = model.vision_tower ? model.config.tokens.image : std::nullopt;
  const auto reference = [&](const std::string& tensor) {
    return golden::rows_without(io.matrix<double>(tensor), input_ids, image);
  };

  golden::check_close_to_float(fast.logits, naive_float.logits, exact.logits, reference("logits"));
  if (io.has("logits_f64")) {
    const auto naive = run(model, io, Path::naive);
    golden::check_close(fast.logits, naive.logits, io.matrix<double>("logits_f64"));
  }

  const auto layers = static_cast<std::size_t>(model.decoder.config().num_hidden_layers);
  REQUIRE(fast.hidden.size() == layers + 1);
  for (std::size_t l = 0; l <= layers; ++l) {
    CAPTURE(l);
    golden::check_close_to_float(fast.hidden[l], naive_float.hidden[l], exact.hidden[l],
                                 reference("hidden_states." + std::to_string(l)));
  }

  const auto new_ids = golden::ids(io, "greedy.new_ids");
  golden::Stream<T> prompt = stream_of_ids(model, io, Context{});
  if (io.has("greedy.prompt_ids")) prompt.ids = golden::ids(io, "greedy.prompt_ids");
  const auto margins = io.values<double>("greedy.margins");
  if (std::is_same_v<T, double> || std::ranges::min(margins) > 1e-4) {
    CHECK(golden::greedy(model.decoder, prompt, new_ids.size()) == new_ids);
    decided.ran();
  }
}

// How many kinds of input it checked: images, a video; none without a tower.
template <class T>
int check_tower(const std::filesystem::path& folder, const std::string& config_file) {
  const golden::Case io(folder / "io.safetensors");
  const auto model = load<T>(folder, config_file);
  const auto in_float = load<float>(folder, config_file);
  const auto in_double = load<double>(folder, config_file);
  if (!model.vision_tower) return 0;
  int kinds = 0;
  for (const std::string kind : {"", "video_"}) {
    CAPTURE(kind);
    const auto grids = golden::grids(io, kind.empty() ? "image_grid_thw" : "video_grid_thw");
    const std::string patches = kind + "pixel_values";
    if (!io.has(patches)) continue;
    ++kinds;
    Matrix<T> last;
    Matrix<float> last_float;
    Matrix<double> last_double;
    const auto tokens =
        golden::encode(*model.vision_tower, io.matrix<T>(patches), grids, {}, &last);
    const auto naive = golden::encode(*in_float.vision_tower, io.matrix<float>(patches), grids,
                                      golden::context_of(Path::naive), &last_float);
    const auto exact = golden::encode(*in_double.vision_tower, io.matrix<double>(patches), grids,
                                      golden::context_of(Path::naive), &last_double);
    golden::check_close_to_float(
        tokens, naive, exact, io.matrix<double>(kind.empty() ? "vision_merged" : "video_merged"));
    if (kind.empty())
      golden::check_close_to_float(last, last_float, last_double,
                                   io.matrix<double>("vision_last_hidden"));
  }
  CHECK(kinds > 0);
  return kinds;
}

}  // namespace

TEST_CASE_TEMPLATE("Hugging Face folders give transformers' logits, hidden states and greedy ids",
                   T, float, double) {
  const auto inputs = folders_and_configs();
  golden::Tally tally("hf_", inputs.size()), decided("hf_ without ties", inputs.size());
  for (const auto& input : inputs) {
    const auto& folder = input.first;
    const auto& config_file = input.second;
    CAPTURE(folder.string());
    CAPTURE(config_file);
    check_folder<T>(folder, config_file, decided);
    tally.ran();
  }
  tally.check_all();
  std::is_same_v<T, double> ? decided.check_all() : decided.check_some();
}

TEST_CASE_TEMPLATE("the vision tower gives transformers' tokens, of images and of a video", T,
                   float, double) {
  const auto inputs = folders_and_configs();
  golden::Tally images("hf_ with a tower", inputs.size()), videos("hf_ with video", inputs.size());
  for (const auto& input : inputs) {
    const auto& folder = input.first;
    const auto& config_file = input.second;
    CAPTURE(folder.string());
    CAPTURE(config_file);
    const int kinds = check_tower<T>(folder, config_file);
    if (kinds > 0) images.ran();
    if (kinds > 1) videos.ran();
  }
  images.check_some();
  videos.check_some();
}

TEST_CASE("images as tokens of the stream stand where transformers puts them") {
  const auto folders = golden::folders("hf_");
  golden::Tally with_images("hf_ with positions of images", folders.size());
  for (const auto& folder : folders) {
    const golden::Case io(folder / "io.safetensors");
    if (!io.has("position_ids")) continue;
    CAPTURE(folder.string());
    with_images.ran();
    const auto model = load<float>(folder, "config.json");
    REQUIRE(model.decoder.config().fusion.has_value());
    const auto s = stream_of_ids(model, io, Context{});
    const auto expected = io.ints("position_ids");  // [3, all]

    PositionCounter counter(model.decoder.config().fusion->image_rope);
    std::vector<Position> all(expected.size() / 3);
    std::size_t place = 0, text = 0;
    const auto take = [&](std::size_t count) {
      const auto part = std::span(all).subspan(place, count);
      place += count;
      return part;
    };
    for (std::size_t i = 0; i < s.insertions.size(); ++i) {
      const auto position = static_cast<std::size_t>(s.insertions[i].position);
      counter.text(take(position - text));
      text = position;
      counter.image(s.grids[i], take(static_cast<std::size_t>(s.insertions[i].num_tokens)));
    }
    counter.text(take(s.ids.size() - text));
    REQUIRE(place == all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      CHECK(all[i] ==
            Position{expected[i], expected[all.size() + i], expected[2 * all.size() + i]});
    }
    CHECK(counter.next_stream() ==
          static_cast<std::int64_t>(all.size()) + io.ints("rope_delta").at(0));
  }
  with_images.check_some();
}

TEST_CASE_TEMPLATE("a model with a vision tower reads text alone", T, float, double) {
  const auto folders = golden::folders("hf_");
  golden::Tally tally("hf_ with text alone", folders.size());
  for (const auto& folder : folders) {
    const golden::Case io(folder / "io.safetensors");
    if (!io.has("text_ids")) continue;
    CAPTURE(folder.string());
    tally.ran();
    const auto ids = golden::ids(io, "text_ids");
    const auto naive = golden::context_of(Path::naive);
    golden::check_close_to_float(
        load<T>(folder, "config.json").decoder.logits(ids, {}, {}),
        load<float>(folder, "config.json").decoder.logits(ids, {}, {}, naive),
        load<double>(folder, "config.json").decoder.logits(ids, {}, {}, naive),
        io.matrix<double>("text_logits"));
  }
  tally.check_some();
}
