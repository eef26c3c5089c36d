// How do I load a model folder and let it write?
//
//   11_load_a_checkpoint                    a small folder of this tree, which has no tokenizer:
//   ids 11_load_a_checkpoint FOLDER [TEXT]      any folder with a tokenizer.json: a sentence
//
// Prints the ids of the prompt and the likeliest 24 after it. Those of the default folder are the
// ones that the transformers package gives (tests/golden/hf_llama).
#include <casa/casa.hpp>
#include <casa/checkpoint/load_model.hpp>
#include <casa/text/tokenizer.hpp>

#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  const std::string folder = argc > 1 ? argv[1] : CASA_SOURCE_DIR "/tests/golden/hf_llama";
  const auto model = casa::io::load_model<float>(folder);
  std::optional<casa::io::Tokenizer> tokenizer;
  std::vector<int> prompt = {107, 82, 72, 72, 104, 99, 43};
  if (argc > 1) {
    tokenizer.emplace(folder);
    prompt = tokenizer->encode(argc > 2 ? argv[2] : "The capital of France is");
  }

  casa::ThreadPool pool;
  const casa::Context context{.executor = pool};
  const casa::GenerateOptions greedy;  // the likeliest token each time
  const casa::Generation text =
      casa::generate(model.decoder, casa::PromptInput<float>{.ids = prompt}, greedy, 24, context);

  if (tokenizer) {
    std::printf("%s|%s\n", tokenizer->decode(prompt).c_str(), tokenizer->decode(text.ids).c_str());
    return 0;
  }
  for (const int id : prompt) std::printf("%d ", id);
  std::printf("|");
  for (const int id : text.ids) std::printf(" %d", id);
  std::printf("\n");
} catch (const std::exception& e) {  // what is wrong with a folder, by the name of file and tensor
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
