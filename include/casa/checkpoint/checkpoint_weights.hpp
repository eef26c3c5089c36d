// Tensors of a checkpoint as the weights of a model: every weight found, of the right shape, and no
// tensor left over, or an error that lists what is wrong.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/tensor_view.hpp"
#include "casa/model/weight_reader.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// The scales beside a matrix of type I8 (out, in), whose values are whole numbers of steps: the
/// step of each kQuantGroup values of a row, BF16 (out, quant_groups(in)), under the matrix's name
/// with "_scale" after it.
inline TensorSpec scales_of(const TensorSpec& matrix) {
  return {matrix.name + "_scale", matrix.rows, quant_groups(matrix.cols), {}};
}

/// How the tensors of a checkpoint answer to those a model expects.
struct TensorReport {
  /// A tensor that is there, but of another shape or type.
  struct Mismatch {
    std::string name;      ///< of the tensor
    std::string expected;  ///< the shape or type that the model needs
    std::string actual;    ///< what the file holds
  };
  std::vector<std::string> matched;     ///< found, and as the model needs them
  std::vector<TensorSpec> missing;      ///< needed, but in no file
  std::vector<Mismatch> mismatched;     ///< of another shape or type
  std::vector<std::string> unexpected;  ///< in the files, but not in a model of this config
  std::vector<std::string> unused;      ///< in the files, not needed, and allowed to be there

  /// Whether the model can be built: nothing missing, mismatched or unexpected.
  bool ok() const { return missing.empty() && mismatched.empty() && unexpected.empty(); }
};

/// The weights of one model inside a checkpoint. Used as: expect() every tensor,
/// require_complete(), then build from weights().
class CheckpointWeights {
 public:
  /// Looks a tensor up by name; null where there is none.
  using Find = std::function<const TensorView*(std::string_view name)>;
  /// Told of each tensor that a model has copied.
  using GiveBack = std::function<void(const TensorView&)>;

  /// `files` (SafeTensors or Checkpoint) must outlive this.
  template <class Files>
  explicit CheckpointWeights(const Files& files)
      : find_([&files](std::string_view name) { return files.find(name); }) {
    for (const auto& name : files.names()) names_.emplace(name);
  }

  /// Compares one tensor that the model will ask for with what the checkpoint holds. A matrix may
  /// also be I8, with its scales beside it (scales_of).
  void expect(const TensorSpec& spec) {
    const TensorView* t = find_(spec.name);
    const bool steps = t && t->dtype == DType::I8 && spec.cols > 0;
    if (expect(spec, !t || steps || is_float(t->dtype), "F32, F64, F16 or BF16") && steps) {
      const TensorSpec scales = scales_of(spec);
      const TensorView* s = find_(scales.name);
      expect(scales, !s || s->dtype == DType::BF16, "BF16");
    }
  }

  /// A tensor that may stand in the checkpoint without being used.
  void allow_unused(std::string_view name) { allowed_.emplace(name); }

  /// The comparison so far; what was never expected nor allowed is unexpected.
  TensorReport report() const {
    TensorReport r = report_;
    for (const std::string& name : names_)
      if (!expected_.contains(name))
        (allowed_.contains(name) ? r.unused : r.unexpected).push_back(name);
    return r;
  }

  /// Throws casa::error that lists every tensor missing, of another shape or type, or left over;
  /// `option` is what would take those that are left over.
  void require_complete(std::string_view where, std::string_view option = {}) const {
    const TensorReport r = report();
    if (r.ok()) return;
    std::string message = text(where, ": the tensors do not fit the config:");
    int lines = 0;
    const auto add = [&](const std::string& line) {
      if (++lines <= 20) message += "\n  " + line;
    };
    for (const auto& s : r.missing)
      add(text("missing ", casa::quoted(s.name), " ", shape_text(s.shape())));
    for (const auto& m : r.mismatched)
      add(text(casa::quoted(m.name), ": expected ", m.expected, ", got ", m.actual));
    for (const auto& name : r.unexpected) add("unexpected " + casa::quoted(name));
    if (lines > 20) message += text("\n  and ", lines - 20, " more");
    if (!r.unexpected.empty() && !option.empty())
      message += text("\n(", option, " passes over what is unexpected)");
    throw error(message);
  }

  /// Gives the tensors to a model, and to as many others as ask. Valid as long as this object.
  /// `give_back`, where the owner of the files sets it, is called with each tensor once a model has
  /// copied it: the files then serve this one model.
  /// Values of 8 bits are checked when they are asked for, unless only their sizes will be used.
  WeightSource weights(GiveBack give_back = {}, bool sizes_alone = false) const {
    const auto copies = std::make_shared<Copies>();
    return {[this, copies, sizes_alone](const TensorSpec& spec) {
              return get(spec, *copies, !sizes_alone);
            },
            [this, copies, give_back = std::move(give_back)](const TensorSpec& spec) {
              for (const std::string& name : {spec.name, scales_of(spec).name}) {
                copies->erase(name);
                const TensorView* t = find_(name);
                if (t != nullptr && give_back) give_back(*t);
              }
            },
            {},
            {}};
  }

