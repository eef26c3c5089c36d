// The order in which a plan takes query tokens.
//
// A panel computes every key that one of its rows sees, so neighbours should see much the same
// keys. In nearly every mask they do, and tokens are taken as they come. Else they are sorted by
// what they see, where that makes panels see less: rows of a shuffled batch find their neighbours,
// rows that see far more keys than others stand together, and rows that see no key are set apart.
#pragma once

#include <algorithm>
#include <bit>
#include <span>

#include "casa/attention/kernel/interval_sets.hpp"
#include "casa/attention/mask.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// Rows of a plan: the tokens of a mask in some order.
struct RowOrder {
  std::span<const Index> tokens = {};  ///< row r is token tokens[r]; none: row r is token r
  MaskView mask;                       ///< of the rows that see a key, in this order
  Index num_empty = 0;  ///< the last of the tokens, which see no key and are not in the mask

  /// The token of a row.
  Index operator[](Index row) const {
    return tokens.empty() ? row : tokens[static_cast<std::size_t>(row)];
  }
};

/// Looks for the order of one mask.
class OrderSearch {
 public:
  /// For panels of `panel` tokens.
  OrderSearch(const MaskView& mask, Index panel, Workspace& workspace)
      : mask_(mask), panel_(panel), workspace_(workspace), keys_(intervals(), workspace) {}

  RowOrder find() {
    const RowOrder as_it_is{{}, mask_, 0};
    if (mask_.num_rows() <= panel_) return as_it_is;
    if (ascends()) return as_it_is;
    Index num_empty = 0, visible = 0;
    for (Index r = 0; r < mask_.num_rows(); ++r) {
      const Index size = size_of(mask_.row(r));
      visible += size;
      num_empty += size == 0 ? 1 : 0;
    }
    // Panels of ascending intervals see more than each row, too. What they lose is compared with
    // what the best order would, but sorting costs time; below an eighth it is not looked for.
    const Index now = computed(mask_.num_rows(), [](Index r) { return r; });
    if (8 * (now - visible) <= visible) return as_it_is;

    const Index seeing = mask_.num_rows() - num_empty;
    auto* const classes = workspace_.take<unsigned char>(mask_.num_rows());
    std::fill_n(classes, mask_.num_rows(), static_cast<unsigned char>(0));
    Index* const by_place = sorted(seeing, classes);
    for (Index r = 0; r < mask_.num_rows(); ++r)
      classes[r] = static_cast<unsigned char>(
          std::bit_width(static_cast<std::size_t>(size_of(mask_.row(r)))));
    Index* const by_size = sorted(seeing, classes);
    const auto cost = [&](const Index* order) {
      return computed(seeing, [order](Index r) { return order[r]; });
    };
    const Index place_cost = cost(by_place), size_cost = cost(by_size);
    if (8 * (std::min)(place_cost, size_cost) > 7 * now) return as_it_is;
    Index* const order = size_cost < place_cost ? by_size : by_place;
    return {
        {order, static_cast<std::size_t>(mask_.num_rows())}, permuted(order, seeing), num_empty};
  }

 private:
  std::span<const Interval> row(Index r) const {
    const auto list = mask_.row(r);
    return list.size() == 1 && list[0].size() == 0 ? std::span<const Interval>{} : list;
  }

  /// The most intervals that a panel's rows have.
  Index intervals() const {
    if (mask_.offsets.empty()) return 0;
    Index most = 0;
    const auto offset = [&](Index r) { return mask_.offsets[static_cast<std::size_t>(r)]; };
    for (Index r = 0; r < mask_.num_rows(); ++r) most = (std::max)(most, offset(r + 1) - offset(r));
    return most * panel_;
  }

  /// Whether every row sees something, and from row to row no interval begins or ends earlier.
  bool ascends() const {
    std::span<const Interval> last = row(0);
    for (Index r = 0; r < mask_.num_rows(); ++r) {
      const auto list = row(r);
      if (list.empty() || list.size() != last.size()) return false;
      for (std::size_t i = 0; i < last.size(); ++i)
        if (list[i].begin < last[i].begin || list[i].end < last[i].end) return false;
      last = list;
    }
    return true;
  }

  /// Pairs of rows and keys that panels of rows at(0), at(1), ... compute.
  template <class At>
  Index computed(Index rows, At at) {
    Index pairs = 0;
    for (Index begin = 0; begin < rows; begin += panel_) {
      const Index end = (std::min)(begin + panel_, rows);
      Index keys = 0;
      if (mask_.offsets.empty()) {
        Interval all;
        for (Index r = begin; r < end; ++r) all = hull(all, mask_.row(at(r))[0]);
        keys = all.size();
      } else {
        keys_.clear();
        for (Index r = begin; r < end; ++r) keys_.add(mask_.row(at(r)));
        keys = size_of(keys_.intervals());
      }
      pairs += keys * (end - begin);
    }
    return pairs;
  }

  /// All tokens, the `seeing` that see a key first, sorted by their class and then by where their
  /// intervals begin and end.
  Index* sorted(Index seeing, const unsigned char* classes) {
    const Index rows = mask_.num_rows();
    Index* const order = workspace_.take<Index>(rows);
    Index first = 0, empty = seeing;
    for (Index r = 0; r < rows; ++r) order[row(r).empty() ? empty++ : first++] = r;
    std::sort(order, order + seeing, [&](Index a, Index b) {
      if (classes[a] != classes[b]) return classes[a] < classes[b];
      const auto list_a = mask_.row(a), list_b = mask_.row(b);
      for (std::size_t i = 0; i < (std::min)(list_a.size(), list_b.size()); ++i) {
        if (list_a[i].begin != list_b[i].begin) return list_a[i].begin < list_b[i].begin;
        if (list_a[i].end != list_b[i].end) return list_a[i].end < list_b[i].end;
      }
      return list_a.size() != list_b.size() ? list_a.size() < list_b.size() : a < b;
    });
    return order;
  }

  /// The mask of the first `seeing` tokens of an order.
  MaskView permuted(const Index* order, Index seeing) {
    const auto count = static_cast<std::size_t>(seeing);
    if (mask_.offsets.empty()) {
      Interval* const one = workspace_.take<Interval>(seeing);
      for (Index r = 0; r < seeing; ++r) one[r] = mask_.row(order[r])[0];
      return {{one, count}, {}};
    }
    Interval* const all = workspace_.take<Interval>(static_cast<Index>(mask_.intervals.size()));
    Index* const offsets = workspace_.take<Index>(seeing + 1);
    offsets[0] = 0;
    for (Index r = 0; r < seeing; ++r) {
      const auto list = mask_.row(order[r]);
      std::copy(list.begin(), list.end(), all + offsets[r]);
      offsets[r + 1] = offsets[r] + static_cast<Index>(list.size());
    }
    return {{all, static_cast<std::size_t>(offsets[seeing])}, {offsets, count + 1}};
  }

  const MaskView mask_;
  Index panel_;
  Workspace& workspace_;
  KeyUnion keys_;
};

}  // namespace detail

CASA_NAMESPACE_END
