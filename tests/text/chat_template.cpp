#include "casa/io/chat_template.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "text/small_tokenizer.hpp"

using namespace casa::io;
using casa::Index;

namespace {

const std::vector<ChatMessage> one = {{"user", "Hi there"}};
const std::vector<ChatMessage> four = {
    {"system", "Be brief."}, {"user", " What is\n2 + 2? \n"}, {"assistant", "4"}, {"user", "Why?"}};

}  // namespace

TEST_CASE("Qwen2.5-VL's template") {
  const auto family = ChatFamily::qwen2_5_vl;
  CHECK(chat_prompt(family, one).text ==
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
  CHECK(chat_prompt(family, one, false).text ==
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi there<|im_end|>\n");
  CHECK(chat_prompt(family, four).text ==
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n What is\n2 + 2? \n<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n");
}

TEST_CASE("SmolLM2's template") {
  const auto family = ChatFamily::smollm2;
  CHECK(chat_prompt(family, one).text ==
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n");
  CHECK(chat_prompt(family, four, false).text ==
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n What is\n2 + 2? \n<|im_end|>\n"
        "<|im_start|>assistant\n4<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n");
}

TEST_CASE("Llama 3's template begins the text itself and strips contents") {
  const auto family = ChatFamily::llama3;
  CHECK(chat_prompt(family, one).text ==
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n");
  CHECK_FALSE(chat_prompt(family, one).add_special);
  CHECK(chat_prompt(family, four, false).text ==
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is\n2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>");
  const std::vector<ChatMessage> odd = {{"user", "\x1c\xc2\xa0\xe3\x80\x80x\xe2\x80\x83\x1f"}};
  CHECK(chat_prompt(family, odd, false).text ==
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|>");
}

TEST_CASE("an image mark becomes the family's form of an image, and its place is known") {
  const std::vector<ChatMessage> messages = {{"system", "s"}, {"user", "<image>What is <image>?"}};
  const std::string before = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n";
  const Prompt pads = chat_prompt(ChatFamily::qwen2_5_vl, messages, false, ImageForm::image_pad);
  CHECK(pads.text == before +
                         "<|vision_start|><|image_pad|><|vision_end|>What is "
                         "<|vision_start|><|image_pad|><|vision_end|>?<|im_end|>\n");
  const Prompt points = chat_prompt(ChatFamily::qwen2_5_vl, messages, false);
  CHECK(points.text == before +
                           "<|vision_start|><|vision_end|>What is "
                           "<|vision_start|><|vision_end|>?<|im_end|>\n");
  REQUIRE(points.num_images() == 2);
  for (const std::size_t place : points.image_at) {
    CHECK(points.text.substr(0, place).ends_with("<|vision_start|>"));
    CHECK(points.text.substr(place).starts_with("<|vision_end|>"));
  }
  const Prompt bare = chat_prompt(ChatFamily::smollm2, messages, false);
  CHECK(bare.text == before + "What is ?<|im_end|>\n");
  CHECK(bare.image_at == std::vector{before.size(), before.size() + 8});
  CHECK(plain_prompt("a<image>b") == Prompt{"ab", {1}, true});
  CHECK(plain_prompt("<image>b", true).text == "<|vision_start|><|vision_end|>b");
}

TEST_CASE("bad conversations are errors") {
  const auto family = ChatFamily::smollm2;
  CHECK_THROWS_AS(chat_prompt(family, {}), casa::error);
  CHECK_THROWS_AS(chat_prompt(family, std::vector<ChatMessage>{{"tool", "x"}}), casa::error);
  CHECK_THROWS_AS(chat_prompt(family, std::vector<ChatMessage>{{"user", "\xff"}}), casa::error);
  CHECK_THROWS_AS(chat_prompt(family, one, true, ImageForm::image_pad), casa::error);
  CHECK_THROWS_AS(plain_prompt("a", false, ImageForm::image_pad), casa::error);
  CHECK_NOTHROW(require_images(plain_prompt("<image><image>"), 2));
  CHECK_THROWS_WITH_AS(require_images(plain_prompt("<image><image>"), 1),
                       "the prompt has 2 <image> marks, but there are 1 images", casa::error);
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
