// Conversations as the text that chat models were trained on: the templates of Qwen2.5-VL, SmolLM2
// and Llama 3 as functions, and prompts with the places at which images are inserted.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/io/tokenizer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Where this stands in a prompt or a message, an image is inserted.
inline constexpr std::string_view kImageMark = "<image>";

/// One turn of a conversation.
struct ChatMessage {
  std::string role;     ///< "system", "user" or "assistant"
  std::string content;  ///< may hold image marks
};

enum class ChatFamily { qwen2_5_vl, smollm2, llama3 };

/// What stands in the text for an image.
enum class ImageForm {
  insertion_point,  ///< nothing: the image is known by its place alone (CASA)
  image_pad         ///< one <|image_pad|> for an image (Qwen2.5-VL's own form)
};

/// A text, and the places (bytes) at which images are inserted, in order.
struct Prompt {
  std::string text = {};
  std::vector<std::size_t> image_at = {};
  bool add_special = true;  ///< false where the text itself holds what the tokenizer would add

  Index num_images() const { return static_cast<Index>(image_at.size()); }
  friend bool operator==(const Prompt&, const Prompt&) = default;
};

/// Token ids, and for each image the index of the token before which it is inserted.
struct EncodedPrompt {
  std::vector<int> ids = {};
  std::vector<Index> insertions = {};
  friend bool operator==(const EncodedPrompt&, const EncodedPrompt&) = default;
};

namespace detail {

/// Appends content; each image mark in it becomes a place.
inline void append_content(Prompt& prompt, std::string_view content, bool vision_delimiters,
                           ImageForm form) {
  for (;;) {
    const std::size_t mark = content.find(kImageMark);
    prompt.text += content.substr(0, mark);
    if (mark == std::string_view::npos) return;
    if (vision_delimiters) prompt.text += "<|vision_start|>";
    if (form == ImageForm::image_pad) prompt.text += "<|image_pad|>";
    prompt.image_at.push_back(prompt.text.size());
    if (vision_delimiters) prompt.text += "<|vision_end|>";
    content.remove_prefix(mark + kImageMark.size());
  }
}

/// Without the white space at both ends that Python's str.strip() takes away.
inline std::string_view stripped(std::string_view s) {
  const auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); };
  while (!s.empty() && is_space(code_point(s))) s.remove_prefix(utf8_size(s[0]));
  while (!s.empty()) {
    const std::size_t last = previous_character(s, s.size());
    if (!is_space(code_point(s, last))) break;
    s = s.substr(0, last);
  }
  return s;
}

inline void append_chatml(Prompt& prompt, std::span<const ChatMessage> messages,
                          std::string_view default_system, ImageForm form, bool vision_delimiters) {
  const auto turn = [&](std::string_view role, std::string_view content) {
    prompt.text.append("<|im_start|>").append(role).append("\n");
    append_content(prompt, content, vision_delimiters, form);
    prompt.text += "<|im_end|>\n";
  };
  if (!messages.empty() && messages.front().role != "system") turn("system", default_system);
  for (const ChatMessage& m : messages) turn(m.role, m.content);
}

}  // namespace detail

