// What does it cost to encode a text, to decode it, and to load a tokenizer, per kind of tokenizer?
// The tokenizers are the folders tokenizer_* in tests/golden, or in $CASA_GOLDEN_DIR.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "casa/text/tokenizer.hpp"

namespace {

namespace fs = std::filesystem;

fs::path golden_root() {
  const char* dir = std::getenv("CASA_GOLDEN_DIR");
  if (dir != nullptr && *dir != '\0') return dir;
  return fs::path(__FILE__).parent_path().parent_path() / "tests" / "golden";
}

// A mebibyte of text from 4000 random words with the letters of English, some words more often.
std::string english() {
  std::mt19937 random(1);
  const std::string letters = "eeeeeetttttaaaaooooiiinnnsssrrrhhhlllddcumwfgypbvk";
  std::vector<std::string> words(4000);
  for (auto& word : words)
    for (std::size_t n = 1 + random() % 9; n > 0; --n) word += letters[random() % letters.size()];
  std::string text;
  while (text.size() < (std::size_t{1} << 20)) {
    const std::size_t rank = random() % 4001;
    text += words[rank * rank / 4001];
    const auto end = random() % 20;
    text += end == 0 ? ".\n" : end == 1 ? ", " : " ";
  }
  text.resize(std::size_t{1} << 20);
  return text;
}

void count_bytes(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(bytes));
}

void register_all() {
  const fs::path root = golden_root();
  if (!fs::is_directory(root)) return;
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.path().filename().string().starts_with("tokenizer_")) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  const auto text = [](const std::string& unit) {
    std::string s;
    while (s.size() < (std::size_t{1} << 20)) s += unit;
    return s;
  };
  for (const auto& folder : folders) {
    const std::string name = "tokenizer/" + folder.filename().string().substr(10);
    const std::string file = (folder / "tokenizer.json").string();
    const auto encode = [&](const std::string& what, const std::string& s) {
      benchmark::RegisterBenchmark((name + "/encode_" + what).c_str(),
                                   [file, s](benchmark::State& state) {
                                     const casa::io::Tokenizer tokenizer(file);
                                     for (auto _ : state)
                                       benchmark::DoNotOptimize(tokenizer.encode(s).data());
                                     count_bytes(state, s.size());
                                   })
          ->Unit(benchmark::kMillisecond);
    };
    encode("english", english());
    encode("one_letter", text("a"));
    encode("chinese", text("\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e"));
    benchmark::RegisterBenchmark((name + "/decode_english").c_str(), [file](
                                                                         benchmark::State& state) {
      const casa::io::Tokenizer tokenizer(file);
      const auto ids = tokenizer.encode(english());
      std::size_t bytes = 0;
      for (auto _ : state) bytes = tokenizer.decode(ids).size();
      count_bytes(state, bytes);
    })->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((name + "/load").c_str(), [file](benchmark::State& state) {
      for (auto _ : state) benchmark::DoNotOptimize(casa::io::Tokenizer(file).vocab_size());
    })->Unit(benchmark::kMillisecond);
  }
}

const bool registered = (register_all(), true);

}  // namespace
