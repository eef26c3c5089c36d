// Models side by side on the same streams: what each read, how much of it is right, what it cost.
#pragma once

#include <string>
#include <vector>

#include "read_text/show.hpp"
#include "read_text/vocabulary.hpp"
#include "support/standard_output.hpp"

namespace read_text {

/// How right the readings of some pictures are.
struct Score {
  Index pictures = 0, exact = 0;
  Index letters = 0, edits = 0;  ///< of the truth; from the readings to it

  void add(std::string_view truth, std::string_view read) {
    const auto distance = static_cast<Index>(program::edit_distance(truth, read));
    ++pictures;
    exact += distance == 0;
    letters += static_cast<Index>(truth.size());
    edits += distance;
  }
  /// 1 - edits / letters, in percent.
  double right_percent() const { return 100 * (1 - ratio(edits, letters)); }
  double exact_percent() const { return 100 * ratio(exact, pictures); }

 private:
  static double ratio(Index part, Index whole) {
    return whole ? static_cast<double>(part) / static_cast<double>(whole) : 0;
  }
};

/// One model's readings of all pictures.
struct Column {
  std::string name;
  std::vector<std::string> texts;
  program::Reading reading;
};

/// Pictures worth showing: the first, the first easy and the first hard one that some model
/// misread.
inline std::vector<std::size_t> worth_showing(const std::vector<std::string>& truth,
                                              const std::vector<Column>& columns,
                                              const std::vector<bool>& hard) {
  std::vector<std::size_t> chosen;
  if (!truth.empty()) chosen.push_back(0);
  for (const bool wanted : {false, true}) {
    for (std::size_t i = 1; i < truth.size(); ++i) {
      const auto misread = [&](const Column& c) { return c.texts[i] != truth[i]; };
      if ((!hard.empty() && hard[i]) != wanted || std::ranges::none_of(columns, misread)) continue;
      chosen.push_back(i);
      break;
    }
  }
  return chosen;
}

/// A picture, the truth, and what each model read. Without a terminal the picture is left out
/// unless `plain_picture`.
inline void show_picture(const program::Streams& streams, std::size_t i, const std::string& truth,
                         const std::vector<Column>& columns, const Screen& screen,
                         bool plain_picture) {
  program::print("picture %zu%s\n", i + 1,
                 streams.hard.empty() ? ""
                 : streams.hard[i]    ? " (hard)"
                                      : " (easy)");
  const GreyView pixels(streams.images.row(static_cast<Index>(i)), streams.height, streams.width);
  if (screen.colour != Screen::Colour::none || plain_picture)
    program::put(drawn(pixels, screen) + "\n");
  program::print("  %-16s %s\n", "truth", on_one_line(truth).c_str());
  for (const Column& c : columns) {
    program::print("  %-16s ", c.name.c_str());
    program::put(marked(truth, c.texts[i], screen, 19));
  }
  program::put("\n");
}

/// One row a model. `threads` is said, since speed is only that of so many.
inline void put_table(const program::Streams& streams, const std::vector<std::string>& truth,
                      const std::vector<Column>& columns, Index threads) {
  const auto is_hard = [&](std::size_t i) { return !streams.hard.empty() && streams.hard[i]; };
  Index hard = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) hard += is_hard(i);
  program::print(
      "%td pictures in %td streams: %td easy, %td hard (noise, blur). Speed: %td thread%s.\n\n",
      streams.images.rows(), streams.count(), streams.images.rows() - hard, hard, threads,
      threads == 1 ? "" : "s");
  program::put(
      "                  characters right    read exactly     tokens frames  cache KiB after "
      "picture\n"
      "                    easy     hard     easy     hard       /s     /s ");
  std::size_t most = 0;
  for (const Column& c : columns) most = (std::max)(most, program::longest_cache(c.reading).size());
  for (std::size_t n = 1; n <= most; ++n) program::print(" %5zu", n);
  program::put("\n");
  for (const Column& c : columns) {
    Score scores[2];
    for (std::size_t i = 0; i < truth.size(); ++i) scores[is_hard(i)].add(truth[i], c.texts[i]);
    const double seconds = c.reading.seconds;
    program::print("%-16s %6.2f %% %6.2f %% %6.2f %% %6.2f %% %8.0f %6.0f ", c.name.c_str(),
                   scores[0].right_percent(), scores[1].right_percent(), scores[0].exact_percent(),
                   scores[1].exact_percent(), static_cast<double>(c.reading.tokens()) / seconds,
                   static_cast<double>(streams.images.rows()) / seconds);
    for (const Index bytes : program::longest_cache(c.reading))
      program::print(" %5.0f", static_cast<double>(bytes) / 1024);
    program::put("\n");
  }
}

}  // namespace read_text
