// Conversations as the text that chat models were trained on: the published templates, written as
// C++ and recognised in a model folder by a hash of their Jinja text. No Jinja is evaluated.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/chat_template_text.hpp"
#include "casa/text/prompt.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// One turn of a conversation.
struct ChatMessage {
  std::string role;                        ///< "system", "user" or "assistant"
  std::string content;                     ///< text; special tokens in it are text like any other
  std::vector<std::size_t> image_at = {};  ///< places (bytes of content, going up) of its images
};

/// What is written around a turn.
enum class ChatStyle { chatml, llama3 };

/// Which date a template writes above the system text where no other is asked for.
enum class ChatDate { none, july_2024, today };

/// A chat template, as far as conversations of text and images go (no tools).
struct ChatTemplate {
  std::string_view name;                ///< as chat_template() finds it
  ChatStyle style = ChatStyle::chatml;  ///< what is written around a turn
  /// System text written if the first message is not a system message; empty: no system turn.
  std::string_view default_system = {};
  bool vision_delimiters = false;  ///< an image stands between <|vision_start|> and <|vision_end|>
  ChatDate date = ChatDate::none;  ///< other than none: a system turn with dates, always
  bool requires_bos = false;       ///< can not be written without a bos token
  bool always_answers = false;     ///< ends with the head of an answer, whatever the options
};

