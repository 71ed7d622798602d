/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of sluice-bench. Each takes its arguments from its own name on; @return exit
 * code. */
#ifndef SLUICE_BENCH_BENCH_H
#define SLUICE_BENCH_BENCH_H

#include "bench/rig.h"

int bench_blk(int argc, char **argv);
int bench_net(int argc, char **argv);
int bench_fair(int argc, char **argv);
int bench_scale(int argc, char **argv);
int bench_compare(int argc, char **argv);

#endif
