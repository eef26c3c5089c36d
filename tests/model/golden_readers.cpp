// The trained readers of digits and of text: their captions, and their logits on the true captions.
#include <doctest/doctest.h>

#include <filesystem>

#include "casa/checkpoint/load_model.hpp"
#include "golden_model.hpp"

using namespace casa;

namespace {

struct Kind {
  const char* folder;
  int begin, end, most_tokens;
  Index streams_in_double;  // read greedily; each costs the tests a tenth of a second and more
};
constexpr Kind kDigitReader{"digits", 12, 11, 20, 64}, kTextReader{"reader", 96, 97, 72, 4};

// A folder that holds outputs alone speaks of the repository's own models. Empty where that has no
// such model either.
std::string model_folder(const Kind& kind, const std::filesystem::path& variant) {
  if (std::filesystem::exists(variant / "model.safetensors")) return variant.string();
  const auto own = golden::repository_root() / kind.folder / variant.filename();
  return std::filesystem::exists(own / "model.safetensors") ? own.string() : std::string();
}

template <class T>
class Reader {
 public:
  Reader(const Kind& kind, const std::string& folder, const golden::Case& streams)
      : kind_(kind), model_(io::load_model<T>(folder)) {
    images_ = Matrix<std::uint8_t>(streams.shape("images")[0],
                                   streams.shape("images")[1] * streams.shape("images")[2]);
    streams.file.at("images").read_into(
        std::span(images_.data(), static_cast<std::size_t>(images_.size())));
  }

  Matrix<T> image_tokens(Index first, Index count) {
    const auto& encoder = *model_.patch_encoder;
    Matrix<T> tokens(count * encoder.config().num_patches(), encoder.config().out_hidden_size);
    encoder.encode(images_.view().middle_rows(first, count), tokens, scratch_, context_);
    return tokens;
  }

  // Captions of images [first, last), which make one stream.
  std::vector<std::vector<int>> read(Index first, Index last) {
    auto state = model_.decoder.new_state();
    Matrix<T> logits(1, model_.decoder.config().vocab_size);
    std::vector<std::vector<int>> captions;
    for (Index i = first; i < last; ++i) {
      const Matrix<T> tokens = image_tokens(i, 1);
      const Insertion image{0, tokens.rows()};
      std::vector<int> caption{kind_.begin};
      model_.decoder.forward({&state, caption, {&image, 1}, tokens}, logits, context_);
      for (int n = 0; caption.back() != kind_.end; ++n) {
        const T* row = logits.row(0);
        caption.push_back(n < kind_.most_tokens
                              ? static_cast<int>(std::max_element(row, row + logits.cols()) - row)
                              : kind_.end);
        model_.decoder.forward({&state, std::span(caption).last(1)}, logits, context_);
      }
      captions.push_back(std::move(caption));
    }
    return captions;
  }

  const Decoder<T>& decoder() const { return model_.decoder; }

 private:
  const Kind& kind_;
  io::Model<T> model_;
  Matrix<std::uint8_t> images_;
  typename PatchEncoder<T>::Scratch scratch_;
  Context context_;
};

template <class T>
void check_variant(const Kind& kind, const std::string& folder,
                   const std::filesystem::path& variant, const golden::Case& streams) {
  Reader<T> reader(kind, folder, streams);
  const golden::Case outputs(variant / "outputs.safetensors");
  const auto begin = streams.values<Index>("stream_begin");
  const auto ids = outputs.file.at("greedy.ids").to_matrix<int>();
  const auto length = outputs.values<Index>("greedy.len");
  const auto margin = outputs.values<double>("greedy.min_margin");

  golden::Tally read("streams of " + variant.string(), begin.size() - 1);
  for (std::size_t s = 0; s + 1 < begin.size(); ++s) {
    CAPTURE(s);
    if (std::is_same_v<T, float> && margin[s] < 1e-3) continue;  // a tie that float may turn
    if (std::is_same_v<T, double> && static_cast<Index>(s) >= kind.streams_in_double) break;
    read.ran();
    const auto captions = reader.read(begin[s], begin[s + 1]);
    for (Index i = begin[s]; i < begin[s + 1]; ++i) {
      const std::vector<int> expected(ids.row(i), ids.row(i) + length[static_cast<std::size_t>(i)]);
      CHECK(captions[static_cast<std::size_t>(i - begin[s])] == expected);
    }
  }

  read.check_some();

  int taught = 0;
  for (std::size_t s = 0; outputs.has(text("teacher.", s, ".ids")); ++s, ++taught) {
    CAPTURE(s);
    const std::string name = text("teacher.", s);
    std::vector<Insertion> insertions;
    const auto insert = outputs.file.at(name + ".insert").to_matrix<Index>();
    for (Index i = 0; i < insert.rows(); ++i) insertions.push_back({insert(i, 0), insert(i, 1)});
    const auto tokens = reader.image_tokens(begin[s], insert.rows());
    const auto logits =
        reader.decoder().logits(golden::ids(outputs, name + ".ids"), insertions, tokens);
    const auto reference = outputs.matrix<double>(name + ".logits");
    // float: 1e-4, the readers' promise; double: as every decoder, but the weights were trained,
    // and image tokens come through an encoder first.
    CHECK(golden::distance(logits, reference) <=
          (std::is_same_v<T, float> ? 1e-4 : 1e-11 * golden::largest(reference)));
    if (outputs.has(name + ".image_tokens")) {
      const auto expected = outputs.matrix<double>(name + ".image_tokens");
      CHECK(golden::distance(tokens, expected) <= 32 * 0x1p-23 * golden::largest(expected));
    }
  }
  CHECK(taught > 0);
}

}  // namespace

TEST_CASE_TEMPLATE("the trained readers read as the reference does", T, float, double) {
  for (const Kind& kind : {kDigitReader, kTextReader}) {
    for (const auto& folder : golden::folders(kind.folder)) {
      const golden::Case streams(folder / "streams.safetensors");
      int variants = 0;
      for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const auto& variant = entry.path();
        if (!std::filesystem::exists(variant / "outputs.safetensors")) continue;
        const std::string model = model_folder(kind, variant);
        if (model.empty()) {
          MESSAGE("skipped: ", variant.string(),
                  " has outputs but no model, and the tree has none");
          continue;
        }
        ++variants;
        CAPTURE(variant.string());
        check_variant<T>(kind, model, variant, streams);
      }
      CHECK(variants > 0);
    }
  }
}
