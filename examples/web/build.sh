#!/usr/bin/env bash
# Builds the page: build.sh OUT [MODEL] [compiler options ...]
# OUT becomes a folder that any web server can serve; MODEL is the reader's folder (config.json,
# captioner.json and model.safetensors). Debian: apt-get install emscripten libeigen3-dev
# nlohmann-json3-dev
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# -ge 1 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
out=$1 model=${2:-$root/tests/golden/reader/casa}
shift $(($# < 2 ? $# : 2))
for file in config.json captioner.json model.safetensors; do
  [ -f "$model/$file" ] || { echo "build.sh: $model/$file is missing" >&2; exit 1; }
done

# Headers of other libraries, without the rest of the system's include folder: that is for another
# processor.
folder_of() {  # HEADER FOLDER...: the first folder that has it
  local header=$1; shift
  for folder in "$@"; do [ -f "$folder/$header" ] && { echo "$folder"; return; }; done
  echo "build.sh: $header not found" >&2
  return 1
}
eigen=$(folder_of Eigen/Core ${EIGEN3_INCLUDE_DIR:-} /usr/include/eigen3 /usr/local/include/eigen3)
json=$(folder_of nlohmann/json.hpp ${NLOHMANN_JSON_INCLUDE_DIR:-} /usr/include /usr/local/include)
mkdir -p "$out/model"
headers=$(mktemp -d "${TMPDIR:-/tmp}/casa-web.XXXXXX")
trap 'rm -rf "$headers"' EXIT
ln -s "$eigen/Eigen" "$headers/Eigen"
ln -s "$json/nlohmann" "$headers/nlohmann"

# Debian's emscripten needs Debian's JavaScript modules, which a Node.js from elsewhere does not find.
export NODE_PATH=${NODE_PATH:-/usr/share/nodejs}
em++ -std=c++20 -O3 -DNDEBUG -msimd128 -fwasm-exceptions -Wall -Wextra \
  "-I$root/include" "-I$root/examples/programs" -isystem "$headers" "$@" "$here/reader.cpp" -o "$out/casa_reader.js" \
  -sMODULARIZE=1 -sEXPORT_NAME=createReader -sENVIRONMENT=web -sFILESYSTEM=0 \
  -sALLOW_MEMORY_GROWTH=1 -sEXPORTED_FUNCTIONS=_malloc,_free -sEXPORTED_RUNTIME_METHODS=UTF8ToString
cp "$here/index.html" "$here/page.css" "$here/page.js" "$out/"
cp "$model/config.json" "$model/captioner.json" "$model/model.safetensors" "$out/model/"
chmod -R u+w "$out"
echo "$out: python3 -m http.server --directory $out 8000, then http://localhost:8000"
