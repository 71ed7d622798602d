/* SPDX-License-Identifier: Apache-2.0 */
/* What a process holds: descriptors, mappings of shared memory, heap. */
#include "tests/soak/soak.h"

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

/* The heap wavers by what the C library keeps for threads and stdio. */
#define HEAP_SLACK (256 * KIB)

static unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!dir)
		soak_fail("/proc/self/fd: %s", strerror(errno));
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Only files: what the allocator and the sanitizers map for themselves is anonymous. */
static unsigned count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	if (!f)
		soak_fail("/proc/self/maps: %s", strerror(errno));
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/memfd:") != NULL || strstr(line, "(deleted)") != NULL ||
		     strstr(line, "[io_uring]") != NULL;
	fclose(f);
	return n;
}

struct leaks leaks_now(void)
{
	struct leaks now = { .fds = count_fds(), .maps = count_maps() };

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	malloc_trim(0);
	now.heap = mallinfo2().uordblks + mallinfo2().hblkhd;
#endif
	return now;
}

void leaks_check(const struct leaks *before)
{
	struct leaks now = leaks_now();

	if (now.fds > before->fds)
		soak_fail("descriptors leak: %u, and %u before", now.fds, before->fds);
	if (now.maps > before->maps)
		soak_fail("mappings leak: %u, and %u before", now.maps, before->maps);
	if (now.heap > before->heap + HEAP_SLACK)
		soak_fail("memory leaks: %zu bytes, and %zu before", now.heap, before->heap);
}
