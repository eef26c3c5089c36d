#include "casa/session/trace.hpp"

#include <doctest/doctest.h>

#include "casa/checkpoint/load_model.hpp"
#include "golden.hpp"
#include "support/scratch.hpp"

using namespace casa;
using namespace casa::io;

namespace {

// The trace of a small model over `chunks` of a text.
SafeTensors trace_of(const Scratch& folder, const std::vector<std::vector<int>>& chunks) {
  const auto model = load_model<float>((golden::repository_root() / "hf_qwen2").string());
  TraceRecorder<float> recorder;
  const Trace<float> hook = recorder.hook();
  auto state = model.decoder.new_state();
  Matrix<float> logits(1, model.decoder.config().vocab_size);
  for (const auto& ids : chunks) model.decoder.forward({&state, ids}, logits, Context{}, &hook);
  recorder.save(folder.file("trace.safetensors"));
  return read_safetensors(folder.file("trace.safetensors"));
}

// The same file with one value of one tensor changed.
SafeTensors with_change(const SafeTensors& file, std::string_view tensor, float by) {
  std::vector<NamedTensor> tensors;
  std::vector<float> changed = file.at(tensor).to_vector<float>();
  changed[3] += by;
  for (const TensorView& t : file.tensors())
    tensors.push_back(t.name == tensor ? named_tensor(std::string(t.name),
                                                      {t.shape.begin(), t.shape.end()}, changed)
                                       : named_tensor(t));
  const std::string bytes = safetensors_bytes(std::move(tensors), file.metadata());
  Buffer<std::byte> own(static_cast<Index>(bytes.size()));
  std::memcpy(own.data(), bytes.data(), bytes.size());
  return SafeTensors(Bytes(std::move(own)), "changed");
}

}  // namespace

TEST_CASE("a trace holds every sublayer, in the order of computation") {
  const Scratch folder;
  const SafeTensors file = trace_of(folder, {{1, 2, 3, 4, 5}});
  const auto differences = compare_traces(file, file);
  std::vector<std::string> names;
  for (const auto& d : differences) {
    names.push_back(d.name);
    CHECK(!d.exceeds(0));
    CHECK(d.largest > 0);
  }
  CHECK(names == std::vector<std::string>{"embed", "layers.0.self_attention", "layers.0.mlp",
                                          "layers.1.self_attention", "layers.1.mlp",
                                          "layers.2.self_attention", "layers.2.mlp", "norm"});
  CHECK(file.at("layers.1.mlp").shape[0] == 5);
  CHECK(file.at("layers.1.mlp").shape[1] == 64);
}

TEST_CASE("chunks of a stream make one trace") {
  const Scratch folder;
  const SafeTensors whole = trace_of(folder, {{1, 2, 3, 4, 5}});
  const SafeTensors cut = trace_of(folder, {{1, 2}, {3}, {4, 5}});
  for (const auto& d : compare_traces(whole, cut)) {
    CAPTURE(d.name);
    CHECK(!d.exceeds(1e-5));
  }
}

TEST_CASE("the first layer that differs comes first, with the place and the size") {
  const Scratch folder;
  const SafeTensors file = trace_of(folder, {{1, 2, 3, 4, 5}});
  const auto differences = compare_traces(file, with_change(file, "layers.1.self_attention", 0.5f));
  const auto first =
      std::ranges::find_if(differences, [](const auto& d) { return d.exceeds(1e-4); });
  REQUIRE(first != differences.end());
  CHECK(first->name == "layers.1.self_attention");
  CHECK(first->difference == doctest::Approx(0.5).epsilon(1e-5));
  CHECK((first->row == 0 && first->col == 3));
  const auto nan = compare_traces(file, with_change(file, "norm", std::nanf("")));
  CHECK(nan.back().exceeds(1e30));
}
