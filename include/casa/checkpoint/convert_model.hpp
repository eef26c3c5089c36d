// A model folder with its weights in another type: half or a quarter of the bytes on disk, and
// nothing to be rounded when it is loaded.
#pragma once

#include <deque>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "casa/checkpoint/load_model.hpp"
#include "casa/checkpoint/quantized_rows.hpp"
#include "casa/checkpoint/save_model.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

/// The tensors of a folder, its matrices in another type.
class ConvertedTensors {
 public:
  ConvertedTensors(const ModelFolder& folder, const ModelOptions& options) : folder_(folder) {
    folder.for_each_packed<float>(options, [&](const TensorSpec& spec, WeightType type) {
      const TensorView& t = folder_.files().at(spec.name);
      if (!converted_.insert(spec.name).second) return;
      if (t.dtype == DType::I8) converted_.insert(scales_of(spec).name);
      if (type == WeightType::int8)
        add_steps(spec);
      else if (type == WeightType::bfloat16)
        add<bfloat16>(spec);
      else if (type == WeightType::half)
        add<half>(spec);
      else
        add<float>(spec);
    });
    // A head that is a copy of the embedding would no longer be one.
    if (folder.config().decoder.tie_word_embeddings) {
      converted_.emplace(folder.prefixes().head);
      converted_.insert(scales_of({std::string(folder.prefixes().head)}).name);
    }
    for (const std::string_view name : folder.files().names())
      if (!converted_.contains(name)) tensors_.push_back(named_tensor(folder.files().at(name)));
  }

  std::vector<NamedTensor> take() { return std::move(tensors_); }

 private:
  void add_steps(const TensorSpec& spec) {
    const StoredView from = source_.get(spec);
    QuantizedRows& rows = quantized_.emplace_back(spec);
    Buffer<float> row(spec.cols);
    for (Index r = 0; r < spec.rows; ++r) {
      if (from.type() == StoredView::Type::int8) {  // to be rounded again would change it
        std::copy_n(from.steps(r), rows.steps.cols(), rows.steps.row(r));
        std::copy_n(from.scales(r), rows.scales.cols(), rows.scales.row(r));
      } else {
        from.copy_row(r, row.data());
        rows.set_row(r, row.data());
      }
    }
    rows.append_to(tensors_);
    source_.done(spec);
  }
  template <Storage S>
  void add(const TensorSpec& spec) {
    const StoredView from = source_.get(spec);
    Buffer<std::byte>& own =
        owned_.emplace_back(checked_mul(spec.rows * spec.cols, Index{sizeof(S)}, spec.name));
    S* to = static_cast<S*>(static_cast<void*>(own.data()));
    Buffer<float> row(spec.cols);
    for (Index r = 0; r < spec.rows; ++r) {
      from.copy_row(r, row.data());
      for (Index c = 0; c < spec.cols; ++c) {
        if (std::same_as<S, half> && !(std::abs(row[c]) <= 65504.0f))
          fail("tensor ", casa::quoted(spec.name), ": row ", r, " has the value ", row[c],
               ", which half weights cannot hold");
        *to++ = narrow<S>(row[c]);
      }
    }
    tensors_.push_back({spec.name, dtype_of<S>(), spec.shape(), own.span()});
    source_.done(spec);
  }

  const ModelFolder& folder_;
  WeightSource source_ = folder_.weights();
  std::set<std::string, std::less<>> converted_;
  std::vector<NamedTensor> tensors_;
  std::deque<Buffer<std::byte>> owned_;
  std::deque<QuantizedRows> quantized_;
};

}  // namespace detail

/// Writes the model of `base_folder` into `folder` (made if it is not there) with its weights as
/// `options` say they are held: model.safetensors, and what else a model is loaded with (the
/// folder's other files that end in .json, .jinja or .txt). Matrices of int8 become I8 with their
/// scales beside them (scales_of), 53 % of the bytes of BF16. A model loaded from `folder` with
/// ModelOptions::weights unset is, bit for bit, the one that `options` load from `base_folder`.
/// What is no packed weight (norms, gates, biases, a digit reader's patch encoder) stays as it is.
///
/// casa::error if the base does not load, a value does not fit the type, `folder` is the base or
/// holds an index of other files, or a file cannot be written; each file is written whole or not at
/// all, config.json last. Bytes as many as `folder` will have are held in memory meanwhile.
inline void convert_model(const std::string& base_folder, const std::string& folder,
                          const ModelOptions& options) {
  namespace fs = std::filesystem;
  require(options.weights.has_value(), "convert_model: ModelOptions::weights is not set");
  require(
      !options.encoder_weights,
      "convert_model: ModelOptions::encoder_weights is set, but a folder is loaded with one type "
      "for decoder and encoder");
  const ModelFolder base(base_folder, options);
  base.require_complete();
  std::error_code code;
  require(!fs::equivalent(base_folder, folder, code), folder,
          ": is the folder that is converted: give another one");
  const std::string index = folder + "/model.safetensors.index.json";
  require(!detail::file_exists(index), index,
          ": is in the way: it would be loaded instead of what is written");
  detail::ConvertedTensors tensors(base, options);
  fs::create_directories(folder, code);
  require(!code, folder, ": cannot make the folder: ", code.message());
  write_safetensors(folder + "/model.safetensors", tensors.take(), {{"format", "pt"}});
  for (const auto& entry : fs::directory_iterator(base_folder)) {
    const std::string name = entry.path().filename().string(), kind = entry.path().extension();
    if ((kind == ".json" || kind == ".jinja" || kind == ".txt") && entry.is_regular_file() &&
        name != options.config_file && !name.ends_with(".index.json"))
      write_file(text(folder, "/", name), read_file(entry.path().string()).as_text());
  }
  const std::string config = base_folder + "/" + options.config_file;
  write_file(folder + "/config.json",
             options.fusion_folder.empty()
                 ? std::string(read_file(config).as_text())
                 : detail::config_with_fusion(read_json(config, python_json(options.files.limits)),
                                              base.config().decoder.fusion));
}

}  // namespace io
CASA_NAMESPACE_END
