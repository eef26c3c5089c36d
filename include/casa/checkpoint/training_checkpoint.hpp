// A training run in one file, from which it goes on to the same bits: parameters, moments of the
// optimiser, counts, the order of samples, and what the run was configured as.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/train/sample_order.hpp"
#include "casa/train/trainer.hpp"

CASA_NAMESPACE_BEGIN
namespace io {

namespace detail {

inline constexpr std::string_view kTrainingFormat = "casa-training-1";

// The tensors of a set of these specs, in the file's own type: a conversion would change bits.
template <Scalar T>
TensorSet<T> read_tensors(const SafeTensors& file, const std::string& prefix,
                          const std::vector<TensorSpec>& specs) {
  TensorSet<T> set(specs);
  for (Index i = 0; i < set.size(); ++i) {
    const TensorSpec& spec = specs[static_cast<std::size_t>(i)];
    const TensorView& view = file.at(prefix + spec.name);
    require(view.dtype == dtype_of<T>(), view.where(), ": expected type ", to_string(dtype_of<T>()),
            ", got ", to_string(view.dtype));
    view.require_shape(spec.shape());
    const Interval at = set.range(i);
    view.read_into(set.values().subspan(static_cast<std::size_t>(at.begin),
                                        static_cast<std::size_t>(at.size())));
  }
  return set;
}

}  // namespace detail

/// All tensors of a set, to be written under their names after `prefix`. The values stay where they
/// are.
template <Scalar T>
std::vector<NamedTensor> named_tensors(const TensorSet<T>& set, const std::string& prefix = "") {
  std::vector<NamedTensor> tensors;
  for (Index i = 0; i < set.size(); ++i) {
    const TensorSpec& spec = set.specs()[static_cast<std::size_t>(i)];
    const Interval at = set.range(i);
    tensors.push_back(named_tensor<T>(prefix + spec.name, spec.shape(),
                                      set.values().subspan(static_cast<std::size_t>(at.begin),
                                                           static_cast<std::size_t>(at.size()))));
  }
  return tensors;
}

/// Writes a training run, between two steps, to `path`, as safetensors: "parameters.NAME",
/// "adamw.first.NAME" and "adamw.second.NAME" for each tensor that learns, "counts" and "order".
/// `config` says how the run was set up, in any text (JSON, say): a run can only go on under the
/// same. `notes` are what a program wants to know again (states of further generators, say); they
/// stand in the file as "notes.NAME". The file appears whole or not at all (AtomicFile: written
/// beside, synced, renamed), so a run that is killed at any moment, here too, finds the last whole
/// one. Throws casa::error that names the file, also for gradients that are not 0: a checkpoint
/// has no place for half a step.
template <Scalar T>
void save_training(const std::string& path, const Trainer<T>& trainer, const SampleOrder& order,
                   std::string_view config, const std::vector<NamedTensor>& notes = {}) {
  const auto gradients = trainer.gradients().values();
  require(std::all_of(gradients.begin(), gradients.end(), [](T g) { return g == T{0}; }), path,
          ": save_training: gradients have been added since the last step");
  std::vector<NamedTensor> tensors;
  for (auto& [prefix, set] : {std::pair{"parameters.", &trainer.parameters()},
                              std::pair{"adamw.first.", &trainer.optimizer().first_moments()},
                              std::pair{"adamw.second.", &trainer.optimizer().second_moments()}})
    for (NamedTensor& t : named_tensors(*set, prefix)) tensors.push_back(std::move(t));
  const std::vector<std::int64_t> counts{trainer.counts().steps, trainer.counts().skipped};
  const std::vector<std::int64_t> places{order.samples(), order.state().epoch, order.state().place};
  const std::vector<std::uint64_t> seed{order.seed()};
  tensors.push_back(named_tensor("counts", {std::ssize(counts)}, counts));
  tensors.push_back(named_tensor("order", {std::ssize(places)}, places));
  tensors.push_back(named_tensor("order.seed", {1}, seed));
  for (const NamedTensor& note : notes) {
    tensors.push_back(note);
    tensors.back().name = "notes." + note.name;
  }
  write_safetensors(
      path, std::move(tensors),
      {{"format", std::string(detail::kTrainingFormat)}, {"config", std::string(config)}});
}

/// Makes `trainer` and `order`, which were made as those of the saved run, go on where it stopped:
/// every later step has the bits that it would have had. Throws casa::error that names the file and
/// the reason for one that is cut, is no training run, was saved under another `config`, or does
/// not fit; both then stay as they were. Returns the file, for its "notes.NAME".
template <Scalar T>
SafeTensors load_training(const std::string& path, Trainer<T>& trainer, SampleOrder& order,
                          std::string_view config) {
  SafeTensors file = read_safetensors(path);
  const auto noted = [&](const char* key) -> std::string {
    const auto at = file.metadata().find(key);
    return at == file.metadata().end() ? std::string() : at->second;
  };
  require(noted("format") == detail::kTrainingFormat, path, ": not a training run (format ",
          casa::quoted(noted("format")), ", expected ", detail::kTrainingFormat, ")");
  require(noted("config") == config, path, ": saved under another config: ", noted("config"),
          ", expected ", config);
  const std::vector<TensorSpec>& specs = trainer.parameters().specs();
  const Index others =
      std::count_if(file.tensors().begin(), file.tensors().end(), [&](const TensorView& t) {
        constexpr std::string_view prefix = "parameters.";
        return t.name.starts_with(prefix) &&
               !trainer.parameters().contains(t.name.substr(prefix.size()));
      });
  require(others == 0, path, ": ", others, " parameters of the file are none of the trainer's");
  TensorSet<T> parameters = detail::read_tensors<T>(file, "parameters.", specs);
  TensorSet<T> first = detail::read_tensors<T>(file, "adamw.first.", specs);
  TensorSet<T> second = detail::read_tensors<T>(file, "adamw.second.", specs);
  const auto counts = file.at("counts").template to_vector<std::int64_t>();
  const auto places = file.at("order").template to_vector<std::int64_t>();
  const auto seed = file.at("order.seed").template to_vector<std::uint64_t>();
  require(counts.size() == 2 && places.size() == 3 && seed.size() == 1, path,
          ": expected 2 counts, 3 numbers of the order and 1 seed, got ", counts.size(), ", ",
          places.size(), " and ", seed.size());
  require(places[0] == order.samples() && seed[0] == order.seed(), path, ": order: expected ",
          order.samples(), " samples and seed ", order.seed(), ", got ", places[0], " and ",
          seed[0]);
  try {
    SampleOrder resumed = order;
    resumed.restore({places[1], places[2]});
    trainer.restore(std::move(parameters), std::move(first), std::move(second),
                    {counts[0], counts[1]});
    order = std::move(resumed);
  } catch (const error& e) {
    fail(path, ": ", e.what());
  }
  return file;
}

}  // namespace io
CASA_NAMESPACE_END
