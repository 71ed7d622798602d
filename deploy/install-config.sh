#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run by meson install: puts the default configuration into place, unless there is one already.
set -e
to="${DESTDIR:-}/etc/sluice/sluice.yaml"
if [ -e "$to" ]; then
	echo "Keeping $to"
else
	install -D -m 0644 "$MESON_SOURCE_ROOT/deploy/sluice.yaml" "$to"
fi
