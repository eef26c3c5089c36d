// A decoder written apart from the library: the definition that its streams are held to.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "model/random_model.hpp"

namespace model_test {

using namespace casa;
using Dense = RowMatrix<double>;

/// A token of a stream, for those who say what it sees.
struct TwinToken {
  bool image = false;
  Index window = 0;  // 0 is the text before the first image
  Index place = 0;   // among the window's tokens of its kind
};

/// A decoder by its definition: everything at once, in double, dense masks. Image tokens do not
/// change. What a text row sees in fusion, of what is no later than itself, is a function.
class Twin {
 public:
  using Sees = std::function<bool(const TwinToken& row, const TwinToken& key)>;
  using Visible = std::function<bool(Index row, Index key)>;
  using Distance = std::function<std::int64_t(Index row, Index key)>;

  Twin(const DecoderConfig& config, RandomWeights& weights) : c_(config), weights_(weights) {}

  // images: the image tokens of one window after the other; windows[w]: text at which window
  // w + 1 starts, and its number of image tokens.
  // origins: where positions began to count when each token came.
  Matrix<double> logits(
      const std::vector<int>& ids, const Visible& visible, const Distance& distance,
      const std::vector<Insertion>& windows = {}, const Dense& images = {},
      const std::vector<Index>& origins = {},
      const Sees& sees = [](const TwinToken& row, const TwinToken& key) {
        return row.window == key.window;
      }) const {
    const DecoderSpec spec = decoder_spec(c_);
    const Dense embed = tensor(spec.embed_tokens);
    const auto n = static_cast<Index>(ids.size());
    Dense h(n, c_.hidden_size);
    for (Index i = 0; i < n; ++i) h.row(i) = embed.row(ids[static_cast<std::size_t>(i)]);
    for (std::size_t layer = 0; layer < spec.blocks.size(); ++layer) {
      const BlockSpec& b = spec.blocks[layer];
      const bool fuses = c_.fusion && c_.fusion->has_layer(static_cast<Index>(layer));
      const auto fused = [&] { return fusion(b, h, windows, images, origins, sees); };
      Dense beside = Dense::Zero(h.rows(), h.cols());
      if (fuses && c_.fusion->placement == Placement::parallel)
        beside = fused();
      else if (fuses)
        h += fused();
      const bool slides = c_.slides(static_cast<Index>(layer));
      const auto seen = [&](Index i, Index j) {
        return visible(i, j) && (!slides || distance(i, j) < c_.sliding_window);
      };
      if (!fuses || c_.fusion->placement != Placement::replace) {
        const Dense x = norm(h, *b.input_norm);
        Dense self = attention(*b.self_attention, x, x, seen, distance);
        if (b.token_gate) {
          const Dense g = token_gates(b, h, windows, sees);
          for (Index i = 0; i < n; ++i) self.row(i) *= 1 - g(i, 0), beside.row(i) *= g(i, 0);
        }
        h += self + beside;
      }
      const Dense m = norm(h, b.post_attention_norm);
      const Dense gate = linear(b.mlp.gate, m);
      h += linear(
          b.mlp.down,
          (gate.array() / (1 + (-gate.array()).exp()) * linear(b.mlp.up, m).array()).matrix());
    }
    const Dense out = norm(h, spec.norm) * tensor(*spec.lm_head).transpose();
    Matrix<double> result(out.rows(), out.cols());
    result.eigen() = out;
    return result;
  }

 private:
  Dense tensor(const TensorSpec& s) const { return weights_.get(s).eigen().cast<double>(); }
  Dense linear(const LinearSpec& s, const Dense& x) const {
    Dense y = x * tensor(s.weight).transpose();
    if (s.bias) y.rowwise() += tensor(*s.bias).row(0);
    return y;
  }
  Dense norm(const Dense& x, const TensorSpec& s) const {
    Dense y(x.rows(), x.cols());
    const Dense w = tensor(s);
    for (Index r = 0; r < x.rows(); ++r)
      y.row(r) = (x.row(r) / std::sqrt(x.row(r).squaredNorm() / static_cast<double>(x.cols()) +
                                       c_.rms_norm_eps))
                     .cwiseProduct(w.row(0));
    return y;
  }

  // sigmoid(w . norm(h)) of each row; 0 for a row that sees no image where images are the keys.
  Dense token_gates(const BlockSpec& b, const Dense& h, const std::vector<Insertion>& windows,
                    const Sees& sees) const {
    const Dense x = norm(h, c_.fusion->norm == Sharing::own ? *b.fusion_norm : *b.input_norm);
    const Dense w = tensor(*b.token_gate);
    Dense g(h.rows(), 1);
    for (Index i = 0; i < h.rows(); ++i) {
      Index window = 0;
      for (const Insertion& at : windows) window += at.position <= i ? 1 : 0;
      bool any = c_.fusion->keys == Keys::image_text;
      for (Index image = 1; image <= window; ++image)
        for (Index j = 0; j < windows[static_cast<std::size_t>(image - 1)].num_tokens; ++j)
          any = any || sees({false, window, i}, {true, image, j});
      g(i, 0) = any ? 1 / (1 + std::exp(-x.row(i).dot(w.row(0)))) : 0;
    }
    return g;
  }

