// What does a camera frame cost before the vision tower sees it?
//
//   casa_bench --benchmark_filter=^image/
//
// resize: 1920 x 1080 pixels to a width of 448. preprocess: to the patches of Qwen2-VL, of at most
// 448 x 448 pixels. decode: a JPEG file of that frame. bench/compare_pillow.py compares the first
// with Pillow.
#include <benchmark/benchmark.h>

// jpeglib.h uses FILE and size_t without including their headers.
#include <cstddef>
#include <cstdio>
//
#include <jpeglib.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "casa/image/image.hpp"
#include "casa/image/qwen2_vl_preprocess.hpp"

namespace {

using casa::Index;
using casa::io::Image;

const Image& frame() {
  static const Image image = [] {
    Image made(1080, 1920);
    unsigned noise = 1;
    for (Index y = 0; y < made.height(); ++y)
      for (Index x = 0; x < 3 * made.width(); ++x) {
        noise = noise * 1664525u + 1013904223u;
        const double wave =
            std::sin(0.011 * static_cast<double>(x)) * std::cos(0.02 * static_cast<double>(y));
        made.row(y)[x] =
            static_cast<std::uint8_t>(120.0 + 100.0 * wave + static_cast<double>(noise >> 28));
      }
    return made;
  }();
  return image;
}

void resize(benchmark::State& state, Index height, Index width, Index threads) {
  casa::ThreadPool pool(threads);
  for (auto _ : state) {
    const Image out =
        casa::io::resize_bicubic(frame(), height, width, casa::io::PassOrder::pillow13, pool);
    benchmark::DoNotOptimize(out.data());
  }
}

void preprocess(benchmark::State& state) {
  casa::io::Qwen2VlPreprocessConfig config;
  config.max_pixels = 448 * 448;
  for (auto _ : state) {
    const auto out = casa::io::qwen2_vl_preprocess(frame(), config);
    benchmark::DoNotOptimize(out.pixel_values.data());
  }
}

std::vector<std::uint8_t> jpeg_of_frame() {
  jpeg_compress_struct info = {};
  jpeg_error_mgr errors = {};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_height = static_cast<JDIMENSION>(frame().height());
  info.image_width = static_cast<JDIMENSION>(frame().width());
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPLE*>(frame().row(Index{info.next_scanline}));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  std::vector<std::uint8_t> file(memory, memory + size);
  jpeg_destroy_compress(&info);
  std::free(memory);
  return file;
}

void decode_jpeg(benchmark::State& state) {
  const std::vector<std::uint8_t> file = jpeg_of_frame();
  for (auto _ : state) {
    const Image out = casa::io::decode_image(file);
    benchmark::DoNotOptimize(out.data());
  }
}

BENCHMARK_CAPTURE(resize, , 252, 448, 1)
    ->Name("image/resize/1920x1080-448/252_rows")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize, , 448, 448, 1)
    ->Name("image/resize/1920x1080-448/448_rows")
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(resize, , 252, 448, 2)
    ->Name("image/resize/1920x1080-448/252_rows/2_threads")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(preprocess)->Name("image/preprocess/1920x1080-448")->Unit(benchmark::kMillisecond);
BENCHMARK(decode_jpeg)->Name("image/decode/jpeg_1920x1080")->Unit(benchmark::kMillisecond);

}  // namespace
