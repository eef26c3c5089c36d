#include "casa/text/chat_template_folder.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "casa/text/chat_template_text.hpp"
#include "support/messages.hpp"
#include "support/scratch.hpp"
#include "text/small_tokenizer.hpp"

using namespace casa::io;

namespace {

// ChatML, written here in several ways that render alike.
const std::vector<std::string> chatml = {
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}",
    "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n"
    "    {{- message.content + '<|im_end|>\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- \"<|im_start|>assistant\\n\" }}\n{%- endif %}\n",
    "{% for message in messages %}\r\n<|im_start|>{{ message.role "
    "}}\r\n{{message['content']}}<|im_end|>\r\n"
    "{% endfor %}\r\n{% if add_generation_prompt %}\r\n<|im_start|>assistant\n{% endif %}",
    "{%for message in messages%}<|im_start|>{{message . role}}\n{{ message [ \"content\" ] "
    "}}<|im_end|>\n  {% endfor %}\n\t{% if add_generation_prompt %}\n<|im_start|>assistant\n"
    "  {% endif %}\n",
};

std::string fault(const std::string& folder, std::string_view name = {}) {
  try {
    folder_chat_template(folder, name);
  } catch (const casa::error& e) {
    return e.what();
  }
  return "";
}

std::string config(const std::string& chat_template) {
  return R"({"bos_token":{"content":"<b>","lstrip":false},"chat_template":)" + chat_template + "}";
}

}  // namespace

TEST_CASE("spellings of a template that render alike are one template") {
  for (const std::string& spelling : chatml) {
    CAPTURE(spelling);
    const auto found = published_chat_template(spelling);
    REQUIRE(found.has_value());
    CHECK(found->name == "chatml");
  }
}

TEST_CASE("a template that says another thing is another") {
  const auto changed = [](const std::string& from, const std::string& to) {
    std::string s = chatml[0];
    s.replace(s.find(from), from.size(), to);
    return s;
  };
  const auto hash = chat_template_hash(chatml[0]);
  CHECK(chat_template_hash(changed("'<|im_end|>\\n'", "'<|im_end|>'")) != hash);
  CHECK(chat_template_hash(changed("message['content']", "message['content'] | trim")) != hash);
  CHECK(chat_template_hash(changed("'role'", "'content'")) != hash);
  CHECK(chat_template_hash(changed("{% endif %}", "{% endif %} ")) != hash);
  CHECK(chat_template_hash(changed("'<|im_start|>' +", "' <|im_start|>' +")) != hash);
  CHECK(chat_template_hash(changed("{% for", "\n{% for")) != hash);
  CHECK(chat_template_hash(changed("{{ '<|im_start|>' +", "{{ 3 +")) != hash);
  CHECK(chat_template_hash(chatml[0] + "\n") == hash);    // Jinja takes one newline away
  CHECK(chat_template_hash(chatml[0] + "\n\n") == hash);  // and one behind a block
  CHECK(chat_template_hash(chatml[0] + "\n\n\n") != hash);
  CHECK_THROWS_AS(chat_template_hash("{% for"), casa::error);
  CHECK_THROWS_AS(chat_template_hash("{{ 'a }}"), casa::error);
}

TEST_CASE("a folder's own template is found where transformers looks") {
  const Scratch scratch;
  CHECK(has(fault(scratch.path()), "no chat template"));
  CHECK(has(fault(scratch.path()), "--chat-template NAME (chatml, smollm2, qwen2,"));
  CHECK(folder_chat_template(scratch.path(), "qwen2").chat.name == "qwen2");
  CHECK(folder_chat_template(scratch.path(), "llama3").bos == "<|begin_of_text|>");
  CHECK(has(fault(scratch.path(), "qwen9"), "no chat template is called \"qwen9\""));

  scratch.write("tokenizer_config.json", config(small::quoted_json(chatml[0])));
  CHECK(folder_chat_template(scratch.path()).chat.name == "chatml");
  CHECK(folder_chat_template(scratch.path()).bos == "<b>");
  CHECK(folder_chat_template(scratch.path(), "llama3").bos == "<b>");

  scratch.write("tokenizer_config.json", config("null"));
  CHECK(has(fault(scratch.path()), "no chat template"));
  const std::string known = small::quoted_json(chatml[1]);
  scratch.write("tokenizer_config.json",
                config(R"([{"name":"tool_use","template":"x"},{"name":"default","template":)" +
                       known + "}]"));
  CHECK(folder_chat_template(scratch.path()).chat.name == "chatml");
  scratch.write("tokenizer_config.json",
                config(R"([{"name":"tool_use","template":)" + known + "}]"));
  CHECK(has(fault(scratch.path()), "no template is called \"default\", only \"tool_use\""));

  // Python writes numbers that JSON has not.
  std::string infinite = config(known);
  infinite.insert(1, "\"model_max_length\": Infinity, ");
  scratch.write("tokenizer_config.json", infinite);
  CHECK(folder_chat_template(scratch.path()).chat.name == "chatml");
  scratch.write("tokenizer_config.json", config("[]"));
  CHECK(has(fault(scratch.path()), "no template is called \"default\", the list is empty"));

  // the file of its own wins
  scratch.write("chat_template.jinja", "{% for m in messages %}{{ m.content");
  CHECK(has(fault(scratch.path()), "chat_template.jinja: "));
  CHECK(has(fault(scratch.path()), "--no-system"));
  scratch.write("tokenizer_config.json", config(known));
  scratch.write("chat_template.jinja", "{{ messages }}");
  CHECK(has(fault(scratch.path()), "chat_template.jinja: this chat template is not a known"));
  CHECK(has(fault(scratch.path()), "--no-system"));
  CHECK(folder_chat_template(scratch.path(), "qwen2.5").chat.name == "qwen2.5");
  scratch.write("tokenizer_config.json", config("\"{{ messages }}\""));
  scratch.write("chat_template.jinja", chatml[0]);
  CHECK(folder_chat_template(scratch.path()).chat.name == "chatml");
}

TEST_CASE("a processor's template stands before that of the tokenizer") {
  const Scratch scratch;
  scratch.write("tokenizer_config.json", config("\"{{ messages }}\""));
  scratch.write("chat_template.json", R"({"chat_template":)" + small::quoted_json(chatml[0]) + "}");
  CHECK(folder_chat_template(scratch.path()).chat.name == "chatml");
}

TEST_CASE("files that are broken are refused by name") {
  const Scratch scratch;
  scratch.write("tokenizer_config.json", config("7"));
  CHECK(has(fault(scratch.path()), "chat_template: expected an array"));
  scratch.write("tokenizer_config.json", config("[{\"name\":\"default\"}]"));
  CHECK(has(fault(scratch.path()), "template"));
  scratch.write("tokenizer_config.json", config("\"{% if\""));
  CHECK(has(fault(scratch.path()), "does not end"));
}