  // Keys are images, window after window, then text.
  Dense fusion(const BlockSpec& b, const Dense& h, const std::vector<Insertion>& windows,
               const Dense& images, const std::vector<Index>& origins, const Sees& sees) const {
    const ImageRope rope = c_.fusion->image_rope;
    const bool text_gives_keys = c_.fusion->keys == Keys::image_text;
    const TensorSpec& weight = c_.fusion->norm == Sharing::own ? *b.fusion_norm : *b.input_norm;
    const Dense text = norm(h, weight);
    Dense keys(images.rows() + h.rows(), h.cols());
    if (images.rows() > 0) keys.topRows(images.rows()) = norm(images, weight);
    keys.bottomRows(h.rows()) = text;
    std::vector<TwinToken> tokens;
    std::vector<Index> place_of_key;
    Index images_before = 0;
    for (std::size_t w = 0; w < windows.size(); ++w) {
      const Index first = windows[w].position;
      for (Index j = 0; j < windows[w].num_tokens; ++j) {
        tokens.push_back({true, static_cast<Index>(w) + 1, j});
        place_of_key.push_back(rope == ImageRope::none           ? 0
                               : rope == ImageRope::window_start ? first
                               : rope == ImageRope::consecutive  ? first + j
                                                                 : first + images_before + j);
      }
      images_before += windows[w].num_tokens;
    }
    for (Index i = 0; i < h.rows(); ++i) {
      Index w = 0, here = 0, so_far = 0, begin = 0;
      for (const Insertion& at : windows)
        if (at.position <= i) ++w, here = at.num_tokens, so_far += here, begin = at.position;
      tokens.push_back({false, w, i - begin});
      // Images at 0 are as far as positions have come since they last began to count.
      place_of_key.push_back(rope == ImageRope::none ? i - origins[static_cast<std::size_t>(i)]
                             : rope == ImageRope::window_start ? i
                             : rope == ImageRope::consecutive  ? i + here
                                                               : i + so_far);
    }
    const auto at = [](const auto& v, Index j) { return v[static_cast<std::size_t>(j)]; };
    const Index first_text = images.rows();
    const Dense f = attention(
        c_.fusion->parameters == Sharing::own ? *b.fusion_attention : *b.self_attention, text, keys,
        [&](Index i, Index j) {
          const TwinToken row = at(tokens, first_text + i), key = at(tokens, j);
          return j <= (text_gives_keys ? first_text + i : first_text - 1) &&
                 key.window <= row.window && sees(row, key);
        },
        [&](Index i, Index j) {
          return rope == ImageRope::off ? 0
                                        : at(place_of_key, first_text + i) - at(place_of_key, j);
        });
    return c_.fusion->gate == Gate::tanh ? Dense(std::tanh(tensor(*b.fusion_gate)(0, 0)) * f) : f;
  }

  Dense attention(const AttentionSpec& w, const Dense& from, const Dense& to,
                  const Visible& visible, const Distance& distance) const {
    const Index d = c_.head_dim, group = c_.num_attention_heads / c_.num_key_value_heads;
    const Dense q = linear(w.q, from), k = linear(w.k, to), v = linear(w.v, to);
    Dense out = Dense::Zero(q.rows(), q.cols());
    for (Index i = 0; i < q.rows(); ++i) {
      for (Index head = 0; head < c_.num_attention_heads; ++head) {
        const Index kv = head / group * d;
        Eigen::RowVectorXd p(k.rows());
        for (Index j = 0; j < k.rows(); ++j) {
          p(j) = -std::numeric_limits<double>::infinity();
          if (!visible(i, j)) continue;
          double score = 0;
          for (Index a = 0; a < d / 2; ++a) {
            const double angle =
                static_cast<double>(distance(i, j)) *
                std::pow(c_.rope.theta, -2.0 * static_cast<double>(a) / static_cast<double>(d));
            const double x = q(i, head * d + a), y = q(i, head * d + a + d / 2);
            score += (x * std::cos(angle) - y * std::sin(angle)) * k(j, kv + a) +
                     (y * std::cos(angle) + x * std::sin(angle)) * k(j, kv + a + d / 2);
          }
          p(j) = score / std::sqrt(static_cast<double>(d));
        }
        if (std::isinf(p.maxCoeff())) continue;  // sees nothing
        p = (p.array() - p.maxCoeff()).exp();
        out.block(i, head * d, 1, d) = p * v.middleCols(kv, d) / p.sum();
      }
    }
    return linear(w.o, out);
  }

  DecoderConfig c_;
  RandomWeights& weights_;
};

}  // namespace model_test
