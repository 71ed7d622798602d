#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The life-cycle soak, for a time, plain or under a sanitizer, each in a build folder of its own.
# usage: scripts/soak.sh SECONDS [address|thread] [soak's own options]
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${1:-60}
san=${2:-}
shift $(($# < 2 ? $# : 2))
build=build-soak${san:+-$san}

args=(-Db_lundef=false)
case $san in
'') args=() ;;
address) args+=("-Db_sanitize=address,undefined") ;;
# It does not know fences, and gcc says so at each; none of our own memory is handed over by one.
thread) args+=(-Db_sanitize=thread -Dc_args=-Wno-tsan) ;;
*) echo "SAN is $san: address or thread" >&2; exit 2 ;;
esac
[ -f "$build/build.ninja" ] || meson setup "$build" "${args[@]}"
ninja -C "$build" tests/soak/soak

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
soak=$PWD/$build/tests/soak/soak
cd "$work"
UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 "$soak" --seconds "$seconds" "$@"
