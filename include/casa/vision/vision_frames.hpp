// Frames of a video through a vision tower, one after the other: windows of patches in which
// nothing changed since they were computed are not computed again.
//
// What a patch of the tower becomes depends on its own pixels until the first block, on those of
// its window until the first block of full attention, and on the whole frame from there on. So
// there are two ways to reuse:
//
//   exact        The state of a window before the first block of full attention is kept. If none
//                of its patches changed, these blocks are not computed for it. From there on all
//                patches are. In Qwen2.5-VL's tower (fullatt_block_indexes 7, 15, 23, 31) this
//                saves at most the patch embedding and 7 of 32 blocks, and all of them where no
//                patch of the frame changed.
//   approximate  Windows in which nothing changed keep their tokens, and in each block of full
//                attention their keys and values. Those that changed are computed through all
//                blocks, and attend to these keys. What is neglected is how the change would have
//                reached the other windows through full attention.
//
// A window is computed whole, or not at all. That also the embedding of single patches could be
// kept, in windows that changed, would save 0.4 % of a block a patch, and is not done.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "casa/vision/frame_reuse.hpp"
#include "casa/vision/vision_tower.hpp"

CASA_NAMESPACE_BEGIN

/// The tower for the frames of one video, for one caller at a time.
///
/// Frames of other sizes than the last one, of another Context::precision, or of another width of
/// patches, are computed as a whole; so is every frame with Path::naive. After an encode() that
/// threw, too, the next frame is.
///
/// With PatchReuse::exact tokens have the bits that VisionTower::encode() gives. With
/// PatchReuse::approximate they have them where all windows are computed.
///
/// Kept are, in scalars a patch: the patch as it was given; exact: hidden_size values;
/// approximate: 2 * hidden_size for each block of full attention; out_hidden_size / merge_unit()
/// for the tokens. For Qwen2.5-VL-3B and patches of one frame that is 9.5 or 46 KB a patch in
/// float: 9.7 or 47 MB for 448 x 448 pixels. Only one frame is kept, and FrameReuse::most_bytes
/// bounds it.
template <Scalar T>
class VisionFrames {
 public:
  /// `tower` must outlive this, and stay what it is. Throws casa::error for options out of range.
  explicit VisionFrames(const VisionTower<T>& tower, const FrameReuse& options = {})
      : tower_(&tower), options_(options) {
    check(options_);
    const VisionTowerConfig& c = tower.config();
    while (reach_ < c.depth && !c.is_full_attention(reach_)) ++reach_;
    for (Index b = 0; b < c.depth; ++b) num_full_ += c.is_full_attention(b);
  }

  /// As VisionTower::encode(), of which it throws what that throws.
  void encode(MatrixView<const T> patches, std::span<const VisionGrid> grids, MatrixView<T> tokens,
              const Context& context) {
    tower_->check_sizes(patches, grids, tokens, {});
    detail::with_precision(context, tower_->precision(), [&](const Context& c) {
      run({patches, grids, tokens, c});
    });
  }

  /// The next frame is computed as a whole.
  void forget() { known_ = false; }
  /// As given to the constructor.
  const FrameReuse& options() const { return options_; }
  /// What it has done.
  const FrameReuseCounts& counts() const { return counts_; }
  /// How many blocks, from the first, have window attention: those that exact reuse can save.
  Index exact_blocks() const { return reach_; }
  /// Whether the tokens of the last frame have the bits that VisionTower::encode() gives.
  bool last_is_exact() const { return !approximated_; }
  /// Bytes kept of the last frame.
  Index bytes() const {
    Index values = patches_.size() + hidden_.size() + tokens_.size();
    for (const KeptKeys& kept : keys_) values += kept.k.size() + kept.v.size();
    return values * Index{sizeof(T)};
  }

 private:
  using Rows = detail::TowerRows<T>;
  struct Call {
    MatrixView<const T> patches;
    std::span<const VisionGrid> grids;
    MatrixView<T> tokens;
    const Context& context;
  };
  // Keys, rotated, and values of a block of full attention, (rows x hidden_size).
  struct KeptKeys {
    Matrix<T> k, v;
  };

