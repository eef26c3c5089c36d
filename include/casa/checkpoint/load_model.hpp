// A model folder (config.json and safetensors), or the same in memory, as a decoder and its image
// encoder.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "casa/checkpoint/checkpoint_weights.hpp"
#include "casa/checkpoint/model_config.hpp"
#include "casa/checkpoint/packed_file.hpp"
#include "casa/checkpoint/shards.hpp"
#include "casa/json/json.hpp"
#include "casa/model/decoder.hpp"
#include "casa/vision/patch_encoder.hpp"
#include "casa/vision/vision_tower.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// How a folder is loaded.
struct ModelOptions {
  /// The type that weights are kept in. Unset: a float model keeps 16-bit and 8-bit weights as they
  /// are in the file; everything else is kept in the type that is computed in.
  std::optional<WeightType> weights = {};
  /// The type that the image encoder's weights are kept in. Unset: a vision tower's as those of the
  /// decoder, a patch encoder's in the type that is computed in.
  std::optional<WeightType> encoder_weights = {};
  /// What the image encoder's products round, in place of what Context::precision says. Unset: that
  /// of the context it is called with.
  std::optional<Precision> encoder_precision = {};
  /// `files.map` maps the files instead of reading them.
  LoadOptions files = {};
  std::string config_file = "config.json";  ///< the file of the folder that is read as its config
  /// A file that the packed weights are kept in, beside the model's own: made where it is not
  /// there, and made anew where it does not fit (packed_file.hpp); else the weights are taken from
  /// it and not packed. With `files.map` it is mapped and its pages are the weights, so that a
  /// model is there as soon as it is asked for, and processes share one copy.
  std::string packed_file = {};
  /// A folder of save_model(fusion_only): its fusion and its tensors come on top of the model.
  std::string fusion_folder = {};
  /// Tensors that a model of this config does not have are passed over (transformers warns of them)
  /// instead of refused. They are in the report either way.
  bool allow_unexpected = false;
  /// Special tokens of generation_config.json, where there is one, replace those of config.json.
  bool generation_config = true;
};

/// What a folder holds, ready to run.
template <Scalar T>
struct Model {
  ModelConfig config = {};                            ///< what the folder's files say of the model
  Decoder<T> decoder = {};                            ///< the language model
  std::optional<PatchEncoder<T>> patch_encoder = {};  ///< the digit readers' image encoder
  std::optional<VisionTower<T>> vision_tower = {};    ///< Qwen2.5-VL's image encoder
  /// From embeddings of another encoder to the decoder's width: "image_projector.weight" (and
  /// ".bias"), if the files have it.
  std::optional<Linear<T>> image_projector = {};

  /// Embeddings of another encoder (n x its width) as image tokens (n x hidden_size). Throws
  /// casa::error where the folder has no projector, or one of another width.
  Matrix<T> project(MatrixView<const T> embeddings, const Context& context = {}) const {
    require(image_projector.has_value(), "project: the folder has no image_projector.weight");
    Matrix<T> tokens(embeddings.rows(), image_projector->out_features());
    image_projector->forward(embeddings, tokens, context);
    return tokens;
  }
};

/// A folder's config and its tensors, compared: what inspection prints and loading reads.
class ModelFolder {
 public:
  /// casa::error for files that are missing or break their rules, and for a config that is not
  /// understood. Tensors that do not fit are in report().
  explicit ModelFolder(const std::string& folder, const ModelOptions& options = {})
      : ModelFolder(folder, read_config(folder, options), read_files(folder, options), options) {}
  /// The same of a model that is in memory already (fetched, unpacked, linked into the program):
  /// the text of its config.json and its tensors, whose bytes may be borrowed. Of the options,
  /// those that name files have no say, and fusion_folder must be empty.
  ModelFolder(std::string_view config, const Checkpoint& files, const ModelOptions& options = {})
      : ModelFolder(files.name(), parse_config(config, options), files, options) {}
  ModelFolder(const ModelFolder&) = delete;
  ModelFolder& operator=(const ModelFolder&) = delete;

