#!/usr/bin/env bash
# Everything CI runs, in the order in which it fails fastest. Says at the end what it ran, and how long each part took.
set -uo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
done_parts=()

part() {
  local name=$1 begun=$SECONDS
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  if "$@"; then
    done_parts+=("$(printf '  ok      %-28s %4d s' "$name" $((SECONDS - begun)))")
  else
    done_parts+=("$(printf '  FAILED  %-28s %4d s' "$name" $((SECONDS - begun)))")
    summary
    exit 1
  fi
}

summary() {
  printf '\nWhat was run:\n'
  printf '%s\n' "${done_parts[@]}"
}

have() { command -v "$1" > /dev/null; }

part 'machine' scripts/setup.sh
if "$CARGO" fmt --version > /dev/null 2>&1; then
  part 'format' "$CARGO" fmt --all --check
else
  done_parts+=('  MISSING format                  rustfmt is not installed')
fi
if "$CARGO" clippy --version > /dev/null 2>&1; then
  part 'lints' "$CARGO" clippy --workspace --all-targets --quiet -- -D warnings
else
  done_parts+=('  MISSING lints                   clippy is not installed')
fi
part 'build' "$CARGO" build --workspace --all-targets --quiet
# The proxy that the tests measure is the one in the image.
part 'images' scripts/images.sh
# All packages at once, as in the build: another selection would have other features, and build much anew.
part 'tests' "$CARGO" test --workspace --no-fail-fast
part 'demo' target/debug/meshctl demo --check
# What is in Go is built first, so that a scenario's time is its own.
part 'cluster' target/debug/mesh-cluster build
part 'tools' target/debug/mesh-cluster tools
part 'scenarios' target/debug/mesh-e2e
summary
