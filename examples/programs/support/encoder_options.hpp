// The options of programs for what weights are held as and what products round: of the decoder
// (--dtype, --precision), and of what makes pictures into tokens (--encoder-dtype,
// --encoder-precision).
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "casa/checkpoint/load_model.hpp"

namespace program {

/// "float", "bf16", "half" or "int8".
inline casa::WeightType weight_type(const std::string& name) {
  return name == "bf16"   ? casa::WeightType::bfloat16
         : name == "half" ? casa::WeightType::half
         : name == "int8" ? casa::WeightType::int8
                          : casa::WeightType::native;
}

/// "full", "storage" or "int8".
inline casa::Precision precision(const std::string& name) {
  return name == "full"   ? casa::Precision::full
         : name == "int8" ? casa::Precision::int8
                          : casa::Precision::storage;
}

struct DecoderOptions {
  std::string dtype, precision = "full";  ///< dtype empty: as without the option

  /// `unasked`: how weights are held without --dtype.
  void add_options(CLI::App& app, const std::string& unasked) {
    app.add_option("--dtype", dtype, "how weights are held (" + unasked + ")")
        ->check(CLI::IsMember({"float", "bf16", "int8"}));
    app.add_option("--precision", precision,
                   "storage: the prompt is rounded to bf16 where it meets bf16 weights, if the "
                   "machine multiplies that faster; int8: everything is rounded to int8 where it "
                   "meets int8 weights (--dtype int8)")
        ->check(CLI::IsMember({"full", "storage", "int8"}))
        ->capture_default_str();
  }
  /// Throws casa::error unless weights that are `held` so go with --precision.
  void check(std::optional<casa::WeightType> held) const {
    casa::require(precision != "int8" || held == casa::WeightType::int8,
                  "--precision int8 rounds what meets int8 weights: give --dtype int8, too");
  }
};

struct EncoderOptions {
  std::string dtype, precision;  ///< empty: as without the option

  void add_options(CLI::App& app) {
    app.add_option("--encoder-dtype", dtype,
                   "how the image encoder's weights are held (as those of the rest)")
        ->check(CLI::IsMember({"float", "bf16", "int8"}));
    app.add_option("--encoder-precision", precision,
                   "what the image encoder rounds. storage: to bf16 where it meets bf16 weights or "
                   "keys; int8: to int8 where it meets int8 weights, too (--encoder-dtype int8)")
        ->check(CLI::IsMember({"full", "storage", "int8"}));
  }
  /// Adds what was asked for to `options`. Throws casa::error for what does not go together.
  void apply(casa::io::ModelOptions& options) const {
    casa::require(precision != "int8" || dtype == "int8",
                  "--encoder-precision int8 rounds what meets int8 weights: give --encoder-dtype "
                  "int8, too");
    if (!dtype.empty()) options.encoder_weights = weight_type(dtype);
    if (!precision.empty()) options.encoder_precision = program::precision(precision);
  }
};

/// A model's options. Without --dtype, weights are held as ModelOptions::weights says.
inline casa::io::ModelOptions model_options(const DecoderOptions& decoder,
                                            const EncoderOptions& encoder) {
  casa::io::ModelOptions options;
  if (!decoder.dtype.empty()) options.weights = weight_type(decoder.dtype);
  decoder.check(options.weights);
  encoder.apply(options);
  return options;
}

}  // namespace program
