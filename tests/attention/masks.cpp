// Masks by name: each maker against its definition, key by key, and against the reference's lists.
#include "casa/attention/masks.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/attention/stream_masks.hpp"
#include "golden.hpp"
#include "stream/random_stream.hpp"
#include "support/messages.hpp"

using namespace casa;

namespace {

using Places = std::vector<Index>;

// Whether row r, at place p, sees key j.
using Sees = std::function<bool(Index r, Index p, Index j)>;

// The mask of a definition: neighbours merged, one interval a row where that is enough.
Mask define(const Places& places, Index num_keys, const Sees& sees) {
  Mask mask;
  for (std::size_t r = 0; r < places.size(); ++r) {
    std::vector<Interval> row;
    for (Index j = 0; j < num_keys; ++j) {
      if (!sees(static_cast<Index>(r), places[r], j)) continue;
      if (row.empty() || row.back().end != j) row.push_back({j, j});
      row.back().end = j + 1;
    }
    mask.add_row(row);
  }
  mask.compact();
  return mask;
}

// Tokens of `lengths`, one document after the other: the document of each place.
Places documents(const Places& lengths) {
  Places of;
  for (std::size_t i = 0; i < lengths.size(); ++i)
    of.insert(of.end(), static_cast<std::size_t>(lengths[i]), static_cast<Index>(i));
  return of;
}

// Whether node a is u or an ancestor of it.
bool is_on_path(const Places& parents, Index a, Index u) {
  for (; u >= 0; u = parents[static_cast<std::size_t>(u)])
    if (u == a) return true;
  return false;
}

struct Random {
  std::mt19937 engine;
  // In [low, high].
  Index operator()(Index low, Index high) {
    return std::uniform_int_distribution<Index>(low, high)(engine);
  }
  bool coin() { return (*this)(0, 1) == 1; }
  // Some of 0 .. end - 1, ascending.
  Places some(Index end) {
    Places found;
    const Index of = (*this)(1, 4);
    for (Index i = 0; i < end; ++i)
      if ((*this)(0, of) == 0) found.push_back(i);
    return found;
  }
  // Places of rows in [begin, end), in any order, some twice, some never.
  Places rows(Index begin, Index end) {
    Places found;
    if (begin == end) return found;
    for (Index n = (*this)(0, 12); n > 0; --n) found.push_back((*this)(begin, end - 1));
    return found;
  }
  Places lengths() {
    Places found((static_cast<std::size_t>((*this)(0, 5))));
    for (Index& n : found) n = (*this)(0, 7);
    return found;
  }
};

std::string shown(const Mask& mask) {
  std::string s = mask.offsets.empty() ? "one interval a row:" : "lists:";
  for (Index r = 0; r < mask.num_rows(); ++r) {
    s += "\n " + std::to_string(r) + ":";
    for (const Interval i : mask.row(r))
      s += " [" + std::to_string(i.begin) + ", " + std::to_string(i.end) + ")";
  }
  return s;
}

void check_equal(const Mask& made, const Mask& defined) {
  INFO("made ", shown(made));
  INFO("defined ", shown(defined));
  CHECK(made == defined);
}

}  // namespace

