#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: crash.sh BUILD ROUNDS [address|thread]
# kill -9 of sluiced under load, ROUNDS times in all, over layouts, features and queue sizes. With a
# sanitizer, sluiced and its driver are built for it in a folder of their own, and BUILD is not used.
set -eu

build=$1
rounds=$2
san=${3:-}
[ -z "$san" ] || build=$("$(dirname "$0")/sanitizer-build.sh" "$san" daemon/sluiced tests/crash/crash tests/crash/crash-net)
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 TSAN_OPTIONS=halt_on_error=1
folder=$(mktemp -d "${TMPDIR:-/tmp}/sluice-crash-XXXXXX")
kinds=36
each=$(((rounds + kinds - 1) / kinds))

run() {
	program=$1
	shift
	"$build/tests/crash/$program" --rounds "$each" --folder "$folder" "$@" "$build/daemon/sluiced" || {
		echo "the daemon's log: $folder/crash.log" >&2
		exit 1
	}
}

for size in 4 16 64 256 1024; do
	for layout in "" --packed; do
		# shellcheck disable=SC2086 # an empty one is no argument
		run crash --size $size $layout
		# shellcheck disable=SC2086
		run crash --size $size $layout --in-order
	done
done
run crash --size 7 --packed
run crash --size 100 --packed --in-order --queues 4
run crash --size 64 --buffered
run crash --size 64 --buffered --packed --in-order --queues 1
run crash --size 64 --nbd
run crash --size 64 --nbd --packed
for layout in "" --packed; do
	for more in "" --in-order --mergeable "--mergeable --in-order --workers 1" "--mergeable --size 1024"; do
		# shellcheck disable=SC2086
		run crash-net $layout $more
	done
done
rm -rf "$folder"
echo "crash: $((each * kinds)) rounds, nothing lost"
