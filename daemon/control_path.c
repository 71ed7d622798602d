/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/control_path.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void control_path_default(char out[CONTROL_PATH_BYTES])
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (geteuid() == 0) {
		snprintf(out, CONTROL_PATH_BYTES, "%s", CONTROL_PATH_SYSTEM);
		return;
	}
	if (xdg && xdg[0] == '/') {
		n = snprintf(out, CONTROL_PATH_BYTES, "%s/sluice/control.sock", xdg);
		if (n < CONTROL_PATH_BYTES)
			return;
	}
	snprintf(out, CONTROL_PATH_BYTES, "/tmp/sluice-%u/control.sock", (unsigned)geteuid());
}
