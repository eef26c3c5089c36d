// Which of a job's keys each of its rows sees, and the form in which tiles of scores read that.
#pragma once

#include <algorithm>
#include <span>

#include "casa/attention/kernel/plan.hpp"
#include "casa/attention/kernel/score_tiles.hpp"

CASA_NAMESPACE_BEGIN

namespace detail {

/// For each token of one worker's job, what its rows see of the job's places: an interval, or a
/// list of them whose hull that interval is.
template <class T>
class RowLimits {
  static constexpr Index lanes = simd::kLanes<T>;

 public:
  /// For the jobs of a plan.
  RowLimits(const Plan& plan, Index group, Workspace& workspace)
      : mask_(plan.mask()), group_(group), seen_(workspace.take<Interval>(plan.max_job_rows)) {
    const Index keys = (std::min)(kBlockKeys, plan.max_job_keys) + kMaxTileKeys + 1;
    bits_ = workspace.take<LaneBits>(keys);
    if (mask_.offsets.empty()) return;
    kept_ = workspace.take<Index>(keys);
    offsets_ = workspace.take<Index>(plan.max_job_rows + 1);
    intervals_ = workspace.take<Interval>(plan.max_job_intervals);
  }

  void set(const Job& job) {
    lists_ = false;
    const Interval keys{job.key_begin, job.key_end};
    if (mask_.offsets.empty()) {
      for (Index t = job.row_begin; t < job.row_end; ++t) {
        const Interval seen = meet(mask_.intervals[static_cast<std::size_t>(t)], keys);
        seen_[t - job.row_begin] = seen.size() > 0 ? seen : Interval{};
      }
      return;
    }
    Index count = 0;
    for (Index t = job.row_begin; t < job.row_end; ++t) {
      const Index begin = count;
      offsets_[t - job.row_begin] = begin;
      job.for_each_seen(mask_.row(t), [&](Interval seen) { intervals_[count++] = seen; });
      lists_ = lists_ || count - begin > 1;
      seen_[t - job.row_begin] =
          count > begin ? Interval{intervals_[begin].begin, intervals_[count - 1].end} : Interval{};
    }
    offsets_[job.row_end - job.row_begin] = count;
  }

  /// Whether some row of the job sees more than one interval of its places.
  bool lists() const { return lists_; }

  /// The hull of what rows [begin, end) see: keys that some row may see.
  Interval some(Index begin, Index end) const {
    Interval all;
    for (Index t = begin / group_; t * group_ < end; ++t) all = hull(all, seen_[t]);
    return all;
  }
  /// Keys that every one of rows [begin, end) sees (all of them, unless there are lists); begin <
  /// end.
  Interval every(Index begin, Index end) const {
    if (lists_) return {};
    Index t = begin / group_;
    Interval all = seen_[t];
    for (++t; t * group_ < end; ++t) all = meet(all, seen_[t]);
    return all;
  }

  /// Whether every one of rows [begin, end) sees a place of the job.
  bool all_see(Index begin, Index end, Index place) const {
    for (Index t = begin / group_; t * group_ < end; ++t) {
      bool sees = !lists_ && seen_[t].contains(place);
      if (lists_)
        for (Index i = offsets_[t]; i < offsets_[t + 1]; ++i)
          sees = sees || intervals_[i].contains(place);
      if (!sees) return false;
    }
    return true;
  }

  /// What a panel sees of the keys [seen.begin, seen.end) of the job. Valid until the next call.
  PanelKeys<T> visible(const QueryPanel<T>& panel, Interval seen) {
    return lists_ ? visible_lists(panel, seen) : visible_intervals(panel, seen);
  }

  /// The first and last key of `part` (counted as in PanelKeys) that rows [begin, end) of the panel
  /// see, or less narrow limits; empty if they see none. `seen` as in the last call of visible().
  Interval trimmed(const QueryPanel<T>& panel, Index begin, Index end, Interval seen,
                   Interval part) const {
    if (!lists_) {
      const Interval rows = some(panel.first + begin, panel.first + end);
      return meet({rows.begin - seen.begin, rows.end - seen.begin}, part);
    }
    const LaneBits mask = lane_bits(begin, end);
    while (part.size() > 0 && (bits_[part.begin] & mask) == 0) ++part.begin;
    while (part.size() > 0 && (bits_[part.end - 1] & mask) == 0) --part.end;
    return part;
  }

 private:
  /// Bits [begin, end), end <= 63.
  static LaneBits lane_bits(Index begin, Index end) {
    return (LaneBits{1} << end) - (LaneBits{1} << begin);
  }