/// The templates we know, by name.
inline constexpr std::array<ChatTemplate, 8> kChatTemplates = {{
    {.name = "chatml"},
    {.name = "smollm2",
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {.name = "qwen2", .default_system = "You are a helpful assistant."},
    {.name = "qwen2.5",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {.name = "qwen2.5-vl",
     .default_system = "You are a helpful assistant.",
     .vision_delimiters = true},
    {.name = "llama3", .style = ChatStyle::llama3, .requires_bos = true},
    {.name = "llama3.1", .style = ChatStyle::llama3, .date = ChatDate::july_2024},
    {.name = "llama3.2", .style = ChatStyle::llama3, .date = ChatDate::today},
}};

/// "chatml, smollm2, ...": what chat_template() knows.
inline std::string chat_template_names() {
  std::string names;
  for (const ChatTemplate& t : kChatTemplates)
    names.append(names.empty() ? "" : ", ").append(t.name);
  return names;
}

/// The template of a name. Throws casa::error if there is none of that name.
inline const ChatTemplate& chat_template(std::string_view name) {
  for (const ChatTemplate& t : kChatTemplates)
    if (t.name == name) return t;
  fail("no chat template is called ", casa::quoted(name), "; known are ", chat_template_names());
}

/// The template that a text in Jinja is, by its hash; nothing where it is not a published one.
/// Throws casa::error for a text that is no template.
inline std::optional<ChatTemplate> published_chat_template(std::string_view jinja) {
  struct Row {
    std::uint64_t hash;
    std::string_view name;
    bool always_answers = false;
  };
  // tests/text/chat_templates.py says where each text is found and holds them against this table.
  constexpr std::array<Row, 11> known = {{
      {0x3228f3ab876bb3d6, "chatml"},
      {0x272d690885cbd340, "chatml"},  // its Jinja first sets a default for add_generation_prompt
      {0x1ce7e9d93a3391ab, "smollm2"},
      {0x44e5c9b48afcf84e, "qwen2"},
      {0xded0e0b4476fdfbf, "qwen2"},  // Qwen2.5's base and 1M models: without tools the same
      {0x6a1ccafcc48f0433, "qwen2.5"},
      {0x3761c7fa03899b57, "qwen2.5-vl"},  // Qwen2-VL's too
      {0x63f81a85fd9f77ea, "llama3"},
      {0xa4484df88a993e6c, "llama3", true},  // as first published
      {0x444be72107422841, "llama3.1"},      // Llama 3.3's too
      {0xad87aefc9e385d54, "llama3.2"},
  }};
  const std::uint64_t hash = chat_template_hash(jinja);
  for (const Row& row : known) {
    if (row.hash != hash) continue;
    ChatTemplate found = chat_template(row.name);
    found.always_answers = row.always_answers;
    return found;
  }
  return std::nullopt;
}

/// What a template is given besides the messages.
struct ChatOptions {
  bool add_generation_prompt = true;  ///< with the head of the answer that is to come
  /// Whether to write the template's default system turn if no system message is given.
  bool own_system = true;
  std::string date = {};  ///< in place of the date that the template writes by itself
  std::string bos = "<|begin_of_text|>";  ///< written before the first turn of Llama 3 templates
  ImageForm form = ImageForm::insertion_point;  ///< image_pad: with vision delimiters only
};

namespace detail {

/// Without the white space at both ends that Python's str.strip() takes away.
inline TextRange stripped(std::string_view s) {
  const auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); };
  TextRange r{0, s.size()};
  while (r.begin < r.end && is_space(code_point(s, r.begin))) r.begin += utf8_size(s[r.begin]);
  while (r.begin < r.end) {
    const std::size_t last = previous_character(s, r.end);
    if (!is_space(code_point(s, last))) break;
    r.end = last;
  }
  return r;
}

/// Today as strftime("%d %b %Y") writes it, in English.
inline std::string today() {
  constexpr std::array<std::string_view, 12> months = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm t = {};
  require(localtime_r(&now, &t) != nullptr, "chat template: the date of today is not known");
  return casa::text(t.tm_mday < 10 ? "0" : "", t.tm_mday, " ",
                    months[static_cast<std::size_t>(t.tm_mon)], " ", t.tm_year + 1900);
}

/// Writes turns one after the other.
class ChatWriter {
 public:
  ChatWriter(const ChatTemplate& chat, const ChatOptions& options)
      : chat_(chat), options_(options) {
    require(options.form != ImageForm::image_pad || chat.vision_delimiters, "chat template ",
            chat.name, ": it has no image_pad tokens");
    require(options.date.empty() || chat.date != ChatDate::none, "chat template ", chat.name,
            ": it has no date, got ", casa::quoted(options.date));
    require_utf8("the date", options.date);
    prompt.add_special = false;
  }

  /// What stands before the first turn, and the system turn if there is one. Returns how many
  /// messages that took.
  std::size_t open(std::span<const ChatMessage> messages) {
    const bool llama = chat_.style == ChatStyle::llama3;
    if (llama) {
      require(!chat_.requires_bos || !options_.bos.empty(), "chat template ", chat_.name,
              ": it needs a bos token, and the folder names none");
      prompt.text += options_.bos;
    }
    const bool has_system = messages.front().role == "system";
    if (!options_.own_system) return 0;
    if (llama && chat_.date != ChatDate::none) {
      begin_turn("system");
      prompt.text += "Cutting Knowledge Date: December 2023\nToday Date: ";
      if (options_.date.empty())
        prompt.text += chat_.date == ChatDate::today ? today() : "26 Jul 2024";
      else
        plain(options_.date);
      prompt.text += "\n\n";
      if (has_system) content(messages.front());
      end_turn();
      return has_system ? 1 : 0;
    }
    if (!has_system && !chat_.default_system.empty()) {
      begin_turn("system");
      prompt.text += chat_.default_system;
      end_turn();
    }
    return 0;
  }
  void turns(std::span<const ChatMessage> messages) {
    for (const ChatMessage& m : messages) {
      begin_turn(m.role);
      content(m);
      end_turn();
    }
    if (options_.add_generation_prompt || chat_.always_answers) begin_turn("assistant");
  }
  void end_turn() {
    prompt.text += chat_.style == ChatStyle::llama3 ? "<|eot_id|>" : "<|im_end|>\n";
  }

  static void check(std::span<const ChatMessage> messages) {
    require(!messages.empty(), "chat: there is no message");
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const ChatMessage& m = messages[i];
      require(m.role == "system" || m.role == "user" || m.role == "assistant", "chat: message ", i,
              ": expected the role system, user or assistant, got ", casa::quoted(m.role));
      require_utf8(casa::text("message ", i), m.content);
      std::size_t last = 0;
      for (const std::size_t at : m.image_at) {
        require(last <= at && at <= m.content.size() &&
                    (at == m.content.size() ||
                     (static_cast<unsigned char>(m.content[at]) & 0xc0) != 0x80),
                "chat: message ", i, ": an image stands at byte ", at, ", after byte ", last,
                " of a content of ", m.content.size(), " bytes");
        last = at;
      }
    }
  }

  Prompt prompt;

 private:
  static void require_utf8(std::string_view what, std::string_view s) {
    const std::size_t bad = find_invalid_utf8(s);
    require(bad == std::string_view::npos, "chat: ", what, " is not UTF-8 at byte ", bad);
  }
  void begin_turn(std::string_view role) {
    if (chat_.style == ChatStyle::llama3)
      prompt.text.append("<|start_header_id|>").append(role).append("<|end_header_id|>\n\n");
    else
      prompt.text.append("<|im_start|>").append(role).append("\n");
  }
  void plain(std::string_view s) {
    if (s.empty()) return;
    prompt.plain.push_back({prompt.text.size(), prompt.text.size() + s.size()});
    prompt.text += s;
  }
  void content(const ChatMessage& m) {
    const std::string_view all = m.content;
    const TextRange kept =
        chat_.style == ChatStyle::llama3 ? stripped(all) : TextRange{0, all.size()};
    std::size_t done = kept.begin;
    for (const std::size_t place : m.image_at) {
      const std::size_t at = (std::clamp)(place, kept.begin, kept.end);
      plain(all.substr(done, at - done));
      append_image(prompt, chat_.vision_delimiters, options_.form);
      done = at;
    }
    plain(all.substr(done, kept.end - done));
  }

  const ChatTemplate& chat_;
  const ChatOptions& options_;
};

}  // namespace detail

/// A conversation as its template writes it. Contents are plain: no special token is found in them.
/// Throws casa::error for no message, another role, text that is not UTF-8, image places that are
/// none, and options that do not fit the template.
inline Prompt chat_prompt(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                          const ChatOptions& options = {}) {
  detail::ChatWriter::check(messages);
  detail::ChatWriter writer(chat, options);
  writer.turns(messages.subspan(writer.open(messages)));
  return std::move(writer.prompt);
}

/// What follows an answer: its end, these messages, and the head of the next answer. After
/// chat_prompt(a) and an answer, next_turn(b) makes the text of chat_prompt(a, answer, b); but for
/// white space around an answer, which Llama 3 takes away when it writes it anew.
inline Prompt next_turn(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                        const ChatOptions& options = {}) {
  detail::ChatWriter::check(messages);
  detail::ChatWriter writer(chat, options);
  writer.end_turn();
  writer.turns(messages);
  return std::move(writer.prompt);
}

}  // namespace io
CASA_NAMESPACE_END
