/* SPDX-License-Identifier: Apache-2.0 */
/* sluice: the command line that an operator talks to the daemon with. */
#include "base/compiler.h"
#include "base/error.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/print.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: sluice [--socket PATH] COMMAND\n"
	"\n"
	"Asks a running sluiced.\n"
	"\n"
	"Commands:\n"
	"  status [--json] [NAME]  what it serves and how that is going; all "
	"there is to know of the\n"
	"                          disks, ports and networks called NAME\n"
	"  queue move DEVICE QUEUE WORKER\n"
	"                          has a queue of a disk or port served by another "
	"worker from now on\n"
	"  disk add NAME --socket PATH --file PATH [--KEY VALUE…]\n"
	"                          serves one more disk, by the keys of sluice.yaml(5)\n"
	"  disk remove DISK [--force]\n"
	"                          closes a disk; --force: also while a guest has it\n"
	"  capture PORT -w FILE [--snap BYTES]\n"
	"                          what passes a port, as pcapng; -w - | tcpdump -r -\n"
	"  port down|up PORT       has a port drop what comes, and its guest see no link; undoes "
	"that\n"
	"  port set PORT [--KEY VALUE | --KEY none …]\n"
	"                          changes whose frames a port lets in and out (vlan, trunk, "
	"native, isolated,\n"
	"                          macs, ips, static_macs, mac_max), while traffic runs, and "
	"shows it\n"
	"  port limit PORT [KEY=VALUE… | none]\n"
	"                          changes what a port lets through a second (tx.bits=1G "
	"broadcast=100 …),\n"
	"                          while traffic runs, and shows it\n"
	"  disk replace DISK --file PATH\n"
	"                          another image for a disk that no guest has\n"
	"  disk resize DISK [SIZE] makes a disk larger while its guest runs; without SIZE "
	"as large as\n"
	"                          its file or device has become\n"
	"  disk limit DISK [KEY=VALUE… | none]\n"
	"                          changes what a disk may do a second (iops=20k "
	"bandwidth=200M …), while\n"
	"                          its guest runs, and shows it\n"
	"  disk retry DISK         has requests that wait for a failed disk "
	"(on_error: stop) try again now\n"
	"  network add NAME, network remove NETWORK\n"
	"                          a network without ports\n"
	"  port add NETWORK NAME --socket PATH [--KEY VALUE…]\n"
	"                          one more guest port, by the keys of sluice.yaml(5)\n"
	"  port remove PORT [--force]\n"
	"                          closes a port; --force: also while a guest has it\n"
	"  config                  what it serves now, as a configuration file\n"
	"\n"
	"Options:\n"
	"  -s, --socket PATH       its control socket; default: $SLUICE_SOCKET, "
	"else this user's own\n"
	"                          daemon's, else /run/sluice/control.sock\n"
	"  -h, --help              this text\n"
	"  -V, --version           the version\n"
	"\n"
	"sluice(1), sluiced(8), sluice.yaml(5)\n";

int usage_error(void)
{
	fputs("Try: sluice --help\n", stderr);
	return EXIT_USAGE;
}

/* Up to the first word that is none where @order begins with "+". @return -1, or an exit code. */
static int parse_options(int argc, char **argv, const char *order, struct arguments *a)
{
	static const struct option rows[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "force", no_argument, NULL, 'f' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ "write", required_argument, NULL, 'w' },
		{ "snap", required_argument, NULL, 'n' },
		{ 0 },
	};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, order, rows, NULL)) >= 0) {
		switch (c) {
		case 's':
			a->socket = optarg;
			break;
		case 'j':
			a->json = true;
			break;
		case 'f':
			a->force = true;
			break;
		case 'w':
			a->write = optarg;
			break;
		case 'n':
			a->snap = strtol(optarg, &end, 10);
			if (end == optarg || *end || a->snap < 1)
				return usage_error();
			break;
		case 'h':
			fputs(help, stdout);
			return EXIT_GOOD;
		case 'V':
			puts("sluice " SLUICE_VERSION);
			return EXIT_GOOD;
		default:
			return usage_error();
		}
	}
	a->n = argc - optind;
	a->words = argv + optind;
	return -1;
}

/* What follows describes a device: its --socket is not that of sluiced. */
static bool has_own_options(const struct arguments *a)
{
	static const char *const verbs[][2] = {
		{ "disk", "add" }, { "disk", "replace" }, { "port", "add" },
		{ "port", "set" }, { "network", "add" },
	};

	for (unsigned i = 0; a->n >= 2 && i < ARRAY_SIZE(verbs); i++)
		if (strcmp(a->words[0], verbs[i][0]) == 0 && strcmp(a->words[1], verbs[i][1]) == 0)
			return true;
	return false;
}

