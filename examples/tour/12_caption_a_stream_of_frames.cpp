// How do I caption frames as they come?
//
// A Captioner keeps one stream: each frame is pushed, and its caption is drawn token by token.
// Prints what a model of this tree reads from its first eight test images of handwritten digits,
// the truth beside it, and the bytes of keys and values held: with a bounded text they stop
// growing.
#include <casa/casa.hpp>
#include <casa/checkpoint/load_model.hpp>

#include <cstdio>
#include <exception>
#include <string>

// The vocabulary of the digit readers (tests/golden/digits/casa/config.json).
constexpr int kEnd = 11, kBegin = 12;
std::string spelled(std::span<const int> ids) {
  std::string text;
  for (const int id : ids)
    if (id < kEnd) text += "0123456789/"[id];
  return text;
}

int main() try {
  const std::string folder = CASA_SOURCE_DIR "/tests/golden/digits";
  const auto model = casa::io::load_model<float>(folder + "/casa");
  const casa::io::SafeTensors file = casa::io::read_safetensors(folder + "/streams.safetensors");
  const std::vector<std::uint8_t> pixels = file.at("images").to_vector<std::uint8_t>();
  const casa::Matrix<int> captions = file.at("captions").to_matrix<int>();

  const casa::PatchEncoder<float>& encoder = model.patch_encoder.value();
  casa::PatchEncoder<float>::Scratch scratch;
  const casa::Index side = encoder.config().image_size, size = side * side;
  casa::Matrix<float> tokens(encoder.config().num_patches(), encoder.config().out_hidden_size);

  const casa::Context context;
  casa::Captioner<float> captioner(model.decoder, context,
                                   {.sampling = {},  // greedy
                                    .stop_ids = {kEnd},
                                    .after_image = {kBegin},
                                    .cut_id = kEnd,
                                    .state = {.text_window = 40, .sinks = 0, .horizon = 70}});
  for (casa::Index frame = 0; frame < 8; ++frame) {
    encoder.encode({pixels.data() + frame * size, 1, size}, tokens, scratch, context);
    captioner.push_frame(tokens);
    const std::string read = spelled(captioner.caption());
    const std::string truth = spelled({captions.row(frame), captions.row(frame + 1)});
    std::printf("frame %td: read %-15s truth %-15s %td bytes\n", frame, read.c_str(), truth.c_str(),
                captioner.stream().cache_bytes());
  }
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
