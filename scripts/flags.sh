#!/usr/bin/env bash
# Prints the compiler flags (RUSTFLAGS) of the programs in the images: static, and laid out by the profile in proxy/profile.
#
#   scripts/flags.sh FOLDER      unpacks the profile in FOLDER
#
# WITHOUT_PROFILE=1 leaves the profile out.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?a folder to unpack the profile in}
flags='-C target-feature=+crt-static'
host=$(rustc -vV | sed -n 's/^host: //p')
# It was taken on this target, and the order of functions is for this target's linker.
if [ -z "${WITHOUT_PROFILE:-}" ] && [ "$host" = x86_64-unknown-linux-gnu ]; then
  # Its content is in its name: cargo builds anew when it changes.
  into=$folder/$(cat proxy/profile/* | sha256sum | cut -c1-16)
  if [ ! -f "$into/order" ]; then
    mkdir -p "$into"
    xz -dc proxy/profile/branches.profdata.xz > "$into/branches.profdata"
    xz -dc proxy/profile/order.xz > "$into/order.new"
    mv "$into/order.new" "$into/order"
  fi
  into=$(realpath "$into")
  flags="$flags -C profile-use=$into/branches.profdata"
  flags="$flags -C link-arg=-Wl,--symbol-ordering-file=$into/order -C link-arg=-Wl,--no-warn-symbol-ordering"
fi
echo "$flags"
