// A captioner's stream as a file: text cache, window caches, counters, penalties, random state and
// pending tokens. A resumed captioner gives the same tokens as one that was never stopped, bit for
// bit.
//
// A session belongs to one model: `model` is a fingerprint of its config and weights
// (casa/session/fingerprint.hpp), or any other name that two models do not share. To fork or rewind
// a stream within one program, copy the Captioner.
#pragma once

#include <deque>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "casa/checkpoint/safetensors_writer.hpp"
#include "casa/generate/captioner.hpp"
#include "casa/model/state_archive.hpp"
#include "casa/session/fingerprint.hpp"

CASA_NAMESPACE_BEGIN
namespace io {
namespace detail {

inline constexpr std::string_view kSessionFormat = "casa-session-1";

/// The integers of a session, in the order of the file.
inline std::vector<std::int64_t> session_numbers(const StreamNumbers& n, const StateOptions& o,
                                                 const CaptionerState& c) {
  return {n.counter.text,
          n.counter.stream,
          n.counter.window_images,
          n.counter.window_has_text,
          n.started_at,
          n.image_len,
          n.origin,
          n.self_tokens,
          n.fusion_tokens,
          static_cast<std::int64_t>(o.cache),
          o.text_window,
          o.sinks,
          o.horizon,
          c.frames,
          c.newest,
          static_cast<std::int64_t>(c.caption),
          c.has_logits};
}
inline constexpr Index kSessionNumbers = 17;

inline std::string cache_name(Index layer, const char* part) {
  return casa::text("layers.", layer, ".", part);
}

/// Hash of all names and bytes, independent of the order of the tensors: load_session refuses a
/// file in which any byte has changed.
inline std::string session_checksum(std::vector<NamedTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  Fingerprint f;
  for (const NamedTensor& t : tensors) {
    f.add(t.name);
    f.add(t.bytes);
  }
  return f.hex();
}

/// The tensors of a session and the memory that they point to.
class SessionTensors {
 public:
  template <class S>
  void add(std::string name, std::vector<Index> shape, std::span<const S> values) {
    memory_.emplace_back(std::as_bytes(values).begin(), std::as_bytes(values).end());
    tensors_.push_back({std::move(name), dtype_of<S>(), std::move(shape), memory_.back()});
  }
  template <class S>
  void add(std::string name, const std::vector<S>& values) {
    add(std::move(name), {static_cast<Index>(values.size())}, std::span<const S>(values));
  }
  template <class S>
  void add(Index layer, const std::string& part, const KvCache<S>& cache) {
    const Index count = cache.size(), size = cache.num_kv_heads() * count * cache.head_dim();
    Buffer<S> k(size), v(size);
    if (count > 0) cache.save(k.data(), v.data());
    const std::vector<Index> shape{cache.num_kv_heads(), count, cache.head_dim()};
    add<S>(cache_name(layer, (part + ".k").c_str()), shape, k.span());
    add<S>(cache_name(layer, (part + ".v").c_str()), shape, v.span());
    pinned_.push_back(cache.pinned());
  }
  void add_pinned() { add("pinned", pinned_); }

  const std::vector<NamedTensor>& tensors() const { return tensors_; }