  /// The folder, as it was given.
  const std::string& name() const { return name_; }
  /// What config.json and generation_config.json say.
  const ModelConfig& config() const { return config_; }
  /// The tensors of the folder's files.
  const Checkpoint& files() const { return files_; }
  /// How the folder's tensors are named.
  const KeyPrefixes& prefixes() const { return prefixes_; }
  /// Which tensors fit the config, and which do not.
  TensorReport report() const { return weights_.report(); }

  /// What the weights are held as under these options, by the type of the decoder's tensors.
  template <Scalar T>
  WeightType weight_type(const ModelOptions& options) const {
    if (options.weights) return *options.weights;
    const TensorView* t = files_.find(decoder_.embed_tokens.name);
    if (!t || !std::same_as<T, float>) return WeightType::native;
    // Beside a head of 8 bits the embedding keeps 16 (Decoder).
    if (decoder_.lm_head) {
      const TensorView* head = files_.find(decoder_.lm_head->name);
      if (head && head->dtype == DType::I8) return WeightType::int8;
    }
    return t->dtype == DType::I8     ? WeightType::int8
           : t->dtype == DType::BF16 ? WeightType::bfloat16
           : t->dtype == DType::F16  ? WeightType::half
                                     : WeightType::native;
  }

  /// Calls f(spec, type) for every matrix that a model under these options holds packed, with the
  /// type that it is held in. (Not for a patch encoder's.)
  template <Scalar T, class F>
  void for_each_packed(const ModelOptions& options, F&& f) const {
    const WeightType type = weight_type<T>(options);
    const auto each = [&](const TensorSpec& spec) {
      const bool lookup = decoder_.lm_head && spec.name == decoder_.embed_tokens.name;
      if (spec.cols > 0) f(spec, lookup && type == WeightType::int8 ? WeightType::bfloat16 : type);
    };
    for_each_tensor(decoder_, each);
    if (projector_) for_each_tensor(*projector_, each);
    if (tower_)
      for_each_tensor(*tower_, [&](const TensorSpec& spec) {
        if (spec.cols > 0) f(spec, options.encoder_weights.value_or(type));
      });
  }
  /// The tensors of the model, for one reader.
  WeightSource weights() const { return weights_.weights(); }
  /// Throws casa::error that lists every tensor that does not fit, if there is one.
  void require_complete() const {
    weights_.require_complete(name_, "ModelOptions::allow_unexpected; generate --allow-unexpected");
  }

  /// Builds a model. The folder stays as it is: it may be loaded again, as another scalar or with
  /// other weights. casa::error lists every tensor that does not fit.
  template <Scalar T>
  Model<T> load(const ModelOptions& options) const& {
    if (!options.packed_file.empty()) return load_packed<T>(options, {});
    return build<T>(options, weights_.weights());
  }
  /// The same from a folder that is not used again: the memory of its files is given back as soon
  /// as a weight is packed, so that loading takes little more memory than the model does.
  template <Scalar T>
  Model<T> load(const ModelOptions& options) && {
    const auto give_back = [this](const TensorView& t) { files_.give_back(t); };
    if (!options.packed_file.empty()) return load_packed<T>(options, give_back);
    return build<T>(options, weights_.weights(give_back));
  }

