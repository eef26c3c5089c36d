#include "casa/image/resize.hpp"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

#include "image/image_files.hpp"

using namespace image_files;
using casa::io::ImageView;
using casa::io::PassOrder;
using casa::io::resize_bicubic;

namespace {

double cubic(double x) {
  const double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

/// One axis by the definition: out(i) from in(t), 0 <= t < n, as functions of the place.
template <class In>
std::uint8_t sample(Index n, Index m, Index i, In&& in) {
  const double scale = double(n) / double(m);
  const double s = std::max(scale, 1.0);
  const double centre = (double(i) + 0.5) * scale;
  std::vector<double> weights;
  const Index first = std::max<Index>(0, Index(centre - 2.0 * s + 0.5));
  const Index last = std::min<Index>(n, Index(centre + 2.0 * s + 0.5));
  double total = 0.0;
  for (Index t = first; t < last; ++t) {
    weights.push_back(cubic((double(t) - centre + 0.5) / s));
    total += weights.back();
  }
  std::int64_t sum = std::int64_t{1} << 21;
  for (Index t = first; t < last; ++t)
    sum += std::llround(weights[std::size_t(t - first)] / total * 4194304.0) * std::int64_t{in(t)};
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> 22, 0, 255));
}

Image horizontal_by_definition(ImageView in, Index width) {
  Image out(in.height, width);
  for (Index y = 0; y < in.height; ++y)
    for (Index x = 0; x < width; ++x)
      for (Index c = 0; c < 3; ++c)
        out.row(y)[3 * x + c] =
            sample(in.width, width, x, [&](Index t) { return in.row(y)[3 * t + c]; });
  return out;
}

Image vertical_by_definition(ImageView in, Index height) {
  Image out(height, in.width);
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < 3 * in.width; ++x)
      out.row(y)[x] = sample(in.height, height, y, [&](Index t) { return in.row(t)[x]; });
  return out;
}

Image by_definition(ImageView in, Index height, Index width, bool vertical_first) {
  if (vertical_first) return horizontal_by_definition(vertical_by_definition(in, height), width);
  return vertical_by_definition(horizontal_by_definition(in, width), height);
}

/// As Pillow 13 and Pillow 12 decide.
bool vertical_first(ImageView in, Index height, Index width, PassOrder order) {
  if (order == PassOrder::pillow12) return in.height > 100 * in.width && height < in.height;
  return in.height - height > 0 && in.height - height > 2 * (in.width - width);
}

Index random_side(std::mt19937& random) {
  const Index largest[] = {5, 12, 40, 150};
  return draw(largest[random() % 4], random);
}

}  // namespace

TEST_CASE("resizing equals its definition, bit for bit, in both orders of the passes") {
  std::mt19937 random(11);
  int vertical = 0;
  for (int repeat = 0; repeat < 300; ++repeat) {
    const Image in = random_image(random_side(random), random_side(random), random);
    const Index height = random() % 8 == 0 ? in.height() : random_side(random);
    const Index width = random() % 8 == 0 ? in.width() : random_side(random);
    CAPTURE(in.height());
    CAPTURE(in.width());
    CAPTURE(height);
    CAPTURE(width);
    for (const PassOrder order : {PassOrder::pillow13, PassOrder::pillow12}) {
      const bool first = vertical_first(in, height, width, order);
      vertical += first;
      CHECK(
          equal(resize_bicubic(in, height, width, order), by_definition(in, height, width, first)));
    }
  }
  CHECK(vertical > 30);
}

TEST_CASE("black and white edges overshoot and are clamped as defined") {
  std::mt19937 random(12);
  for (int repeat = 0; repeat < 40; ++repeat) {
    Image in = random_image(random_side(random), random_side(random), random);
    for (Index i = 0; i < in.size(); ++i) in.data()[i] = random() % 3 == 0 ? 255 : 0;
    const Index height = random_side(random);
    const Index width = random_side(random);
    const bool first = vertical_first(in, height, width, PassOrder::pillow13);
    CHECK(equal(resize_bicubic(in, height, width), by_definition(in, height, width, first)));
  }
}

TEST_CASE("an image more than 100 times higher than wide: Pillow 12 shrinks it vertically first") {
  std::mt19937 random(13);
  for (const auto& [height, width] : {std::pair<Index, Index>{201, 2}, {200, 2}, {330, 3}}) {
    const Image in = random_image(height, width, random);
    const Image out = resize_bicubic(in, 28, 1, PassOrder::pillow12);
    CHECK(equal(out, by_definition(in, 28, 1, height > 100 * width)));
  }
}

TEST_CASE("an image keeps its bytes where the size stays") {
  std::mt19937 random(14);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const Image in = random_image(random_side(random), random_side(random), random);
    CHECK(equal(resize_bicubic(in, in.height(), in.width()), in));
  }
}

TEST_CASE("the result does not depend on the number of threads") {
  std::mt19937 random(15);
  casa::ThreadPool three(3), four(4);
  for (const auto& [height, width] :
       {std::pair<Index, Index>{37, 90}, {200, 31}, {16, 16}, {1, 5}}) {
    const Image in = random_image(120, 75, random);
    for (const PassOrder order : {PassOrder::pillow13, PassOrder::pillow12}) {
      const Image serial = resize_bicubic(in, height, width, order);
      CHECK(equal(resize_bicubic(in, height, width, order, three), serial));
      CHECK(equal(resize_bicubic(in, height, width, order, four), serial));
    }
  }
}

TEST_CASE("a part of an image is resized in place by a view with its stride") {
  std::mt19937 random(16);
  const Image whole = random_image(30, 40, random);
  const ImageView part{whole.row(5) + 3 * 7, 20, 26, 3 * 40};
  Image copy(20, 26);
  for (Index y = 0; y < 20; ++y) std::copy_n(part.row(y), 3 * 26, copy.row(y));
  CHECK(equal(resize_bicubic(part, 11, 33), resize_bicubic(copy, 11, 33)));
}

TEST_CASE("no pixels to read or to make is an error") {
  const Image in(2, 3);
  CHECK(has(message_of([&] { resize_bicubic(in, 0, 4); }), "the new size has no pixels: 4 x 0"));
  CHECK(has(message_of([&] { resize_bicubic(in, 4, -1); }), "the new size has no pixels: -1 x 4"));
  CHECK(has(message_of([&] { resize_bicubic(Image(), 4, 4); }), "the image has no pixels: 0 x 0"));
}
