#!/usr/bin/env bash
# Makes the virtual environment and puts uv into it, on a machine that may have nothing but python3.
#   bootstrap.sh PYTHON VENV
set -euo pipefail
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || {
  echo "IceStream needs Python 3.11 to 3.13; this is $("$python" --version). Try: make PYTHON=python3.12" >&2
  exit 1
}

# Debian packs what a virtual environment and an embedded Python need apart from python3.
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
install_with_apt() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return 1; fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  install_with_apt "python$version-venv" || {
    echo "Python's venv is not installed. Install it with: sudo apt-get install python$version-venv" >&2
    exit 1
  }
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
[ -x "$venv/bin/pip" ] || "$venv/bin/python" -m ensurepip --default-pip >/dev/null
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/uv.txt

# The Triton server runs its backend in a process that is linked to libpython; without it it hangs.
library="libpython$version.so.1.0"
library_dir=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
for place in "$library_dir" /usr/lib/x86_64-linux-gnu "$venv/lib"; do
  [ ! -e "$place/$library" ] || exit 0
done
if ! install_with_apt "libpython$version"; then
  # As an ordinary user: the same package, unpacked into the environment.
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  (cd "$folder" && apt-get download -qq "libpython$version" && dpkg -x ./*.deb .) || {
    echo "$library is not installed. Install it with: sudo apt-get install libpython$version" >&2
    exit 1
  }
  cp -L "$folder"/usr/lib/*/"$library" "$venv/lib/"
fi