 private:
  std::deque<std::vector<std::byte>> memory_;
  std::vector<NamedTensor> tensors_;
  std::vector<std::int64_t> pinned_;  // of each cache, in order
};

template <class S>
void load_cache(const SafeTensors& file, Index layer, const std::string& part, Index pinned,
                KvCache<S>& cache) {
  const TensorView& k = file.at(cache_name(layer, (part + ".k").c_str()));
  const TensorView& v = file.at(cache_name(layer, (part + ".v").c_str()));
  require_equal(k.where() + ": number of axes", k.shape.size(), 3);
  const Index count = k.shape[1];
  for (const TensorView* t : {&k, &v}) {
    t->require_shape({cache.num_kv_heads(), count, cache.head_dim()});
    require(t->dtype == dtype_of<S>(), t->where(), ": expected type ", to_string(dtype_of<S>()),
            ", got ", to_string(t->dtype));
  }
  require(pinned >= 0 && pinned <= count, file.name(), ": pinned: ", pinned, " of ", count,
          " tokens");
  Buffer<S> keys(k.count()), values(v.count());
  k.read_into(keys.span());
  v.read_into(values.span());
  cache.restore(keys.data(), values.data(), count, pinned);
}

}  // namespace detail

/// Writes the stream of `captioner` to `path`: whole, or the old file stays (casa::error). `notes`
/// are what a program wants to know again (the time of its next frame, say): they stand in the file
/// as "notes.<name>". Returns the bytes of the file's tensors.
template <Scalar T>
std::int64_t save_session(const std::string& path, const Captioner<T>& captioner,
                          std::string_view model, const std::vector<NamedTensor>& notes = {}) {
  using Archive = StateArchive<T>;
  const StreamNumbers numbers = Archive::numbers(captioner.stream());
  const CaptionerState text = captioner.state();
  detail::SessionTensors all;
  all.add("numbers", detail::session_numbers(numbers, captioner.options().state, text));
  std::vector<std::int64_t> windows, window_numbers;
  for (const auto& w : numbers.windows) {
    windows.insert(windows.end(), {w.image, w.text});
    window_numbers.push_back(w.number);
  }
  all.add("windows", windows);
  all.add("window_numbers", window_numbers);
  all.add("random",
          std::vector<std::uint64_t>(text.sampler.random.begin(), text.sampler.random.end()));
  all.add("seen", text.sampler.seen);
  all.add("repetition.ids", text.repetition.ids);
  all.add("repetition.counts", text.repetition.counts);
  all.add("ngrams", text.ngrams);
  all.add("pending", text.pending);
  all.add("ids", text.ids);
  const auto logits = captioner.logits();
  const auto used = static_cast<std::size_t>(text.has_logits ? logits.cols() : 0);
  all.add("logits", {static_cast<Index>(used)}, std::span<const T>(logits.data(), used));
  Index layer = 0;
  for (const BlockCache<T>& block : Archive::caches(captioner.stream())) {
    std::visit([&](const auto& cache) { all.add(layer, "self", cache); }, block.self);
    std::visit([&](const auto& cache) { all.add(layer, "fusion", cache); }, block.fusion);
    const Index noted = (std::min)(block.sink_keys.rows(), numbers.self_tokens);
    all.add(detail::cache_name(layer, "sink_keys"), {noted, block.sink_keys.cols()},
            std::span<const T>(block.sink_keys.data(),
                               static_cast<std::size_t>(noted * block.sink_keys.cols())));
    ++layer;
  }
  all.add_pinned();
  std::vector<NamedTensor> tensors = all.tensors();
  for (const NamedTensor& note : notes) {
    tensors.push_back(note);
    tensors.back().name = "notes." + note.name;
  }
  std::int64_t bytes = 0;
  for (const NamedTensor& t : tensors) bytes += static_cast<std::int64_t>(t.bytes.size());
  const std::string checksum = detail::session_checksum(tensors);
  write_safetensors(path, std::move(tensors),
                    {{"format", std::string(detail::kSessionFormat)},
                     {"model", std::string(model)},
                     {"checksum", checksum}});
  return bytes;
}

/// Makes `captioner` (of the same model, with the same StateOptions) go on where the saved one
/// stopped; its other options may be others. Throws casa::error that names file and reason for a
/// file that is cut, changed, no session, of another model, or does not fit; the captioner then
/// stays as it is. Returns the file, for its "notes.<name>".
template <Scalar T>
SafeTensors load_session(const std::string& path, Captioner<T>& captioner, std::string_view model) {
  using Archive = StateArchive<T>;
  SafeTensors file = read_safetensors(path);
  const auto noted = [&](const char* key) -> std::string {
    const auto at = file.metadata().find(key);
    return at == file.metadata().end() ? std::string() : at->second;
  };
  require(noted("format") == detail::kSessionFormat, path, ": not a session (format ",
          casa::quoted(noted("format")), ", expected ", detail::kSessionFormat, ")");
  require(noted("model") == model, path,
          ": session of another model: ", casa::quoted(noted("model")), ", expected ",
          casa::quoted(model));
  std::vector<NamedTensor> tensors;
  for (const TensorView& t : file.tensors()) tensors.push_back(named_tensor(t));
  require(noted("checksum") == detail::session_checksum(std::move(tensors)), path,
          ": checksum differs: the file has been changed");
  const auto ints = [&](const char* name) { return file.at(name).to_vector<std::int64_t>(); };

  try {
    const auto n = ints("numbers");
    require_equal("numbers", static_cast<Index>(n.size()), detail::kSessionNumbers);
    StreamNumbers numbers{{n[0], n[1], n[2], n[3] != 0}, n[4], n[5], n[6], n[7], n[8], {}};
    const StateOptions& options = captioner.options().state;
    require(n[9] == static_cast<std::int64_t>(options.cache) && n[10] == options.text_window &&
                n[11] == options.sinks && n[12] == options.horizon,
            "saved under other state options (cache type, text_window, sinks, horizon): ", n[9],
            ", ", n[10], ", ", n[11], ", ", n[12]);
    require(n[15] >= 0 && n[15] <= 2, "caption: expected 0, 1 or 2, got ", n[15]);
    CaptionerState text;
    text.frames = n[13];
    text.newest = n[14];
    text.caption = static_cast<Caption>(n[15]);
    text.has_logits = n[16] != 0;
    const auto windows = ints("windows");
    require(windows.size() % 2 == 0, "windows: an odd number of values");
    // Sessions of versions that knew no history in which numbers matter do not have them.
    std::vector<std::int64_t> window_numbers(windows.size() / 2);
    std::iota(window_numbers.begin(), window_numbers.end(), 0);
    if (file.contains("window_numbers")) window_numbers = ints("window_numbers");
    require_equal("window_numbers", window_numbers.size(), windows.size() / 2);
    for (std::size_t w = 0; w < window_numbers.size(); ++w)
      numbers.windows.push_back({windows[2 * w], windows[2 * w + 1], window_numbers[w]});
    file.at("random").require_shape({4});
    file.at("random").read_into(std::span<std::uint64_t>(text.sampler.random));
    text.sampler.seen = file.at("seen").template to_vector<std::uint64_t>();
    text.repetition.ids = file.at("repetition.ids").template to_vector<Index>();
    text.repetition.counts = file.at("repetition.counts").template to_vector<double>();
    text.ngrams = file.at("ngrams").template to_vector<Index>();
    text.pending = file.at("pending").template to_vector<int>();
    text.ids = file.at("ids").template to_vector<int>();
    const TensorView& row = file.at("logits");
    require(row.dtype == dtype_of<T>(), "logits: expected type ", to_string(dtype_of<T>()),
            ", got ", to_string(row.dtype));
    row.require_shape({text.has_logits ? captioner.logits().cols() : 0});
    const Matrix<T> logits = row.to_matrix<T>();

    DecoderState<T> stream = captioner.model().new_state(options);
    const auto pinned = ints("pinned");
    require_equal("pinned", static_cast<Index>(pinned.size()), 2 * stream.num_layers());
    Index layer = 0;
    for (BlockCache<T>& block : Archive::caches(stream)) {
      const auto load = [&](const char* part, AnyKvCache<T>& cache, std::size_t at) {
        std::visit(
            [&](auto& c) {
              detail::load_cache(file, layer, part,
                                 pinned[static_cast<std::size_t>(2 * layer) + at], c);
            },
            cache);
      };
      load("self", block.self, 0);
      load("fusion", block.fusion, 1);
      const TensorView& sinks = file.at(detail::cache_name(layer, "sink_keys"));
      const Index rows = (std::min)(block.sink_keys.rows(), Index{numbers.self_tokens});
      sinks.require_shape({rows, block.sink_keys.cols()});
      sinks.read_into(std::span(block.sink_keys.data(),
                                static_cast<std::size_t>(rows * block.sink_keys.cols())));
      ++layer;
    }
    Archive::restore(stream, numbers, captioner.model().config());
    captioner.restore(std::move(stream), text, logits);
  } catch (const error& e) {
    const std::string_view message = e.what();
    if (message.starts_with(path)) throw;
    fail(path, ": ", message);
  }
  return file;
}

}  // namespace io
CASA_NAMESPACE_END
