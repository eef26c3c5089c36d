#include "casa/text/prompt.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "text/small_tokenizer.hpp"

using namespace casa::io;
using casa::Index;

TEST_CASE("a mark is an image, a mark behind a backslash is text") {
  CHECK(split_marks("a<image>b<image>") == MarkedText{"ab", {1, 2}});
  CHECK(split_marks("what is \\<image> in html?") == MarkedText{"what is <image> in html?", {}});
  CHECK(split_marks("\\<image><image>\\<image>") == MarkedText{"<image><image>", {7}});
  CHECK(split_marks("\\\\<image>") == MarkedText{"\\<image>", {}});
  CHECK(split_marks("a\\b <imag") == MarkedText{"a\\b <imag", {}});
  CHECK(split_marks("") == MarkedText{});
}

TEST_CASE("a plain prompt has its images where its marks are") {
  CHECK(plain_prompt("a<image>b") == Prompt{"ab", {1}, true});
  CHECK(plain_prompt("a\\<image>b<image>") == Prompt{"a<image>b", {9}, true});
  CHECK(plain_prompt("<image>b", true).text == "<|vision_start|><|vision_end|>b");
  CHECK(plain_prompt("<image>b", true, ImageForm::image_pad).text ==
        "<|vision_start|><|image_pad|><|vision_end|>b");
  CHECK_THROWS_AS(plain_prompt("a", false, ImageForm::image_pad), casa::error);
  CHECK_NOTHROW(require_images(plain_prompt("<image><image>"), 2));
  CHECK_THROWS_WITH_AS(require_images(plain_prompt("<image><image>"), 1),
                       "the prompt has 2 <image> marks, but there are 1 images (\\<image> is the "
                       "text and no mark)",
                       casa::error);
}

TEST_CASE("special tokens are found outside plain stretches only, image or not") {
  const Tokenizer tokenizer = small::make(small::byte_level());  // <eos> is 260
  const auto letters = [](const std::string& s) { return std::vector<int>(s.begin(), s.end()); };
  CHECK(encode(tokenizer, Prompt{"<eos>", {}, false}).ids == std::vector{260});
  CHECK(encode(tokenizer, Prompt{"<eos>", {}, false, {{0, 5}}}).ids == letters("<eos>"));
  const Prompt parted{"x<eos>y<eos>", {6}, false, {{1, 6}}};
  const EncodedPrompt got = encode(tokenizer, parted);
  std::vector<int> expected = letters("x<eos>y");
  expected.push_back(260);
  CHECK(got.ids == expected);
  CHECK(got.insertions == std::vector<Index>{6});
  // an image inside a plain stretch parts it
  CHECK(encode(tokenizer, Prompt{"<eos><eos>", {5}, false, {{0, 10}}}).ids ==
        letters("<eos><eos>"));
  CHECK(encode(tokenizer, Prompt{"<eos><eos>", {5}, false, {{5, 10}}}).ids.front() == 260);
  CHECK_THROWS_AS(encode(tokenizer, Prompt{"ab", {}, false, {{0, 3}}}), casa::error);
  CHECK_THROWS_AS(encode(tokenizer, Prompt{"abc", {}, false, {{1, 2}, {0, 1}}}), casa::error);
}

TEST_CASE("an encoded prompt knows before which token an image is inserted") {
  const Tokenizer tokenizer = small::make(small::byte_level());  // merges ab, abc, bc
  CHECK(encode(tokenizer, plain_prompt("abc")) == EncodedPrompt{{257}, {}});
  CHECK(encode(tokenizer, plain_prompt("ab<image>c<image>")) == EncodedPrompt{{256, 'c'}, {1, 2}});
  CHECK(encode(tokenizer, plain_prompt("<image><image>")) == EncodedPrompt{{}, {0, 0}});
  Prompt wrong = plain_prompt("ab");
  wrong.image_at = {3};
  CHECK_THROWS_AS(encode(tokenizer, wrong), casa::error);
  wrong.image_at = {2, 1};
  CHECK_THROWS_AS(encode(tokenizer, wrong), casa::error);
}

TEST_CASE("special tokens stand around a plain prompt once, whatever its images") {
  auto parts = small::byte_level();
  parts["post_processor"] =
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"e","type_id":0}},)"
      R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"e","type_id":0}}],"pair":[],)"
      R"("special_tokens":{"e":{"id":"e","ids":[260],"tokens":["<eos>"]}}})";
  const Tokenizer tokenizer = small::make(parts);
  CHECK(tokenizer.encode("ab") == std::vector{260, 256, 260});
  CHECK(tokenizer.encode("ab", false) == std::vector{256});
  CHECK(encode(tokenizer, plain_prompt("<image>ab<image>c")) ==
        EncodedPrompt{{260, 256, 'c', 260}, {1, 2}});
}

TEST_CASE("image tokens are repeated at their places") {
  const int pad = 7;
  const std::vector<Index> counts = {2, 3};
  CHECK(with_image_pads({{1, 2, 3}, {1, 2}}, counts, pad) == std::vector{1, 7, 7, 2, 7, 7, 7, 3});
  CHECK(with_image_pads({{1, 7, 2, 7, 3}, {2, 4}}, counts, pad) ==  // pads that stand there count
        std::vector{1, 7, 7, 2, 7, 7, 7, 3});
  CHECK_THROWS_AS(with_image_pads({{1}, {0}}, counts, pad), casa::error);
  CHECK_THROWS_AS(with_image_pads({{1}, {0, 2}}, counts, pad), casa::error);
}
