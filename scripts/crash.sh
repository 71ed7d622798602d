#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: crash.sh BUILD ROUNDS [address|thread]
# kill -9 of sluiced under load, ROUNDS times in all, over layouts, features and queue sizes. With a
# sanitizer, sluiced and its driver are built for it in a folder of their own, and BUILD is not used.
set -eu

build=$1
rounds=$2
san=${3:-}
[ -z "$san" ] || build=$("$(dirname "$0")/sanitizer-build.sh" "$san" daemon/sluiced tests/crash/crash)
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 TSAN_OPTIONS=halt_on_error=1
folder=$(mktemp -d "${TMPDIR:-/tmp}/sluice-crash-XXXXXX")
kinds=24
each=$(((rounds + kinds - 1) / kinds))

run() {
	"$build/tests/crash/crash" --rounds "$each" --folder "$folder" "$@" "$build/daemon/sluiced" || {
		echo "the daemon's log: $folder/crash.log" >&2
		exit 1
	}
}

for size in 4 16 64 256 1024; do
	for layout in "" --packed; do
		# shellcheck disable=SC2086 # an empty one is no argument
		run --size $size $layout
		# shellcheck disable=SC2086
		run --size $size $layout --in-order
	done
done
run --size 7 --packed
run --size 100 --packed --in-order --queues 4
run --size 64 --buffered
run --size 64 --buffered --packed --in-order --queues 1
rm -rf "$folder"
echo "crash: $((each * kinds)) rounds, nothing lost"
