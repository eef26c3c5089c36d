// Letters of 5 x 7 pixels, for labels in pictures.
#pragma once

#include <string_view>

namespace read_text {

/// The letter that shows a space: an open box.
inline constexpr char kOpenBox = '\x01';

/// Whether pixel (x, y), 0 <= x < 5, 0 <= y < 7, of a letter is inked. Printable ASCII, kOpenBox, a
/// newline as a hooked arrow; anything else is blank.
constexpr bool inked(char letter, int x, int y) {
  // From '!' on, then the open box, then newline: a digit for each row, 0 to 9 and A to V for 0 to
  // 31, whose bit of 16 is the leftmost pixel.
  constexpr std::string_view rows =
      "4444404AAA0000AAVAVAA4FKE5U4PP248JJCIK8LID444000024888428422248"         // !"#$%&'()
      "04LEL40044V4400000C48000V00000000CC11248GG"                              // *+,-./
      "EHJLPHE4C4444EEH1248VV2421HE26AIV22VGU11HE68GUHHEV124888EHHEHHEEHHF12C"  // 0 to 9
      "0CC0CC00CC0C48248G84200V0V008421248EH12404EH1DLLE"                       // :;<=>?@
      "EHHVHHHUHHUHHUEHGGGHESIHHHISVGGUGGVVGGUGGGEHGNHHFHHHVHHHE44444E72222IC"  // A to J
      "HIKOKIHGGGGGGVHRLLHHHHHPLJHHEHHHHHEUHHUGGGEHHHLIDUHHUKIHFGGE11UV444444"  // K to T
      "HHHHHHEHHHHHA4HHHLLLAHHA4AHHHHHA444V1248GV"                              // U to Z
      "E88888EGG84211E22222E4AH0000000000V8420000"                              // [\]^_`
      "00E1FHFGGMPHHU00EGGHE11DJHHF00EHVGE698S8880FHHF1EGGMPHHH40C444E20622IC"  // a to j
      "GGIKOKIC44444E00QLLHH00MPHHH00EHHHE00UHUGG00FHF1100MPGGG00EGE1U88S8896"  // k to t
      "00HHHJD00HHHA400HHLLA00HA4AH00HHF1E00V248V"                              // u to z
      "244844244444448442448008L200"                                            // {|}~
      "0000HHV1159V84";
  static_assert(rows.size() == 7 * 96);
  const int n = letter > ' ' && letter <= '~' ? letter - '!'
                : letter == kOpenBox          ? 94
                : letter == '\n'              ? 95
                                              : -1;
  if (n < 0) return false;
  const char digit = rows[static_cast<std::size_t>(7 * n + y)];
  return ((digit <= '9' ? digit - '0' : digit - 'A' + 10) >> (4 - x) & 1) != 0;
}

}  // namespace read_text
