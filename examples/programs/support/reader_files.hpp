// The options of programs that read one file of streams with one model: --model, --streams, --json.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "support/files.hpp"

namespace program {

struct ReaderFiles {
  std::string model;    ///< a folder
  std::string streams;  ///< a file as load_streams reads it
  std::string json;     ///< where the ids are written

  void add_options(CLI::App& app) {
    app.add_option("-m,--model", model, "folder of one model (config.json, model.safetensors)");
    app.add_option("--streams", streams, "file of streams (images, stream_begin)");
    app.add_option("--json", json, "write the ids of every caption here");
  }
  bool none() const { return model.empty() && streams.empty() && json.empty(); }
  /// Says on stderr what is missing, if anything is.
  bool complete(const char* name) const {
    if (!model.empty() && !streams.empty()) return true;
    std::fprintf(stderr, "%s: --model and --streams go together\n", name);
    return false;
  }
  /// Throws casa::error if a file would be written that is read, or that can not be written.
  void check() const {
    Files files;
    files.input_model("--model", model);
    files.input("--streams", streams);
    files.output("--json", json);
    files.standard_output();
    files.require_distinct();
    if (!json.empty()) require_replaceable("--json", json);
  }
};

}  // namespace program
