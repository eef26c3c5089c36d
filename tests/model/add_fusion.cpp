#include "casa/model/add_fusion.hpp"

#include <doctest/doctest.h>

#include <random>

#include "casa/checkpoint/save_model.hpp"
#include "golden_folder.hpp"
#include "support/scratch.hpp"

using namespace casa;

namespace {

std::string base_folder() { return (golden::repository_root() / "hf_qwen2").string(); }

const std::vector<int> kTokens = {5, 90, 17, 3, 44, 8};
const std::vector<Insertion> kPlaces = {{0, 3}, {2, 4}, {5, 1}};

template <class T>
Matrix<T> images() {
  Matrix<T> m(8, 64);
  std::mt19937 random(7);
  for (Index i = 0; i < m.size(); ++i)
    m.data()[i] = static_cast<T>(std::normal_distribution<double>()(random));
  return m;
}

template <class T>
Matrix<T> logits(const Decoder<T>& decoder) {
  return decoder.logits(kTokens, kPlaces, images<T>());
}

std::vector<FusionConfig> points() {
  const std::vector<int> some = {0, 2};
  FusionConfig gated = presets::casa_before(some);
  gated.gate = Gate::tanh;
  FusionConfig shared_replace = presets::casa_replace(some);
  shared_replace.parameters = Sharing::shared;
  FusionConfig bare = presets::casa_replace(some);
  bare.norm = Sharing::own;
  return {presets::casa(some),
          presets::casa_before(some),
          presets::casa_replace(some),
          presets::casa_shared(some),
          presets::cross_attention(some),
          gated,
          presets::mplug_owl3_gated(some),
          shared_replace,
          bare,
          presets::token_insertion({0, 1, 2})};
}

}  // namespace

TEST_CASE_TEMPLATE("weights of its own begin as those of self-attention", T, float, double) {
  const Decoder<T> base = io::load_model<T>(base_folder()).decoder;
  for (const Placement placement : {Placement::before, Placement::parallel, Placement::replace}) {
    FusionConfig shared = presets::casa_shared({0, 2}), own = shared;
    shared.placement = own.placement = placement;
    own.parameters = own.norm = Sharing::own;
    CHECK(logits(add_fusion(base, own)).eigen() == logits(add_fusion(base, shared)).eigen());
  }
}

TEST_CASE("a new gate lets nothing through: the decoder says what it said without images") {
  const Decoder<double> base = io::load_model<double>(base_folder()).decoder;
  FusionConfig gated = presets::casa({0, 1, 2});
  gated.gate = Gate::tanh;
  CHECK(logits(add_fusion(base, gated)).eigen() == base.logits(kTokens, {}, {}).eigen());
  CHECK(logits(add_fusion(base, presets::casa({0, 1, 2}))).eigen() !=
        base.logits(kTokens, {}, {}).eigen());
}

TEST_CASE("what cannot be added is refused") {
  const Decoder<double> base = io::load_model<double>(base_folder()).decoder;
  CHECK_THROWS_AS(add_fusion(base, presets::casa({3})), casa::error);
  CHECK_THROWS_AS(add_fusion(base, presets::casa({1, 0})), casa::error);
  const auto replaced = add_fusion(base, presets::casa_replace({1}));
  CHECK_THROWS_WITH_AS(add_fusion(replaced, presets::casa({0})),
                       "add_fusion: block 1 has no self-attention with its norm", casa::error);
}

TEST_CASE_TEMPLATE("saved and loaded, whole or as what came on top, a decoder is the same", T,
                   float, double) {
  const Decoder<T> base = io::load_model<T>(base_folder()).decoder;
  for (const FusionConfig& fusion : points()) {
    CAPTURE(static_cast<int>(fusion.placement));
    CAPTURE(static_cast<int>(fusion.parameters));
    const Decoder<T> decoder = add_fusion(base, fusion);
    const auto expected = logits(decoder);

    const Scratch scratch;
    io::save_model(base_folder(), scratch.file("whole"), decoder);
    const auto whole = io::load_model<T>(scratch.file("whole"));
    CHECK(*whole.decoder.config().fusion == fusion);
    CHECK(logits(whole.decoder).eigen() == expected.eigen());
    io::save_model(scratch.file("whole"), scratch.file("whole"), whole.decoder);  // over itself
    CHECK(logits(io::load_model<T>(scratch.file("whole")).decoder).eigen() == expected.eigen());

    // Nothing of the base is left out by fusion that replaces no self-attention.
    if (fusion.placement == Placement::replace && fusion.parameters == Sharing::own) continue;
    io::save_model(base_folder(), scratch.file("added"), decoder, io::SavedTensors::fusion_only);
    io::ModelOptions on_top;
    on_top.fusion_folder = scratch.file("added");
    const auto model = io::load_model<T>(base_folder(), on_top);
    CHECK(logits(model.decoder).eigen() == expected.eigen());
    const auto added = io::read_safetensors(scratch.file("added/model.safetensors"));
    for (const auto name : added.names()) CHECK(name.find(".fusion_") != std::string_view::npos);
  }
}

TEST_CASE("16-bit weights are saved as they are held, and the vision tower goes with them") {
  const std::string folder = (golden::repository_root() / "hf_qwen2_bf16").string();
  const auto base = io::load_model<float>(folder);
  const auto decoder = add_fusion(base.decoder, presets::casa({1}));
  const Scratch scratch;
  io::save_model(folder, scratch.file("out"), decoder);
  const auto file = io::read_safetensors(scratch.file("out/model.safetensors"));
  CHECK(file.at("model.layers.1.fusion_attn.q_proj.weight").dtype == io::DType::BF16);
  CHECK(logits(io::load_model<float>(scratch.file("out")).decoder).eigen() ==
        logits(decoder).eigen());

  const std::string vl = (golden::repository_root() / "hf_qwen2_5_vl_renamed").string();
  const auto with_tower = io::load_model<float>(vl);
  io::save_model(vl, scratch.file("vl"), add_fusion(with_tower.decoder, presets::casa({0, 1, 2})));
  const auto again = io::load_model<float>(scratch.file("vl"));
  REQUIRE(again.vision_tower.has_value());
  CHECK(again.decoder.config().fusion->placement == Placement::parallel);
}
