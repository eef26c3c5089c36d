// Prompts: a text with the places at which images are inserted and the stretches in which special
// tokens are plain text, and its token ids.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/core/error.hpp"
#include "casa/text/tokenizer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

/// Where this stands in a text that split_marks or plain_prompt reads, an image is inserted.
inline constexpr std::string_view kImageMark = "<image>";

/// What stands in the text for an image.
enum class ImageForm {
  insertion_point,  ///< nothing: the image is known by its place alone (CASA)
  image_pad         ///< one <|image_pad|> for an image (Qwen2.5-VL's own form)
};

/// A text and the places (bytes, going up) at which images stand in it.
struct MarkedText {
  std::string text = {};                   ///< UTF-8, without the marks
  std::vector<std::size_t> image_at = {};  ///< places of the images
  friend bool operator==(const MarkedText&, const MarkedText&) = default;
};

/// Takes the image marks out of a text. A backslash before a mark makes it text: `\<image>` is
/// the text "<image>".
inline MarkedText split_marks(std::string_view marked) {
  MarkedText out;
  for (;;) {
    const std::size_t mark = marked.find(kImageMark);
    out.text += marked.substr(0, mark);
    if (mark == std::string_view::npos) return out;
    if (mark > 0 && marked[mark - 1] == '\\') {
      out.text.pop_back();
      out.text += kImageMark;
    } else {
      out.image_at.push_back(out.text.size());
    }
    marked.remove_prefix(mark + kImageMark.size());
  }
}

/// A text, and the places (bytes) at which images are inserted, in order.
struct Prompt {
  std::string text = {};                   ///< UTF-8
  std::vector<std::size_t> image_at = {};  ///< places of the images
  bool add_special = true;  ///< false where the text itself holds what the tokenizer would add
  /// Stretches (in order, not overlapping) in which special tokens are text like any other.
  std::vector<TextRange> plain = {};

  /// Number of images.
  Index num_images() const { return static_cast<Index>(image_at.size()); }
  friend bool operator==(const Prompt&, const Prompt&) = default;
};

/// Token ids, and for each image the index of the token before which it is inserted.
struct EncodedPrompt {
  std::vector<int> ids = {};           ///< tokens of the text
  std::vector<Index> insertions = {};  ///< of each image, in [0, ids.size()], not falling
  friend bool operator==(const EncodedPrompt&, const EncodedPrompt&) = default;
};

namespace detail {

/// Appends what stands for an image, and its place.
inline void append_image(Prompt& prompt, bool vision_delimiters, ImageForm form) {
  if (vision_delimiters) prompt.text += "<|vision_start|>";
  if (form == ImageForm::image_pad) prompt.text += "<|image_pad|>";
  prompt.image_at.push_back(prompt.text.size());
  if (vision_delimiters) prompt.text += "<|vision_end|>";
}

}  // namespace detail

/// A plain text (no template) with image marks, as split_marks reads them. Special tokens count.
/// vision_delimiters: each image stands between <|vision_start|> and <|vision_end|>, as Qwen2.5-VL
/// expects.
inline Prompt plain_prompt(std::string_view text, bool vision_delimiters = false,
                           ImageForm form = ImageForm::insertion_point) {
  require(form != ImageForm::image_pad || vision_delimiters,
          "plain_prompt: image_pad tokens stand between vision delimiters only");
  const MarkedText marked = split_marks(text);
  Prompt prompt;
  std::size_t done = 0;
  for (const std::size_t at : marked.image_at) {
    prompt.text.append(marked.text, done, at - done);
    detail::append_image(prompt, vision_delimiters, form);
    done = at;
  }
  prompt.text.append(marked.text, done);
  return prompt;
}

/// Throws unless there are as many images as marks.
inline void require_images(const Prompt& prompt, Index num_images) {
  require(prompt.num_images() == num_images, "the prompt has ", prompt.num_images(), " ",
          kImageMark, " marks, but there are ", num_images, " images (\\", kImageMark,
          " is the text and no mark)");
}

/// The ids of a prompt. An image splits the text: the parts before and after it are encoded apart.
/// Throws casa::error unless image_at ascends within the text and stretches end within it.
inline EncodedPrompt encode(const Tokenizer& tokenizer, const Prompt& prompt) {
  EncodedPrompt out;
  if (prompt.add_special) out.ids = tokenizer.prefix();
  std::size_t done = 0, next = 0;
  std::vector<TextRange> plain;
  const auto encode_until = [&](std::size_t end) {
    require(done <= end && end <= prompt.text.size(), "encode: image places ", done, ", ", end,
            " do not go up in a text of ", prompt.text.size(), " bytes");
    plain.clear();
    while (next < prompt.plain.size() && prompt.plain[next].end <= done) ++next;
    for (std::size_t i = next; i < prompt.plain.size() && prompt.plain[i].begin < end; ++i) {
      const TextRange& r = prompt.plain[i];
      require(r.end <= prompt.text.size(), "encode: the plain stretch [", r.begin, ", ", r.end,
              ") ends beyond the text of ", prompt.text.size(), " bytes");
      plain.push_back({(std::max)(r.begin, done) - done, (std::min)(r.end, end) - done});
    }
    const auto ids =
        tokenizer.encode(std::string_view(prompt.text).substr(done, end - done), false, plain);
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