 private:
  ModelFolder(const std::string& name, ModelConfig config, Checkpoint files,
              const ModelOptions& options)
      : name_(name),
        config_(std::move(config)),
        files_(std::move(files)),
        weights_(files_),
        prefixes_(find_prefixes(files_)),
        allow_unexpected_(options.allow_unexpected) {
    settle_head();
    size_by_tensor(decoder_.embed_tokens);
    if (decoder_.lm_head) size_by_tensor(*decoder_.lm_head);
    config_.decoder.vocab_size =
        decoder_.lm_head ? decoder_.lm_head->rows : decoder_.embed_tokens.rows;
    const auto expect = [&](const TensorSpec& spec) { weights_.expect(spec); };
    for_each_tensor(decoder_, expect);
    if (!decoder_.lm_head) {
      weights_.allow_unused(prefixes_.head);
      if (files_.contains(prefixes_.head))
        weights_.allow_unused(scales_of({std::string(prefixes_.head)}).name);
    }
    if (config_.patch_encoder) for_each_tensor(patch_encoder_spec(*config_.patch_encoder), expect);
    if (config_.vision_tower) {
      tower_ = vision_tower_spec(*config_.vision_tower, std::string(prefixes_.vision));
      for_each_tensor(*tower_, expect);
    }
    find_projector();
    if (projector_) for_each_tensor(*projector_, expect);
    for (const std::string_view tensor : files_.names())  // buffers, in old checkpoints
      if (tensor.ends_with(".rotary_emb.inv_freq") || files_.extra(tensor) || allow_unexpected_)
        weights_.allow_unused(tensor);
  }

  template <Scalar T>
  Model<T> build(const ModelOptions& options, const WeightSource& source) const {
    require_complete();
    const WeightType type = weight_type<T>(options);
    Model<T> m;
    m.config = config_;
    m.decoder = Decoder<T>(config_.decoder, decoder_, source, type);
    const std::optional<Precision>& precision = options.encoder_precision;
    if (config_.patch_encoder)
      m.patch_encoder.emplace(*config_.patch_encoder, source,
                              options.encoder_weights.value_or(WeightType::native), precision);
    if (tower_)
      m.vision_tower.emplace(*config_.vision_tower, *tower_, source,
                             options.encoder_weights.value_or(type), precision);
    if (projector_) m.image_projector = WeightReader<T>(source, type).linear(*projector_);
    return m;
  }

  template <Scalar T>
  Model<T> load_packed(const ModelOptions& options, CheckpointWeights::GiveBack give_back) const {
    require_complete();
    const std::string key = packing_key<T>(options);
    if (const auto packed = open_packed_file(options.packed_file, key, options.files)) {
      WeightSource source = weights_.weights({}, true);
      source.packed = [&](const std::string& name) { return packed->get(name); };
      return build<T>(options, source);
    }
    WeightSource source = weights_.weights(std::move(give_back));
    PackedParts parts;
    source.keep = [&](const std::string& name, PackedBytes bytes) {
      require(parts.emplace(name, std::move(bytes)).second, name, ": packed twice");
    };
    Model<T> m = build<T>(options, source);
    write_packed_file(options.packed_file, key, parts);
    return m;
  }

  // All that the packed weights follow from: the files in their state, what becomes of each matrix,
  // and how this program packs.
  template <Scalar T>
  std::string packing_key(const ModelOptions& options) const {
    std::string key = packing_layout<T>();
    for (const SafeTensors& file : files_.files()) {
      require(!file.identity().empty(), "ModelOptions: packed_file ",
              casa::quoted(options.packed_file), " cannot be kept of a model in memory");
      key += "; " + file.identity();
    }
    detail::QuickHash matrices;
    if (config_.patch_encoder)
      matrices.add(text(static_cast<int>(options.encoder_weights.value_or(WeightType::native))));
    for_each_packed<T>(options, [&](const TensorSpec& spec, WeightType type) {
      matrices.add(text(spec.name, " ", spec.rows, " ", spec.cols, " ", static_cast<int>(type)));
    });
    return key + "; " + matrices.hex();
  }

  static ModelConfig read_config(const std::string& folder, const ModelOptions& options) {
    const LoadLimits& limits = options.files.limits;
    const auto read = [&](const std::string& file) {
      return read_json(folder + "/" + file, python_json(limits));
    };
    ModelConfig config = model_config(read(options.config_file), limits);
    if (!options.fusion_folder.empty()) {
      const Json added = read_json(options.fusion_folder + "/config.json", python_json(limits));
      config.decoder.fusion = fusion_config(added.at("fusion"), config.decoder.num_hidden_layers);
      check(config.decoder);
    }
    if (options.generation_config && detail::file_exists(folder + "/generation_config.json"))
      read_special_tokens(read("generation_config.json"), config.tokens, limits);
    return config;
  }