/// A conversation as the family's own template writes it. add_generation_prompt: with the head of
/// the answer that is to come. Image marks become places; form image_pad is for Qwen2.5-VL only.
/// Special tokens that stand in a content are taken as such, as the templates do. Throws
/// casa::error for no message, another role, text that is not UTF-8.
inline Prompt chat_prompt(ChatFamily family, std::span<const ChatMessage> messages,
                          bool add_generation_prompt = true,
                          ImageForm form = ImageForm::insertion_point) {
  require(!messages.empty(), "chat_prompt: there is no message");
  require(form != ImageForm::image_pad || family == ChatFamily::qwen2_5_vl,
          "chat_prompt: only Qwen2.5-VL has image_pad tokens");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& m = messages[i];
    require(m.role == "system" || m.role == "user" || m.role == "assistant",
            "chat_prompt: message ", i, ": expected the role system, user or assistant, got ",
            casa::quoted(m.role));
    const std::size_t bad = detail::find_invalid_utf8(m.content);
    require(bad == std::string_view::npos, "chat_prompt: message ", i, " is not UTF-8 at byte ",
            bad);
  }
  Prompt prompt;
  prompt.add_special = false;
  switch (family) {
    case ChatFamily::qwen2_5_vl:
      detail::append_chatml(prompt, messages, "You are a helpful assistant.", form, true);
      if (add_generation_prompt) prompt.text += "<|im_start|>assistant\n";
      break;
    case ChatFamily::smollm2:
      detail::append_chatml(prompt, messages,
                            "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
                            form, false);
      if (add_generation_prompt) prompt.text += "<|im_start|>assistant\n";
      break;
    case ChatFamily::llama3:
      prompt.text = "<|begin_of_text|>";
      for (const ChatMessage& m : messages) {
        prompt.text.append("<|start_header_id|>").append(m.role).append("<|end_header_id|>\n\n");
        detail::append_content(prompt, detail::stripped(m.content), false, form);
        prompt.text += "<|eot_id|>";
      }
      if (add_generation_prompt) prompt.text += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  }
  return prompt;
}

/// A plain text (no template) with image marks. vision_delimiters: each image stands between
/// <|vision_start|> and <|vision_end|>, as Qwen2.5-VL expects.
inline Prompt plain_prompt(std::string_view text, bool vision_delimiters = false,
                           ImageForm form = ImageForm::insertion_point) {
  require(form != ImageForm::image_pad || vision_delimiters,
          "plain_prompt: image_pad tokens stand between vision delimiters only");
  Prompt prompt;
  detail::append_content(prompt, text, vision_delimiters, form);
  return prompt;
}

/// Throws unless there are as many images as marks.
inline void require_images(const Prompt& prompt, Index num_images) {
  require(prompt.num_images() == num_images, "the prompt has ", prompt.num_images(), " ",
          kImageMark, " marks, but there are ", num_images, " images");
}

/// The ids of a prompt. An image parts the text as a token would: what stands on either side of it
/// is encoded on its own.
inline EncodedPrompt encode(const Tokenizer& tokenizer, const Prompt& prompt) {
  EncodedPrompt out;
  if (prompt.add_special) out.ids = tokenizer.prefix();
  std::size_t done = 0;
  const auto encode_until = [&](std::size_t end) {
    require(done <= end && end <= prompt.text.size(), "encode: image places ", done, ", ", end,
            " do not go up in a text of ", prompt.text.size(), " bytes");
    const auto ids =
        tokenizer.encode(std::string_view(prompt.text).substr(done, end - done), false);
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    done = end;
  };
  for (const std::size_t place : prompt.image_at) {
    encode_until(place);
    out.insertions.push_back(static_cast<Index>(out.ids.size()));
  }
  encode_until(prompt.text.size());
  if (prompt.add_special)
    out.ids.insert(out.ids.end(), tokenizer.suffix().begin(), tokenizer.suffix().end());
  return out;
}

/// Ids for token insertion: image i stands as counts[i] times pad_id at its place; a single pad_id
/// that already stands before the place (ImageForm::image_pad) is one of them.
inline std::vector<int> with_image_pads(const EncodedPrompt& prompt, std::span<const Index> counts,
                                        int pad_id) {
  require_equal("with_image_pads: counts", counts.size(), prompt.insertions.size());
  std::vector<int> ids;
  std::size_t done = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto place = static_cast<std::size_t>(prompt.insertions[i]);
    require(counts[i] >= 1 && place >= done && place <= prompt.ids.size(),
            "with_image_pads: image ", i, " has ", counts[i], " tokens at place ", place);
    ids.insert(ids.end(), prompt.ids.begin() + static_cast<std::ptrdiff_t>(done),
               prompt.ids.begin() + static_cast<std::ptrdiff_t>(place));
    if (place > done && ids.back() == pad_id) ids.pop_back();
    ids.insert(ids.end(), static_cast<std::size_t>(counts[i]), pad_id);
    done = place;
  }
  ids.insert(ids.end(), prompt.ids.begin() + static_cast<std::ptrdiff_t>(done), prompt.ids.end());
  return ids;
}

}  // namespace io
CASA_NAMESPACE_END
