// Token insertion as its definition: images are tokens of one stream, a dense causal mask,
// everything computed anew for every call, in double. The reference that the rungs of the ladder
// are held against; it shares no code with them beyond the names of the weights and the check of
// what it is given.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "casa/model/config.hpp"
#include "casa/model/weights.hpp"
#include "casa/stream/layout.hpp"

CASA_NAMESPACE_BEGIN

/// A decoder that takes images as tokens of its stream.
class NaiveTokenInsertion {
 public:
  using Dense = RowMatrix<double>;
  /// Gives the tensor of that name and shape (a vector as rows x 1) in double.
  using Source = std::function<Dense(const TensorSpec&)>;
  /// Which earlier places a place of the stream sees besides itself: everything, by default.
  using Mask = std::function<bool(Index row, Index key)>;
  /// Called with the softmax weights (places x places) of each head.
  using Show = std::function<void(Index layer, Index head, const Dense& weights)>;

  /// Throws casa::error for a config out of range and a tensor of another shape.
  NaiveTokenInsertion(const DecoderConfig& config, const Source& given) : config_(config) {
    config_.fusion.reset();
    check(config_);
    require(std::holds_alternative<std::monostate>(config_.rope.scaling) &&
                config_.rope.mrope_sections.empty() && config_.sliding_layers.empty(),
            "NaiveTokenInsertion: scaled rotary embeddings, mrope_sections and sliding windows are "
            "not computed here");
    const Source source = [&given](const TensorSpec& s) {
      Dense values = given(s);
      const Index cols = s.cols == 0 ? 1 : s.cols;
      if (values.rows() != s.rows || values.cols() != cols)
        fail("weights: ", s.name, ": expected ", s.rows, " x ", cols, " values, got ",
             values.rows(), " x ", values.cols());
      return values;
    };
    const DecoderSpec spec = decoder_spec(config_);
    embed_ = source(spec.embed_tokens);
    head_ = spec.lm_head ? source(*spec.lm_head) : embed_;
    norm_ = source(spec.norm);
    for (const BlockSpec& b : spec.blocks) {
      const auto linear = [&](const LinearSpec& l) {
        return Linear{source(l.weight), l.bias ? source(*l.bias) : Dense::Zero(l.weight.rows, 1)};
      };
      const AttentionSpec& a = *b.self_attention;
      blocks_.push_back({source(*b.input_norm), source(b.post_attention_norm), linear(a.q),
                         linear(a.k), linear(a.v), linear(a.o), linear(b.mlp.gate),
                         linear(b.mlp.up), linear(b.mlp.down)});
    }
  }