TEST_CASE("makers of masks give what their definitions say") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Random random{std::mt19937(seed)};
    const Index n = random(0, 40);
    const Places rows = random.rows(0, n);
    const Index window = random(1, 12), sinks = random(0, 6), prefix = random(0, n);
    check_equal(masks::causal(rows),
                define(rows, n, [](Index, Index p, Index j) { return j <= p; }));
    check_equal(masks::sliding_window(rows, window),
                define(rows, n, [&](Index, Index p, Index j) { return p - window < j && j <= p; }));
    check_equal(masks::prefix_lm(rows, prefix),
                define(rows, n, [&](Index, Index p, Index j) { return j <= p || j < prefix; }));
    check_equal(masks::sinks_window(rows, sinks, window),
                define(rows, n, [&](Index, Index p, Index j) {
                  return j <= p && (j < sinks || p - j < window);
                }));

    const Places lengths = random.lengths();
    const Places document = documents(lengths);
    const Index packed = std::ssize(document);
    const Places in_documents = random.rows(0, packed);
    const auto same = [&](Index p, Index j) {
      return p >= 0 && j >= 0 &&
             document[static_cast<std::size_t>(p)] == document[static_cast<std::size_t>(j)];
    };
    check_equal(masks::packed_documents(in_documents, lengths),
                define(in_documents, packed,
                       [&](Index, Index p, Index j) { return j <= p && same(p, j); }));
    const Places behind = random.rows(0, prefix + packed);
    check_equal(masks::shared_prefix(behind, prefix, lengths),
                define(behind, prefix + packed, [&](Index, Index p, Index j) {
                  return j <= p && (j < prefix || same(p - prefix, j - prefix));
                }));

    for (const bool causal : {false, true}) {
      CAPTURE(causal);
      const masks::Direction direction = causal ? masks::Direction::causal : masks::Direction::both;
      const Places global = random.some(n);
      const auto is_global = [&](Index p) {
        return std::binary_search(global.begin(), global.end(), p);
      };
      const Places far = random.rows(0, n + 3);  // rows may stand behind the keys
      check_equal(masks::global_window(far, n, window, global, direction),
                  define(far, n, [&](Index, Index p, Index j) {
                    return (is_global(p) || is_global(j) || std::abs(p - j) < window) &&
                           (!causal || j <= p);
                  }));

      // Chosen blocks that are neighbours stay apart.
      const Index block = random(1, 9), num_blocks = (n + block - 1) / block;
      std::vector<Places> chosen(static_cast<std::size_t>(num_blocks));
      for (Places& c : chosen) c = random.some(num_blocks);
      Mask blocks;
      for (const Index p : rows) {
        std::vector<Interval> row;
        for (const Index b : chosen[static_cast<std::size_t>(p / block)]) {
          const Index end = std::min({(b + 1) * block, n, causal ? p + 1 : n});
          if (b * block < end) row.push_back({b * block, end});
        }
        blocks.add_row(row);
      }
      blocks.compact();
      check_equal(masks::block_sparse(rows, n, block, chosen, direction), blocks);
    }

    // Depth first: the parent is the node before or one of its ancestors.
    Places parents;
    for (Index u = random(0, 15); u > 0; --u) {
      Index parent = std::ssize(parents) - 1;
      while (parent >= 0 && random(0, 2) == 0) parent = parents[static_cast<std::size_t>(parent)];
      parents.push_back(parent);
    }
    const Places nodes = random.rows(n, n + std::ssize(parents));
    check_equal(masks::draft_tree(nodes, n, parents),
                define(nodes, n + std::ssize(parents), [&](Index, Index p, Index j) {
                  return j < n || is_on_path(parents, j - n, p - n);
                }));
  }
}

