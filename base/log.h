/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: one line an event, to standard error, with a syslog priority prefix when the reader is
 * the journal. Control thread and start-up code log; workers count instead (a worker may log once
 * when it breaks a queue).
 */
#ifndef SLUICE_BASE_LOG_H
#define SLUICE_BASE_LOG_H

#include "base/compiler.h"

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Any thread. Sets the least severe level that is printed; the default is info. */
void log_set_level(enum log_level level);

/* @return 0 and the level by reference, or -EINVAL for a name other than error, warn, info, debug.
 */
int log_level_parse(const char *name, enum log_level *level);

/* Any thread. Would a line of @level be printed? */
bool log_enabled(enum log_level level);

/*
 * Any thread; one write(2) a line, so lines never mix. Control characters are printed as '?'. Does
 * not wait for a reader that has stopped reading: such lines are lost, and counted in a later one.
 */
void log_print(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_print(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_print(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_print(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
