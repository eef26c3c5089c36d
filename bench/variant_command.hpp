// casa_bench --variants: attention variants, one table.
#pragma once

namespace bench {

/// The flags of --variants, for --help.
void print_variant_usage();

/// Runs `casa_bench --variants ...` and returns the exit status: 0; 1 if a result is wrong; 2 for a
/// mistake on the command line, which is named on stderr.
int run_variants(int argc, char** argv);

}  // namespace bench