  const VisionTowerConfig& config() const { return tower_->config(); }
  bool approximates() const { return options_.reuse == PatchReuse::approximate; }

  void run(const Call& call) {
    const Index rows = call.patches.rows();
    ++counts_.frames;
    counts_.patches += rows;
    approximated_ = false;
    if (options_.reuse == PatchReuse::none || call.context.path == Path::naive ||
        !fits_memory(rows, call.patches.cols())) {
      known_ = false;
      counts_.computed += rows;
      tower_->run(call.patches, call.grids, call.tokens, scratch_, call.context, {}, nullptr);
      return;
    }
    const bool whole = !continues(call);
    known_ = false;  // should one of the next lines throw
    tower_->arrange(scratch_, call.grids, call.context);
    if (whole) make_room(call);
    choose_windows(call, whole);
    const auto computed = static_cast<Index>(row_.size());
    counts_.computed += computed;
    if (computed == 0) {
      ++counts_.unchanged;
    } else {
      keep_patches(call.patches);
      compute(call);
    }
    call.tokens.eigen() = tokens_.eigen();
    if (computed > 0 && computed < rows) {
      ++counts_.in_part;
      ++in_part_;
      stale_ = stale_ || approximates();
    } else if (computed == rows) {
      in_part_ = 0;
      stale_ = false;
    }
    approximated_ = stale_;
    if (options_.measure_error && approximated_) measure(call);
    known_ = true;
  }

  // Whether so much may be kept.
  bool fits_memory(Index rows, Index width) const {
    const VisionTowerConfig& c = config();
    const Index states = approximates() ? 2 * num_full_ : 1;
    const Index values = checked_add(
        checked_add(width, checked_mul(states, c.hidden_size, "vision frames"), "vision frames"),
        detail::ceil_div(c.out_hidden_size, c.merge_unit()), "vision frames");
    return checked_mul(values, rows, "vision frames") <=
           options_.most_bytes / static_cast<Index>(sizeof(T));
  }

  // Whether what is kept is of a frame like this one.
  bool continues(const Call& call) const {
    const bool refresh = options_.refresh_every > 0 && in_part_ >= options_.refresh_every;
    return known_ && !(approximates() && refresh) && precision_ == call.context.precision &&
           patches_.cols() == call.patches.cols() &&
           std::equal(scratch_.grids.begin(), scratch_.grids.end(), call.grids.begin(),
                      call.grids.end());
  }

  void make_room(const Call& call) {
    const Index rows = call.patches.rows(), width = config().hidden_size;
    const auto resize = [](Matrix<T>& m, Index r, Index c) {
      if (m.rows() != r || m.cols() != c) m = Matrix<T>(r, c);
    };
    precision_ = call.context.precision;
    resize(patches_, rows, call.patches.cols());
    resize(tokens_, call.tokens.rows(), call.tokens.cols());
    if (!approximates()) return resize(hidden_, rows, width);
    keys_.resize(static_cast<std::size_t>(num_full_));
    for (KeptKeys& kept : keys_) {
      resize(kept.k, rows, width);
      resize(kept.v, rows, width);
    }
  }

  bool changed(MatrixView<const T> patches, Index patch) const {
    const T *a = patches.row(patch), *b = patches_.row(patch);
    const Index width = patches.cols();
    if (std::memcmp(a, b, static_cast<std::size_t>(width) * sizeof(T)) == 0) return false;
    if (options_.largest_difference == 0) return true;
    double sum = 0;
    for (Index i = 0; i < width; ++i)
      sum += std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    // (A sum that is NaN is a change.)
    return !(sum <= options_.largest_difference * static_cast<double>(width));
  }

