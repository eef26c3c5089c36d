// Maps of a decoder against their definition, for every way to look at images; that asking for them
// changes no bit; which tokens rows and columns stand for; refusals.
#include "casa/model/attention_maps.hpp"

#include <doctest/doctest.h>

#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "random_model.hpp"
#include "support/difference.hpp"
#include "support/messages.hpp"
#include "support/random_matrix.hpp"

using namespace casa;
using model_test::RandomWeights;

namespace {

using Dense = RowMatrix<double>;

struct Variant {
  const char* name;
  FusionConfig fusion;
};

std::vector<Variant> variants(const std::vector<int>& layers) {
  FusionConfig all = presets::casa(layers);
  all.history = History::all;
  FusionConfig unrotated = presets::cross_attention(layers);
  unrotated.history = History::all;
  unrotated.image_rope = ImageRope::off;
  FusionConfig consecutive = presets::casa_before(layers);
  consecutive.image_rope = ImageRope::consecutive;
  consecutive.gate = Gate::tanh;
  return {{"casa", presets::casa(layers)},
          {"casa_before", presets::casa_before(layers)},
          {"casa_replace", presets::casa_replace(layers)},
          {"casa_shared", presets::casa_shared(layers)},
          {"cross_attention", presets::cross_attention(layers)},
          {"casa, all windows", all},
          {"cross_attention, all windows, not rotated", unrotated},
          {"casa_before, consecutive, gated", consecutive}};
}

// A stream of 14 text tokens with two images at one point, an empty one, one behind the last token.
struct Fixture {
  DecoderConfig config;
  RandomWeights weights;
  std::vector<int> ids;
  std::vector<Insertion> insertions{{2, 3}, {2, 1}, {7, 0}, {9, 3}, {14, 2}};
  Matrix<double> images;

  Fixture(Index layers, unsigned seed)
      : config(model_test::small_config(layers)),
        weights(seed),
        ids(model_test::random_ids(14, config.vocab_size, seed)),
        images(model_test::random_matrix<double>(9, config.hidden_size, seed)) {}

  Dense tensor(const TensorSpec& spec) {
    const Matrix<float>& m = weights.get(spec);
    if (spec.cols == 0) return m.eigen().transpose().cast<double>();
    return m.eigen().cast<double>();
  }
  // Every head of both attentions where a block has them.
  std::vector<AttentionHead> all_heads() const {
    std::vector<AttentionHead> heads;
    for (Index layer = 0; layer < config.num_hidden_layers; ++layer) {
      const bool fused = config.fusion && config.fusion->has_layer(layer);
      const bool has_self = !fused || config.fusion->placement != Placement::replace;
      for (Index head = 0; head < config.num_attention_heads; ++head) {
        if (has_self) heads.push_back({layer, head, BlockAttention::self});
        if (fused) heads.push_back({layer, head, BlockAttention::fusion});
      }
    }
    return heads;
  }
};

// The weights of every text row over all text and image tokens of the stream, columns first those
// of text, and A of the acceptance rule of attention: the largest scale sum |q_i k_i| of each row.
struct NaiveMap {
  Dense weights;
  Eigen::VectorXd magnitude;
  double at(Index row, const MapKey& key) const {
    return weights(row, (key.image ? weights.rows() : 0) + static_cast<Index>(key.number));
  }
};

// Maps by their definition, from the hidden states before each attention: everything else is
// computed anew, dense, in double. (Images that go through blocks themselves have other states in
// each: NaiveTokenInsertion's maps are those of that case.)
class NaiveMaps {
 public:
  explicit NaiveMaps(Fixture& f) : f_(f), layout_(std::ssize(f.ids), f.insertions) {
    const Decoder<double> model(f.config, f.weights.source());
    auto state = model.new_state();
    Matrix<double> logits(1, f.config.vocab_size);
    const Trace<double> trace = [&](Index layer, const char* sublayer, MatrixView<const double> x) {
      hidden_[{layer, sublayer}] = x.eigen();
    };
    model.forward({&state, f.ids, f.insertions, f.images}, logits, {}, &trace);
  }

