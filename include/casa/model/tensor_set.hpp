// Tensors of a model by name, one after the other in one block of memory: its parameters, their
// gradients, and what an optimiser keeps of each.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "casa/model/weight_reader.hpp"

CASA_NAMESPACE_BEGIN

/// Tensors that can be written, row-major, in the order of their specs and without gaps, so that a
/// sum over all of them or an update of all of them is one loop over values(). Two sets of the same
/// specs (parameters and gradients, say) have the same layout. A set need not hold every tensor of
/// a model: those that are frozen have no place in one.
template <Scalar T>
class TensorSet {
 public:
  /// No tensors.
  TensorSet() = default;
  /// Zeros. Throws casa::error for two specs of one name, and for sizes that are negative or too
  /// large.
  explicit TensorSet(std::vector<TensorSpec> specs) : specs_(std::move(specs)) {
    Index size = 0;
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      const TensorSpec& s = specs_[i];
      require(s.rows >= 0 && s.cols >= 0, "TensorSet: ", s.name,
              ": sizes must not be negative, got ", s.rows, " x ", s.cols);
      require(places_.emplace(s.name, static_cast<Index>(i)).second,
              "TensorSet: two tensors have the name ", s.name);
      begin_.push_back(size);
      size = checked_add(size, checked_mul(s.rows, s.cols == 0 ? 1 : s.cols, s.name), s.name);
    }
    begin_.push_back(size);
    values_ = Buffer<T>(size);
    fill(T{0});
  }

  /// How many tensors there are.
  Index size() const { return std::ssize(specs_); }
  /// As given to the constructor.
  const std::vector<TensorSpec>& specs() const { return specs_; }
  /// The values of all tensors, one after the other.
  std::span<T> values() { return values_.span(); }
  /// The same, to read.
  std::span<const T> values() const { return values_.span(); }
  /// Where in values() tensor i stands. Throws casa::error unless there is one.
  Interval range(Index i) const {
    require(0 <= i && i < size(), "TensorSet: tensor ", i, " of ", size());
    const auto at = static_cast<std::size_t>(i);
    return {begin_[at], begin_[at + 1]};
  }
  /// Tensor i, (rows x cols); a vector is (1 x rows). Throws casa::error unless there is one.
  MatrixView<T> operator[](Index i) { return view<T>(values_.data(), i); }
  /// The same, to read.
  MatrixView<const T> operator[](Index i) const { return view<const T>(values_.data(), i); }

  /// Whether there is a tensor of that name.
  bool contains(std::string_view name) const { return places_.count(std::string(name)) > 0; }
  /// The place of the tensor of that name. Throws casa::error where there is none.
  Index find(std::string_view name) const {
    const auto found = places_.find(std::string(name));
    require(found != places_.end(), "TensorSet: no tensor has the name ", name);
    return found->second;
  }

  /// Sets every value of every tensor.
  void fill(T value) { std::fill_n(values_.data(), values_.size(), value); }

  /// What a model reads its weights from: tensors of this set come from here, all others from
  /// `frozen`, unless that is empty. The set and what `frozen` refers to must outlive it. Its get
  /// throws casa::error for a name that neither has.
  WeightSource source(WeightSource frozen = {}) const {
    WeightSource s;
    s.get = [this, get = std::move(frozen.get)](const TensorSpec& spec) -> StoredView {
      if (!contains(spec.name) && get) return get(spec);
      return (*this)[find(spec.name)];
    };
    s.done = [this, done = std::move(frozen.done)](const TensorSpec& spec) {
      if (!contains(spec.name)) done(spec);
    };
    return s;
  }

 private:
  template <class U>
  MatrixView<U> view(U* data, Index i) const {
    const Interval at = range(i);
    const TensorSpec& s = specs_[static_cast<std::size_t>(i)];
    return s.cols == 0 ? MatrixView<U>(data + at.begin, 1, s.rows)
                       : MatrixView<U>(data + at.begin, s.rows, s.cols);
  }

  std::vector<TensorSpec> specs_;
  std::unordered_map<std::string, Index> places_;
  std::vector<Index> begin_;
  Buffer<T> values_;
};

/// The specs of all tensors of a spec (DecoderSpec, BlockSpec ..), in the order of computation.
template <class Spec>
std::vector<TensorSpec> tensor_specs(const Spec& spec) {
  std::vector<TensorSpec> all;
  for_each_tensor(spec, [&](const TensorSpec& s) { all.push_back(s); });
  return all;
}

CASA_NAMESPACE_END
