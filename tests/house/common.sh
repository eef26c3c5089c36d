# Shared by the scripts of this folder. ctest sets the variables; the defaults let one run a script
# by hand. Sourced: `. "$(dirname "$0")/common.sh"`.
set -euo pipefail
: "${CXX:=c++}" "${CMAKE:=cmake}" "${CTEST:=ctest}" "${CASA_ABSENT:=}"
: "${CASA_SOURCE_DIR:=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
include=$CASA_SOURCE_DIR/include
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wdouble-promotion -Wundef"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/casa-house.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

say() { printf '%s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
skip() { printf 'skipped: %s\n' "$*"; exit 77; }

# quiet LOG COMMAND...: runs it, shows its output only when it fails.
quiet() {
  local log=$1; shift
  "$@" > "$log" 2>&1 || { tail -n 40 "$log" >&2; die "$*"; }
}

# refused LOG PATTERN COMMAND...: the command must fail and say PATTERN (an extended regex).
refused() {
  local log=$1 pattern=$2; shift 2
  if "$@" > "$log" 2>&1; then die "should have failed: $*"; fi
  grep -qE -- "$pattern" "$log" || { tail -n 20 "$log" >&2; die "failed without saying '$pattern': $*"; }
}

# The folder of Eigen's headers, as CMake finds it for casa.
eigen_include() {
  if [ -z "${eigen_dir:-}" ]; then
    eigen_dir=$(pkg-config --variable=includedir eigen3 2> /dev/null || true)
    for eigen_dir in "$eigen_dir/eigen3" "$eigen_dir" /usr/include/eigen3 /usr/local/include/eigen3; do
      [ -f "$eigen_dir/Eigen/Core" ] && break
    done
    [ -f "$eigen_dir/Eigen/Core" ] || die "Eigen/Core not found"
  fi
  printf '%s\n' "$eigen_dir"
}

# The public headers, as written in an #include; those whose libraries are absent are left out.
public_headers() {
  (cd "$include" && find casa -name '*.hpp' | LC_ALL=C sort) | while read -r header; do
    case "$header" in
      casa/text/*) [[ $CASA_ABSENT == *text* ]] && continue ;;
      casa/image/*) [[ $CASA_ABSENT == *image* ]] && continue ;;
    esac
    printf '%s\n' "$header"
  done
}
