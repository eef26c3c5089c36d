// The list of variants, and attention without a score function for all of them.
#include <algorithm>

#include "variants/scored.hpp"

namespace bench {
namespace {

/// (A function's own, so that it is made before the first variant, whichever file that is in.)
std::vector<const Variant*>& registered() {
  static std::vector<const Variant*> list;
  return list;
}

}  // namespace

Variant::Variant(std::string name, std::function<Runnable()> make)
    : name_(std::move(name)), make_(std::move(make)) {
  registered().push_back(this);
}

std::vector<const Variant*> all_variants() {
  std::vector<const Variant*> list = registered();
  std::sort(list.begin(), list.end(),
            [](const Variant* a, const Variant* b) { return a->name() < b->name(); });
  for (const Variant* v : list)
    casa::require(v->name().find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_.-") ==
                          std::string::npos &&
                      !v->name().empty(),
                  "bench/variants: a name must be of a-z, 0-9, _, . and -, got ",
                  casa::quoted(v->name()));
  for (std::size_t i = 1; i < list.size(); ++i)
    casa::require(list[i - 1]->name() != list[i]->name(), "bench/variants: two variants are named ",
                  casa::quoted(list[i]->name()));
  return list;
}

Runnable plain(Attention problem, Stored stored) {
  return stored == Stored::float32
             ? scored(std::move(problem), casa::PlainScore{})
             : scored<casa::PlainScore, casa::bfloat16>(std::move(problem), casa::PlainScore{});
}

}  // namespace bench
