// draft_tree: 63 drafted tokens behind 4,096 in the cache, a binary tree in depth-first order: each
// sees the cache and the tokens that lead to it.
#include "casa/attention/masks.hpp"
#include "variant.hpp"

static const bench::Variant draft_tree("draft_tree", [] {
  constexpr casa::Index context = 4096, nodes = 63;
  std::vector<casa::Index> parents;
  const auto grow = [&](const auto& self, casa::Index parent, int depth) -> void {
    const casa::Index node = std::ssize(parents);
    parents.push_back(parent);
    for (int child = 0; child < 2 && depth < 6; ++child) self(self, node, depth + 1);
  };
  grow(grow, -1, 1);
  return bench::plain(
      {.mask = casa::masks::draft_tree({context, context + nodes}, context, parents),
       .keys = context + nodes,
       .kept_keys = context});
});
