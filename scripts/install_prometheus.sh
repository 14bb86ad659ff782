#!/usr/bin/env bash
# Puts Debian's Prometheus, and the programs that check its files and Alertmanager's, beside the other tools.
# Unpacked and not installed: the package would start a Prometheus of its own on port 9090.
#   install_prometheus.sh TARGET_DIR
set -euo pipefail
target=$1
programs=(prometheus promtool amtool)

missing() {
  for program in "${programs[@]}"; do
    if [ ! -x "$target/$program" ] && ! command -v "$program" >/dev/null; then return 0; fi
  done
  return 1
}
give_up() {
  echo "Prometheus $1, so tests with it are skipped. Install it with: sudo apt-get install prometheus prometheus-alertmanager" >&2
  exit 0
}

missing || exit 0
command -v apt-get >/dev/null || give_up "is not installed and there is no apt-get"
echo "fetching Prometheus, promtool and amtool ..."
# As an ordinary user with the lists of packages as they are.
[ "$(id -u)" != 0 ] || apt-get update -qq || give_up "could not be fetched"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null) || give_up "could not be fetched"
for package in "$folder"/*.deb; do dpkg -x "$package" "$folder/unpacked"; done
mkdir -p "$target"
for program in "${programs[@]}"; do install -m 755 "$folder/unpacked/usr/bin/$program" "$target/$program"; done
