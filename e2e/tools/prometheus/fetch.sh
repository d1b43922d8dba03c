#!/bin/sh
# Debian's Prometheus, taken out of its package: installed, it would start a server of this machine. First argument: where to.
set -eu
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT
cd "$fetched"
apt-get download prometheus
dpkg -x ./*.deb .
cp usr/bin/prometheus usr/bin/promtool "$1"
