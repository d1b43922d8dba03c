#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: the Debian packages of e2e/packages.txt. Go is not installed, only
# looked for: the programs of the end-to-end suite are built with it. With `--bench`, what the benchmark needs as well.
set -euo pipefail
cd "$(dirname "$0")/.."

lists=(e2e/packages.txt)
[ "${1:-}" != --bench ] || lists+=(e2e/bench/packages.txt)

missing=()
while read -r package; do
  [ -n "$package" ] || continue
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done < <(cat "${lists[@]}")

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: missing packages, and only root can install them: ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

if ! command -v go > /dev/null; then
  echo "setup: Go is missing; the programs of the end-to-end suite need it (1.24 or newer)" >&2
  exit 1
fi
echo "setup: everything is there"
