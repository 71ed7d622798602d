/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: either a whole configuration comes out, or problems, each a line of its
 * own; and what was refused once is refused again. Values on their own too.
 */
#include "base/log.h"
#include "daemon/config.h"
#include "tests/fuzz/input.h"

#include <stdlib.h>

static void check_devices(const struct config *c)
{
	for (unsigned i = 0; i < c->disks.n; i++) {
		const struct disk_config *d = config_disk(c, i);

		FUZZ_CHECK(d->name && d->name[0]);
		FUZZ_CHECK(!!d->file + !!d->nbd + !!d->null_size + !!d->ram_size == 1);
		FUZZ_CHECK(d->queues >= 1 && d->queues <= 256);
	}
	for (unsigned i = 0; i < c->networks.n; i++) {
		const struct network_config *net = config_network(c, i);

		FUZZ_CHECK(net->name && net->name[0]);
		for (unsigned k = 0; k < net->ports.n; k++) {
			const struct port_config *p = config_port(net, k);

			FUZZ_CHECK(p->name && p->name[0]);
			FUZZ_CHECK(p->queues >= 1 && p->queues <= 256);
		}
	}
}

static bool parse(const char *text, size_t len)
{
	struct problems p = { .file = "fuzz.yaml" };
	struct config *c = config_parse(text, len, &p);

	FUZZ_CHECK(p.n <= PROBLEMS_MAX);
	FUZZ_CHECK(!c == (p.n > 0), "%s and %u problems", c ? "a configuration" : "none", p.n);
	for (unsigned i = 0; i < p.n; i++)
		FUZZ_CHECK(p.text[i][0] && !strchr(p.text[i], '\n'), "\"%s\"", p.text[i]);
	if (c)
		check_devices(c);
	config_free(c);
	problems_free(&p);
	return c != NULL;
}

static void values(const char *text)
{
	struct cpu_list cpus = { 0 };
	uint64_t number;
	uint8_t mac[6];
	bool flag;
	int mode;

	value_bool(text, &flag);
	value_number(text, &number);
	value_size(text, &number);
	if (value_mode(text, &mode) == 0)
		FUZZ_CHECK((mode & ~0777) == 0);
	value_mac(text, mac);
	value_cpus(text, &cpus);
	for (unsigned i = 0; i < cpus.n; i++)
		FUZZ_CHECK(cpus.cpus[i] <= VALUE_CPU_MAX);
	free(cpus.cpus);
	FUZZ_CHECK(value_distance(text, text) == 0 || strlen(text) > 40);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	FUZZ_CHECK(text);
	log_set_level(LOG_LEVEL_ERROR);
	memcpy(text, data, size);
	text[size] = 0;
	if (size && data[0] == '=') {
		values(text + 1);
	} else {
		bool good = parse(text, size);

		FUZZ_CHECK(parse(text, size) == good);
	}
	free(text);
	return 0;
}
