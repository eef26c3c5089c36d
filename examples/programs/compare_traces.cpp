// Which layer is the first that two runs disagree on, and by how much: compares two trace files
// (safetensors with the hidden state after every sublayer, casa/session/trace.hpp).
//
//   compare_traces mine.safetensors theirs.safetensors --tolerance 1e-4
//
// Ends with 0 if all agree, 1 if not.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "casa/session/trace.hpp"
#include "support/program.hpp"

int main(int argc, char** argv) {
  CLI::App app{"Compares two traces and names the first layer that differs."};
  std::string a, b;
  double tolerance = 1e-4;
  bool all = false;
  app.add_option("A", a, "trace file")->required();
  app.add_option("B", b, "trace file")->required();
  app.add_option("--tolerance", tolerance, "difference allowed, as a part of the largest value")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--all", all, "print every layer, not only the first that differs");
  return program::run("compare_traces", app, argc, argv, [&] {
    const auto differences =
        casa::io::compare_traces(casa::io::read_safetensors(a), casa::io::read_safetensors(b));
    const casa::io::TraceDifference* first = nullptr;
    for (const auto& d : differences) {
      if (!first && d.exceeds(tolerance)) first = &d;
      if (!all) continue;
      if (!d.problem.empty())
        program::print("%-32s %s\n", d.name.c_str(), d.problem.c_str());
      else
        program::print("%-32s differs by %.3g, largest value %.3g%s\n", d.name.c_str(),
                       d.difference, d.largest, d.exceeds(tolerance) ? "  <--" : "");
    }
    if (!first) {
      program::print("%zu tensors agree within %g of their largest value\n", differences.size(),
                     tolerance);
      return 0;
    }
    if (!first->problem.empty())
      program::print("first difference: %s, %s\n", first->name.c_str(), first->problem.c_str());
    else
      program::print("first difference: %s, by %.6g at row %td, column %td (largest value %.6g)\n",
                     first->name.c_str(), first->difference, first->row, first->col,
                     first->largest);
    return 1;
  });
}
