// What a model folder holds, as casa understands it: family, config, tensors that fit and that do
// not, bytes by part, and what a text token and an image cost in the caches.
//
//   inspect DIR
//
// Ends with 0 if the folder would load, 1 if not.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "casa/checkpoint/load_model.hpp"
#include "casa/core/build_info.hpp"
#include "support/program.hpp"

namespace {

using casa::Index;
using namespace casa::io;

std::string listed(const auto& values) {
  std::string s;
  for (const auto v : values) s += casa::text(s.empty() ? "" : ", ", v);
  return s.empty() ? "none" : s;
}

std::string listed(const std::optional<int>& id) { return id ? std::to_string(*id) : "none"; }

const char* scaling_name(const casa::RopeScaling& s) {
  constexpr const char* names[] = {"", ", linear scaling", ", dynamic scaling", ", yarn scaling",
                                   ", llama3 scaling"};
  return names[s.index()];
}

void print_decoder(const casa::DecoderConfig& c) {
  program::print("decoder          %td layers, hidden %td, intermediate %td, vocabulary %td%s\n",
                 c.num_hidden_layers, c.hidden_size, c.intermediate_size, c.vocab_size,
                 c.tie_word_embeddings ? ", head tied" : "");
  program::print("attention        %td heads of %td, %td key/value heads, bias %s\n",
                 c.num_attention_heads, c.head_dim, c.num_key_value_heads,
                 c.attention_out_bias ? "on q, k, v, o"
                 : c.attention_bias   ? "on q, k, v"
                                      : "none");
  program::print(
      "rope             %s, theta %g%s%s\n",
      c.rope.style == casa::RopeStyle::half ? "half" : "interleaved", c.rope.theta,
      scaling_name(c.rope.scaling),
      c.rope.mrope_sections.empty() ? "" : (", sections " + listed(c.rope.mrope_sections)).c_str());
  if (!c.sliding_layers.empty())
    program::print("sliding window   %td tokens in %zu layers\n", c.sliding_window,
                   c.sliding_layers.size());
  program::print("rms_norm_eps     %g\n", c.rms_norm_eps);
  if (!c.fusion) {
    program::print("fusion           none (text alone)\n");
    return;
  }
  JsonWriter w;
  write_fusion(w, *c.fusion);
  program::print("fusion           %s\n", w.str().c_str());
}

void print_vision(const ModelConfig& c) {
  if (const auto& v = c.vision_tower)
    program::print(
        "vision tower     %td blocks, hidden %td, %td heads of %td, intermediate %td; patches "
        "of %td px, %td x %td to a token, windows of %td px, full attention in %s\n",
        v->depth, v->hidden_size, v->num_heads, v->head_dim(), v->intermediate_size, v->patch_size,
        v->spatial_merge_size, v->spatial_merge_size, v->window_size,
        listed(v->fullatt_block_indexes).c_str());
  if (const auto& p = c.patch_encoder)
    program::print("patch encoder    %td blocks, hidden %td; images of %td px, patches of %td px\n",
                   p->num_hidden_layers, p->hidden_size, p->image_size, p->patch_size);
}

const char* part_of(std::string_view tensor) {
  const auto has = [&](std::string_view s) { return tensor.find(s) != std::string_view::npos; };
  if (has("visual.") || tensor.starts_with("vision.")) return "vision";
  if (has("embed_tokens")) return "embedding";
  if (has("lm_head")) return "head";
  if (has("fusion_")) return "fusion";
  if (has("self_attn")) return "self-attention";
  if (has(".mlp.")) return "mlp";
  if (has("norm")) return "norms";
  return "other";
}

// Whether a tensor holds the scales of one of 8 bits.
bool is_scale(const ModelFolder& folder, const TensorView& t) {
  constexpr std::string_view ending = "_scale";
  if (!t.name.ends_with(ending)) return false;
  const TensorView* steps = folder.files().find(t.name.substr(0, t.name.size() - ending.size()));
  return steps != nullptr && steps->dtype == DType::I8;
}

void print_tensors(const ModelFolder& folder, const TensorReport& r) {
  program::print(
      "tensors          %zu matched, %zu missing, %zu of another shape or type, %zu "
      "unexpected, %zu not needed\n",
      r.matched.size(), r.missing.size(), r.mismatched.size(), r.unexpected.size(),
      r.unused.size());
  for (const auto& s : r.missing)
    program::print("  missing        %s %s\n", casa::quoted(s.name).c_str(),
                   shape_text(s.shape()).c_str());
  for (const auto& m : r.mismatched)
    program::print("  other          %s: expected %s, got %s\n", casa::quoted(m.name).c_str(),
                   m.expected.c_str(), m.actual.c_str());
  for (const auto& name : r.unexpected)
    program::print("  unexpected     %s\n", casa::quoted(name).c_str());
  for (const auto& name : r.unused)
    program::print("  not needed     %s\n", casa::quoted(name).c_str());

  Index parameters = 0;
  std::map<std::string, std::size_t> bytes;
  std::map<std::string, Index> types;
  Index scales = 0;
  for (const std::string& name : r.matched) {
    const TensorView& t = folder.files().at(name);
    bytes[part_of(name)] += t.bytes.size();
    if (is_scale(folder, t)) {
      scales += t.count();
      continue;
    }
    parameters += t.count();
    ++types[std::string(to_string(t.dtype))];
  }
  program::print("parameters       %td (", parameters);
  const char* separator = "";
  for (const auto& [type, count] : types) {
    program::print("%s%td tensors %s", separator, count, type.c_str());
    separator = ", ";
  }
  if (scales > 0)
    program::print("; %td scales, one for each %td values of I8", scales, casa::kQuantGroup);
  program::print(")\nbytes in files   %lld\n", static_cast<long long>(folder.files().data_bytes()));
  for (const auto& [part, size] : bytes) program::print("  %-14s %zu\n", part.c_str(), size);
}

void print_caches(const ModelConfig& config) {
  const casa::DecoderConfig& c = config.decoder;
  const Index per_layer = 2 * c.num_key_value_heads * c.head_dim * Index{sizeof(float)};
  const auto fused = c.fusion ? static_cast<Index>(c.fusion->layers.size()) : 0;
  const bool replaced = fused > 0 && c.fusion->placement == casa::Placement::replace;
  const casa::History history = fused > 0 ? c.fusion->history : casa::History::window;
  const bool all = history.rule == casa::History::Rule::all;
  const std::string forgotten =
      all ? ""
      : history.rule == casa::History::Rule::every
          ? casa::text(", of which one window in ", history.count, " stays")
      : history.count > 1 ? casa::text(", gone ", history.count, " images later")
                          : ", gone when the next image comes";
  const bool text_keys = fused > 0 && c.fusion->keys == casa::Keys::image_text;
  const Index self = per_layer * (c.num_hidden_layers - (replaced ? fused : 0));
  const Index fusion_text = text_keys ? per_layer * fused : 0;
  program::print("cache (float)    %td bytes a text token%s\n", self + (all ? fusion_text : 0),
                 all || fusion_text == 0
                     ? ""
                     : casa::text(", and ", fusion_text, " while its window is kept").c_str());
  if (fused == 0) return;
  const Index image_token = per_layer * fused;
  const auto print = [&](const char* what, Index tokens) {
    program::print("                 %td bytes %s of %td tokens%s\n", image_token * tokens, what,
                   tokens, forgotten.c_str());
  };
  program::print("                 %td bytes an image token%s\n", image_token,
                 all ? "" : ", while its window is kept");
  if (const auto& v = config.vision_tower) {
    const Index side = 448 / (v->patch_size * v->spatial_merge_size);
    print("an image of 448 x 448 pixels,", side * side);
  }
  if (const auto& p = config.patch_encoder) print("an image", p->num_patches());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what a model folder holds and whether it would load."};
  std::string folder_name;
  app.add_option("DIR", folder_name, "folder with config.json and model.safetensors")->required();
  return program::run("inspect", app, argc, argv, [&] {
    std::fprintf(stderr, "%s\n", casa::build_info().report().c_str());
    const ModelFolder folder(folder_name);
    const ModelConfig& c = folder.config();
    program::print("folder           %s\n", folder_name.c_str());
    program::print("family           %s, its tensors %slayers.0 and so on\n", c.model_type.c_str(),
                   std::string(folder.prefixes().text).c_str());
    print_decoder(c.decoder);
    print_vision(c);
    program::print("tokens           eos %s; bos %s; image %s; vision start %s, end %s\n",
                   listed(c.tokens.eos).c_str(), listed(c.tokens.bos).c_str(),
                   listed(c.tokens.image).c_str(), listed(c.tokens.vision_start).c_str(),
                   listed(c.tokens.vision_end).c_str());
    if (c.max_position_embeddings > 0)
      program::print("trained to       %td positions\n", c.max_position_embeddings);
    const TensorReport report = folder.report();
    print_tensors(folder, report);
    print_caches(c);
    program::print("%s\n", report.ok() ? "this folder loads" : "this folder does NOT load");
    return report.ok() ? 0 : 1;
  });
}
