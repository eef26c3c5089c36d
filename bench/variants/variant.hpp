// What a file of this folder describes: one problem of attention, and its entry in the list that
// `casa_bench --variants` goes through.
//
// A new variant is a new file here, which the next build picks up:
//
//   // window256: a token sees itself and the 255 before it.
//   #include "casa/attention/masks.hpp"
//   #include "variant.hpp"
//
//   static const bench::Variant window256("window256", [] {
//     return bench::plain({.mask = casa::masks::sliding_window(2048, 256)});
//   });
//
// A variant that changes scores ends in `return bench::scored(a, MyScore{})` (scored.hpp).
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "casa/attention/mask.hpp"
#include "casa/core/context.hpp"

namespace bench {

using casa::Index;
using casa::Interval;

/// One problem of attention: which keys each query row sees, and sizes. The usual sizes are those
/// of the cases that are also run with torch.
struct Attention {
  casa::Mask mask;
  Index keys = 2048;  ///< whatever the mask sees of them
  Index num_heads = 16;
  Index num_kv_heads = 8;
  Index head_dim = 128;
  Index value_dim = 128;          ///< of values, which does not follow head_dim
  std::vector<float> sinks = {};  ///< (num_heads), or none
  casa::Precision precision = casa::Precision::full;
  /// Keys whose rows of the cache must be kept for the tokens to come; -1: those of the last row.
  Index kept_keys = -1;
  /// The most that a score function adds to a score; it limits how exact a result can be.
  double added_score = 0;

  Index rows() const { return mask.num_rows(); }
};

/// The type of keys and values in memory.
enum class Stored { float32, bfloat16 };

/// A problem with its inputs in memory, ready to be run. What is measured of it is kept apart from
/// what it computes, so that a variant can be anything that can be called.
struct Runnable {
  Attention problem;
  Index value_bytes = 4;                          ///< of one value of a key
  std::function<void(const casa::Context&)> run;  ///< computes the output
  /// The largest difference of the last output from the definition, on as many rows as a short time
  /// allows; infinite if a value is NaN.
  std::function<double()> largest_error;
  double error_bound = 0;  ///< what rounding alone can make of it
  /// Writes inputs, mask and output to files folder/name.* (problem_files.hpp).
  std::function<void(const std::string& folder, const std::string& name)> write;
};

/// The problem without a score function, on random queries, keys and values.
Runnable plain(Attention problem, Stored stored = Stored::float32);

/// A named problem. Making one enters it into all_variants().
class Variant {
 public:
  Variant(std::string name, std::function<Runnable()> make);
  Variant(const Variant&) = delete;
  Variant& operator=(const Variant&) = delete;
  ~Variant() = default;

  const std::string& name() const { return name_; }
  Runnable make() const { return make_(); }

 private:
  std::string name_;
  std::function<Runnable()> make_;
};

/// All variants, by name. Throws casa::error where two have the same.
std::vector<const Variant*> all_variants();

}  // namespace bench
