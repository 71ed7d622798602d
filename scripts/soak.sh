#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The life-cycle soak, for a time, plain or under a sanitizer.
# usage: scripts/soak.sh SECONDS [address|thread] [soak's own options]
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${1:-60}
san=${2:-}
shift $(($# < 2 ? $# : 2))
build=$(scripts/sanitizer-build.sh "$san" tests/soak/soak)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 "$build/tests/soak/soak" --seconds "$seconds" "$@"
