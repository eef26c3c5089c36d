#include "casa/model/tensor_set.hpp"

#include <doctest/doctest.h>

#include "random_model.hpp"
#include "support/messages.hpp"

using namespace casa;

TEST_CASE_TEMPLATE("a tensor set lays tensors out in order, without gaps", T, float, double) {
  TensorSet<T> set({{"a.weight", 2, 3}, {"norm", 4, 0}, {"empty", 0, 5}, {"b.weight", 3, 1}});
  CHECK(set.size() == 4);
  CHECK(set.values().size() == 13);
  for (const T value : set.values()) CHECK(value == T(0));
  for (std::size_t i = 0; i < 13; ++i) set.values()[i] = static_cast<T>(i);
  CHECK(set[0](1, 2) == T(5));
  CHECK(set[1].rows() == 1);
  CHECK(set[1](0, 3) == T(9));
  CHECK(set[2].rows() == 0);
  CHECK(set[set.find("b.weight")](2, 0) == T(12));
  CHECK(set.range(3).begin == 10);
  CHECK(set.contains("norm"));
  CHECK(!set.contains("nor"));
  const TensorSet<T> copy = set;
  set.fill(T(7));
  CHECK(copy[0](0, 1) == T(1));
  CHECK(set[3](1, 0) == T(7));
}

TEST_CASE("a tensor set refuses what it does not have, and names it") {
  const TensorSet<float> set({{"a", 2, 3}});
  CHECK_THROWS_WITH_AS(set.find("b"), doctest::Contains("no tensor has the name b"), error);
  CHECK_THROWS_WITH_AS(set[1], doctest::Contains("tensor 1 of 1"), error);
  CHECK_THROWS_WITH_AS(TensorSet<float>({{"a", 2, 3}, {"a", 2, 3}}),
                       doctest::Contains("two tensors have the name a"), error);
  CHECK_THROWS_WITH_AS(TensorSet<float>({{"a", -2, 3}}), doctest::Contains("-2 x 3"), error);
  CHECK_THROWS_AS(TensorSet<float>({{"a", Index{1} << 40, Index{1} << 40}}), error);
  const WeightSource source = set.source();
  CHECK_THROWS_WITH_AS(source.get({"c", 2, 3}), doctest::Contains("c"), error);
}

TEST_CASE("a decoder reads what is in a set from there, and the rest from the frozen weights") {
  DecoderConfig c;
  c.hidden_size = 8;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.head_dim = 4;
  c.intermediate_size = 12;
  c.vocab_size = 11;
  const DecoderSpec spec = decoder_spec(c);
  model_test::RandomWeights frozen(3), other(5);
  std::vector<TensorSpec> learned = tensor_specs(spec.blocks[1]);
  CHECK(tensor_specs(spec).size() == 2 + 2 * learned.size() + 1);
  TensorSet<float> set(learned);
  for (Index i = 0; i < set.size(); ++i)
    set[i].eigen() = other.get(learned[static_cast<std::size_t>(i)]).eigen();
  const Decoder<float> model(c, set.source(frozen.source()));
  const Matrix<float> down0 = model.weights().blocks[0].mlp.down().unpacked(),
                      down1 = model.weights().blocks[1].mlp.down().unpacked();
  CHECK(down0.eigen() == frozen.get(spec.blocks[0].mlp.down.weight).eigen());
  CHECK(down1.eigen() == other.get(spec.blocks[1].mlp.down.weight).eigen());
}