TEST_CASE("masks of streams give what their definition says") {
  const std::vector<History> histories = {History::window,   History::last(2),  History::last(3),
                                          History::every(1), History::every(2), History::every(3),
                                          History::all};
  const auto sees = [](const History& h, Index own, Index other) {
    if (h.rule == History::Rule::last) return other > own - h.count;
    if (h.rule == History::Rule::all) return true;
    return other == own || (other >= 1 && other % h.count == 1 % h.count);
  };
  for (unsigned seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    Random random{std::mt19937(seed)};
    const auto stream = stream_test::random_stream(random.engine, 16);
    const StreamLayout layout(stream.text_len, stream.insertions);
    const auto tokens = stream_test::write_out(stream);
    std::vector<Index> window_of_text;
    for (const auto& t : tokens)
      if (!t.image) window_of_text.push_back(t.window);
    const Places rows = random.rows(0, stream.text_len);
    for (const Keys keys : {Keys::text, Keys::image, Keys::image_text})
      for (const History images : histories)
        for (const History text : histories) {
          CAPTURE(static_cast<int>(keys));
          CAPTURE(static_cast<int>(images.rule));
          CAPTURE(images.count);
          CAPTURE(static_cast<int>(text.rule));
          CAPTURE(text.count);
          std::vector<stream_test::Token> key;
          for (const auto& t : tokens)
            if (keys == Keys::image_text || t.image == (keys == Keys::image)) key.push_back(t);
          const auto seen = [&](Index, Index p, Index j) {
            const auto& t = key[static_cast<std::size_t>(j)];
            const Index own = window_of_text[static_cast<std::size_t>(p)];
            return t.window <= own && sees(t.image ? images : text, own, t.window) &&
                   (t.image || t.number <= p);
          };
          const Mask defined = define(rows, std::ssize(key), seen);
          check_equal(masks::stream(layout, rows, keys, images, text), defined);
          if (!(images == text)) continue;
          check_equal(masks::stream(layout, rows, keys, images), defined);
          if (keys == Keys::image_text && images == History::window)
            check_equal(masks::casa_windows(layout, rows), defined);
          if (keys != Keys::image) continue;
          if (images.rule == History::Rule::last)
            check_equal(masks::last_images(layout, rows, images.count), defined);
          if (images.rule == History::Rule::every)
            check_equal(masks::every_image(layout, rows, images.count), defined);
          if (images == History::all) check_equal(masks::all_images(layout, rows), defined);
          if (images == History::window) check_equal(masks::cross_attention(layout, rows), defined);
        }
  }
}

TEST_CASE("union and intersection are those of the keys") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Random random{std::mt19937(seed)};
    const Index n = random(0, 20), num_rows = random(0, 5);
    const Places rows(static_cast<std::size_t>(num_rows));
    std::vector<bool> a, b;
    for (Index i = 0; i < n * num_rows; ++i) {
      a.push_back(random.coin());
      b.push_back(random.coin());
    }
    const auto at = [&](Index r, Index j) { return static_cast<std::size_t>(r * n + j); };
    Mask one = define(rows, n, [&](Index r, Index, Index j) { return a[at(r, j)]; });
    Mask two = define(rows, n, [&](Index r, Index, Index j) { return b[at(r, j)]; });
    if (random.coin()) one.expand();
    if (random.coin()) two.expand();
    check_equal(masks::unite(one, two), define(rows, n, [&](Index r, Index, Index j) {
                  return a[at(r, j)] || b[at(r, j)];
                }));
    check_equal(masks::intersect(one, two), define(rows, n, [&](Index r, Index, Index j) {
                  return a[at(r, j)] && b[at(r, j)];
                }));
  }
  // Neighbours become one interval, also those of one mask.
  const Mask touching{{{0, 2}, {2, 4}}, {0, 2}};
  CHECK(masks::unite(touching, Mask{{{4, 5}}, {0, 1}}) == Mask{{{0, 5}}, {}});
  CHECK(masks::intersect(touching, Mask{{{1, 9}}, {0, 1}}) == Mask{{{1, 4}}, {}});
}

TEST_CASE("a mask takes the form of one interval a row, and leaves it again") {
  Mask mask;
  mask.add_row({});
  mask.add_row({{3, 5}});
  mask.add_row({});
  const Mask lists = mask;
  mask.compact();
  CHECK(mask == Mask{{{0, 0}, {3, 5}, {0, 0}}, {}});
  CHECK(mask.num_rows() == 3);
  mask.compact();
  CHECK(mask.num_rows() == 3);
  Mask expanded = mask;
  expanded.expand();
  CHECK(expanded == lists);
  mask.add_row({{0, 1}, {2, 3}});  // no longer one a row
  CHECK(mask == Mask{{{3, 5}, {0, 1}, {2, 3}}, {0, 0, 1, 1, 3}});
  const Mask two = mask;
  mask.compact();
  CHECK(mask == two);
  mask.clear();
  CHECK(mask == Mask{});
}