  // The windows to be computed, and their rows.
  void choose_windows(const Call& call, bool whole) {
    const VisionOrder& order = scratch_.order;
    const std::size_t windows = order.windows.size() - 1;
    computed_.assign(windows, 1);
    if (!whole)
      call.context.executor.for_each(static_cast<Index>(windows), [&](Index w, Index) {
        const auto at = static_cast<std::size_t>(w);
        bool any = false;
        for (Index r = order.windows[at]; r < order.windows[at + 1] && !any; ++r)
          any = changed(call.patches, order.patch[static_cast<std::size_t>(r)]);
        computed_[at] = any;
      });
    if (!approximates()) add_windows_for_bits();
    gather_rows();
    rope_ = &scratch_.rope;
    if (row_.size() != order.patch.size() && !row_.empty()) {
      own_rope_.assign(tower_->rope_, part_.position, call.context);
      rope_ = &own_rope_;
    }
  }

  // Linear rounds more than kWholePanelRows rows to bfloat16 with Precision::storage, and fewer
  // not: its rows have the bits of the whole frame where both are fewer, or both more. The merger's
  // have merge_unit() patches.
  void add_windows_for_bits() {
    const VisionOrder& order = scratch_.order;
    const Index unit = config().merge_unit(), few = detail::kWholePanelRows;
    Index rows = 0;
    for (std::size_t w = 0; w < computed_.size(); ++w)
      if (computed_[w]) rows += order.windows[w + 1] - order.windows[w];
    for (std::size_t w = 0; w < computed_.size() && rows > 0 && rows / unit <= few; ++w)
      if (!computed_[w]) {
        computed_[w] = 1;
        rows += order.windows[w + 1] - order.windows[w];
      }
  }

  // The order of the rows of these windows, one after the other.
  void gather_rows() {
    const VisionOrder& order = scratch_.order;
    const Index unit = config().merge_unit();
    row_.clear();
    for (auto* v : {&part_.patch, &part_.token, &part_.windows}) v->clear();
    for (auto* v : {&part_.window, &part_.frame}) v->clear();
    part_.position.clear();
    part_.windows.push_back(0);
    for (std::size_t w = 0; w < computed_.size(); ++w) {
      if (!computed_[w]) continue;
      const Index begin = order.windows[w], end = order.windows[w + 1],
                  first = part_.windows.back();
      for (Index r = begin; r < end; ++r) {
        const auto at = static_cast<std::size_t>(r);
        row_.push_back(r);
        part_.patch.push_back(order.patch[at]);
        part_.position.push_back(order.position[at]);
        part_.window.push_back({first, first + end - begin});
        part_.frame.push_back(order.frame[at]);
        if (r % unit == 0) part_.token.push_back(order.token[static_cast<std::size_t>(r / unit)]);
      }
      part_.windows.push_back(first + end - begin);
    }
  }
  Rows part() const {
    return {part_.patch, part_.token, part_.window, part_.windows, part_.frame, rope_};
  }

  void keep_patches(MatrixView<const T> patches) {
    for (const Index patch : part_.patch)
      std::copy_n(patches.row(patch), patches.cols(), patches_.row(patch));
  }

  void compute(const Call& call) {
    const Context& context = call.context;
    const Workspace::Frame frame(context.workspace);
    const Rows rows = part();
    const MatrixView<T> x = context.workspace.matrix<T>(rows.count(), config().hidden_size);
    tower_->embed(call.patches, rows, x, context);
    if (approximates())
      run_approximate(x, rows, context);
    else
      run_exact(x, rows, context);
  }
  void run_exact(MatrixView<T> x, const Rows& rows, const Context& context) {
    const VisionTower<T>& tower = *tower_;
    for (Index b = 0; b < reach_; ++b)
      tower.run_block(b, x, rows, scratch_.cache, context, nullptr);
    if (reach_ == config().depth) return tower.merge(x, rows, tokens_, context);
    scatter(x, hidden_);
    const Rows all = VisionTower<T>::rows_of(scratch_);
    const MatrixView<T> whole = context.workspace.matrix<T>(all.count(), config().hidden_size);
    whole.eigen() = hidden_.eigen();
    for (Index b = reach_; b < config().depth; ++b)
      tower.run_block(b, whole, all, scratch_.cache, context, nullptr);
    tower.merge(whole, all, tokens_, context);
  }
  void run_approximate(MatrixView<T> x, const Rows& rows, const Context& context) {
    auto kept = keys_.begin();
    for (Index b = 0; b < config().depth; ++b) {
      if (config().is_full_attention(b))
        run_full_block(b, x, rows, *kept++, context);
      else
        tower_->run_block(b, x, rows, scratch_.cache, context, nullptr);
    }
    tower_->merge(x, rows, tokens_, context);
  }

