/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A limit on log lines that somebody else can cause: a handful at once, then one a second, and the
 * next one that passes says how many were left out.
 */
#ifndef SLUICE_BASE_LOG_LIMIT_H
#define SLUICE_BASE_LOG_LIMIT_H

#include "base/log.h"

#define LOG_LIMIT_BURST 40

/* One for each of those who cause lines. Zero-initialised is a full allowance. One thread. */
struct log_limit {
	unsigned used;
	uint64_t since_ns; /* when the allowance last grew */
	uint64_t left_out; /* lines since the last one that passed */
};

/*
 * Logs as log_print() does, or counts. Lines that @level would not print anyway cost nothing.
 * @who: whose lines were left out, for the line that says so.
 */
void log_limited(struct log_limit *l, const char *who, enum log_level level, const char *fmt, ...)
	PRINTF_LIKE(4, 5);

#endif