  static ModelConfig parse_config(std::string_view config, const ModelOptions& options) {
    require(options.fusion_folder.empty(), "ModelOptions: fusion_folder ",
            casa::quoted(options.fusion_folder), " cannot come on top of a model in memory");
    const LoadLimits& limits = options.files.limits;
    return model_config(parse_json(config, options.config_file, python_json(limits)), limits);
  }

  static Checkpoint read_files(const std::string& folder, const ModelOptions& options) {
    Checkpoint base = read_checkpoint(folder, options.files);
    if (options.fusion_folder.empty()) return base;
    const Checkpoint added = read_checkpoint(options.fusion_folder, options.files);
    std::vector<SafeTensors> all(base.files().begin(), base.files().end());
    all.insert(all.end(), added.files().begin(), added.files().end());
    return Checkpoint(std::move(all), folder + " with " + options.fusion_folder,
                      options.files.limits.repeated_tensors, [&](std::string_view tensor) {
                        return !base.extra(tensor) && !added.extra(tensor);
                      });
  }

  // Decides whether head and embedding are one tensor, as transformers does. Where the config ties
  // them but the files hold both with different values, they are not tied; where the files hold the
  // head alone, it serves as the embedding too.
  void settle_head() {
    const TensorView* head = files_.find(prefixes_.head);
    const TensorView* embed = files_.find(std::string(prefixes_.text) + "embed_tokens.weight");
    bool& tied = config_.decoder.tie_word_embeddings;
    if (tied && head && embed) tied = detail::is_copy(*head, *embed) && same_scales(*head, *embed);
    decoder_ =
        decoder_spec(config_.decoder, std::string(prefixes_.text), std::string(prefixes_.head));
    if (tied && head && !embed) decoder_.embed_tokens.name = prefixes_.head;
  }

  bool same_scales(const TensorView& a, const TensorView& b) const {
    const TensorView* s = files_.find(scales_of({std::string(a.name)}).name);
    const TensorView* t = files_.find(scales_of({std::string(b.name)}).name);
    return s && t ? detail::is_copy(*s, *t) : s == t;
  }

  // Embeddings and heads are often padded beyond the vocabulary: their tensors say how wide they
  // are.
  void size_by_tensor(TensorSpec& spec) const {
    const TensorView* t = files_.find(spec.name);
    if (t && t->shape.size() == 2 && t->shape[0] > spec.rows) spec.rows = t->shape[0];
  }

  void find_projector() {
    const TensorView* t = files_.find("image_projector.weight");
    if (!t || t->shape.size() != 2) return;
    projector_ = linear_spec("image_projector", t->shape[1], config_.decoder.hidden_size,
                             files_.contains("image_projector.bias"));
  }

  std::string name_;
  ModelConfig config_;
  Checkpoint files_;
  CheckpointWeights weights_;
  KeyPrefixes prefixes_;
  DecoderSpec decoder_;
  std::optional<VisionTowerSpec> tower_;
  std::optional<LinearSpec> projector_;
  bool allow_unexpected_;
};

/// Loads a folder. Every tensor of its files is used and every weight of the model filled, or
/// casa::error lists what is missing, of another shape, or left over; nothing is returned
/// half-loaded.
template <Scalar T>
Model<T> load_model(const std::string& folder, const ModelOptions& options = {}) {
  return ModelFolder(folder, options).template load<T>(options);
}

/// The same for a model in memory: the text of its config.json, and its tensors, whose bytes are
/// copied where weights are packed and need not outlive the call:
///   load_model<float>(config, Checkpoint(SafeTensors(Bytes(bytes), "model.safetensors")))
template <Scalar T>
Model<T> load_model(std::string_view config, const Checkpoint& files,
                    const ModelOptions& options = {}) {
  const ModelFolder model(config, files, options);
  return model.template load<T>(options);
}

}  // namespace io
CASA_NAMESPACE_END
