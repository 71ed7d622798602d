/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"
#include "bench/interrupt.h"

#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *name, *what;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "blk", "SOCKET           requests to a disk", bench_blk },
	{ "net", "SOCKET [SOCKET]  frames from one network card to another, or back", bench_net },
	{ "fair", "SOCKET...        one hostile guest among others", bench_fair },
	{ "scale", "SOCKET...        what many disks cost: memory, starts, idling, wake-ups",
	  bench_scale },
	{ "compare", "FILE             back-ends in turn, each started from a recipe",
	  bench_compare },
};

static int usage(FILE *to, int code)
{
	fprintf(to, "Usage: sluice-bench COMMAND SOCKET...|FILE [OPTION]...\n"
		    "Measures any vhost-user back-end, with no virtual machine.\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %-7s %s\n", commands[i].name, commands[i].what);
	fprintf(to, "\nsluice-bench COMMAND --help lists a command's options; sluice-bench(1).\n");
	return code;
}

static int run(int argc, char **argv)
{
	if (argc < 2)
		return usage(stderr, 2);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return usage(stdout, 0);
	if (strcmp(argv[1], "--version") == 0) {
		puts("sluice-bench " SLUICE_VERSION);
		return 0;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	errx(2, "%s: no such command; see sluice-bench --help", argv[1]);
}

/* What is closed would be taken by the next socket or file, and printed to. To write there fails.
 */
static void keep_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY); /* for those that it starts, too */
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	int rc;

	keep_standard_files();
	signal(SIGPIPE, SIG_IGN);
	interrupt_catch();
	setvbuf(stdout, NULL, _IOLBF, 0);
	rc = run(argc, argv);
	if (fflush(stdout) == 0 && !ferror(stdout))
		return rc;
	warnx("cannot write all of the result");
	return rc ? rc : 1;
}