TEST_CASE("rows are a count, a range or a list of places") {
  const Places places = {4, 5, 6};
  CHECK(masks::causal(3) == masks::causal(Places{0, 1, 2}));
  CHECK(masks::causal({4, 7}) == masks::causal(places));
  CHECK(masks::causal(Interval{4, 7}) == masks::causal(std::span<const Index>(places)));
  CHECK(masks::causal(0).num_rows() == 0);
}

TEST_CASE("attention takes a mask of one interval a row as it takes the intervals") {
  const RowMatrix<float> q = RowMatrix<float>::Random(5, 16), k = RowMatrix<float>::Random(9, 8);
  const Mask mask = masks::sliding_window({4, 9}, 3);
  const AttendOptions<float> options{.num_heads = 2};
  const auto out = attend(q, k, k, mask, options);
  CHECK(out == attend(q, k, k, {{2, 5}, {3, 6}, {4, 7}, {5, 8}, {6, 9}}, options));
}

TEST_CASE("makers refuse parameters that mean nothing, by name") {
  const std::vector<Places> choices = {{0, 1}, {1}};
  const std::vector<Places> descending = {{1, 0}};
  constexpr Index huge = std::numeric_limits<Index>::max();
  const auto said = [](auto f) { return message_of([&] { f(); }); };
  CHECK(said([] { masks::causal(-1); }) ==
        "causal: rows must be a range within [0, 9223372036854775807), got [0, -1)");
  CHECK(said([] {
          masks::causal(Places{0, -2});
        }) == "causal: rows[1] must be in [0, 9223372036854775807), got -2");
  CHECK(said([] { masks::causal(Places{huge}); }) ==
        "causal: rows[0] must be in [0, 9223372036854775807), got 9223372036854775807");
  CHECK(said([] { masks::causal(huge); }) ==
        "causal: 9223372036854775807 rows are more than memory can have");
  CHECK(said([] {
          masks::causal({3, 2});
        }) == "causal: rows must be a range within [0, 9223372036854775807), got [3, 2)");
  CHECK(said([] { masks::sliding_window(2, 0); }) ==
        "sliding_window: window must be positive, got 0");
  CHECK(said([] { masks::prefix_lm(2, -1); }) == "prefix_lm: prefix must not be negative, got -1");
  CHECK(said([] {
          masks::packed_documents(2, {1, -1});
        }) == "packed_documents: lengths[1] must not be negative, got -1");
  CHECK(said([] {
          masks::packed_documents(2, {huge, huge});
        }) == "packed_documents: size overflows: 9223372036854775807 + 9223372036854775807");
  CHECK(said([] {
          masks::packed_documents(4, {1, 2});
        }) == "packed_documents: rows must be a range within [0, 3), got [0, 4)");
  CHECK(said([] { masks::shared_prefix(2, -1, {}); }) ==
        "shared_prefix: prefix must not be negative, got -1");
  CHECK(said([] { masks::shared_prefix(Places{5}, 3, {2}); }) ==
        "shared_prefix: rows[0] must be in [0, 5), got 5");
  CHECK(said([] { masks::sinks_window(2, -1, 2); }) ==
        "sinks_window: sinks must not be negative, got -1");
  CHECK(said([] { masks::sinks_window(2, 1, 0); }) ==
        "sinks_window: window must be positive, got 0");
  CHECK(said([] { masks::global_window(2, -1, 1, {}); }) ==
        "global_window: num_keys must not be negative, got -1");
  CHECK(said([] { masks::global_window(2, 4, 0, {}); }) ==
        "global_window: window must be positive, got 0");
  CHECK(said([] {
          masks::global_window(2, 4, 1, {1, 4});
        }) == "global_window: global: number 1 must be at least 2 (ascending) and below 4, got 4");
  CHECK(said([] {
          masks::global_window(2, 4, 1, {1, 1});
        }) == "global_window: global: number 1 must be at least 2 (ascending) and below 4, got 1");
  CHECK(said([&] { masks::block_sparse(2, -1, 1, choices); }) ==
        "block_sparse: num_keys must not be negative, got -1");
  CHECK(said([&] { masks::block_sparse(2, 3, 0, choices); }) ==
        "block_sparse: block must be positive, got 0");
  CHECK(said([&] { masks::block_sparse(2, 3, 3, choices); }) ==
        "block_sparse: chosen[0]: number 1 must be at least 1 (ascending) and below 1, got 1");
  CHECK(said([&] { masks::block_sparse(2, 6, 3, descending); }) ==
        "block_sparse: chosen[0]: number 1 must be at least 2 (ascending) and below 2, got 0");
  CHECK(said([&] { masks::block_sparse(7, 6, 3, choices); }) ==
        "block_sparse: row 6 at 6 stands in block 2, choices were given for 2");
  CHECK(said([] {
          masks::draft_tree({0, 1}, -1, {-1});
        }) == "draft_tree: context must not be negative, got -1");
  CHECK(said([] {
          masks::draft_tree({0, 1}, 0, {-1, 1});
        }) == "draft_tree: parents[1] must be in [-1, 1), got 1");
  CHECK(said([] {
          masks::draft_tree({0, 1}, 0, {-2});
        }) == "draft_tree: parents[0] must be in [-1, 0), got -2");
  CHECK(said([] {
          masks::draft_tree({0, 4}, 3, {-1});
        }) == "draft_tree: rows must be nodes, at 3 or later, got 0");
  CHECK(said([] {
          masks::draft_tree({3, 5}, 3, {-1});
        }) == "draft_tree: rows must be a range within [0, 4), got [3, 5)");
  CHECK(said([] {
          masks::draft_tree({0, 1}, huge, {-1});
        }) == "draft_tree: context + nodes: size overflows: 9223372036854775807 + 1");
  CHECK(said([] { masks::unite(masks::causal(2), masks::causal(3)); }) ==
        "unite: rows of the second mask: expected 2, got 3");
  CHECK(said([] { masks::intersect(masks::causal(2), masks::causal(3)); }) ==
        "intersect: rows of the second mask: expected 2, got 3");
  CHECK(
      said([] {
        masks::unite(Mask{{{3, 5}, {0, 1}}, {0, 2}}, masks::causal(1));
      }) ==
      "unite: the first mask: intervals of row 0 must ascend without overlap, got [0, 1) after one "
      "that ends at 5");
  CHECK(said([] {
          masks::intersect(masks::causal(1), Mask{{{0, 1}}, {0, 7}});
        }) ==
        "intersect: the second mask: interval_offsets must not decrease nor exceed the 1 "
        "intervals, got "
        "0 and 7 for row 0");
  const StreamLayout layout(3);
  CHECK(said([&] { masks::stream(layout, 4, Keys::image); }) ==
        "masks::stream: rows must be a range within [0, 3), got [0, 4)");
  CHECK(said([&] { masks::last_images(layout, 3, 0); }) ==
        "masks::last_images: images: count of History::last must be positive, got 0");
  CHECK(said([&] { masks::every_image(layout, 3, -1); }) ==
        "masks::every_image: images: count of History::every must be positive, got -1");
  CHECK(said([&] { masks::stream(layout, 3, Keys::text, History::all, History::every(0)); }) ==
        "masks::stream: text: count of History::every must be positive, got 0");
}

