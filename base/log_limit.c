/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log_limit.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#define NS_PER_LINE UINT64_C(1000000000)

static bool pass(struct log_limit *l)
{
	uint64_t now = clock_ns(), grown = (now - l->since_ns) / NS_PER_LINE;

	if (l->since_ns == 0 || grown >= l->used) {
		l->used = 0;
		l->since_ns = now;
	} else {
		l->used -= (unsigned)grown;
		l->since_ns += grown * NS_PER_LINE;
	}
	if (l->used >= LOG_LIMIT_BURST) {
		l->left_out++;
		return false;
	}
	l->used++;
	return true;
}

void log_limited(struct log_limit *l, const char *who, enum log_level level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if (!log_enabled(level) || !pass(l))
		return;
	if (l->left_out)
		log_warn("%s: %" PRIu64 " lines about it were left out", who, l->left_out);
	l->left_out = 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_print(level, "%s", text);
}