  // Block b for these rows, over the keys of all.
  void run_full_block(Index b, MatrixView<T> x, const Rows& rows, KeptKeys& kept,
                      const Context& context) {
    const BlockWeights<T>& weights = tower_->blocks_[static_cast<std::size_t>(b)];
    const detail::BlockPass<T> pass = tower_->pass_of(rows);
    const detail::AttentionSteps<T> steps(pass, context);
    {
      const Workspace::Frame frame(context.workspace);
      const detail::Qkv<T> own = steps.split(
          steps.project(weights.self_attention.qkv, steps.normed(x, weights.input_norm)));
      steps.rotate(own.q, pass.self_rope);
      steps.rotate(own.k, pass.self_rope);
      scatter(own.k, kept.k);
      scatter(own.v, kept.v);
      detail::prepare_cache(scratch_.cache, config().num_heads, config().head_dim(), kept.k.rows(),
                            context);
      steps.append(scratch_.cache.self, {.k = kept.k, .v = kept.v}, {0, kept.k.rows()});
      const MatrixView<T> out = steps.matrix(x.rows(), steps.q_width());
      const typename detail::AttentionSteps<T>::StreamQueries queries{
          .rows = x.rows(), .seen = {rows.frame, {}}, .cache = &scratch_.cache.self};
      steps.attend(own.q, {&queries, 1}, out);
      weights.self_attention.o.forward(out, x, context, Accumulate::yes);
    }
    const Workspace::Frame frame(context.workspace);
    weights.mlp.forward(steps.normed(x, weights.post_attention_norm), x, context, Accumulate::yes);
  }

  // Rows of a part of the frame to where they belong.
  void scatter(MatrixView<const T> from, MatrixView<T> to) const {
    for (std::size_t i = 0; i < row_.size(); ++i)
      std::copy_n(from.row(static_cast<Index>(i)), from.cols(), to.row(row_[i]));
  }

  // How far the tokens of this frame are off.
  void measure(const Call& call) {
    Matrix<T> whole(call.tokens.rows(), call.tokens.cols());
    tower_->run(call.patches, call.grids, whole, scratch_, call.context, {}, nullptr);
    const auto square = [](const auto& m) { return m.template cast<double>().squaredNorm(); };
    const double size = square(whole.eigen());
    const double off = square(call.tokens.eigen() - whole.eigen());
    const double error = off == 0 ? 0 : std::sqrt(off / size);
    ++counts_.measured;
    counts_.error_sum += error;
    counts_.largest_error = (std::max)(counts_.largest_error, error);
  }

  const VisionTower<T>* tower_;
  FrameReuse options_;
  Index reach_ = 0;     // blocks before the first of full attention
  Index num_full_ = 0;  // blocks of full attention
  FrameReuseCounts counts_;
  typename VisionTower<T>::Scratch scratch_;

  // Of the last frame, where known_.
  bool known_ = false, stale_ = false, approximated_ = false;
  Index in_part_ = 0;  // frames computed in part since one was computed as a whole
  Precision precision_ = Precision::full;
  Matrix<T> patches_;           // each as it was when its window was computed
  Matrix<T> hidden_;            // exact: before block reach_
  std::vector<KeptKeys> keys_;  // approximate: of each block of full attention
  Matrix<T> tokens_;

  // Of the windows that are computed.
  std::vector<char> computed_;  // of each window
  std::vector<Index> row_;      // their rows among all
  VisionOrder part_;            // what VisionOrder says of all, of these rows
  RopeTable<T> own_rope_;
  const RopeTable<T>* rope_ = nullptr;
};

CASA_NAMESPACE_END
