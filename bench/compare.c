/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sluice-bench compare: the program that reads recipes, starts back-ends and draws is written in
 * Python (bench/compare/); it is started here, and told where this program is.
 */
#include "bench/bench.h"

#include "base/compiler.h"

#include <err.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The distribution's, which has the modules. */
#define PYTHON "/usr/bin/python3"

/* Beside this program in a build folder; else where it was installed, or in a tree that was moved
 * from there as a whole (DESTDIR). */
static void find_script(char *path, size_t size, const char *self)
{
	static const char *const beside[] = { "compare", "../share/sluice/bench" };
	const char *slash = strrchr(self, '/');

	for (unsigned i = 0; i < ARRAY_SIZE(beside); i++) {
		snprintf(path, size, "%.*s/%s/compare.py", slash ? (int)(slash - self) : 0, self,
			 beside[i]);
		if (access(path, R_OK) == 0)
			return;
	}
	snprintf(path, size, "%s", BENCH_DATA_DIR "/compare.py");
}

int bench_compare(int argc, char **argv)
{
	char self[PATH_MAX], path[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char **args;

	if (n < 0)
		err(1, "/proc/self/exe");
	self[n] = '\0';
	find_script(path, sizeof(path), self);
	if (access(path, R_OK) < 0)
		err(1, "compare: %s, which is installed with sluice-bench", path);
	args = calloc((size_t)argc + 8, sizeof(*args));
	if (!args)
		errx(1, "out of memory");
	args[0] = PYTHON; /* whole: by a bare name it would take its modules from another in PATH */
	args[1] = "-B";	  /* leaves nothing beside what is installed */
	args[2] = path;
	args[3] = "--sluice-bench";
	args[4] = self;
	args[5] = "--libexec";
	args[6] = BENCH_LIBEXEC_DIR;
	memcpy(args + 7, argv + 1, ((size_t)argc - 1) * sizeof(*args));
	execv(PYTHON, args);
	err(1, "compare: " PYTHON);
}
