#!/usr/bin/env bash
# Builds the mesh's images: OCI archives in target/images, each with one static program and nothing else. No Docker and no
# registry is needed. The proxy's program is the release build that the tests measure.
#
#   scripts/images.sh            build
#   scripts/images.sh --load     and import them into the nodes of the test cluster (E2E_CLUSTER, see mesh-cluster)
#
# IMAGE_PROFILE=release|image names the profile of cargo; `image`, the default, is the release as it is shipped.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
profile=${IMAGE_PROFILE:-image}
limit=20000000
load=
case "${1:-}" in
  '') ;;
  --load) load=yes ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}
binaries=$target/$host/$profile
out=$target/images

# With --target the flags are for the programs alone, and not for what runs while they are built.
flags=$(scripts/flags.sh "$target/profile-of-branches")
RUSTFLAGS="${RUSTFLAGS:-} $flags" "$CARGO" build --quiet --profile "$profile" --target "$host" \
  -p mesh-proxy -p mesh-controller -p mesh-ca -p mesh-load --bins

# What a workspace build made is as good, and there already.
cluster() {
  if [ -x "$target/debug/mesh-cluster" ]; then "$target/debug/mesh-cluster" "$@"; else "$CARGO" run --quiet -p mesh-e2e --bin mesh-cluster -- "$@"; fi
}
version=$("$CARGO" pkgid -p mesh-proxy | sed 's/.*[#@]//')
mkdir -p "$out"
too_large=
archives=()
# Name of the image, and whom it runs as.
while read -r name user; do
  program=mesh-$name
  headers=$(readelf --program-headers "$binaries/$program")
  if grep -q INTERP <<< "$headers"; then
    echo "images: $program is not static" >&2
    exit 1
  fi
  archive=$out/$name.tar
  cluster image "mesh.dev/$name:$version" --out "$archive" --user "$user" --entrypoint "/$program" \
    --file "/$program=$binaries/$program" > /dev/null
  size=$(stat -c %s "$archive")
  printf 'mesh.dev/%-10s %s  %5.1f MB  %s\n' "$name" "$version" "$((size / 10000))e-2" "$archive"
  [ "$size" -le "$limit" ] || too_large="$too_large $name"
  archives+=("$archive")
done << END
proxy 15400:15400
controller 65532:65532
ca 65532:65532
cni 65532:65532
END
if [ -n "$too_large" ]; then
  echo "images: more than $((limit / 1000000)) MB:$too_large" >&2
  exit 1
fi
if [ -n "$load" ]; then
  cluster load "${archives[@]}"
fi