  /// Calls f(token, its lanes of the panel) for each token of a panel. Lanes after the panel's
  /// rows repeat the last row.
  template <class F>
  void for_each_token(const QueryPanel<T>& panel, F f) const {
    const Index first = panel.first / group_, last = (panel.first + panel.rows - 1) / group_;
    Index begin = 0, end = (first + 1) * group_ - panel.first;
    for (Index t = first; t < last; ++t) {
      f(t, lane_bits(begin, end));
      begin = end;
      end += group_;
    }
    f(last, lane_bits(begin, panel.width()));
  }

  // Bits are made from marks where what a lane sees begins or ends, by a running exclusive or: a
  // mask costs a few instructions a key and two an interval, however many rows and keys it has.

  PanelKeys<T> visible_intervals(const QueryPanel<T>& panel, Interval seen) {
    const Index count = seen.size(), after = count + kMaxTileKeys;
    PanelKeys<T> keys{count, count, 0, bits_};
    const Interval all = meet(seen, every(panel.first, panel.first + panel.rows));
    if (all.size() == count) {  // (as in most calls of a decoding step, which are short)
      keys.unmasked_begin = 0;
      keys.unmasked_end = count;
      const Index tile = (std::max<Index>)(0, count - kMaxTileKeys);
      std::fill(bits_ + tile, bits_ + count, lane_bits(0, panel.width()));
      std::fill_n(bits_ + count, kMaxTileKeys, LaneBits{0});
      return keys;
    }
    if (all.size() > 0) {
      keys.unmasked_begin = all.begin - seen.begin;
      keys.unmasked_end = all.end - seen.begin;
    }
    // Tiles read bits only where they are not within the unmasked keys.
    const bool from_first = keys.unmasked_begin > 0;
    const Index first_end = from_first ? (std::min)(keys.unmasked_begin + kMaxTileKeys, after) : 0;
    const Index last_begin = (std::max)(keys.unmasked_end - kMaxTileKeys, first_end);
    std::fill_n(bits_, first_end, LaneBits{0});
    std::fill(bits_ + last_begin, bits_ + after + 1, LaneBits{0});
    LaneBits state = 0;
    const auto place = [&](Index key) {
      return std::clamp(key, seen.begin, seen.end) - seen.begin;
    };
    for_each_token(panel, [&](Index t, LaneBits token) {
      const Index begin = place(seen_[t].begin), end = place(seen_[t].end);
      if (begin >= end) return;
      if (from_first)
        bits_[begin] ^= token;
      else
        state ^= token;
      bits_[end] ^= token;
    });
    const auto accumulate = [&](Index begin, Index end) {
      for (Index j = begin; j < end; ++j) bits_[j] = state ^= bits_[j];
    };
    accumulate(0, first_end);
    accumulate(last_begin, after);
    return keys;
  }

  PanelKeys<T> visible_lists(const QueryPanel<T>& panel, Interval seen) {
    const Index size = seen.size();
    std::fill_n(bits_, size + 1, LaneBits{0});
    for_each_token(panel, [&](Index t, LaneBits token) {
      const Interval* const begin = intervals_ + offsets_[t];
      const Interval* const end = intervals_ + offsets_[t + 1];
      for (const Interval *i = std::upper_bound(
               begin, end, seen.begin,
               [](Index place, const Interval&interval) { return place < interval.end; });
           i < end && i->begin < seen.end; ++i) {
        const Interval part = meet(*i, seen);
        bits_[part.begin - seen.begin] ^= token;
        bits_[part.end - seen.begin] ^= token;
      }
    });
    // Keys that no row sees are left out; of those that every row sees, the longest stretch.
    const LaneBits full = lane_bits(0, panel.width());
    PanelKeys<T> keys{0, 0, 0, bits_};
    LaneBits state = 0;
    Index begin = 0;
    for (Index j = 0; j < size; ++j) {
      state ^= bits_[j];
      if (state != 0 && state != full) begin = keys.count + 1;
      kept_[keys.count] = j;
      bits_[keys.count] = state;
      keys.count += state != 0 ? 1 : 0;
      if (keys.count - begin > keys.unmasked_end - keys.unmasked_begin) {
        keys.unmasked_begin = begin;
        keys.unmasked_end = keys.count;
      }
    }
    std::fill_n(bits_ + keys.count, kMaxTileKeys + 1, LaneBits{0});
    if (keys.count < size) keys.kept = kept_;
    return keys;
  }

  MaskView mask_;
  Index group_;
  Interval* seen_;
  LaneBits* bits_;
  bool lists_ = false;
  Index *kept_ = nullptr, *offsets_ = nullptr;
  Interval* intervals_ = nullptr;
};

}  // namespace detail

CASA_NAMESPACE_END
