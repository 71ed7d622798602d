#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds some targets, plain or under a sanitizer, each in a build folder of its own, and prints the folder.
# usage: scripts/sanitizer-build.sh ''|address|thread TARGET…
set -euo pipefail

cd "$(dirname "$0")/.."
san=$1
shift
build=build${san:+-$san}

args=(-Db_lundef=false)
case $san in
'') args=() ;;
# Its own checks for null make gcc 12 believe that what they check may be null.
address) args+=("-Db_sanitize=address,undefined" -Dc_args=-Wno-format-overflow) ;;
# It does not know fences, and gcc says so at each; none of our own memory is handed over by one.
thread) args+=(-Db_sanitize=thread -Dc_args=-Wno-tsan) ;;
*) echo "SAN is $san: address or thread" >&2; exit 2 ;;
esac
[ -f "$build/build.ninja" ] || meson setup "$build" "${args[@]}" >&2
ninja -C "$build" "$@" >&2
echo "$PWD/$build"