static int parse(int argc, char **argv, struct arguments *a)
{
	int rc = parse_options(argc, argv, "+s:w:jhV", a), first = optind - 1;

	if (rc >= 0 || has_own_options(a))
		return rc;
	argv[first] = argv[0]; /* for getopt's complaints */
	optind = 0;	       /* start anew */
	return parse_options(argc - first, argv + first, "s:w:jhV", a);
}

static bool is_called(const json_t *j, const char *name)
{
	const char *own = json_string_value(json_object_get(j, "name"));

	return own && strcmp(own, name) == 0;
}

/* The objects called @name, as one array: what --json prints then. */
static json_t *select_named(const json_t *status, const char *name)
{
	const json_t *networks = json_object_get(status, "networks"), *n;
	json_t *found = json_array(), *d;
	size_t i, j;

	json_array_foreach (json_object_get(status, "disks"), i, d) {
		if (is_called(d, name))
			json_array_append(found, d);
	}
	json_array_foreach (networks, i, n) {
		if (is_called(n, name))
			json_array_append(found, (json_t *)n);
		json_array_foreach (json_object_get(n, "ports"), j, d) {
			if (is_called(d, name))
				json_array_append(found, d);
		}
	}
	return found;
}

static int status_command(const struct arguments *a)
{
	const char *name = a->n > 1 ? a->words[1] : NULL;
	struct error err = { 0 };
	json_t *status, *found = NULL;
	bool any = true;

	if (a->n > 2) {
		fprintf(stderr, "sluice: status takes one name, and \"%s\" is a second\n",
			a->words[2]);
		return usage_error();
	}
	status = name ? client_call_with(a->socket, "status", json_pack("{s:s}", "macs", name),
					 &err)
		      : client_call(a->socket, "status", &err);
	if (!status)
		return call_failed(&err);
	if (a->json && name) {
		found = select_named(status, name);
		any = json_array_size(found) > 0 && shown_as_json(a, &found);
	} else if (!shown_as_json(a, &status)) {
		if (name)
			any = print_named(status, name);
		else
			print_status(status);
	}
	json_decref(found);
	json_decref(status);
	if (!any) {
		fprintf(stderr,
			"sluice: no disk, port or network is called \"%s\"; sluice status lists "
			"them\n",
			name);
		return EXIT_FAILED;
	}
	return EXIT_GOOD;
}

static bool parse_number(const char *text, json_int_t *out)
{
	char *end;

	errno = 0;
	*out = strtol(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && *out >= 0;
}

int call_failed(const struct error *err)
{
	complain("%s", err->text);
	return err->code == -EPROTO ? EXIT_FAILED : EXIT_NO_DAEMON;
}

static int queue_command(const struct arguments *a)
{
	json_int_t queue, worker;
	struct error err = { 0 };
	json_t *answer;

	if (a->n != 5 || strcmp(a->words[1], "move") != 0) {
		fputs("sluice: it is: queue move DEVICE QUEUE WORKER\n", stderr);
		return usage_error();
	}
	if (!parse_number(a->words[3], &queue) || !parse_number(a->words[4], &worker)) {
		fputs("sluice: queue and worker are numbers; sluice status lists them\n", stderr);
		return usage_error();
	}
	answer = client_call_with(a->socket, "queue.move",
				  json_pack("{s:s, s:I, s:I}", "device", a->words[2], "queue",
					    queue, "worker", worker),
				  &err);
	if (!answer)
		return call_failed(&err);
	if (shown_as_json(a, &answer))
		;
	else if (!json_is_true(json_object_get(answer, "moved")))
		printf("%s queue %s moves as soon as its requests in flight are done\n",
		       a->words[2], a->words[3]);
	else
		printf("%s queue %s is on worker %s\n", a->words[2], a->words[3], a->words[4]);
	json_decref(answer);
	return EXIT_GOOD;
}

static const struct command {
	const char *name;
	int (*run)(const struct arguments *a);
} commands[] = {
	{ "status", status_command },	{ "queue", queue_command }, { "disk", disk_command },
	{ "network", network_command }, { "port", port_command },   { "config", config_command },
	{ "capture", capture_command },
};

static int run(int argc, char **argv)
{
	struct arguments a = { 0 };
	int rc = parse(argc, argv, &a);

	if (rc >= 0)
		return rc;
	if (a.n == 0) {
		fputs("sluice: a command is missing, such as status\n", stderr);
		return usage_error();
	}
	for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(a.words[0], commands[i].name) == 0)
			return commands[i].run(&a);
	fprintf(stderr, "sluice: there is no command \"%s\"\n", a.words[0]);
	return usage_error();
}

int main(int argc, char **argv)
{
	int rc = run(argc, argv);

	/* A full disk under "sluice config > FILE" must not pass for a configuration. */
	if (fflush(stdout) == 0 && !ferror(stdout))
		return rc;
	complain("cannot write all of the answer: %s", strerror(errno));
	return rc == EXIT_GOOD ? EXIT_FAILED : rc;
}
