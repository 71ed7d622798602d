/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/problems.h"

#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* A key or a value can be any text; of a problem they make one line, and nothing for a terminal. */
static void one_line(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

void problems_add(struct problems *p, unsigned line, const char *fmt, ...)
{
	char *text, *where = NULL;
	va_list ap;
	int rc;

	if (p->n == PROBLEMS_MAX) {
		p->more++;
		return;
	}
	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (rc < 0)
		abort(); /* Out of memory while reading a file of at most 1 MiB. */
	one_line(text);
	if (p->file) {
		rc = line ? asprintf(&where, "%s:%u: %s", p->file, line, text)
			  : asprintf(&where, "%s: %s", p->file, text);
		if (rc < 0)
			abort();
		free(text);
		text = where;
	}
	p->text[p->n++] = text;
}

void problems_log(const struct problems *p)
{
	for (unsigned i = 0; i < p->n; i++)
		log_error("%s", p->text[i]);
	if (p->more)
		log_error("and more of these: the first %u are shown", PROBLEMS_MAX);
}

void problems_free(struct problems *p)
{
	for (unsigned i = 0; i < p->n; i++)
		free(p->text[i]);
	p->n = 0;
	p->more = 0;
}