  NaiveMap of(const AttentionHead& asked) {
    const DecoderConfig& c = f_.config;
    const bool fusion = asked.attention == BlockAttention::fusion;
    const FusionConfig& how = c.fusion ? *c.fusion : none_;
    const BlockSpec spec = decoder_spec(c).blocks[static_cast<std::size_t>(asked.layer)];
    const bool after_fusion =
        !fusion && c.fusion && how.has_layer(asked.layer) && how.placement == Placement::before;
    const Dense& x = after_fusion       ? hidden_.at({asked.layer, "fusion"})
                     : asked.layer == 0 ? hidden_.at({-1, "embed"})
                                        : hidden_.at({asked.layer - 1, "mlp"});
    const TensorSpec& norm =
        fusion && how.norm == Sharing::own ? *spec.fusion_norm : *spec.input_norm;
    const AttentionSpec& attention =
        fusion && how.parameters == Sharing::own ? *spec.fusion_attention : *spec.self_attention;
    const Dense text = normed(x, norm), images = normed(f_.images.eigen(), norm);
    const Index n = text.rows(), m = images.rows(), d = c.head_dim;
    const Index kv_head = asked.head / (c.num_attention_heads / c.num_key_value_heads);
    std::vector<Position> text_at(static_cast<std::size_t>(n)),
        image_at(static_cast<std::size_t>(m));
    positions(fusion ? how.image_rope : ImageRope::none, text_at, image_at);
    const bool turns = !fusion || how.image_rope != ImageRope::off;
    Dense q = projected(text, attention.q).middleCols(asked.head * d, d);
    Dense k(n + m, d);
    k.topRows(n) = projected(text, attention.k).middleCols(kv_head * d, d);
    k.bottomRows(m) = projected(images, attention.k).middleCols(kv_head * d, d);
    if (turns) {
      for (Index i = 0; i < n; ++i) {
        rotate(q.row(i), text_at[static_cast<std::size_t>(i)].t);
        rotate(k.row(i), text_at[static_cast<std::size_t>(i)].t);
      }
      for (Index j = 0; j < m; ++j) rotate(k.row(n + j), image_at[static_cast<std::size_t>(j)].t);
    }
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    NaiveMap map{Dense::Zero(n, n + m), Eigen::VectorXd::Zero(n)};
    for (Index i = 0; i < n; ++i) {
      double sum = 0;
      for (Index j = 0; j < n + m; ++j) {
        if (!(fusion ? fusion_sees(how, i, j, n) : j <= i)) continue;
        map.weights(i, j) = std::exp(scale * q.row(i).dot(k.row(j)));
        sum += map.weights(i, j);
        map.magnitude(i) =
            std::max(map.magnitude(i), scale * q.row(i).cwiseAbs().dot(k.row(j).cwiseAbs()));
      }
      if (sum > 0) map.weights.row(i) /= sum;
    }
    return map;
  }

