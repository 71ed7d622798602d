/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about ports. */
#include "base/error.h"
#include "cli/clean.h"
#include "cli/client.h"
#include "cli/command.h"

#include <stdio.h>
#include <string.h>

int port_link_command(const struct arguments *a)
{
	struct error err = { 0 };
	json_t *answer;
	bool down;

	if (a->n != 3 || (strcmp(a->words[1], "down") != 0 && strcmp(a->words[1], "up") != 0)) {
		fputs("sluice: it is: port down PORT, port up PORT, port limit PORT, port set "
		      "PORT, "
		      "port add … or "
		      "port remove …\n",
		      stderr);
		return usage_error();
	}
	down = strcmp(a->words[1], "down") == 0;
	answer = client_call_with(a->socket, down ? "port.down" : "port.up",
				  json_pack("{s:s}", "port", a->words[2]), &err);
	if (!answer)
		return call_failed(&err);
	if (!shown_as_json(a, &answer))
		printf("%s is %s%s\n", a->words[2], down ? "down" : "up",
		       json_is_true(json_object_get(answer, "told")) ? ", and its guest is told"
								     : "");
	json_decref(answer);
	return EXIT_GOOD;
}

int port_limit_command(const struct arguments *a)
{
	static const char *const keys[] = {
		"rx.bits",   "rx.bits_burst", "rx.packets", "rx.packets_burst",
		"tx.bits",   "tx.bits_burst", "tx.packets", "tx.packets_burst",
		"broadcast", "unknown",	      NULL
	};

	if (a->n < 3) {
		fputs("sluice: it is: port limit PORT [KEY=VALUE… | none]\n", stderr);
		return usage_error();
	}
	return limit_command(a, "port", keys);
}