  /// Logits (text_len, vocab_size) of the text rows of a stream of ids with image_tokens
  /// (image_len, hidden_size) inserted. Throws casa::error for ids out of range and sizes that do
  /// not fit.
  Dense logits(std::span<const int> ids, std::span<const Insertion> insertions,
               const Dense& image_tokens, const Mask& mask = {}, const Show& show = {}) const {
    for (const int id : ids)
      require(id >= 0 && id < config_.vocab_size, "logits: token id must be in [0, ",
              config_.vocab_size, "), got ", id);
    const StreamLayout layout(std::ssize(ids), insertions);
    require_equal("logits: rows of image_tokens", image_tokens.rows(), layout.image_len());
    if (image_tokens.rows() > 0)
      require_equal("logits: columns of image_tokens", image_tokens.cols(), config_.hidden_size);
    std::vector<Index> text_rows;
    Dense h = merge(ids, insertions, image_tokens, text_rows);
    for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
      const Block& b = blocks_[layer];
      h += attention(b, rms_norm(h, b.input_norm), mask, [&](Index head, const Dense& weights) {
        if (show) show(static_cast<Index>(layer), head, weights);
      });
      const Dense n = rms_norm(h, b.post_norm);
      const Dense gate = b.gate(n);
      h += b.down((gate.array() / (1 + (-gate.array()).exp()) * b.up(n).array()).matrix());
    }
    const Dense all = rms_norm(h, norm_) * head_.transpose();
    Dense text(static_cast<Index>(text_rows.size()), config_.vocab_size);
    for (std::size_t i = 0; i < text_rows.size(); ++i)
      text.row(static_cast<Index>(i)) = all.row(text_rows[i]);
    return text;
  }

 private:
  struct Linear {
    Dense weight, bias;
    Dense operator()(const Dense& x) const {
      Dense y = x * weight.transpose();
      y.rowwise() += bias.col(0).transpose();
      return y;
    }
  };
  struct Block {
    Dense input_norm, post_norm;
    Linear q, k, v, o, gate, up, down;
  };

  Dense merge(std::span<const int> ids, std::span<const Insertion> insertions,
              const Dense& image_tokens, std::vector<Index>& text_rows) const {
    const Index text_len = static_cast<Index>(ids.size());
    Dense h(text_len + image_tokens.rows(), config_.hidden_size);
    Index row = 0, image = 0;
    std::size_t next = 0;
    for (Index i = 0; i <= text_len; ++i) {
      for (; next < insertions.size() && insertions[next].position == i; ++next)
        for (Index j = 0; j < insertions[next].num_tokens; ++j)
          h.row(row++) = image_tokens.row(image++);
      if (i == text_len) break;
      text_rows.push_back(row);
      h.row(row++) = embed_.row(ids[static_cast<std::size_t>(i)]);
    }
    return h;
  }

  Dense rms_norm(const Dense& x, const Dense& weight) const {
    Dense y(x.rows(), x.cols());
    for (Index r = 0; r < x.rows(); ++r) {
      const double scale = 1 / std::sqrt(x.row(r).squaredNorm() / static_cast<double>(x.cols()) +
                                         config_.rms_norm_eps);
      y.row(r) = (x.row(r) * scale).cwiseProduct(weight.col(0).transpose());
    }
    return y;
  }

  void rotate(Dense& x, Index heads) const {
    const Index d = config_.head_dim;
    const bool half = config_.rope.style == RopeStyle::half;
    for (Index p = 0; p < x.rows(); ++p) {
      for (Index head = 0; head < heads; ++head) {
        for (Index i = 0; i < d / 2; ++i) {
          const double angle =
              static_cast<double>(p) *
              std::pow(config_.rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          double& a = x(p, head * d + (half ? i : 2 * i));
          double& b = x(p, head * d + (half ? i + d / 2 : 2 * i + 1));
          const double a0 = a, b0 = b;
          a = a0 * std::cos(angle) - b0 * std::sin(angle);
          b = b0 * std::cos(angle) + a0 * std::sin(angle);
        }
      }
    }
  }

  Dense attention(const Block& b, const Dense& x, const Mask& mask,
                  const std::function<void(Index, const Dense&)>& show) const {
    const Index d = config_.head_dim, n = x.rows(), heads = config_.num_attention_heads;
    const Index group = heads / config_.num_key_value_heads;
    Dense q = b.q(x), k = b.k(x);
    const Dense v = b.v(x);
    rotate(q, heads);
    rotate(k, config_.num_key_value_heads);
    Dense out(n, heads * d);
    for (Index head = 0; head < heads; ++head) {
      const Index kv = head / group;
      Dense scores = q.middleCols(head * d, d) * k.middleCols(kv * d, d).transpose() /
                     std::sqrt(static_cast<double>(d));
      for (Index i = 0; i < n; ++i)
        for (Index j = 0; j < n; ++j)
          if (j > i || (j < i && mask && !mask(i, j)))
            scores(i, j) = -std::numeric_limits<double>::infinity();
      for (Index i = 0; i < n; ++i) {
        scores.row(i) = (scores.row(i).array() - scores.row(i).maxCoeff()).exp();
        scores.row(i) /= scores.row(i).sum();
      }
      show(head, scores);
      out.middleCols(head * d, d) = scores * v.middleCols(kv * d, d);
    }
    return b.o(out);
  }

  DecoderConfig config_;
  Dense embed_, head_, norm_;
  std::vector<Block> blocks_;
};

CASA_NAMESPACE_END
