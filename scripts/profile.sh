#!/usr/bin/env bash
# Takes the profile anew by which the proxy in the images is laid out: a build that counts its branches carries the loads of the
# benchmark (as root, about a quarter of an hour). Writes proxy/profile:
#
#   branches.profdata.xz   how often each branch of each function that ran was taken; the compiler reads it
#   order.xz               these functions, the busiest first; the linker puts them beside each other
#
# Code that changes afterwards is compiled as if there were no profile, function by function: nothing breaks, it only gets a
# little slower. Needs llvm-profdata of the compiler's LLVM or a newer one (`rustup component add llvm-tools`, or LLVM_PROFDATA).
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
tools=$(rustc --print sysroot)/lib/rustlib/$host/bin
profdata=${LLVM_PROFDATA:-$tools/llvm-profdata}
if ! "$profdata" --version > /dev/null 2>&1; then
  echo "profile: there is no llvm-profdata: rustup component add llvm-tools, or set LLVM_PROFDATA" >&2
  exit 1
fi
work=$PWD/target/profile
rm -rf "$work/counted"
# The proxy drops its privileges: whoever it is then writes here.
mkdir -p -m 777 "$work/counted"

echo 'profile: building what counts' >&2
RUSTFLAGS="-C target-feature=+crt-static -C profile-generate=$work/counted" "$CARGO" build --quiet --profile image \
  --target-dir "$work" --target "$host" -p mesh-proxy -p mesh-controller -p mesh-ca -p mesh-load --bins
"$CARGO" build --quiet -p mesh-e2e --bin mesh-bench
# A benchmark measures the programs beside it.
mkdir -p "$work/debug"
cp target/debug/mesh-bench "$work/debug/"
echo 'profile: carrying loads' >&2
trials=()
for trial in h1_100b h1_10k h2 grpc grpc_stream open h1_close h1_bulk tcp_bulk tcp_conn handshakes; do
  trials+=(--trial "$trial")
done
LLVM_PROFILE_FILE="$work/counted/%m-%p.profraw" "$work/debug/mesh-bench" --chain mesh --runs-only --seconds 2 --repetitions 1 \
  "${trials[@]}" --out "$work/result.json"

mkdir -p proxy/profile
"$profdata" merge --sparse -o "$work/branches.profdata" "$work"/counted/*.profraw
# A function's name stands on a line of its own, behind that of its unit where nobody else sees it.
"$profdata" show --all-functions --counts "$work/branches.profdata" | awk '
  /^  [^ ].*:$/ { name = $1; sub(/:$/, "", name); sub(/^.*;/, "", name) }
  /^    Block counts:/ { gsub(/[^0-9,]/, " "); most = 0; n = split($0, counts, /[ ,]+/);
    for (i = 1; i <= n; i++) if (counts[i] + 0 > most) most = counts[i] + 0; print most, name }
' | sort -k1,1nr -k2 | cut -d' ' -f2 > "$work/order"
xz -9 -c "$work/branches.profdata" > proxy/profile/branches.profdata.xz
xz -9 -c "$work/order" > proxy/profile/order.xz
ls -l proxy/profile
