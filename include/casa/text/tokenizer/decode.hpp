// From tokens back to text, one token at a time. Decoding a whole list pushes its tokens one after
// the other, so that streaming gives the same text as decoding at once by construction.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/text/tokenizer/regex.hpp"
#include "casa/text/tokenizer/utf8.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

/// One step of a decoder: takes a list of strings, gives a list of strings.
struct DecoderStep {
  enum class Kind {
    byte_level,     ///< GPT-2's alphabet to bytes, all as one string; broken characters as U+FFFD
    byte_fallback,  ///< consecutive <0x..> to text; if not UTF-8, each byte to U+FFFD
    replace,        ///< `pattern` to `content` in each string
    fuse,           ///< all strings as one
    strip,          ///< up to `start` and `stop` times `content` off the ends of each string
    metaspace,      ///< `pattern` to a space; in the first string to nothing, if `drop_first`
    join            ///< a space between strings (files without a decoder; the only step)
  };
  Kind kind;
  std::string pattern = {};
  std::string content = {};
  std::size_t start = 0, stop = 0;
  bool drop_first = false;
};

/// The steps of a decoder with their state while it decodes one text. A step may receive a string
/// in several parts; `begins` says whether a part is the first of its string.
class DecoderRun {
 public:
  explicit DecoderRun(const std::vector<DecoderStep>& steps)
      : steps_(&steps), states_(steps.size()) {}

  /// Appends to `out` the text that no later token can change.
  void push(std::string_view token, std::string& out) { feed(0, token, true, out); }
  /// Appends what was held back, and resets the state.
  void finish(std::string& out) {
    for (std::size_t i = 0; i < steps_->size(); ++i) end(i, out);
    states_.assign(steps_->size(), {});
  }

 private:
  struct State {
    bool any = false;  // a string has begun
    std::string held;  // byte_fallback: bytes of <0x..>; strip: a tail that may have to go
    Utf8Repair repair;
    std::size_t stripped = 0;  // from the front of the present string
    bool front = true;         // still at the front of the present string
    bool first = true;         // the present string is the first
  };

  void feed(std::size_t i, std::string_view part, bool begins, std::string& out) {
    if (i == steps_->size()) {
      out += part;
      return;
    }
    const DecoderStep& step = (*steps_)[i];
    State& state = states_[i];
    switch (step.kind) {
      case DecoderStep::Kind::byte_level:
        return byte_level(i, part, out);
      case DecoderStep::Kind::byte_fallback:
        return byte_fallback(i, part, begins, out);
      case DecoderStep::Kind::replace:
        return feed(i + 1, replaced(part, step.pattern, step.content), begins, out);
      case DecoderStep::Kind::fuse:
        feed(i + 1, part, !state.any, out);
        state.any = true;
        return;
      case DecoderStep::Kind::strip:
        return strip(i, part, begins, out);
      case DecoderStep::Kind::metaspace:
        if (begins) state.first = !std::exchange(state.any, true);
        return feed(i + 1, replaced(part, step.pattern, state.first && step.drop_first ? "" : " "),
                    begins, out);
      case DecoderStep::Kind::join:
        if (begins && std::exchange(state.any, true)) out += ' ';
        out += part;
        return;
    }
  }

  void end(std::size_t i, std::string& out) {
    State& state = states_[i];
    switch ((*steps_)[i].kind) {
      case DecoderStep::Kind::byte_level: {
        std::string rest;
        state.repair.finish(rest);
        if (!rest.empty()) feed(i + 1, rest, !std::exchange(state.any, true), out);
        return;
      }
      case DecoderStep::Kind::byte_fallback:
        return put_bytes(i, out);
      case DecoderStep::Kind::strip:
        state.held.clear();
        return;
      default:
        return;
    }
  }

  void byte_level(std::size_t i, std::string_view token, std::string& out) {
    State& state = states_[i];
    std::string bytes, text;
    if (!byte_alphabet().read(token, bytes)) bytes = token;  // an added token may use other letters
    state.repair.push(bytes, text);
    if (!text.empty()) feed(i + 1, text, !std::exchange(state.any, true), out);
  }

  void byte_fallback(std::size_t i, std::string_view token, bool begins, std::string& out) {
    if (const int byte = begins ? read_byte_token(token) : -1; byte >= 0) {
      states_[i].held += static_cast<char>(static_cast<unsigned char>(byte));
      return;
    }
    if (begins) put_bytes(i, out);
    feed(i + 1, token, begins, out);
  }
  void put_bytes(std::size_t i, std::string& out) {
    const std::string bytes = std::exchange(states_[i].held, {});
    if (bytes.empty()) return;
    if (find_invalid_utf8(bytes) == std::string_view::npos) return feed(i + 1, bytes, true, out);
    for (std::size_t n = 0; n < bytes.size(); ++n) feed(i + 1, kReplacementCharacter, true, out);
  }

  void strip(std::size_t i, std::string_view part, bool begins, std::string& out) {
    const DecoderStep& step = (*steps_)[i];
    State& state = states_[i];
    if (begins) {
      state.held.clear();
      state.front = true;
      state.stripped = 0;
    }
    while (state.front && state.stripped < step.start && part.starts_with(step.content)) {
      part.remove_prefix(step.content.size());
      ++state.stripped;
    }
    if (!part.empty()) state.front = false;
    if (step.stop == 0) return feed(i + 1, part, begins, out);
    state.held += part;  // the last `stop` copies of content are dropped if the string ends here
    std::size_t keep = state.held.size();
    for (std::size_t n = 0; n < step.stop && ends_before(state.held, keep, step.content); ++n)
      keep -= step.content.size();
    const std::string certain = state.held.substr(0, keep);
    state.held.erase(0, keep);
    feed(i + 1, certain, begins, out);
  }
  static bool ends_before(std::string_view s, std::size_t end, std::string_view tail) {
    return s.substr(0, end).ends_with(tail);
  }

  static std::string replaced(std::string_view s, std::string_view pattern,
                              std::string_view content) {
    std::string out;
    std::size_t done = 0;
    for (std::size_t at = 0; (at = s.find(pattern, at)) != std::string_view::npos;) {
      out += s.substr(done, at - done);
      out += content;
      require_growth(out.size());
      done = at += pattern.size();
    }
    return out += s.substr(done);
  }

  /// The byte that "<0x41>" stands for, -1 for other tokens. Lower-case digits are accepted, and a
  /// plus sign before a single digit, because the Python package's parser accepts them.
  static int read_byte_token(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    const int low = hex_digit(token[4]);
    const int high = token[3] == '+' ? 0 : hex_digit(token[3]);
    return low < 0 || high < 0 ? -1 : 16 * high + low;
  }
  static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  }

  const std::vector<DecoderStep>* steps_;
  std::vector<State> states_;
};

}  // namespace detail
}  // namespace io
CASA_NAMESPACE_END
