/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers without threads: the whole of poll/worker.h, acted out on the control thread, so that a
 * fuzzer's input alone decides what happens when. A poller is parked and woken when the input says
 * so, and a parked one is disarmed before it is polled again, as on a real worker. There is no
 * io_uring: worker_sqe() answers that it is full, so disks must do without.
 *
 * Linked before libpoll.a it takes the place of worker.c and workers.c, of which it has to define
 * every public symbol; control.c and call.c are the real ones.
 */
#ifndef SLUICE_TESTS_FUZZ_SIM_H
#define SLUICE_TESTS_FUZZ_SIM_H

#include "poll/worker.h"

/* One round of every worker: its calls, then each poller that is not parked. */
void sim_round(struct workers *ws);
/* Every poller that may be parked is, where it has no work. */
void sim_park(struct workers *ws);
/* Every parked poller is made active again, as by a kick. */
void sim_wake(struct workers *ws);
/* Pollers on all workers. */
unsigned sim_n_pollers(const struct workers *ws);

#endif
