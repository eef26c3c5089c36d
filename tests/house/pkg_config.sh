#!/usr/bin/env bash
# casa.pc gives what a compiler needs, also from a moved prefix and with an absolute include folder.
. "$(dirname "$0")/common.sh"
command -v pkg-config > /dev/null || skip "no pkg-config"
cd "$scratch"
bare=(-DCASA_BUILD_TESTS=OFF -DCASA_BUILD_BENCHMARKS=OFF -DCASA_BUILD_EXAMPLES=OFF)
flags() { PKG_CONFIG_PATH="$1" pkg-config --cflags "$2"; }

quiet log "$CMAKE" -S "$CASA_SOURCE_DIR" -B one "${bare[@]}"
quiet log "$CMAKE" --install one --prefix "$scratch/prefix"
mv prefix moved
found=$(flags "$scratch/moved/share/pkgconfig" casa)
quiet log $CXX -std=c++20 -O1 $found "$CASA_SOURCE_DIR/tests/downstream/main.cpp" -o program
quiet log ./program
[ "$(PKG_CONFIG_PATH=moved/share/pkgconfig pkg-config --modversion casa)" = "${CASA_VERSION:-$(sed -n 's/^Version: //p' moved/share/pkgconfig/casa.pc)}" ] ||
  die "casa.pc states another version"
flags "$scratch/moved/share/pkgconfig" casa-io > /dev/null || die "casa-io.pc does not resolve"

quiet log "$CMAKE" -S "$CASA_SOURCE_DIR" -B two "${bare[@]}" "-DCMAKE_INSTALL_INCLUDEDIR=$scratch/headers" \
  "-DCMAKE_INSTALL_PREFIX=$scratch/elsewhere"
quiet log "$CMAKE" --install two
[[ " $(flags "$scratch/elsewhere/share/pkgconfig" casa) " == *" -I$scratch/headers "* ]] ||
  die "absolute include folder: $(flags "$scratch/elsewhere/share/pkgconfig" casa)"
say "casa.pc: $found"
