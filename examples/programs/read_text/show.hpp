// Pictures and texts in a terminal, or as plain characters.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "read_text/picture.hpp"
#include "support/edit_distance.hpp"

namespace read_text {

/// How stdout is written to.
struct Screen {
  enum class Colour { none, palette, full };
  Colour colour = Colour::none;  ///< none: plain ASCII
  Index columns = 131;           ///< what is no terminal takes a whole picture of 128 pixels

  /// What stdout is: a terminal with 2^24 or 256 colours, or something that takes plain characters
  /// (no terminal, TERM=dumb, or NO_COLOR is set).
  static Screen of_stdout() {
    const auto variable = [](const char* name) {
      const char* value = std::getenv(name);
      return std::string_view(value ? value : "");
    };
    Screen s;
    if (!::isatty(STDOUT_FILENO)) return s;
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20;
    s.columns = known ? size.ws_col : 80;
    if (variable("TERM") == "dumb" || !variable("NO_COLOR").empty()) return s;
    const auto colours = variable("COLORTERM");
    s.colour = colours == "truecolor" || colours == "24bit" ? Colour::full : Colour::palette;
    return s;
  }
};

/// The rows and columns of a picture in which something differs from its background by more than
/// half of the most that anything does, after blurring (noise differs, too), and a margin.
inline Box inked_box(GreyView grey, Index margin = 4) {
  const int level = background(grey);
  const auto blurred = [&](Index y, Index x) {
    int sum = 0;
    for (Index v = y - 1; v <= y + 1; ++v)
      for (Index u = x - 1; u <= x + 1; ++u) sum += grey(v, u);
    return std::abs(sum - 9 * level);
  };
  int most = 0;
  for (Index y = 1; y + 1 < grey.rows(); ++y)
    for (Index x = 1; x + 1 < grey.cols(); ++x) most = (std::max)(most, blurred(y, x));
  Box box{grey.rows(), grey.cols(), 0, 0};
  for (Index y = 1; y + 1 < grey.rows(); ++y) {
    for (Index x = 1; x + 1 < grey.cols(); ++x) {
      if (2 * blurred(y, x) <= most) continue;
      box.top = (std::min)(box.top, y - margin);
      box.left = (std::min)(box.left, x - margin);
      box.bottom = (std::max)(box.bottom, y + 1 + margin);
      box.right = (std::max)(box.right, x + 1 + margin);
    }
  }
  if (box.bottom == 0) return {0, 0, grey.rows(), grey.cols()};
  return {(std::max)(box.top, Index{0}), (std::max)(box.left, Index{0}),
          (std::min)(box.bottom, grey.rows()), (std::min)(box.right, grey.cols())};
}

/// A picture, cut to what stands in it and made as wide as the screen at most: two pixel rows a
/// line, as half blocks of two greys, or as characters whose darkness is the picture's.
inline std::string drawn(GreyView grey, const Screen& screen) {
  Grey cut = cropped(grey, inked_box(grey));
  const Index most = screen.columns - 3;
  if (cut.cols() > most)
    cut = resized(cut, (std::max)(Index{1}, cut.rows() * most / cut.cols()), most);

  using Colour = Screen::Colour;
  const auto code = [&](int what, int level) {  // `what`: 38 foreground, 48 background
    if (screen.colour == Colour::full)
      return casa::text("\033[", what, ";2;", level, ";", level, ";", level, "m");
    // The palette's 24 greys are 8, 18 .. 238.
    return casa::text("\033[", what, ";5;", 232 + std::clamp((level - 3) / 10, 0, 23), "m");
  };
  int lightest = 0, darkest = 255;
  for (Index i = 0; i < cut.size(); ++i) {
    lightest = (std::max)(lightest, int{cut.data()[i]});
    darkest = (std::min)(darkest, int{cut.data()[i]});
  }
  std::string out;
  for (Index y = 0; y < cut.rows(); y += 2) {
    std::string line = "  ", before_upper, before_lower;
    for (Index x = 0; x < cut.cols(); ++x) {
      const int upper = cut(y, x), lower = y + 1 < cut.rows() ? cut(y + 1, x) : upper;
      if (screen.colour == Colour::none) {
        constexpr std::string_view shades = "@%#*+=-:. ";
        const int above = (upper + lower) / 2 - darkest, range = lightest - darkest + 1;
        line += shades[static_cast<std::size_t>(above) * shades.size() /
                       static_cast<std::size_t>(range)];
        continue;
      }
      std::string code_upper = code(38, upper), code_lower = code(48, lower);
      if (code_upper != before_upper) line += code_upper;
      if (code_lower != before_lower) line += code_lower;
      line += "\u2580";
      before_upper = std::move(code_upper);
      before_lower = std::move(code_lower);
    }
    if (screen.colour != Colour::none) line += "\033[0m";
    while (line.ends_with(' ')) line.pop_back();
    out += line + '\n';
  }
  return out;
}

/// A text on one line: a line end is written \n, a backslash twice.
inline std::string on_one_line(std::string_view text) {
  std::string s;
  for (const char c : text) s += c == '\n' ? "\\n" : c == '\\' ? "\\\\" : std::string(1, c);
  return s;
}

/// A reading on one line, its differences from the truth red, or pointed at from a second line.
/// What is missing is shown at the letter that follows it. `indent` begins the second line.
inline std::string marked(std::string_view truth, std::string_view read, const Screen& screen,
                          std::size_t indent) {
  const program::Differences d = program::differences(truth, read);
  std::string line, carets;
  for (std::size_t j = 0; j <= read.size(); ++j) {
    const bool end = j == read.size();
    if (end && !d.marked[j]) break;
    const std::string letter = end ? std::string(1, ' ') : on_one_line(read.substr(j, 1));
    if (screen.colour == Screen::Colour::none) {
      line += letter;
      carets += std::string(letter.size(), d.marked[j] ? '^' : ' ');
    } else {
      line += d.marked[j] ? "\033[97;41m" + letter + "\033[0m" : letter;
    }
  }
  while (line.ends_with(' ')) line.pop_back();
  while (carets.ends_with(' ')) carets.pop_back();
  line += '\n';
  return carets.empty() ? line : line + std::string(indent, ' ') + carets + '\n';
}

}  // namespace read_text