 private:
  bool fusion_sees(const FusionConfig& how, Index row, Index key, Index text) const {
    const bool is_image = key >= text;
    if (!is_image && (how.keys == Keys::image || key > row)) return false;
    const Index own = layout_.window_of_text(row);
    const Index window =
        is_image ? layout_.window_of_image(key - text) : layout_.window_of_text(key);
    return how.history == History::all ? window <= own : window == own;
  }
  Dense normed(const Dense& x, const TensorSpec& spec) {
    const Dense weight = f_.tensor(spec);
    Dense y(x.rows(), x.cols());
    for (Index r = 0; r < x.rows(); ++r)
      y.row(r) = (x.row(r) / std::sqrt(x.row(r).squaredNorm() / static_cast<double>(x.cols()) +
                                       f_.config.rms_norm_eps))
                     .cwiseProduct(weight.col(0).transpose());
    return y;
  }
  Dense projected(const Dense& x, const LinearSpec& spec) {
    Dense y = x * f_.tensor(spec.weight).transpose();
    if (spec.bias) y.rowwise() += f_.tensor(*spec.bias).col(0).transpose();
    return y;
  }
  void positions(ImageRope rope, std::span<Position> text, std::span<Position> image) const {
    PositionCounter counter(rope);
    for_each_piece(layout_, 0, 0, [&](bool is_image, Interval rows) {
      const auto begin = static_cast<std::size_t>(rows.begin);
      const auto count = static_cast<std::size_t>(rows.size());
      is_image ? counter.image({}, image.subspan(begin, count))
               : counter.text(text.subspan(begin, count));
    });
  }
  void rotate(Eigen::Ref<Eigen::RowVectorXd> x, std::int64_t p) const {
    const Index d = f_.config.head_dim;
    for (Index i = 0; i < d / 2; ++i) {
      const double angle =
          static_cast<double>(p) *
          std::pow(f_.config.rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
      const double a = x(i), b = x(i + d / 2);
      x(i) = a * std::cos(angle) - b * std::sin(angle);
      x(i + d / 2) = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  Fixture& f_;
  FusionConfig none_;
  StreamLayout layout_;
  std::map<std::pair<Index, std::string>, Dense> hidden_;
};

// One stream in chunks that end at `cuts`; `shown` gets the maps of each. Returns all logits.
template <class T, class Shown>
Matrix<T> run(Fixture& f, const std::vector<Index>& cuts, AttentionMaps<T>* maps, Shown shown,
              StateOptions options = {}) {
  const Decoder<T> model(f.config, f.weights.source());
  auto state = model.new_state(options);
  Matrix<T> logits(std::ssize(f.ids), f.config.vocab_size);
  Matrix<T> images(f.images.rows(), f.images.cols());
  images.eigen() = f.images.eigen().template cast<T>();
  const Context context;
  Index begin = 0, image = 0;
  for (const Index end : cuts) {
    std::vector<Insertion> insertions;
    Index count = 0;
    for (const auto& [position, tokens] : f.insertions) {
      const bool is_last = end == std::ssize(f.ids);
      if (position < begin || position > end || (position == end && !is_last)) continue;
      insertions.push_back({position - begin, tokens});
      count += tokens;
    }
    const StreamInput<T> input{
        .state = &state,
        .ids = std::span(f.ids).subspan(static_cast<std::size_t>(begin),
                                        static_cast<std::size_t>(end - begin)),
        .insertions = insertions,
        .image_tokens = images.view().middle_rows(image, count),
        .logits = LogitRows::all,
        .maps = maps};
    model.forward(input, logits.view().middle_rows(begin, end - begin), context);
    if (maps) shown(*maps);
    begin = end;
    image += count;
  }
  return logits;
}
constexpr auto kNothing = [](const auto&) {};

std::vector<Index> random_cuts(Index length, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Index> cuts;
  for (Index i = 1; i < length; ++i)
    if (random() % 3 == 0) cuts.push_back(i);
  cuts.push_back(length);
  return cuts;
}

// |sum of a row of weights - 1|: the error of lse, 2 eps (1 + A + log n), of scores in double, and
// of rounding each weight to T.
template <class T>
double sum_bound(double magnitude, Index head_dim, Index keys) {
  const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
  return std::expm1(2 * eps * (1 + magnitude + std::log(static_cast<double>(1 + keys))) +
                    0x1p-53 * (static_cast<double>(head_dim) / 8 + 10) * (1 + magnitude) + eps);
}

// Holds the maps of one pass against `naive`, a map for each head asked for.
void check_maps(const AttentionMaps<double>& maps, const std::vector<NaiveMap>& naive,
                Index head_dim) {
  for (std::size_t i = 0; i < maps.heads.size(); ++i) {
    CAPTURE(maps.heads[i].layer);
    CAPTURE(maps.heads[i].head);
    CAPTURE(static_cast<int>(maps.heads[i].attention));
    const auto keys = maps.keys(i);
    REQUIRE(maps.weights[i].rows() == maps.num_rows());
    REQUIRE(maps.weights[i].cols() == std::ssize(keys));
    for (Index r = 0; r < maps.num_rows(); ++r) {
      const auto row = static_cast<Index>(maps.rows[static_cast<std::size_t>(r)].number);
      CAPTURE(row);
      double worst = 0, sum = 0, expected = 0;
      for (Index j = 0; j < std::ssize(keys); ++j) {
        const double w = maps.weights[i](r, j),
                     n = naive[i].at(row, keys[static_cast<std::size_t>(j)]);
        REQUIRE(std::isfinite(w));
        worst = std::max(worst, std::abs(w - n));
        sum += w;
        expected += n;
      }
      CHECK(worst <= 1e-11);
      const bool sees = naive[i].weights.row(row).sum() > 0;
      // The columns are all that the row sees.
      CHECK(std::abs(expected - (sees ? 1 : 0)) <= 1e-14);
      const double bound = sum_bound<double>(naive[i].magnitude(row), head_dim, std::ssize(keys));
      CHECK(std::abs(sum - (sees ? 1 : 0)) <= bound);
    }
  }
}

}  // namespace

TEST_CASE("maps of both attentions are their definition, however the stream is cut") {
  for (const std::vector<int>& layers : {std::vector{0, 1, 2}, std::vector{1}})
    for (const Variant& variant : variants(layers))
      for (unsigned seed = 1; seed <= 3; ++seed) {
        CAPTURE(variant.name);
        CAPTURE(layers.size());
        CAPTURE(seed);
        Fixture f(3, seed);
        f.config.fusion = variant.fusion;
        NaiveMaps definition(f);
        AttentionMaps<double> maps{.heads = f.all_heads()};
        std::vector<NaiveMap> naive;
        for (const AttentionHead& head : maps.heads) naive.push_back(definition.of(head));
        Index rows = 0;
        const auto check = [&](const AttentionMaps<double>& shown) {
          check_maps(shown, naive, f.config.head_dim);
          for (const MapRow& row : shown.rows) CHECK(row.number == rows++);
          CHECK(shown.text_len == rows);
        };
        run(f, {14}, &maps, check);
        rows = 0;
        run(f, random_cuts(14, seed), &maps, check);
        rows = 0;
        std::vector<Index> each(14);
        for (Index i = 0; i < 14; ++i) each[static_cast<std::size_t>(i)] = i + 1;
        run(f, each, &maps, check);
        CHECK(rows == 14);
      }
}

TEST_CASE("token insertion's maps are those of the naive decoder, over everything a row sees") {
  for (unsigned seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    Fixture f(3, seed);
    const StreamLayout layout(std::ssize(f.ids), f.insertions);
    std::map<std::pair<Index, Index>, Dense> shown;
    const NaiveTokenInsertion decoder(f.config, [&](const TensorSpec& s) { return f.tensor(s); });
    decoder.logits(f.ids, f.insertions, f.images.eigen(), {},
                   [&](Index layer, Index head, const Dense& w) {
                     shown[{layer, head}] = w;
                   });
    f.config.fusion = presets::token_insertion({0, 1, 2});
    AttentionMaps<double> maps{.heads = f.all_heads()};
    const auto place = [&](bool image, Index number) {
      const Window& w =
          layout.window(image ? layout.window_of_image(number) : layout.window_of_text(number));
      return image ? image_place(w, number) : text_place(w, number);
    };
    const auto check = [&](const AttentionMaps<double>& got) {
      for (std::size_t i = 0; i < got.heads.size(); ++i)
        for (Index r = 0; r < got.num_rows(); ++r) {
          const auto number = static_cast<Index>(got.rows[static_cast<std::size_t>(r)].number);
          const Dense& w = shown.at({got.heads[i].layer, got.heads[i].head});
          double worst = 0, sum = 0;
          for (Index j = 0; j < std::ssize(got.keys(i)); ++j) {
            const MapKey& key = got.keys(i)[static_cast<std::size_t>(j)];
            const double expected =
                w(place(false, number), place(key.image, static_cast<Index>(key.number)));
            worst = std::max(worst, std::abs(got.weights[i](r, j) - expected));
            REQUIRE(std::isfinite(got.weights[i](r, j)));
            sum += got.weights[i](r, j);
          }
          CHECK(worst <= 1e-11);
          CHECK(std::abs(sum - 1) <= 1e-13);
        }
    };
    run(f, {14}, &maps, check);
    run(f, random_cuts(14, seed), &maps, check);
  }
}

TEST_CASE_TEMPLATE("no bit changes where maps are asked for", T, float, double) {
  std::vector<Variant> all = variants({0, 2});
  all.push_back({"token_insertion", presets::token_insertion({0, 1, 2})});
  for (const Variant& variant : all) {
    CAPTURE(variant.name);
    Fixture f(3, 5);
    f.config.fusion = variant.fusion;
    AttentionMaps<T> maps{.heads = f.all_heads()};
    for (const auto& cuts : {std::vector<Index>{14}, random_cuts(14, 3)})
      CHECK(casa_test::same_bits(run<T>(f, cuts, nullptr, kNothing),
                                 run<T>(f, cuts, &maps, kNothing)));
  }
}

TEST_CASE("rows sum to 1 over caches of every type") {
  for (const CacheType type : {CacheType::native, CacheType::bfloat16, CacheType::half}) {
    CAPTURE(static_cast<int>(type));
    Fixture f(2, 7);
    f.config.fusion = presets::casa({0, 1});
    NaiveMaps definition(f);
    AttentionMaps<float> maps{.heads = f.all_heads()};
    std::vector<NaiveMap> naive;
    for (const AttentionHead& head : maps.heads) naive.push_back(definition.of(head));
    Index rows = 0;
    run(f, random_cuts(14, 2), &maps,
        [&](const AttentionMaps<float>& shown) {
          for (std::size_t i = 0; i < shown.heads.size(); ++i)
            for (Index r = 0; r < shown.num_rows(); ++r, ++rows) {
              const Index row = static_cast<Index>(shown.rows[static_cast<std::size_t>(r)].number);
              double sum = 0;
              for (Index j = 0; j < shown.weights[i].cols(); ++j)
                sum += static_cast<double>(shown.weights[i](r, j));
              // Twice A: the scores of rounded keys are those of the double model to some percent.
              const double bound = sum_bound<float>(2 * naive[i].magnitude(row), f.config.head_dim,
                                                    shown.weights[i].cols());
              CHECK(std::abs(sum - 1) <= bound);
            }
        },
        {.cache = type});
    CHECK(rows == std::ssize(maps.heads) * 14);
  }
}

TEST_CASE("columns are named by frame and index, rows by their text token") {
  Fixture f(2, 1);
  f.config.fusion = presets::casa({0, 1});
  AttentionMaps<double> maps{
      .heads = {{1, 2, BlockAttention::fusion}, {0, 1, BlockAttention::self}}};
  run(f, {14}, &maps, [](const AttentionMaps<double>& m) {
    REQUIRE(m.num_rows() == 14);
    // Windows at 2, 7, 9, 14; the newest has no text.
    CHECK(m.rows[1] == MapRow{1, 4});
    CHECK(m.rows[2] == MapRow{2, 3});
    CHECK(m.rows[13] == MapRow{13, 1});
    // 2 text, 4 image, 5 text, (no image) 2 text, 3 image, 5 text, 2 image.
    REQUIRE(m.fusion_keys.size() == 23);
    CHECK(m.fusion_keys[1] == MapKey{false, 1, -1, 0});
    CHECK(m.fusion_keys[2] == MapKey{true, 0, 3, 0});
    CHECK(m.fusion_keys[5] == MapKey{true, 3, 3, 3});
    CHECK(m.fusion_keys[13] == MapKey{true, 4, 1, 0});
    CHECK(m.fusion_keys[22] == MapKey{true, 8, 0, 1});
    CHECK(m.self_keys.size() == 14);
    CHECK(m.image_weights(0, 1).empty());  // before the first image
    CHECK(m.image_weights(0, 7).empty());  // its window's image has no tokens
    const auto image = m.image_weights(0, 4);
    REQUIRE(image.size() == 4);
    CHECK(image.data() == m.weights[0].row(4) + 2);
    CHECK(m.image_weights(0, 9, 1).empty());
    CHECK(m.image_weights(0, 9, 2).size() == 4);
    CHECK(m.image_weights(1, 4).empty());  // self-attention has no images
  });
  // Token by token, window after window is forgotten; numbers go on.
  run(f, {2, 9, 12, 14}, &maps, [](const AttentionMaps<double>& m) {
    if (m.text_len != 12) return;
    REQUIRE(m.fusion_keys.size() == 2 + 3 + 3);  // the window kept, and what came
    CHECK(m.fusion_keys[0] == MapKey{false, 7, -1, 0});
    CHECK(m.fusion_keys[2] == MapKey{true, 4, 0, 0});
    CHECK(m.rows[0] == MapRow{9, 0});
  });
}

TEST_CASE("chosen rows of a pass are those of all rows") {
  Fixture f(2, 2);
  f.config.fusion = presets::cross_attention({1});
  AttentionMaps<double> all{.heads = f.all_heads()},
      some{.heads = f.all_heads(), .chunk_rows = {0, 3, 13}};
  run(f, {14}, &all, kNothing);
  run(f, {14}, &some, kNothing);
  REQUIRE(some.num_rows() == 3);
  for (std::size_t i = 0; i < some.heads.size(); ++i)
    for (Index r = 0; r < 3; ++r) {
      CHECK(some.rows[static_cast<std::size_t>(r)] ==
            all.rows[static_cast<std::size_t>(some.chunk_rows[static_cast<std::size_t>(r)])]);
      for (Index j = 0; j < some.weights[i].cols(); ++j)
        CHECK(some.weights[i](r, j) ==
              all.weights[i](some.chunk_rows[static_cast<std::size_t>(r)], j));
    }
}

TEST_CASE("maps of the row that gives logits, when it alone goes through the last block") {
  Fixture f(2, 3);
  for (const Variant& variant : variants({0, 1})) {
    CAPTURE(variant.name);
    f.config.fusion = variant.fusion;
    const Decoder<double> model(f.config, f.weights.source());
    AttentionMaps<double> all{.heads = f.all_heads()}, last{.heads = f.all_heads()};
    run(f, {14}, &all, kNothing);
    auto state = model.new_state();
    Matrix<double> logits(1, f.config.vocab_size);
    StreamInput<double> input{&state, f.ids, f.insertions, f.images};
    input.maps = &last;
    model.forward(input, logits, {});
    REQUIRE(last.num_rows() == 1);
    CHECK(last.rows[0] == all.rows[13]);
    for (std::size_t i = 0; i < last.heads.size(); ++i)
      CHECK(casa_test::largest_difference(last.weights[i].eigen(),
                                          all.weights[i].eigen().bottomRows(1)) <= 1e-13);
  }
}

TEST_CASE("evicted text leaves the columns, sinks stay, numbers go on") {
  Fixture f(2, 4);
  f.config.fusion = presets::casa({1});
  const Decoder<double> model(f.config, f.weights.source());
  auto state = model.new_state({.text_window = 4, .sinks = 2});
  state.start_at(100);
  AttentionMaps<double> maps{.heads = {{0, 0, BlockAttention::self}}};
  Matrix<double> logits(1, f.config.vocab_size);
  for (std::size_t t = 0; t < 14; ++t) {
    StreamInput<double> input{&state, std::span(f.ids).subspan(t, 1)};
    input.maps = &maps;
    model.forward(input, logits, {});
  }
  std::vector<std::int64_t> numbers;
  for (const MapKey& key : maps.self_keys) numbers.push_back(key.number);
  CHECK(numbers == std::vector<std::int64_t>{100, 101, 109, 110, 111, 112, 113});
  CHECK(maps.rows == std::vector<MapRow>{{113, 0}});
  // In the first block, which has no fusion, keys depend on their own token alone: the map is the
  // definition's over the keys that are left.
  Fixture plain(2, 4);
  plain.insertions.clear();
  plain.images = Matrix<double>(0, f.config.hidden_size);
  const NaiveMap naive = NaiveMaps(plain).of(maps.heads[0]);
  double left = 0;
  for (const auto n : numbers) left += naive.weights(13, static_cast<Index>(n - 100));
  for (std::size_t j = 0; j < numbers.size(); ++j)
    CHECK(std::abs(maps.weights[0](0, static_cast<Index>(j)) -
                   naive.weights(13, static_cast<Index>(numbers[j] - 100)) / left) <= 1e-12);
}

TEST_CASE("streams that pass together show maps of their own") {
  Fixture f(2, 6);
  f.config.fusion = presets::casa_before({0, 1});
  const Decoder<double> model(f.config, f.weights.source());
  AttentionMaps<double> alone{.heads = f.all_heads()}, together{.heads = f.all_heads()};
  run(f, {14}, &alone, kNothing);
  auto first = model.new_state(), second = model.new_state(), third = model.new_state();
  Matrix<double> logits(14 + 5 + 14, f.config.vocab_size);
  AttentionMaps<double> few{.heads = {{0, 3, BlockAttention::fusion}}};
  std::vector<StreamInput<double>> inputs(3);
  inputs[0] = {&first, f.ids, f.insertions, f.images, {}, LogitRows::all, nullptr};
  inputs[1] = {&second, std::span(f.ids).first(5), {}, {}, {}, LogitRows::all, &few};
  inputs[2] = {&third, f.ids, f.insertions, f.images, {}, LogitRows::all, &together};
  model.forward(inputs, logits, {});
  CHECK(few.num_rows() == 5);
  CHECK(few.fusion_keys.size() == 5);
  REQUIRE(together.rows == alone.rows);
  for (std::size_t i = 0; i < alone.heads.size(); ++i)
    CHECK(casa_test::largest_difference(together.weights[i].eigen(), alone.weights[i].eigen()) <=
          1e-13);
}

TEST_CASE("a model without images shows its self-attention; a pass that gives no logits no row") {
  Fixture f(2, 8);
  f.insertions.clear();
  f.images = Matrix<double>(0, f.config.hidden_size);
  AttentionMaps<double> maps{.heads = f.all_heads()};
  NaiveMaps definition(f);
  std::vector<NaiveMap> naive;
  for (const AttentionHead& head : maps.heads) naive.push_back(definition.of(head));
  run(f, {5, 14}, &maps,
      [&](const AttentionMaps<double>& m) { check_maps(m, naive, f.config.head_dim); });
  const Decoder<double> model(f.config, f.weights.source());
  auto state = model.new_state();
  StreamInput<double> input{&state, f.ids};
  input.logits = LogitRows::none;
  input.maps = &maps;
  model.forward(input, {}, {});
  CHECK(maps.num_rows() == 0);
  CHECK(maps.self_keys.size() == 14);
}

TEST_CASE("what a model does not have is refused by name; a pass that fails leaves no results") {
  Fixture f(3, 9);
  const auto message = [&](const std::optional<FusionConfig>& fusion, AttentionMaps<float> maps,
                           LogitRows rows = LogitRows::last) {
    f.config.fusion = fusion;
    const Decoder<float> model(f.config, f.weights.source());
    auto state = model.new_state();
    Matrix<float> logits(rows == LogitRows::all ? 14 : 1, f.config.vocab_size);
    StreamInput<float> input{&state, f.ids};
    input.logits = rows;
    input.maps = &maps;
    return message_of([&] { model.forward(input, logits, {}); });
  };
  using enum BlockAttention;
  const FusionConfig casa = presets::casa({1}), replace = presets::casa_replace({1});
  CHECK(message(casa, {.heads = {{1, 3, fusion}, {0, 0, self}, {1, 1, self}}}).empty());
  CHECK(has(message(casa, {.heads = {{3, 0, self}}}), "heads[0].layer must be in [0, 3), got 3"));
  CHECK(has(message(casa, {.heads = {{-1, 0, self}}}), "heads[0].layer must be in [0, 3), got -1"));
  CHECK(has(message(casa, {.heads = {{1, 0, fusion}, {1, 4, fusion}}}),
            "heads[1].head must be in [0, 4), got 4"));
  CHECK(has(message(casa, {.heads = {{2, 0, fusion}}}),
            "heads[0] asks for the fusion of layer 2, which has none"));
  CHECK(has(message(std::nullopt, {.heads = {{1, 0, fusion}}}),
            "asks for the fusion of layer 1, which has none"));
  CHECK(has(message(replace, {.heads = {{1, 0, self}}}),
            "asks for the self-attention of layer 1, in whose place stands fusion"));
  CHECK(has(message(casa, {.heads = {{1, 0, fusion}}, .chunk_rows = {12}}),
            "chunk_rows[0] must ascend among the rows that give logits, [13, 14), got 12"));
  CHECK(message(casa, {.heads = {{1, 0, fusion}}, .chunk_rows = {13}}).empty());
  CHECK(message(casa, {.heads = {{1, 0, fusion}}, .chunk_rows = {0, 12}}, LogitRows::all).empty());
  CHECK(has(message(casa, {.heads = {{1, 0, fusion}}, .chunk_rows = {4, 4}}, LogitRows::all),
            "chunk_rows[1] must ascend"));
  CHECK(has(message(casa, {.heads = {{1, 0, fusion}}, .chunk_rows = {14}}, LogitRows::all),
            "[0, 14), got 14"));

  f.config.fusion = casa;
  const Decoder<float> model(f.config, f.weights.source());
  auto state = model.new_state(), other = model.new_state();
  AttentionMaps<float> maps{.heads = {{0, 0, self}}};
  Matrix<float> logits(2, f.config.vocab_size);
  std::vector<StreamInput<float>> inputs(2);
  inputs[0] = {&state, f.ids, {}, {}, {}, LogitRows::last, &maps};
  inputs[1] = {&other, f.ids, {}, {}, {}, LogitRows::last, &maps};
  CHECK(has(message_of([&] { model.forward(inputs, logits, {}); }),
            "inputs 0 and 1 have the same maps"));
  model.forward(inputs[0], logits.view().middle_rows(0, 1), {});
  CHECK(maps.num_rows() == 1);
  CHECK(has(message_of([&] { maps.image_weights(1, 0); }), "map 1 of 1"));
  CHECK(has(message_of([&] { maps.image_weights(0, 1); }), "row 1 of 1"));
  const Trace<float> breaks = [](Index layer, const char*, MatrixView<const float>) {
    if (layer == 1) fail("stop");
  };
  CHECK(message_of([&] {
          model.forward(inputs[0], logits.view().middle_rows(0, 1), {}, &breaks);
        }) == "stop");
  CHECK(maps.num_rows() == 0);
  CHECK(maps.weights.empty());
  CHECK(maps.heads.size() == 1);
}
