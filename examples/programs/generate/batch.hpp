// The mode of `generate` that continues the prompts of a file, several together.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "casa/json/json_writer.hpp"
#include "generate/session.hpp"
#include "support/program.hpp"

// The content of a file that was named by `option`.
inline std::string content_of(const char* option, const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  casa::require(in.good() && !std::filesystem::is_directory(path), option, ": cannot read ", path);
  std::ostringstream content;
  content << in.rdbuf();
  casa::require(!in.bad(), option, ": cannot read ", path, " to its end");
  return content.str();
}

// The lines of a text that are not empty, with their numbers from 1.
inline std::vector<std::pair<std::size_t, std::string>> numbered_lines(const std::string& text) {
  std::vector<std::pair<std::size_t, std::string>> lines;
  std::size_t number = 1;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = (std::min)(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.emplace_back(number, std::move(line));
    begin = end + 1;
  }
  return lines;
}

// One JSON object a prompt goes to stdout, in the order of the lines, as soon as it and all before
// it have ended. `encode` gives a prompt's token ids; where interrupted() is true every answer
// ends. Prompt i draws with the seed of the command line + i.
inline void continue_lines(Session& session, const Arguments& a, const casa::Context& context,
                           const std::string& text,
                           const std::function<casa::io::EncodedPrompt(const std::string&)>& encode,
                           const std::function<bool()>& interrupted) {
  using Clock = std::chrono::steady_clock;
  const casa::Decoder<float>& model = session.model().decoder;
  const auto lines = numbered_lines(text);
  std::vector<std::vector<int>> prompts;
  const auto options_of = [&](std::size_t prompt) {
    casa::GenerateOptions o = session.generator().options();
    o.sampling.seed += prompt;
    const std::vector<int> stops = a.ignore_eos ? std::vector<int>{} : session.stop_ids();
    o.sampling.stop_ids.assign(stops.begin(), stops.end());
    return o;
  };
  for (const auto& [number, line] : lines) {
    try {
      prompts.push_back(encode(line).ids);
      session.require_rows(prompts.back());
      casa::Generator<float>(model, options_of(0)).check_prompt({prompts.back()});
    } catch (const casa::error& e) {
      casa::fail("--prompts: line ", number, ": ", e.what());
    }
  }

  std::map<std::size_t, casa::Generation> ended;
  std::size_t written = 0, tokens = 0;
  const auto write_ended = [&] {
    for (; ended.contains(written); ended.erase(written++)) {
      const casa::Generation& g = ended.at(written);
      casa::io::JsonWriter w;
      w.begin_object().member("line", static_cast<Index>(lines[written].first));
      w.key("prompt_ids").begin_array();
      for (const int id : prompts[written]) w.value(id);
      w.end_array().key("ids").begin_array();
      for (const int id : g.ids) w.value(id);
      w.end_array().member("text", session.text_of(g.ids));
      w.member("finish_reason", g.stop == casa::Stop::stop_id    ? "stop"
                                : g.stop == casa::Stop::callback ? "interrupted"
                                                                 : "length");
      w.end_object();
      program::put(w.str() + "\n");
      program::flush();
    }
  };
  const auto on_end = [&](std::size_t prompt, casa::Generation g) {
    tokens += g.ids.size();
    ended.emplace(prompt, std::move(g));
    write_ended();
  };
  const auto goes_on = [&](std::size_t, int) { return !interrupted(); };
  const auto begin = Clock::now();
  casa::BatchGenerator<float> batch(model);
  for (std::size_t next = 0;
       (next < prompts.size() && !interrupted()) || batch.num_streams() > 0;) {
    for (; next < prompts.size() && batch.num_streams() < a.batch && !interrupted(); ++next) {
      if (a.max_new_tokens == 0)
        on_end(next, {});
      else
        batch.add(next, {prompts[next]}, options_of(next), a.max_new_tokens, context);
    }
    batch.step(context, on_end, goes_on);
  }
  if (a.quiet) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::fprintf(stderr, "%zu of %zu prompts: %zu tokens, %.1f tokens/s, prompts included\n", written,
               prompts.size(), tokens, seconds > 0 ? static_cast<double>(tokens) / seconds : 0);
}
