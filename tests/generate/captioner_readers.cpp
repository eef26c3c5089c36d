// The trained readers through a captioner: an image, the token that begins its caption, and the
// likeliest tokens to the one that ends it.
#include <doctest/doctest.h>

#include "casa/checkpoint/load_model.hpp"
#include "casa/generate/captioner.hpp"
#include "golden.hpp"

using namespace casa;

namespace {

struct ReaderCase {
  const char* folder;
  const char* variant;
  int begin, end;
  Index most_tokens;
  std::size_t most_streams;
};

}  // namespace

TEST_CASE("a captioner reads digits and text as the reference does") {
  for (const ReaderCase& c :
       {ReaderCase{"digits", "casa", 12, 11, 20, 64}, ReaderCase{"reader", "casa", 96, 97, 73, 8},
        ReaderCase{"reader", "cross_attention", 96, 97, 73, 8},
        ReaderCase{"reader", "token_insertion", 96, 97, 73, 8}}) {
    const auto root = golden::repository_root() / c.folder;
    CAPTURE(c.folder);
    CAPTURE(c.variant);
    const golden::Case streams(root / "streams.safetensors");
    const auto begin = streams.values<Index>("stream_begin");
    const auto shape = streams.shape("images");
    Matrix<std::uint8_t> images(shape[0], shape[1] * shape[2]);
    streams.file.at("images").read_into(
        std::span(images.data(), static_cast<std::size_t>(images.size())));
    const golden::Case outputs(root / c.variant / "outputs.safetensors");
    const auto ids = outputs.file.at("greedy.ids").to_matrix<int>();
    const auto length = outputs.values<Index>("greedy.len");
    const auto margin = outputs.values<double>("greedy.min_margin");
    const io::Model<float> model = io::load_model<float>((root / c.variant).string());
    const Context context;
    CaptionerOptions options;
    options.sampling = {};
    options.repetition.penalty = 1;
    options.ngrams.size = 0;
    options.stop_ids = {c.end};
    options.after_image = {c.begin};
    options.cut_id = c.end;
    options.max_new_tokens = c.most_tokens;
    options.state = {};
    Captioner<float> captioner(model.decoder, context, options);
    PatchEncoder<float>::Scratch scratch;
    Matrix<float> tokens(model.patch_encoder->config().num_patches(),
                         model.patch_encoder->config().out_hidden_size);
    int read = 0;
    for (std::size_t s = 0; s + 1 < begin.size() && s < c.most_streams; ++s) {
      CAPTURE(s);
      if (margin[s] < 1e-3) continue;  // a tie that float may turn
      ++read;
      captioner.reset();
      for (Index i = begin[s]; i < begin[s + 1]; ++i) {
        model.patch_encoder->encode(images.view().middle_rows(i, 1), tokens, scratch, context);
        captioner.push_frame(tokens);
        const auto said = captioner.caption();
        // The reference's ids begin with the one that is fed after the image.
        const std::vector<int> expected(ids.row(i) + 1,
                                        ids.row(i) + length[static_cast<std::size_t>(i)]);
        CHECK(std::vector<int>(said.begin(), said.end()) == expected);
      }
    }
    CHECK(read > 0);
  }
}
