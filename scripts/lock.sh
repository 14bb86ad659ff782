#!/usr/bin/env bash
# Pins all requirements, with hashes and for every supported Python; writes no address of an index.
#   lock.sh UV
set -euo pipefail
uv=$1
compile() {
  local output=$1
  shift
  "$uv" pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command 'make lock' --python-version 3.11 "$@" --output-file "$output"
}
compile requirements/local.txt pyproject.toml requirements/build.in --extra local
compile requirements/services.txt pyproject.toml --extra emitter --extra router --extra scanner --extra recorder -c requirements/local.txt
compile requirements/build.txt requirements/build.in -c requirements/local.txt
compile requirements/dev.txt pyproject.toml requirements/build.in --extra dev -c requirements/local.txt
compile requirements/tools.txt requirements/tools.in
compile requirements/uv.txt requirements/uv.in
