// What does a loaded model take in memory, and what is lost by narrower weights?
//
//   load/<read|map>/<weights>     loads a random bfloat16 file of SmolLM2-135M's shape: the peak of
//                                 resident memory while loading and the resident memory after it,
//                                 both over the size of the file
//   loss/<folder>/<weights>       differences of logits and greedy ids from those of float weights,
//                                 with images in the stream where the model has fusion
//   tower_loss/<folder>/<weights> differences of a vision tower's tokens from those of float
//   weights
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <tuple>

#include "bench_common.hpp"
#include "casa/checkpoint/load_model.hpp"
#include "casa/checkpoint/safetensors_writer.hpp"
#include "smollm2.hpp"

namespace {

using namespace casa;

// A field of /proc/self/status in bytes: "VmHWM" is the peak of resident memory since
// forget_peak(), "VmRSS" the resident memory now.
double resident(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field + ":")) return std::stod(line.substr(field.size() + 1)) * 1024;
  return 0;
}

void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// A model folder of SmolLM2-135M's shape in the temporary directory, removed by the destructor.
class RandomFolder {
 public:
  RandomFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "casa-bench-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    path_ = name;
    std::ofstream(path_ + "/config.json")
        << R"({"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30,
               "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
               "vocab_size": 49152, "rms_norm_eps": 1e-5, "tie_word_embeddings": true})";
    std::deque<Buffer<bfloat16>> values;
    std::vector<io::NamedTensor> tensors;
    for_each_tensor(decoder_spec(bench::smollm2()), [&](const TensorSpec& s) {
      const Index count = s.rows * (std::max)(s.cols, Index{1});
      values.push_back(bench::random_values<bfloat16>(count, static_cast<unsigned>(values.size())));
      tensors.push_back(
          io::named_tensor<bfloat16>(s.name, s.shape(), std::as_const(values.back()).span()));
    });
    io::write_safetensors(path_ + "/model.safetensors", std::move(tensors));
  }
  RandomFolder(const RandomFolder&) = delete;
  RandomFolder& operator=(const RandomFolder&) = delete;
  ~RandomFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  double bytes() const {
    return static_cast<double>(std::filesystem::file_size(path_ + "/model.safetensors"));
  }

 private:
  std::string path_;
};

void load(benchmark::State& state, bool map, std::optional<WeightType> weights) {
  static const RandomFolder folder;
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // blocks above 1 MiB return to the system when freed
  io::ModelOptions options;
  options.files.map = map;
  options.weights = weights;
  double peak = 0, stays = 0;
  for (auto _ : state) {
    ::malloc_trim(0);  // returns what earlier runs freed, so that it is not reused unseen
    const double before = resident("VmRSS");
    forget_peak();
    const auto model = io::load_model<float>(folder.path(), options);
    peak = (std::max)(peak, resident("VmHWM") - before);
    stays = resident("VmRSS") - before;
    benchmark::DoNotOptimize(model.decoder.weight_bytes());
  }
  state.counters["file_MB"] = folder.bytes() / 1e6;
  state.counters["peak/file"] = peak / folder.bytes();
  state.counters["stays/file"] = stays / folder.bytes();
}

Matrix<float> random_rows(Index rows, Index cols) {
  Matrix<float> m(rows, cols);
  const auto values = bench::random_values<float>(m.size(), 5);
  std::copy_n(values.data(), m.size(), m.data());
  return m;
}

void tower_loss(benchmark::State& state, const std::string& folder, WeightType weights,
                Precision precision) {
  io::ModelOptions native, narrow;
  native.weights = WeightType::native;
  narrow.weights = weights;
  const auto exact = io::load_model<float>(folder, native),
             small = io::load_model<float>(folder, narrow);
  const VisionTowerConfig& c = exact.vision_tower->config();
  const VisionGrid grid{1, 8 * c.spatial_merge_size, 8 * c.spatial_merge_size};
  const Matrix<float> patches = random_rows(grid.h * grid.w, c.frame_width());
  Matrix<float> a(64, c.out_hidden_size), b(64, c.out_hidden_size);
  VisionTower<float>::Scratch scratch;
  const Context full, rounded{.precision = precision};
  for (auto _ : state) {
    exact.vision_tower->encode(patches, {&grid, 1}, a, scratch, full);
    small.vision_tower->encode(patches, {&grid, 1}, b, scratch, rounded);
  }
  const auto off = (a.eigen() - b.eigen()).cwiseAbs().eval();
  state.counters["max"] = static_cast<double>(off.maxCoeff());
  state.counters["mean"] = static_cast<double>(off.mean());
  state.counters["largest_value"] = static_cast<double>(a.eigen().cwiseAbs().maxCoeff());
}

