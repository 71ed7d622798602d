/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fuzz target without the fuzzer: runs it over files and the files of folders, so that seeds and
 * what was found once stay tested with any compiler. A file is one input, or, if its name ends in
 * .hex, one in each line, in hexadecimal.
 */
#include "tests/fuzz/input.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define INPUT_MAX (1u << 20)

static unsigned n_run;

/* In a block of its own length, so that ASan sees a step beyond it. */
static int run_input(const uint8_t *bytes, size_t n)
{
	uint8_t *own = malloc(n + !n);

	if (!own)
		return 1;
	memcpy(own, bytes, n);
	LLVMFuzzerTestOneInput(own, n);
	free(own);
	n_run++;
	return 0;
}

static int run_hex(const char *line)
{
	size_t len = strcspn(line, "\r\n");
	uint8_t *bytes = malloc(len / 2 + 1);
	unsigned byte;
	size_t n = 0;
	int rc = 1;

	if (line[0] == '#' || len == 0)
		rc = 0;
	else if (bytes) {
		while (n < len / 2 && sscanf(line + 2 * n, "%2x", &byte) == 1)
			bytes[n++] = (uint8_t)byte;
		rc = n == len / 2 ? run_input(bytes, n) : 1;
	}
	free(bytes);
	return rc;
}

static int run_lines(FILE *f)
{
	char *line = NULL;
	size_t size = 0;
	int rc = 0;

	while (getline(&line, &size, f) >= 0)
		rc |= run_hex(line);
	free(line);
	return rc;
}

static int run_whole(FILE *f)
{
	uint8_t *bytes = malloc(INPUT_MAX);
	int rc = !bytes || run_input(bytes, fread(bytes, 1, INPUT_MAX, f));

	free(bytes);
	return rc;
}

static int run_file(const char *path)
{
	const char *dot = strrchr(path, '.');
	FILE *f = fopen(path, "rb");
	int rc = 1;

	if (f)
		rc = dot && strcmp(dot, ".hex") == 0 ? run_lines(f) : run_whole(f);
	if (rc)
		fprintf(stderr, "%s: cannot be read\n", path);
	if (f)
		fclose(f);
	return rc;
}

static int run_folder(const char *path)
{
	struct dirent **list;
	int n = scandir(path, &list, NULL, alphasort), rc = n < 0;

	if (n < 0)
		perror(path);
	for (int i = 0; i < n; i++) {
		char file[4096];

		snprintf(file, sizeof(file), "%s/%s", path, list[i]->d_name);
		if (list[i]->d_name[0] != '.')
			rc |= run_file(file);
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return rc;
}

int main(int argc, char **argv)
{
	struct stat st;
	int rc = 0;

	for (int i = 1; i < argc; i++)
		rc |= stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? run_folder(argv[i])
								     : run_file(argv[i]);
	printf("%u inputs\n", n_run);
	return rc || n_run == 0;
}
