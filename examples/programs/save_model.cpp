// Writes a model folder anew with its weights in another type.
//
//   save_model DIR OUT --weights int8    half the bytes of bf16; loaded without being rounded again
//
// Ends with 0; 1 after an error (config.json is written last: OUT loads only when it is whole); 2
// for a wrong command line.

#include <CLI/CLI.hpp>
#include <cstdio>

#include "casa/checkpoint/convert_model.hpp"
#include "support/encoder_options.hpp"
#include "support/program.hpp"

int main(int argc, char** argv) {
  CLI::App app{"Writes a model folder anew with its weights in another type."};
  std::string from, to;
  casa::io::ModelOptions options;
  options.files.map = true;
  app.add_option("DIR", from, "folder with config.json and model.safetensors")->required();
  app.add_option("OUT", to, "folder to write; made if it is not there")->required();
  std::string type;
  app.add_option("--weights", type, "float, bf16, half or int8 (groups of 32 share a scale)")
      ->check(CLI::IsMember({"float", "bf16", "half", "int8"}))
      ->required();
  app.add_option("--fusion", options.fusion_folder,
                 "a folder of fusion weights, which become part of the model");
  app.add_flag("--allow-unexpected", options.allow_unexpected,
               "copy tensors that the model has no place for instead of refusing them");
  return program::run("save_model", app, argc, argv, [&] {
    options.weights = program::weight_type(type);
    casa::io::convert_model(from, to, options);
    const casa::io::ModelFolder before(from, options), after(to, {.files = {.map = true}});
    after.require_complete();
    const auto bytes = [](const casa::io::ModelFolder& f) {
      return static_cast<long long>(f.files().data_bytes());
    };
    program::print("%s: %lld bytes of tensors; %s: %lld\n", from.c_str(), bytes(before), to.c_str(),
                   bytes(after));
    return 0;
  });
}