void loss(benchmark::State& state, const std::string& folder, WeightType weights,
          Precision precision) {
  io::ModelOptions native, narrow;
  native.weights = WeightType::native;
  narrow.weights = weights;
  const auto exact = io::load_model<float>(folder, native).decoder;
  const auto small = io::load_model<float>(folder, narrow).decoder;
  std::vector<int> ids;
  for (int i = 0; i < 256; ++i)
    ids.push_back(static_cast<int>((i * 37 + i * i * 11) % exact.config().vocab_size));
  // The stream has three images if the model has fusion layers.
  std::vector<Insertion> insertions;
  if (exact.config().fusion) insertions = {{0, 12}, {40, 12}, {200, 12}};
  const Matrix<float> images =
      random_rows(static_cast<Index>(12 * insertions.size()), exact.config().hidden_size);
  double most = 0, sum = 0, scale = 0;
  Index agree = 0;
  for (auto _ : state) {
    const auto a = exact.logits(ids, insertions, images),
               b = small.logits(ids, insertions, images, {.precision = precision});
    const auto off = (a.eigen() - b.eigen()).cwiseAbs().eval();
    most = static_cast<double>(off.maxCoeff());
    sum = static_cast<double>(off.mean());
    scale = static_cast<double>(a.eigen().cwiseAbs().maxCoeff());
    agree = 0;
    for (Index r = 0; r < a.rows(); ++r)
      agree += std::max_element(a.row(r), a.row(r) + a.cols()) - a.row(r) ==
               std::max_element(b.row(r), b.row(r) + b.cols()) - b.row(r);
  }
  state.counters["max"] = most;
  state.counters["mean"] = sum;
  state.counters["largest_logit"] = scale;
  state.counters["greedy_agree"] = static_cast<double>(agree) / static_cast<double>(ids.size());
}

const bool registered = [] {
  const std::pair<const char*, std::optional<WeightType>> types[] = {
      {"stored", std::nullopt}, {"int8", WeightType::int8}, {"float", WeightType::native}};
  for (const bool map : {true, false})
    for (const auto& [name, type] : types)
      benchmark::RegisterBenchmark((std::string("load/") + (map ? "map/" : "read/") + name).c_str(),
                                   [map, t = type](benchmark::State& s) { load(s, map, t); })
          ->Iterations(2)
          ->Unit(benchmark::kMillisecond);
  const std::filesystem::path golden =
      std::filesystem::path(__FILE__).parent_path().parent_path() / "tests" / "golden";
  for (const char* folder : {"hf_helium", "hf_llama", "hf_qwen2", "casa_helium_replace",
                             "casa_llama", "hf_qwen2_5_vl", "casa_qwen2_5_vl"}) {
    for (const auto& [name, type, precision] :
         {std::tuple{"bfloat16", WeightType::bfloat16, Precision::full},
          std::tuple{"bfloat16_rounded", WeightType::bfloat16, Precision::storage},
          std::tuple{"half", WeightType::half, Precision::full},
          std::tuple{"int8", WeightType::int8, Precision::full},
          std::tuple{"int8_rounded", WeightType::int8, Precision::int8}}) {
      const std::string path = (golden / folder).string(), end = std::string(folder) + "/" + name;
      benchmark::RegisterBenchmark(("loss/" + end).c_str(), [path, t = type,
                                                             p = precision](benchmark::State& s) {
        loss(s, path, t, p);
      })->Iterations(1);
      if (end.find("qwen2_5_vl") != std::string::npos)
        benchmark::RegisterBenchmark(("tower_loss/" + end).c_str(), [path, t = type, p = precision](
                                                                        benchmark::State& s) {
          tower_loss(s, path, t, p);
        })->Iterations(1);
    }
  }
  return true;
}();

}  // namespace
