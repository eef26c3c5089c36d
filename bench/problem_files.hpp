// The files of attention problems, which other programs read: queries, keys, values, output, mask,
// and a table of the shapes.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "casa/attention/mask.hpp"
#include "casa/core/error.hpp"
#include "casa/core/scalar.hpp"

namespace bench {

/// Writes folder/<case>.<what>.<type>, in the machine's byte order; the type is f32, bf16 (the
/// upper half of a float) or i64. Throws casa::error if a file cannot be written.
class ProblemFiles {
 public:
  ProblemFiles(const std::string& folder, const std::string& name)
      : path_(folder + "/" + name + ".") {}

  template <class V>
  void write(const std::string& what, std::span<const V> values) const {
    const std::string path = path_ + what +
                             (std::is_same_v<V, std::int64_t> ? ".i64"
                              : sizeof(V) == 2                ? ".bf16"
                                                              : ".f32");
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size_bytes()));
    casa::require(file.flush().good(), "cannot write ", path);
  }

  /// <case>.intervals.i64, begin and end of each interval, and where rows have lists of them
  /// <case>.offsets.i64, (rows + 1) as in casa::MaskView.
  void write(const casa::MaskView& mask) const {
    std::vector<std::int64_t> numbers;
    for (const casa::Interval i : mask.intervals) {
      numbers.push_back(i.begin);
      numbers.push_back(i.end);
    }
    write("intervals", std::span<const std::int64_t>(numbers));
    if (mask.offsets.empty()) return;
    numbers.assign(mask.offsets.begin(), mask.offsets.end());
    write("offsets", std::span<const std::int64_t>(numbers));
  }

 private:
  std::string path_;
};

/// A line of the table of shapes.
struct ProblemShape {
  std::string name;
  casa::Index rows, keys, num_heads, num_kv_heads, head_dim, value_dim;
  double work;  ///< of one run, in billions of `unit`
  std::string unit;
};

/// Writes folder/cases.csv. Throws casa::error if it cannot be written.
inline void write_shapes(const std::string& folder, const std::vector<ProblemShape>& shapes) {
  const std::string path = folder + "/cases.csv";
  std::ofstream file(path);
  file.precision(12);
  file << "case,rows,keys,num_heads,num_kv_heads,head_dim,value_dim,work,unit\n";
  for (const ProblemShape& s : shapes)
    file << s.name << ',' << s.rows << ',' << s.keys << ',' << s.num_heads << ',' << s.num_kv_heads
         << ',' << s.head_dim << ',' << s.value_dim << ',' << s.work << ',' << s.unit << '\n';
  casa::require(file.flush().good(), "cannot write ", path);
}

}  // namespace bench
