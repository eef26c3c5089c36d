// A small tokenizer.json for tests, part by part, so that a test can put another part in its place.
#pragma once

#include <map>
#include <string>

#include "casa/text/tokenizer.hpp"

namespace small {

/// A JSON string in ASCII.
inline std::string quoted_json(std::string_view s) {
  std::string out = "\"";
  for (std::size_t i = 0; i < s.size(); i += casa::io::detail::utf8_size(s[i])) {
    const char32_t c = casa::io::detail::code_point(s, i);
    const auto put = [&](char32_t unit) {
      constexpr std::string_view hex = "0123456789abcdef";
      out += "\\u";
      for (int shift = 12; shift >= 0; shift -= 4) out += hex[unit >> shift & 15];
    };
    if (c < 0x10000) {
      put(c);
    } else {
      put(0xd800 + ((c - 0x10000) >> 10));
      put(0xdc00 + ((c - 0x10000) & 0x3ff));
    }
  }
  return out + '"';
}

using Parts = std::map<std::string, std::string>;

/// Byte-level BPE: the 256 bytes in order, then ab, abc, bc, "Ġa"; <eos> special, no template.
inline Parts byte_level() {
  std::string vocab, letter;
  const auto& alphabet = casa::io::detail::byte_alphabet();
  for (std::size_t b = 0; b < 256; ++b) {
    letter.clear();
    casa::io::detail::append_utf8(letter, alphabet.letter[b]);
    vocab += quoted_json(letter) + ":" + std::to_string(b) + ",";
  }
  return {{"added_tokens", R"([{"id":260,"content":"<eos>","single_word":false,"lstrip":false,)"
                           R"("rstrip":false,"normalized":false,"special":true}])"},
          {"pre_tokenizer", R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})"},
          {"decoder", R"({"type":"ByteLevel"})"},
          {"model", "{\"type\":\"BPE\",\"vocab\":{" + vocab +
                        "\"ab\":256,\"abc\":257,\"bc\":258,\"\\u0120a\":259},"
                        "\"merges\":[\"a b\",[\"ab\",\"c\"],\"b c\",[\"\\u0120\",\"a\"]]}"}};
}

/// Unigram over a, b, ab and the bytes of e acute; <unk> is 0.
inline Parts unigram() {
  return {{"model",
           R"({"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0],)"
           R"(["a",-1],["b",-1.5],["ab",-2],["<0xC3>",-9],["<0xA9>",-9],["\u2581",-3]]})"}};
}

inline std::string text(const Parts& parts) {
  std::string out;
  for (const auto& [key, value] : parts) out += (out.empty() ? "{\"" : ",\"") + key + "\":" + value;
  return out + "}";
}

inline casa::io::Tokenizer make(const Parts& parts,
                                const casa::io::TokenizerOptions& options = {}) {
  return casa::io::Tokenizer(casa::io::parse_json(text(parts), "tokenizer.json"), options);
}

}  // namespace small
