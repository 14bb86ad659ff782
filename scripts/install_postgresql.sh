#!/usr/bin/env bash
# Installs PostgreSQL for the tests of the recorder, where that is possible; without it they are skipped.
set -euo pipefail

if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "PostgreSQL is not installed, so tests with it are skipped. Install it with: sudo apt-get install postgresql" >&2
  exit 0
fi
echo "installing PostgreSQL ..."
# The programs alone: tests make databases of their own, and nobody asked for one on port 5432.
mkdir -p /etc/postgresql-common/createcluster.d
echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/icestream.conf
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql >/dev/null || {
  echo "PostgreSQL could not be installed, so tests with it are skipped." >&2
}
