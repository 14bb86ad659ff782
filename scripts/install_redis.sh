#!/usr/bin/env bash
# Gets Redis for the benchmark against the peer and its test, where that is possible; without it the test is skipped.
#   install_redis.sh TARGET_DIR
set -euo pipefail
target=$1

if [ -x "$target/redis-server" ] || command -v redis-server >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "Redis is not installed, so the test with it is skipped. Install it with: sudo apt-get install redis-server" >&2
  exit 0
fi
echo "installing Redis ..."
# Debian's redis-server is a link to a program of this package, which does what its name says. The package of the
# server would also start one on port 6379, and nobody asked for that.
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends redis-tools >/dev/null; }; then
  echo "Redis could not be installed, so the test with it is skipped." >&2
  exit 0
fi
mkdir -p "$target"
ln -sf "$(command -v redis-check-rdb)" "$target/redis-server"
