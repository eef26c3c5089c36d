// Attention against the reference's outputs, log-sum-exp and gradients: self-attention,
// cross-attention, CASA and token insertion as intervals of one order of keys each.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "attention/gradients.hpp"
#include "attention/problem.hpp"
#include "casa/stream/visibility.hpp"
#include "golden.hpp"

using namespace casa;
using attention_test::Gradients;

namespace {

template <class T>
struct Tokens {
  Matrix<T> q, k, v;
};

// One mode of one case: who asks, in which order the keys lie, what each row sees.
template <class T>
struct GoldenProblem {
  AttentionShape shape;
  double scale = 1;
  Matrix<T> q, k, v;
  std::vector<Interval> intervals;
  Matrix<double> out, lse;  // the reference's
  Matrix<T> d_out;
  Gradients<double> gradients;  // the reference's
};

template <class T>
Matrix<T> stacked(const StreamLayout& layout, const Matrix<T>& text, const Matrix<T>& image) {
  Matrix<T> all(text.rows() + image.rows(), text.cols());
  Index row = 0;
  for_each_piece(layout, 0, 0, [&](bool is_image, Interval piece) {
    for (Index i = piece.begin; i < piece.end; ++i)
      std::copy_n((is_image ? image : text).row(i), all.cols(), all.row(row++));
  });
  return all;
}

template <class T>
GoldenProblem<T> problem(const golden::Case& c, const std::string& mode) {
  const auto d = c.description();
  GoldenProblem<T> p;
  p.shape = {d.at("n_heads").as_int(), d.at("n_kv_heads").as_int(), d.at("head_dim").as_int()};
  p.scale = d.at("scale").as_number();
  std::vector<Insertion> insertions;
  for (const auto& [position, count] : c.insertions()) insertions.push_back({position, count});
  const StreamLayout layout(d.at("text_len").as_int(), insertions);
  const Tokens<T> text{c.matrix<T>("q"), c.matrix<T>("k"), c.matrix<T>("v")};
  const Tokens<T> image{c.matrix<T>("q_img"), c.matrix<T>("k_img"), c.matrix<T>("v_img")};

  const Interval rows{0, layout.text_len()};
  p.intervals.resize(static_cast<std::size_t>(rows.size()));
  p.q = text.q;
  p.out = c.matrix<double>(mode + ".out");
  p.lse = c.matrix<double>(mode + ".lse");
  p.d_out = c.matrix<T>("d_out");
  const auto gradient = [&](const char* name) { return c.matrix<double>(mode + "." + name); };
  p.gradients.q = gradient("d_q");
  if (mode == "sa") {
    text_intervals(layout, rows, Keys::text, History::all, p.intervals);
    p.k = text.k;
    p.v = text.v;
    p.gradients.k = gradient("d_k");
    p.gradients.v = gradient("d_v");
  } else if (mode == "ca") {
    text_intervals(layout, rows, Keys::image, History::window, p.intervals);
    p.k = image.k;
    p.v = image.v;
    p.gradients.k = gradient("d_k_img");
    p.gradients.v = gradient("d_v_img");
  } else {
    p.k = stacked(layout, text.k, image.k);
    p.v = stacked(layout, text.v, image.v);
    p.gradients.k = stacked(layout, gradient("d_k"), gradient("d_k_img"));
    p.gradients.v = stacked(layout, gradient("d_v"), gradient("d_v_img"));
    text_intervals(layout, rows, Keys::image_text, mode == "ti" ? History::all : History::window,
                   p.intervals);
  }
  if (mode == "ti") {  // image rows ask too, in the order of the stream
    const Interval images{0, layout.image_len()};
    std::vector<Interval> of_images(static_cast<std::size_t>(images.size()));
    image_intervals(layout, images, Keys::image_text, History::all, of_images);
    p.q = stacked(layout, text.q, image.q);
    p.out = stacked(layout, p.out, c.matrix<double>("ti.out_img"));
    p.lse = stacked(layout, p.lse, c.matrix<double>("ti.lse_img"));
    p.d_out = stacked(layout, p.d_out, c.matrix<T>("d_out_img"));
    p.gradients.q = stacked(layout, p.gradients.q, c.matrix<double>("ti.d_q_img"));
    std::vector<Interval> merged;
    for_each_piece(layout, 0, 0, [&](bool is_image, Interval piece) {
      const auto& from = is_image ? of_images : p.intervals;
      merged.insert(merged.end(), from.begin() + piece.begin, from.begin() + piece.end);
    });
    p.intervals = std::move(merged);
  }
  return p;
}

// |out - reference| <= eps V (1 + A) and |lse - reference| <= 2 eps (1 + A + log n), with V the
// largest |v| and A the largest sum of |terms| of a score among the keys a row sees: what rounding
// every term once costs, whatever cancels. Finiteness comes first.
template <class T>
void check(const GoldenProblem<T>& p, const Matrix<T>& out, const Matrix<T>& lse) {
  const auto eps = static_cast<double>(std::numeric_limits<T>::epsilon());
  const Index heads = p.shape.num_heads, kv_heads = p.shape.num_kv_heads,
              head_dim = p.shape.head_dim;
  double worst = 0;
  for (Index r = 0; r < p.q.rows(); ++r) {
    const Interval seen = p.intervals[static_cast<std::size_t>(r)];
    for (Index h = 0; h < heads; ++h) {
      const Index kv = h / (heads / kv_heads);
      double largest_v = 0, largest_score = 0;
      for (Index j = seen.begin; j < seen.end; ++j) {
        double score = 0;
        for (Index i = 0; i < head_dim; ++i) {
          score += std::abs(static_cast<double>(p.q(r, h * head_dim + i)) *
                            static_cast<double>(p.k(j, kv * head_dim + i)));
          largest_v = std::max(largest_v, std::abs(static_cast<double>(p.v(j, kv * head_dim + i))));
        }
        largest_score = std::max(largest_score, p.scale * score);
      }
      const double lse_reference = p.lse(r, h), lse_actual = static_cast<double>(lse(r, h));
      if (seen.size() == 0) {
        CHECK(lse_actual == -std::numeric_limits<double>::infinity());
        for (Index i = 0; i < head_dim; ++i) CHECK(out(r, h * head_dim + i) == T{0});
        continue;
      }
      REQUIRE(std::isfinite(lse_actual));
      const double lse_bound =
          2 * eps * (1 + largest_score + std::log(static_cast<double>(seen.size())));
      CHECK(std::abs(lse_actual - lse_reference) <= lse_bound);
      const double bound = eps * largest_v * (1 + largest_score);
      for (Index i = 0; i < head_dim; ++i) {
        const double actual = static_cast<double>(out(r, h * head_dim + i));
        REQUIRE(std::isfinite(actual));
        const double off = std::abs(actual - p.out(r, h * head_dim + i));
        if (bound > 0) worst = std::max(worst, off / bound);
        CHECK(off <= bound);
      }
    }
  }
  INFO("worst cell, as a part of its bound: ", worst);
  CHECK(worst <= 1);
}

template <class T>
void check_backward(const GoldenProblem<T>& p, const Context& context) {
  attention_test::Variant<T> v;
  v.shape = p.shape;
  v.scale = p.scale;
  v.rows = p.q.rows();
  v.mask = {p.intervals, {}};
  v.counts = {p.k.rows()};
  v.q.assign(p.q.data(), p.q.data() + p.q.size());
  v.allocate();
  const Index dim = p.shape.head_dim;
  for (Index h = 0; h < p.shape.num_kv_heads; ++h)
    for (Index j = 0; j < p.k.rows(); ++j) {
      std::copy_n(p.k.row(j) + h * dim, dim, v.key(h, j));
      std::copy_n(p.v.row(j) + h * dim, dim, v.value(h, j));
    }
  check_gradients(differentiate(v, p.d_out, PlainScore{}, context), p.gradients,
                  gradient_bounds(v, attention_test::Steps{}, p.d_out));
}

template <class T>
void check_case(const golden::Case& c, Path path) {
  Context context;
  context.path = path;
  REQUIRE(c.description().at("modes").size() > 0);
  for (const auto& entry : c.description().at("modes").elements()) {
    const std::string mode = entry.as_string();
    CAPTURE(mode);
    const GoldenProblem<T> p = problem<T>(c, mode);
    // The keys as the caches hold them, head by head.
    const Index heads = p.shape.num_heads, kv_heads = p.shape.num_kv_heads,
                head_dim = p.shape.head_dim;
    const Index n = p.k.rows();
    Buffer<T> k(n * kv_heads * head_dim), v(n * kv_heads * head_dim);
    for (Index t = 0; t < n; ++t) {
      for (Index i = 0; i < kv_heads * head_dim; ++i) {
        const Index to = (i / head_dim * n + t) * head_dim + i % head_dim;
        k[to] = p.k(t, i);
        v[to] = p.v(t, i);
      }
    }
    for (const Index cut : {Index{0}, n / 3}) {  // one piece, or two that lie end to end
      const KeyPiece<T> pieces[] = {
          {k.data(), v.data(), cut, head_dim, n * head_dim},
          {k.data() + cut * head_dim, v.data() + cut * head_dim, n - cut, head_dim, n * head_dim}};
      Matrix<T> out(p.q.rows(), p.q.cols()), lse(p.q.rows(), heads);
      attend(AttentionInput<T, T>{p.shape, p.scale, p.q, pieces, p.intervals}, out.view(),
             lse.data(), context);
      check(p, out, lse);
    }
    check_backward(p, context);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("attention gives the reference's outputs, log-sum-exp and gradients", T, float,
                   double) {
  golden::Tally tally("core", golden::case_files("core").size());
  for (const golden::Case& c : golden::cases("core")) {
    CAPTURE(c.name);
    for (const Path path : {Path::naive, Path::fast}) {
      CAPTURE(static_cast<int>(path));
      check_case<T>(c, path);
    }
    tally.ran();
  }
  tally.check_all();
}