namespace {

History history_of(const io::Json& j) {
  if (j.is_object())
    return j.contains("last") ? History::last(j.at("last").as_int())
                              : History::every(j.at("every").as_int());
  const std::string name = j.as_string();
  REQUIRE((name == "window" || name == "all"));
  return name == "all" ? History::all : History::window;
}

Places numbers(const io::Json& list) {
  Places found;
  for (const auto& x : list.elements()) found.push_back(x.as_int());
  return found;
}

// The mask that a description of the reference data names.
Mask make(const io::Json& d, const Places& rows, Index keys) {
  const std::string maker = d.at("maker").as_string();
  CAPTURE(maker);
  const auto number = [&](const char* name) { return Index{d.at(name).as_int()}; };
  const auto direction = [&] {
    return d.at("causal").as_bool() ? masks::Direction::causal : masks::Direction::both;
  };
  if (maker == "causal") return masks::causal(rows);
  if (maker == "sliding_window") return masks::sliding_window(rows, number("window"));
  if (maker == "prefix_lm") return masks::prefix_lm(rows, number("prefix"));
  if (maker == "packed_documents") return masks::packed_documents(rows, numbers(d.at("lengths")));
  if (maker == "shared_prefix")
    return masks::shared_prefix(rows, number("prefix"), numbers(d.at("lengths")));
  if (maker == "sinks_window") return masks::sinks_window(rows, number("sinks"), number("window"));
  if (maker == "global_window")
    return masks::global_window(rows, keys, number("window"), numbers(d.at("global")), direction());
  if (maker == "block_sparse") {
    std::vector<Places> chosen;
    for (const auto& c : d.at("chosen").elements()) chosen.push_back(numbers(c));
    return masks::block_sparse(rows, keys, number("block"), chosen, direction());
  }
  if (maker == "draft_tree")
    return masks::draft_tree(rows, number("context"), numbers(d.at("parents")));
  if (maker == "stream") {
    std::vector<Insertion> insertions;
    for (const auto& [position, count] : golden::Case::pairs(d.at("insertions")))
      insertions.push_back({position, count});
    const StreamLayout layout(number("text_len"), insertions);
    const bool none = d.at("text").as_string() == "none";
    const bool image = d.at("keys").as_string() == "image";
    REQUIRE(none == image);
    return masks::stream(layout, rows, image ? Keys::image : Keys::image_text,
                         history_of(d.at("images")),
                         none ? History::window : history_of(d.at("text")));
  }
  if (maker == "except_rows") {
    const Mask of = make(d.at("of"), rows, keys);
    Mask left;
    const Places without = numbers(d.at("rows"));
    for (Index t = 0; t < of.num_rows(); ++t)
      std::find(without.begin(), without.end(), t) == without.end() ? left.add_row(of.row(t))
                                                                    : left.add_row({});
    left.compact();
    return left;
  }
  REQUIRE((maker == "union" || maker == "intersection"));
  const Mask a = make(d.at("of").at(0), rows, keys), b = make(d.at("of").at(1), rows, keys);
  return maker == "union" ? masks::unite(a, b) : masks::intersect(a, b);
}

}  // namespace

TEST_CASE("makers give the lists of the reference") {
  golden::Tally tally("variants", golden::case_files("variants").size());
  for (const golden::Case& c : golden::cases("variants")) {
    CAPTURE(c.name);
    const auto d = c.description();
    if (d.at("mask").at("maker").as_string() == "lists") continue;  // no rule
    Mask reference;
    for (const auto x : c.ints("interval_offsets")) reference.offsets.push_back(x);
    reference.offsets.erase(reference.offsets.begin());
    const auto ends = c.ints("intervals");
    for (std::size_t i = 0; i < ends.size(); i += 2)
      reference.intervals.push_back({ends[i], ends[i + 1]});
    reference.compact();
    Places rows;
    for (const auto p : c.ints("row_places")) rows.push_back(p);
    check_equal(make(d.at("mask"), rows, d.at("keys").as_int()), reference);
    tally.ran();
  }
  tally.check_some();
}
