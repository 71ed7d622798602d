/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/options.h"

#include "daemon/options_device.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: sluiced [--config FILE] [--check] [--log-level LEVEL] [--no-sandbox]\n"
	"       sluiced blk --socket-path PATH --blk-file FILE [OPTION…]\n"
	"       sluiced net --socket-path PATH [OPTION…]\n"
	"\n"
	"Serves virtio-blk disks and virtio-net cards to virtual machines over vhost-user.\n"
	"\n"
	"  -c, --config FILE      the configuration; default: " CONFIG_FILE_DEFAULT "\n"
	"      --check            check the configuration, say what is wrong with it, and exit\n"
	"  -l, --log-level LEVEL  error, warn, info (default) or debug\n"
	"      --no-sandbox       keep all system calls, for debugging\n"
	"  -h, --help             this text; sluiced blk --help and sluiced net --help for these\n"
	"  -V, --version          the version\n"
	"\n"
	"A single device needs no configuration: see sluiced blk --help and sluiced net --help.\n"
	"sluiced(8), sluice.yaml(5), sluice(1)\n";

static int usage_error(const char *program)
{
	fprintf(stderr, "Try: %s --help\n", program);
	return 2;
}

static int parse_config_mode(int argc, char **argv, struct options *out)
{
	static const struct option rows[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'k' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ "no-sandbox", no_argument, NULL, 's' },
		{ 0 },
	};
	enum log_level level;
	int c;

	out->config_file = CONFIG_FILE_DEFAULT;
	while ((c = getopt_long(argc, argv, "c:l:hV", rows, NULL)) >= 0) {
		switch (c) {
		case 'c':
			out->config_file = optarg;
			break;
		case 'k':
			out->check = true;
			break;
		case 'l':
			if (log_level_parse(optarg, &level)) {
				fprintf(stderr,
					"sluiced: --log-level: \"%s\" is not one of error, warn, "
					"info, debug\n",
					optarg);
				return 2;
			}
			out->log_level = (int)level;
			break;
		case 's':
			out->no_sandbox = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		case 'V':
			puts("sluiced " SLUICE_VERSION);
			return 0;
		default:
			return usage_error("sluiced");
		}
	}
	if (optind < argc) {
		fprintf(stderr,
			"sluiced: \"%s\" is neither an option nor a device kind (blk, net)\n",
			argv[optind]);
		return usage_error("sluiced");
	}
	return OPTIONS_RUN;
}

/* The device kind that the name or the first argument asks for, or NULL; *@skip: arguments used. */
static const struct device_kind *find_kind(int argc, char **argv, int *skip)
{
	static const char prefix[] = "sluice-vhost-user-";
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	const char *name = slash ? slash + 1 : argc ? argv[0] : "";

	*skip = 0;
	/* A VMM that finds us through share/qemu/vhost-user calls a name, without arguments of
	 * ours. */
	if (strncmp(name, prefix, sizeof(prefix) - 1) == 0)
		return device_kind_find(name + sizeof(prefix) - 1);
	if (argc < 2)
		return NULL;
	*skip = 1;
	return device_kind_find(argv[1]);
}

int options_parse(int argc, char **argv, struct options *out)
{
	const struct device_kind *kind;
	static char mode[16]; /* argv keeps it */
	int skip;

	*out = (struct options) { .fd = -1, .log_level = -1 };
	kind = find_kind(argc, argv, &skip);
	if (!kind)
		return parse_config_mode(argc, argv, out);
	/* getopt names the program by argv[0]: let its complaints say which mode this is. */
	if (skip) {
		snprintf(mode, sizeof(mode), "sluiced %s", argv[skip]);
		argv[skip] = mode;
	}
	return device_options_parse(kind, argc - skip, argv + skip, out);
}
