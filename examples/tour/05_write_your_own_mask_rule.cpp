// How do I add a mask rule that the library does not have?
//
// A rule is a function from a row to the interval of keys that it sees, so it needs nothing from
// inside the library. The rule here: a text token sees the last `n` windows of a stream of images
// and text (CASA is n = 1), with keys in stream order. Prints what each of 8 words sees of a stream
// of four windows, image tokens as A, B, C, D, for n = 1, 2 and 3.
#include <casa/attention/simple.hpp>
#include <casa/stream/visibility.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

// What text token i sees of the n windows that end with its own.
casa::Interval seen_in_last_windows(const casa::StreamLayout& stream, casa::Index i,
                                    casa::Index n) {
  const casa::Index own = stream.window_of_text(i), first = std::max<casa::Index>(0, own - n + 1);
  return {casa::stream_begin(stream.window(first)), casa::text_place(stream.window(own), i) + 1};
}

int main() {
  casa::StreamLayout stream;
  std::string order;  // the stream as it stands, a letter a token
  for (char image = 'A'; image <= 'D'; ++image) {
    stream.append_image(3);
    stream.append_text(2);
    order += std::string(3, image) + "ab";
  }
  const casa::Index words = stream.text_len(), tokens = stream.stream_len();
  const casa::RowMatrix<float> q = casa::RowMatrix<float>::Zero(words, tokens);
  const casa::RowMatrix<float> k = casa::RowMatrix<float>::Zero(tokens, tokens);
  const casa::RowMatrix<float> v = casa::RowMatrix<float>::Identity(tokens, tokens);
  for (casa::Index n = 1; n <= 3; ++n) {
    std::vector<casa::Interval> sees;
    for (casa::Index i = 0; i < words; ++i) sees.push_back(seen_in_last_windows(stream, i, n));
    // Zero queries and unit values: the output is the weight of each token of the stream.
    const casa::RowMatrix<float> weights = casa::attend(q, k, v, sees);
    std::printf("the last %td windows\n", n);
    for (casa::Index i = 0; i < words; ++i) {
      std::string seen = order;
      for (casa::Index t = 0; t < tokens; ++t)
        if (weights(i, t) == 0) seen[static_cast<std::size_t>(t)] = '.';
      std::printf("  %s\n", seen.c_str());
    }
  }
}
