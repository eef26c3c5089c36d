// CASA on models in the Hugging Face layout, against float64 references.
#include <doctest/doctest.h>

#include "golden_folder.hpp"

using namespace casa;

namespace {

template <class T>
golden::Stream<T> stream(const io::Model<T>& model, const golden::Case& io,
                         const Context& context) {
  golden::Stream<T> s;
  s.ids = golden::ids(io, "input_ids");
  const auto pairs = io.ints("insertions");
  for (std::size_t i = 0; i + 1 < pairs.size(); i += 2)
    s.insertions.push_back({pairs[i], pairs[i + 1]});
  if (!model.vision_tower) {
    s.image_tokens = io.matrix<T>("image_tokens");
    return s;
  }
  const auto grids = golden::grids(io, "image_grid_thw");
  s.image_tokens =
      golden::encode(*model.vision_tower, io.matrix<T>("pixel_values"), grids, context);
  s.grids = golden::merged_grids(*model.vision_tower, grids);
  return s;
}

}  // namespace

TEST_CASE_TEMPLATE("folders with CASA give the reference's image tokens, logits and greedy ids", T,
                   float, double) {
  const auto folders = golden::folders("casa_");
  golden::Tally tally("casa_", folders.size()), decided("casa_ without ties", folders.size());
  for (const auto& folder : folders) {
    CAPTURE(folder.string());
    tally.ran();
    const golden::Case io(folder / "io.safetensors");
    const auto model = io::load_model<T>(folder.string());
    REQUIRE(model.decoder.config().fusion.has_value());
    const Context fast, naive = golden::context_of(Path::naive);
    const auto s = stream(model, io, fast), s_naive = stream(model, io, naive);
    if (model.vision_tower)
      golden::check_close(s.image_tokens, s_naive.image_tokens, io.matrix<double>("vision_merged"));
    golden::check_close(golden::run(model.decoder, s, fast).logits,
                        golden::run(model.decoder, s_naive, naive).logits,
                        io.matrix<double>("logits"));
    const auto new_ids = golden::ids(io, "greedy.new_ids");
    if (std::is_same_v<T, double> || std::ranges::min(io.values<double>("greedy.margins")) > 1e-4) {
      CHECK(golden::greedy(model.decoder, s, new_ids.size()) == new_ids);
      decided.ran();
    }
  }
  tally.check_all();
  std::is_same_v<T, double> ? decided.check_all() : decided.check_some();
}
