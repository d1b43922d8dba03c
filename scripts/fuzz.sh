#!/usr/bin/env bash
# Fuzzes the proxy's codecs (proxy/fuzz), guided by coverage: libFuzzer, and the compiler that builds everything else.
# `scripts/fuzz.sh [TARGET...]`: each of them in turn, all without names, SECONDS_EACH seconds. Stops at what it finds.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
SECONDS_EACH=${SECONDS_EACH:-30}
OUT=${CARGO_TARGET_DIR:-target}/fuzz
# In bytes: longer inputs show nothing that these do not, and take their time.
LONGEST=4096
# In MiB: nothing that is fuzzed has a reason to take as much.
MEMORY=1024
# In seconds: no input is worth it.
PATIENCE=10

host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz says, but for the sanitizers, which need a nightly compiler and would watch unsafe code: the proxy has none.
# With --target nothing of it is for build scripts and macros.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 ${RUSTFLAGS:-}" \
  "$CARGO" build --manifest-path proxy/fuzz/Cargo.toml --target-dir "$OUT" --target "$host" --release --quiet

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in proxy/fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$source" .rs)"); done
fi
mkdir -p "$OUT/found"
for target in "${targets[@]}"; do
  printf '\n=== %s\n' "$target"
  mkdir -p "$OUT/corpus/$target"
  # What is learnt is kept in the first folder, the second one is what to begin with.
  "$OUT/$host/release/$target" -max_total_time="$SECONDS_EACH" -max_len=$LONGEST -rss_limit_mb=$MEMORY -timeout=$PATIENCE \
    -use_value_profile=1 -print_final_stats=1 -verbosity=1 -artifact_prefix="$OUT/found/$target-" \
    "$OUT/corpus/$target" "proxy/fuzz/corpus/$target" > "$OUT/$target.log" 2>&1 || {
    tail -n 40 "$OUT/$target.log"
    printf '\n%s shows that something does not hold. It is in %s; mend it, and keep what shows it as a test.\n' \
      "$target" "$OUT/found"
    exit 1
  }
  grep -E 'DONE|stat::(number_of_executed|average_exec|peak_rss)' "$OUT/$target.log"
done
