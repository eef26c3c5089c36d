// The chat template of a model folder.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "casa/core/error.hpp"
#include "casa/files/file.hpp"
#include "casa/json/json.hpp"
#include "casa/text/chat_template.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// How the conversations of a folder are written.
struct FolderChat {
  ChatTemplate chat;  ///< the published template that the folder holds
  std::string bos;    ///< for ChatOptions; empty where the folder names none
};

namespace detail {

struct TemplateSource {
  std::string text;
  std::string where;
};

/// Jinja text of a folder, in the order of transformers: a file of its own, the file of a
/// processor, tokenizer_config.json (where of a list "default" counts).
inline std::optional<TemplateSource> find_template(const std::string& folder) {
  constexpr std::int64_t most = std::int64_t{1} << 20;
  const std::string jinja = folder + "/chat_template.jinja";
  if (file_exists(jinja)) {
    const Bytes bytes = read_file(jinja, {.max_bytes = most});
    return TemplateSource{std::string(bytes.as_text()), jinja};
  }
  for (const char* name : {"/chat_template.json", "/tokenizer_config.json"}) {
    const std::string file = folder + name;
    if (!file_exists(file)) continue;
    const Json json = read_json(file, python_json({}));
    const auto field = json.find_set("chat_template");
    if (!field) continue;
    if (field->is_string()) return TemplateSource{field->as_string(), field->where()};
    std::string others;
    for (const Json& entry : field->elements()) {
      const std::string& entry_name = entry.at("name").as_string();
      const Json text = entry.at("template");
      if (entry_name == "default") return TemplateSource{text.as_string(), text.where()};
      others += (others.empty() ? "" : ", ") + casa::quoted(entry_name);
    }
    fail(field->where(), ": no template is called \"default\", ",
         others.empty() ? "the list is empty" : "only " + others,
         " (--chat-template NAME goes on with one of ", chat_template_names(), ")");
  }
  return std::nullopt;
}

/// "bos_token" of tokenizer_config.json, or of special_tokens_map.json: a text, or an object that
/// holds it. Nothing where the folder has neither file.
inline std::optional<std::string> find_bos(const std::string& folder) {
  std::optional<std::string> bos;
  for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"}) {
    const std::string file = folder + name;
    if (!file_exists(file)) continue;
    if (!bos) bos.emplace();
    if (const auto token = read_json(file, python_json({})).find_set("bos_token"))
      return token->is_object() ? token->at("content").as_string() : token->as_string();
  }
  return bos;
}

}  // namespace detail

/// The template of a model folder; `name`, unless empty, picks a template whatever the folder says.
/// Throws casa::error where the folder has no template or one that is not known; the message lists
/// the names that may be given instead.
inline FolderChat folder_chat_template(const std::string& folder, std::string_view name = {}) {
  const std::string bos =
      detail::find_bos(folder).value_or(name.empty() ? std::string() : ChatOptions().bos);
  if (!name.empty()) return {chat_template(name), bos};
  const std::string go_on =
      casa::text("name one with --chat-template NAME (", chat_template_names(),
                 "), and --no-system where its own system text is not wanted");
  const auto source = detail::find_template(folder);
  require(source.has_value(), folder,
          ": the folder has no chat template (chat_template.jinja, or \"chat_template\" in "
          "tokenizer_config.json), so it has no chat: ",
          go_on);
  std::optional<ChatTemplate> chat;
  try {
    chat = published_chat_template(source->text);
  } catch (const error& e) {
    fail(source->where, ": ", e.what(), ": ", go_on);
  }
  require(chat.has_value(), source->where, ": this chat template is not a known one: ", go_on);
  return {*chat, bos};
}

}  // namespace io
CASA_NAMESPACE_END