 private:
  // Notes a tensor once; whether this was the first time, and it is there.
  bool expect(const TensorSpec& spec, bool right_type, const char* types) {
    if (!expected_.insert(spec.name).second) return false;
    const TensorView* t = find_(spec.name);
    const auto shape = spec.shape();
    if (!t) {
      report_.missing.push_back(spec);
    } else if (!std::equal(t->shape.begin(), t->shape.end(), shape.begin(), shape.end())) {
      report_.mismatched.push_back({spec.name, shape_text(shape), shape_text(t->shape)});
    } else if (!right_type) {
      report_.mismatched.push_back({spec.name, types, std::string(to_string(t->dtype))});
    } else {
      report_.matched.push_back(spec.name);
    }
    return t != nullptr;
  }

  static bool is_float(DType t) {
    return t == DType::F32 || t == DType::F64 || t == DType::F16 || t == DType::BF16;
  }

  // safetensors may put a tensor at any byte. Those that are not aligned for their type are copied
  // here until the model has read them.
  using Copies = std::map<std::string, Buffer<std::byte>, std::less<>>;

  StoredView get(const TensorSpec& spec, Copies& copies, bool check) const {
    const TensorView* t = find_(spec.name);
    if (!t)
      fail("tensor ", casa::quoted(spec.name), " is missing, expected shape ",
           shape_text(spec.shape()));
    t->require_shape(spec.shape());
    t->require_present();
    switch (t->dtype) {
      case DType::F64:
        return view<double>(*t, spec, copies);
      case DType::F32:
        return view<float>(*t, spec, copies);
      case DType::F16:
        return view<half>(*t, spec, copies);
      case DType::BF16:
        return view<bfloat16>(*t, spec, copies);
      case DType::I8:
        return quantized_view(*t, spec, copies, check);
      default:
        fail(t->where(), ": expected F32, F64, F16, BF16 or I8, got ", to_string(t->dtype));
    }
  }

  // A view of the tensor's bytes in the file, or of an aligned copy of them.
  template <class S>
  MatrixView<const S> view(const TensorView& t, const TensorSpec& spec, Copies& copies) const {
    const bool vector = spec.cols == 0;
    const Index rows = vector ? 1 : spec.rows, cols = vector ? spec.rows : spec.cols;
    if (t.viewable_as<S>()) return MatrixView<const S>(t.as<S>().data(), rows, cols);
    Buffer<std::byte>& copy = copies[spec.name];
    copy = Buffer<std::byte>(static_cast<Index>(t.bytes.size()));
    if (!t.bytes.empty()) std::memcpy(copy.data(), t.bytes.data(), t.bytes.size());
    return MatrixView<const S>(reinterpret_cast<const S*>(copy.data()), rows, cols);
  }

  // Steps and scales, once they are known to be such as quantize.hpp makes.
  StoredView quantized_view(const TensorView& t, const TensorSpec& spec, Copies& copies,
                            bool check) const {
    const TensorSpec scale_spec = scales_of(spec);
    const TensorView* s = find_(scale_spec.name);
    if (!s) fail(t.where(), ": is I8, but there is no tensor ", casa::quoted(scale_spec.name));
    s->require_shape(scale_spec.shape());
    s->require_present();
    require(s->dtype == DType::BF16, s->where(), ": expected BF16, got ", to_string(s->dtype));
    const auto steps = view<std::int8_t>(t, spec, copies);
    const auto scales = view<bfloat16>(*s, scale_spec, copies);
    for (Index r = 0; check && r < steps.rows(); ++r) {
      std::int8_t least = 0;
      for (Index c = 0; c < steps.cols(); ++c) least = (std::min)(least, steps(r, c));
      if (least == -128)
        fail(t.where(), ": row ", r, " has a step of -128; steps are from -127 to 127");
      // A number that is not negative has bits below those of infinity.
      for (Index g = 0; g < scales.cols(); ++g)
        if (scales(r, g).bits >= 0x7f80)
          fail(s->where(), ": scale ", g, " of row ", r, " is ", widen(scales(r, g)),
               "; expected a finite number that is not negative");
    }
    return StoredView(steps, scales);
  }

  Find find_;
  std::set<std::string> names_, expected_, allowed_;
  TensorReport report_;
};

}  // namespace io
CASA_NAMESPACE_END
