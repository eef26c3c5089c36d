// A case of golden/variants as an attention problem.
#pragma once

#include <string>
#include <vector>

#include "attention/variant.hpp"
#include "golden.hpp"

namespace attention_test {

// A case, with the memory that its score functions read.
template <class T>
struct GoldenVariant {
  Variant<T> problem;
  VariantResult<double> reference;
  Steps steps;
  std::vector<Index> query_places, key_places;
  std::vector<Matrix<float>> tensors;

  GoldenVariant(const golden::Case& c, Index cut) {
    const auto d = c.description();
    Variant<T>& p = problem;
    const auto number = [&](const char* name) { return Index{d.at(name).as_int()}; };
    p.shape = {number("n_heads"), number("n_kv_heads"), number("head_dim"), number("value_dim")};
    p.scale = d.at("scale").as_number();
    p.rows = number("rows");
    const Index keys = number("keys"), dk = p.shape.head_dim, dv = p.shape.output_dim();
    p.mask.offsets.clear();
    for (const auto x : c.ints("interval_offsets")) p.mask.offsets.push_back(x);
    const auto ends = c.ints("intervals");
    for (std::size_t i = 0; i < ends.size(); i += 2)
      p.mask.intervals.push_back({ends[i], ends[i + 1]});
    const auto q = c.matrix<T>("q"), k = c.matrix<T>("k"), v = c.matrix<T>("v");
    p.q.assign(q.data(), q.data() + q.size());
    p.counts = {cut, keys - cut};
    p.allocate();
    for (Index h = 0; h < p.shape.num_kv_heads; ++h)
      for (Index j = 0; j < keys; ++j) {
        std::copy_n(k.row(j) + h * dk, dk, p.key(h, j));
        std::copy_n(v.row(j) + h * dv, dv, p.value(h, j));
      }
    reference = {c.matrix<double>("out"), c.matrix<double>("lse")};
    if (d.at("sink").is_string()) {
      const auto sinks = c.matrix<T>(d.at("sink").as_string());
      p.sinks.assign(sinks.data(), sinks.data() + sinks.size());
    }
    if (c.has("query_places"))
      for (const auto x : c.ints("query_places")) query_places.push_back(x);
    if (c.has("key_places"))
      for (const auto x : c.ints("key_places")) key_places.push_back(x);
    tensors.reserve(static_cast<std::size_t>(d.at("score").size()));
    for (const auto& step : d.at("score").elements()) {
      const auto tensor = [&](const std::string& name) -> const Matrix<float>& {
        tensors.push_back(c.matrix<float>(name));
        return tensors.back();
      };
      const auto list = [](const Matrix<float>& m) {
        return std::span<const float>(m.data(), static_cast<std::size_t>(m.size()));
      };
      if (step.contains("soft_cap")) {
        steps.steps.push_back(SoftCap{step.at("soft_cap").as_number()});
      } else if (step.contains("alibi")) {
        steps.steps.push_back(
            Alibi<float>{list(tensor(step.at("alibi").as_string())), query_places, key_places});
      } else if (step.contains("relative_bias")) {
        const auto& r = step.at("relative_bias");
        const auto& table = tensor(r.at("table").as_string());
        steps.steps.push_back(
            RelativeBias<float>{table, r.at("offset").as_int(), query_places, key_places});
      } else if (step.contains("bias")) {
        const std::string name = step.at("bias").as_string();
        const auto& bias = tensor(name);
        const Index heads = c.shape(name)[0];
        steps.steps.push_back(Bias<float>{{bias.data(), heads * p.rows, keys}, heads});
      } else if (step.contains("head_scale")) {
        steps.steps.push_back(HeadScale<float>{list(tensor(step.at("head_scale").as_string()))});
      } else {
        FAIL("a step of score that is not known");
      }
    }
  }
};

}  // namespace attention_test
