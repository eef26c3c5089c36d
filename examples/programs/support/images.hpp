// Image files as the programs read them: upright, damaged ones where Pillow reads them, and said
// so. Built without libjpeg and libpng (PROGRAM_WITHOUT_IMAGE_FILES) a program reads PGM and PPM.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#ifdef PROGRAM_WITHOUT_IMAGE_FILES
#include "casa/files/file.hpp"
#include "casa/image/ppm.hpp"
#else
#include "casa/image/image.hpp"
#endif

namespace program {

class ImageReader {
 public:
  /// `program` begins what is said on stderr.
  explicit ImageReader(const char* program) : program_(program) {}

  void add_option(CLI::App& app) {
    app.add_flag("--cut-images", cut_images_,
                 "take image files that end before their last row (Damaged::filled)");
  }
  casa::io::Image operator()(const std::string& file) const {
    casa::io::DecodeOptions options;
    if (cut_images_) options.damaged = casa::io::Damaged::filled;
    options.warn = [this](const std::string& what) {
      std::fprintf(stderr, "%s: %s\n", program_, what.c_str());
    };
#ifdef PROGRAM_WITHOUT_IMAGE_FILES
    const casa::io::Bytes bytes = casa::io::read_file(
        file,
        {.max_bytes = options.limits.image_bytes, .follow_links = options.limits.follow_links});
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.span().data());
    const std::string_view begin(reinterpret_cast<const char*>(data),
                                 std::min(bytes.size(), std::size_t{2}));
    casa::require(
        begin == "P5" || begin == "P6", file,
        ": neither PGM (P5) nor PPM (P6), which is all that this build reads: it was made "
        "without libjpeg and libpng (Debian: libjpeg-dev, libpng-dev)");
    return casa::io::decode_ppm({data, bytes.size()}, options, file);
#else
    return casa::io::read_image(file, options);
#endif
  }

 private:
  const char* program_;
  bool cut_images_ = false;
};

}  // namespace program
