// The Python module casa_attention: attend, varlen, states and masks on numpy arrays and torch
// tensors, read where they lie.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "casa/attention/attend.hpp"
#include "casa/attention/masks.hpp"
#include "casa/attention/simple.hpp"
#include "casa/core/build_info.hpp"
#include "casa/stream/visibility.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using casa::Index;

namespace {

using Array = nb::ndarray<nb::ro>;  // read, of any type and shape: checked here, by name
using Output = nb::ndarray<>;       // written
using Intervals = nb::ndarray<const std::int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Mask = std::variant<Intervals, std::pair<Intervals, Offsets>>;  // lists: as casa::Mask
using Lengths = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// --- Arrays ---

template <class A>
std::string shape_text(const A& a) {
  std::string s = "(";
  for (std::size_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + ")";
}

bool is(const nb::dlpack::dtype& type, nb::dlpack::dtype_code code, int bits) {
  return type.code == static_cast<std::uint8_t>(code) && type.bits == bits && type.lanes == 1;
}

std::string type_text(const nb::dlpack::dtype& type) {
  using enum nb::dlpack::dtype_code;
  const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
  const char* name = code == Float    ? "float"
                     : code == Bfloat ? "bfloat"
                     : code == Int    ? "int"
                     : code == UInt   ? "uint"
                                      : "another type of ";
  return name + std::to_string(type.bits);
}

/// An array (tokens, heads, head_dim) in values: where token t of head h begins.
struct Layout {
  Index tokens, heads, dim, token_stride, head_stride;

  template <class A>
  Layout(const char* name, const A& a) {
    casa::require(a.device_type() == nb::device::cpu::value, name, " must be in the CPU's memory");
    casa::require(a.ndim() == 3, name, " must have three axes (tokens, heads, head_dim), got ",
                  shape_text(a));
    tokens = static_cast<Index>(a.shape(0));
    heads = static_cast<Index>(a.shape(1));
    dim = static_cast<Index>(a.shape(2));
    // An axis of one entry may have any stride.
    token_stride = tokens > 1 ? a.stride(0) : heads * dim;
    head_stride = heads > 1 ? a.stride(1) : dim;
    casa::require(dim <= 1 || a.stride(2) == 1 || tokens * heads == 0, name,
                  ": the last axis must be contiguous (stride 1), got stride ", a.stride(2),
                  "; make it so with ", name, ".contiguous() or numpy.ascontiguousarray(", name,
                  ")");
    casa::require(token_stride >= 0 && head_stride >= 0, name, ": strides must not be negative");
  }
};

/// Rows of heads side by side, as queries and outputs are.
template <class T, class A>
casa::MatrixView<T> rows(const char* name, const A& a, const Layout& layout) {
  casa::require(layout.head_stride == layout.dim || layout.tokens == 0, name,
                ": the heads of a token must lie side by side (stride ", layout.dim,
                "), got stride ", layout.head_stride);
  return {static_cast<T*>(a.data()), layout.tokens, layout.heads * layout.dim, layout.token_stride};
}

/// f(T{}) for what q holds.
template <class F>
auto with_scalar(const char* name, const nb::dlpack::dtype& type, F f) {
  if (is(type, nb::dlpack::dtype_code::Float, 32)) return f(float{});
  casa::require(is(type, nb::dlpack::dtype_code::Float, 64), name,
                " must be float32 or float64, got ", type_text(type));
  return f(double{});
}

/// f(T{}, S{}) for what q and k hold; uint16 is read as bfloat16.
template <class F>
auto with_types(const Array& q, const Array& k, F f) {
  using enum nb::dlpack::dtype_code;
  return with_scalar("q", q.dtype(), [&](auto t) {
    using T = decltype(t);
    if constexpr (std::is_same_v<T, float>) {
      if (is(k.dtype(), Bfloat, 16) || is(k.dtype(), UInt, 16)) return f(t, casa::bfloat16{});
      if (is(k.dtype(), Float, 16)) return f(t, casa::half{});
    }
    casa::require(
        k.dtype() == q.dtype(), "k must be ", type_text(q.dtype()),
        sizeof(T) == 4 ? ", bfloat16 (or uint16 that holds it) or float16, got " : ", got ",
        type_text(k.dtype()));
    return f(t, T{});
  });
}

/// An array of Python's that owns what a vector or matrix holds.
template <class T, class Owner>
nb::object own(Owner owner, std::initializer_list<std::size_t> shape) {
  auto kept = std::make_unique<Owner>(std::move(owner));
  T* const data = static_cast<T*>(static_cast<void*>(kept->data()));
  nb::capsule capsule(kept.get(), [](void* p) noexcept { delete static_cast<Owner*>(p); });
  kept.release();
  return nb::cast(nb::ndarray<nb::numpy, T>(data, shape, capsule));
}

std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// --- Masks ---

casa::Mask copy(const Intervals& intervals) {
  casa::Mask mask;
  mask.offsets.clear();
  for (std::size_t i = 0; i < intervals.shape(0); ++i)
    mask.intervals.push_back({intervals.data()[2 * i], intervals.data()[2 * i + 1]});
  return mask;
}

casa::Mask copy(const Mask& from) {
  if (const auto* one = std::get_if<Intervals>(&from)) return copy(*one);
  const auto& [intervals, offsets] = std::get<1>(from);
  casa::require(offsets.shape(0) > 0,
                "mask: offsets must have one value more than there are rows, got none");
  casa::Mask mask = copy(intervals);
  mask.offsets.assign(offsets.data(), offsets.data() + offsets.shape(0));
  return mask;
}

// --- Calls ---

/// Threads, and the memory that calls use one after the other.
struct Pool {
  casa::ThreadPool threads;
  casa::Context context{threads};
  std::mutex mutex;
  explicit Pool(Index num_threads) : threads(num_threads) {}
};

/// f(context) without the GIL.
template <class F>
auto compute(Pool* pool, F f) {
  const nb::gil_scoped_release released;
  if (pool == nullptr) return f(casa::Context{});
  const std::lock_guard<std::mutex> lock(pool->mutex);
  return f(pool->context);
}

/// q, k, v and a mask as C++ takes them.
template <class T, class S>
struct Call {
  casa::KeyPiece<S> piece;
  casa::Mask mask;
  casa::AttentionInput<T, S> in;

  Call(const Array& q, const Array& k, const Array& v, std::optional<double> scale) {
    const Layout ql("q", q), kl("k", k), vl("v", v);
    casa::require(k.dtype() == v.dtype(), "v must be of k's type, ", type_text(k.dtype()), ", got ",
                  type_text(v.dtype()));
    casa::require(kl.tokens == vl.tokens && kl.heads == vl.heads && kl.dim == vl.dim,
                  "v must have the shape of k, ", shape_text(k), ", got ", shape_text(v));
    casa::require(kl.token_stride == vl.token_stride && kl.head_stride == vl.head_stride,
                  "v must have the strides of k, ", kl.token_stride, " and ", kl.head_stride,
                  ", got ", vl.token_stride, " and ", vl.head_stride);
    casa::require_equal("head_dim of k", kl.dim, ql.dim);
    piece = {static_cast<const S*>(k.data()), static_cast<const S*>(v.data()), kl.tokens,
             kl.token_stride, kl.head_stride};
    in = {{ql.heads, kl.heads, ql.dim},
          scale ? *scale : casa::default_scale(ql.dim),
          rows<const T>("q", q, ql),
          {&piece, 1},
          {}};
  }
  Call(const Call&) = delete;  // `in` points into it

  void see(casa::Mask seen) {
    mask = std::move(seen);
    in.intervals = mask.intervals;
    in.interval_offsets = mask.offsets;
  }
  void see(std::vector<casa::Interval> seen) { see(casa::Mask{std::move(seen), {}}); }
  void see(const std::optional<Mask>& seen) {
    if (seen)
      see(copy(*seen));
    else
      see(std::vector<casa::Interval>(size(in.num_rows()), {0, piece.count}));
  }
};

/// The output as Python gets it: a new numpy array, or the one that was given.
template <class T, class F>
nb::object write_output(const casa::AttentionShape& shape, Index num_rows, bool with_lse,
                        const std::optional<Output>& given, F f) {
  casa::Matrix<T> fresh, lse;
  casa::MatrixView<T> out;
  if (given) {
    const Layout layout("out", *given);
    casa::require(given->dtype() == nb::dtype<T>(), "out must be of q's type, got ",
                  type_text(given->dtype()));
    casa::require(layout.tokens == num_rows && layout.heads == shape.num_heads &&
                      layout.dim == shape.head_dim,
                  "out must have the shape of q, got ", shape_text(*given));
    out = rows<T>("out", *given, layout);
  } else {
    fresh = casa::Matrix<T>(num_rows, shape.num_heads * shape.head_dim);
    out = fresh;
  }
  if (with_lse) lse = casa::Matrix<T>(num_rows, shape.num_heads);
  f(out, with_lse ? lse.data() : nullptr);

  const std::size_t n = size(num_rows), heads = size(shape.num_heads), dim = size(shape.head_dim);
  nb::object result = given ? nb::cast(*given) : own<T>(std::move(fresh), {n, heads, dim});
  if (!with_lse) return result;
  return nb::make_tuple(result, own<T>(std::move(lse), {n, heads}));
}

template <class T, class S>
nb::object attend(const Call<T, S>& call, bool lse, const std::optional<Output>& out, Pool* pool) {
  return write_output<T>(
      call.in.shape, call.in.num_rows(), lse, out, [&](casa::MatrixView<T> to, T* to_lse) {
        compute(pool,
                [&](const casa::Context& context) { casa::attend(call.in, to, to_lse, context); });
      });
}

nb::object attend_mask(const Array& q, const Array& k, const Array& v,
                       const std::optional<Mask>& mask, std::optional<double> scale, bool lse,
                       const std::optional<Output>& out, Pool* pool) {
  return with_types(q, k, [&]<class T, class S>(T, S) {
    Call<T, S> call(q, k, v, scale);
    call.see(mask);
    return attend(call, lse, out, pool);
  });
}

std::span<const std::int32_t> list(const Lengths& a) { return {a.data(), a.shape(0)}; }

nb::object varlen(const Array& q, const Array& k, const Array& v, const Lengths& cu_q,
                  const Lengths& cu_k, bool causal, std::optional<double> scale, bool lse,
                  const std::optional<Output>& out, Pool* pool) {
  return with_types(q, k, [&]<class T, class S>(T, S) {
    Call<T, S> call(q, k, v, scale);
    auto seen = casa::varlen_intervals(list(cu_q), list(cu_k), causal);
    casa::require(std::ssize(seen) <= call.in.num_rows(), "cu_seqlens_q ends at ", seen.size(),
                  ", but q has ", call.in.num_rows(), " rows");
    seen.resize(size(call.in.num_rows()));  // rows after the last sequence see nothing
    call.see(std::move(seen));
    return attend(call, lse, out, pool);
  });
}

// --- States ---

struct State {
  std::variant<casa::AttentionState<float>, casa::AttentionState<double>> value;
  casa::AttentionShape shape;

  void merge(const State& from) {
    casa::require(value.index() == from.value.index(), "merge: one state is float32, one float64");
    std::visit(
        [&]<class T>(casa::AttentionState<T>& to) {
          casa::merge(to, std::get<casa::AttentionState<T>>(from.value));
        },
        value);
  }
  nb::object finish(bool lse, const std::optional<Output>& out) const {
    return std::visit(
        [&]<class T>(const casa::AttentionState<T>& state) {
          return write_output<T>(
              shape, state.num_rows(), lse, out,
              [&](casa::MatrixView<T> to, T* to_lse) { casa::finish(state, to, to_lse); });
        },
        value);
  }
};

State attend_state(const Array& q, const Array& k, const Array& v, const std::optional<Mask>& mask,
                   std::optional<double> scale, Pool* pool) {
  return with_types(q, k, [&]<class T, class S>(T, S) {
    Call<T, S> call(q, k, v, scale);
    call.see(mask);
    return compute(pool, [&](const casa::Context& context) {
      return State{casa::attend_state(call.in, context), call.in.shape};
    });
  });
}

/// One of a state's matrices (rows, heads * dim) as numpy sees it, in the state's memory; dim is 0
/// where there is no third axis.
template <class T>
nb::ndarray<nb::numpy> view(casa::Matrix<T>& m, Index heads, Index dim = 0) {
  const std::size_t shape[] = {size(m.rows()), size(heads), size(dim)};
  return nb::ndarray<nb::numpy>(m.data(), dim == 0 ? 2 : 3, shape, nb::handle(), nullptr,
                                nb::dtype<T>());
}

// --- Masks by name ---

nb::object mask_array(std::vector<casa::Interval> seen) {
  static_assert(sizeof(casa::Interval) == 2 * sizeof(std::int64_t));
  const std::size_t n = seen.size();
  return own<std::int64_t>(std::move(seen), {n, 2});
}

/// An array, or where rows see lists a pair of arrays.
nb::object mask_object(casa::Mask mask) {
  if (mask.offsets.empty()) return mask_array(std::move(mask.intervals));
  static_assert(sizeof(Index) == sizeof(std::int64_t));
  const std::size_t n = mask.offsets.size();
  return nb::make_tuple(mask_array(std::move(mask.intervals)),
                        own<std::int64_t>(std::move(mask.offsets), {n}));
}

/// Row r stands at key r + keys - rows: the last row at the last key.
casa::RowPlaces last_rows(Index rows, Index keys) {
  casa::require(0 <= rows && rows <= keys, "rows must lie in [0, keys], [0, ", keys, "], got ",
                rows);
  return {keys - rows, keys};
}

/// Query r stands at key r + keys - rows: the last query at the last key.
nb::object sliding_window(Index num_rows, Index num_keys, std::optional<Index> window) {
  casa::require(num_rows >= 0 && num_keys >= 0, "rows and keys must not be negative, got ",
                num_rows, " and ", num_keys);
  casa::require(!window || *window >= 1, "window must be positive, got ", window.value_or(0));
  std::vector<casa::Interval> seen(size(num_rows));
  for (Index r = 0; r < num_rows; ++r) {
    const Index end = (std::max)(Index{0}, r + 1 + num_keys - num_rows);
    seen[size(r)] = {window ? (std::max)(Index{0}, end - *window) : 0, end};
  }
  return mask_array(std::move(seen));
}

nb::object casa_windows(Index text_len, const std::vector<std::pair<Index, Index>>& images,
                        const std::string& keys, const std::string& history) {
  using casa::Keys, casa::History;
  casa::require(keys == "image_text" || keys == "image" || keys == "text",
                "keys must be image_text, image or text, got ", keys);
  casa::require(history == "window" || history == "all", "history must be window or all, got ",
                history);
  std::vector<casa::Insertion> insertions;
  for (const auto& [position, num_tokens] : images) insertions.push_back({position, num_tokens});
  const casa::StreamLayout layout(text_len, insertions);
  std::vector<casa::Interval> seen(size(text_len));
  casa::text_intervals(layout, {0, text_len},
                       keys == "image_text" ? Keys::image_text
                       : keys == "image"    ? Keys::image
                                            : Keys::text,
                       history == "all" ? History::all : History::window, seen);
  return mask_array(std::move(seen));
}

}  // namespace

NB_MODULE(casa_attention, m) {
  m.doc() =
      "Attention of casa on numpy arrays and torch CPU tensors, read where they lie.\n\n"
      "q is (rows, num_heads, head_dim), k and v are (keys, num_kv_heads, head_dim), in any "
      "strides\n"
      "whose last is 1 (the heads of q lie side by side). A mask is an int64 array (rows, 2): row "
      "r\n"
      "sees the keys [mask[r, 0], mask[r, 1]); or, where rows see several intervals, a pair "
      "(intervals,\n"
      "offsets) of int64 arrays (n, 2) and (rows + 1,): row r sees\n"
      "intervals[offsets[r]:offsets[r + 1]], which ascend and share no key. q is float32 or "
      "float64; k\n"
      "and v are of its type, or float16, bfloat16 or uint16 (the bits of bfloat16) below "
      "float32.\n"
      "The GIL is released.";
  nb::exception<casa::error>(m, "Error", PyExc_ValueError);
  m.def(
      "build", [] { return casa::build_info().summary(); }, "How the module was compiled.");

  nb::class_<Pool>(m, "Pool", "Threads and scratch memory for many calls.")
      .def(nb::init<Index>(), "threads"_a = 0, "threads workers; 0: one for each processor.")
      .def_prop_ro("threads", [](const Pool& pool) { return pool.threads.num_threads(); });

  m.def("attend", &attend_mask, "q"_a, "k"_a, "v"_a, "mask"_a = nb::none(), nb::kw_only(),
        "scale"_a = nb::none(), "lse"_a = false, "out"_a = nb::none(), "pool"_a = nb::none(),
        "softmax(scale q k^T) v over the keys that the mask lets each row see (None: all), as a "
        "numpy\n"
        "array of q's shape; with lse=True also the log-sum-exp (rows, num_heads). A row that sees "
        "no\n"
        "key gives zeros and -inf. scale is 1 / sqrt(head_dim) unless given. With out=, the result "
        "is\n"
        "written there, and that is returned.");
  m.def("varlen", &varlen, "q"_a, "k"_a, "v"_a, "cu_seqlens_q"_a, "cu_seqlens_k"_a,
        "causal"_a = false, nb::kw_only(), "scale"_a = nb::none(), "lse"_a = false,
        "out"_a = nb::none(), "pool"_a = nb::none(),
        "Sequences packed end to end, as flash-attention's varlen functions take them. Causal is\n"
        "aligned at the bottom right: the last query of a sequence sees all its keys.");

  nb::class_<State>(
      m, "State",
      "Attention over some of the keys: merged with the states over the others it is\n"
      "exactly the attention over all.")
      .def("merge", &State::merge, "other"_a, "Takes the keys of `other` in, too.")
      .def("finish", &State::finish, nb::kw_only(), "lse"_a = false, "out"_a = nb::none(),
           "What attend() would have given for these keys.")
      .def_prop_ro(
          "max",
          [](State& s) {
            return std::visit([&](auto& x) { return view(x.max, s.shape.num_heads); }, s.value);
          },
          nb::rv_policy::reference_internal, "(rows, num_heads): the largest score, in base 2.")
      .def_prop_ro(
          "sum",
          [](State& s) {
            return std::visit([&](auto& x) { return view(x.sum, s.shape.num_heads); }, s.value);
          },
          nb::rv_policy::reference_internal, "(rows, num_heads): the sum of 2^(score - max).")
      .def_prop_ro(
          "out",
          [](State& s) {
            return std::visit(
                [&](auto& x) { return view(x.out, s.shape.num_heads, s.shape.head_dim); }, s.value);
          },
          nb::rv_policy::reference_internal,
          "(rows, num_heads, head_dim): the weighted values, not divided by sum.");
  m.def("attend_state", &attend_state, "q"_a, "k"_a, "v"_a, "mask"_a = nb::none(), nb::kw_only(),
        "scale"_a = nb::none(), "pool"_a = nb::none(), "attend() as a State.");

  m.def(
      "causal", [](Index rows, Index keys) { return sliding_window(rows, keys, {}); }, "rows"_a,
      "keys"_a, "Each row sees the keys up to its own; the last row's is the last key.");
  m.def("sliding_window", &sliding_window, "rows"_a, "keys"_a, "window"_a,
        "Causal, and only the last `window` keys.");
  m.def(
      "documents",
      [](const Lengths& q, const Lengths& k, bool causal) {
        return mask_array(casa::varlen_intervals(list(q), list(k), causal));
      },
      "cu_seqlens_q"_a, "cu_seqlens_k"_a, "causal"_a = true,
      "Packed documents: a row sees keys of its own document only.");
  m.def(
      "sinks_window",
      [](Index rows, Index keys, Index sinks, Index window) {
        return mask_object(casa::masks::sinks_window(last_rows(rows, keys), sinks, window));
      },
      "rows"_a, "keys"_a, "sinks"_a, "window"_a,
      "Causal: the first `sinks` keys and the last `window` ones.");
  m.def(
      "global_window",
      [](Index rows, Index keys, Index window, const std::vector<Index>& global) {
        return mask_object(casa::masks::global_window(last_rows(rows, keys), keys, window, global));
      },
      "rows"_a, "keys"_a, "window"_a, "global_tokens"_a,
      "The keys less than `window` away, and the global tokens, which see all (Longformer).");
  m.def(
      "block_sparse",
      [](Index rows, Index keys, Index block, const std::vector<std::vector<Index>>& chosen) {
        return mask_object(casa::masks::block_sparse(last_rows(rows, keys), keys, block, chosen));
      },
      "rows"_a, "keys"_a, "block"_a, "chosen"_a,
      "Rows of block b (rows and keys cut in blocks of `block`) see the key blocks chosen[b].");
  m.def(
      "draft_tree",
      [](Index context, const std::vector<Index>& parents) {
        const auto nodes = static_cast<Index>(parents.size());
        const Index end = casa::checked_add(context, nodes, "draft_tree: context + nodes");
        return mask_object(casa::masks::draft_tree({context, end}, context, parents));
      },
      "context"_a, "parents"_a,
      "A row for each node of a tree of drafts, in depth-first order: it sees `context` keys, its\n"
      "ancestors and itself. A parent is a node before it, or -1.");
  m.def(
      "unite",
      [](const Mask& a, const Mask& b) {
        return mask_object(casa::masks::unite(copy(a), copy(b)));
      },
      "a"_a, "b"_a, "What a row sees in either mask.");
  m.def(
      "intersect",
      [](const Mask& a, const Mask& b) {
        return mask_object(casa::masks::intersect(copy(a), copy(b)));
      },
      "a"_a, "b"_a, "What a row sees in both masks.");
  m.def("casa_windows", &casa_windows, "text_len"_a, "images"_a, "keys"_a = "image_text",
        "history"_a = "window",
        "What the text tokens of a stream see. images: (position, tokens) pairs, an image before "
        "the\n"
        "text token at that position. With keys='image_text' the keys stand as in the stream.");
}
