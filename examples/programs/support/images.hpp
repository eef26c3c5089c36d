// Image files as the programs read them: upright, damaged ones where Pillow reads them, and said
// so.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "casa/image/image.hpp"

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
    return casa::io::read_image(file, options);
  }

 private:
  const char* program_;
  bool cut_images_ = false;
};

}  // namespace program
