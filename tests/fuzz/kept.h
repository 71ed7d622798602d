/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must become of a ring that a card keeps in the in-flight buffer (vhost/ring_keep.h), by a
 * second reading of what stands there. Where words change while they are read (races, flips)
 * nothing can be foretold, and nothing is checked here.
 */
#ifndef SLUICE_TESTS_FUZZ_KEPT_H
#define SLUICE_TESTS_FUZZ_KEPT_H

#include "tests/fuzz/guest.h"
#include "vhost/ring.h"

/* A new life: @region is the front-end's, and was never used by us. */
void kept_begin(void);
/* @r is to be pushed to, packed and kept. */
void kept_push(const struct fuzz_guest *g, const struct ring *r);
/* What was pushed has been shown. */
void kept_published(void);
/* The guest has written to its memory; the front-end to the buffer. */
void kept_guest_wrote(void);
void kept_region_wrote(void);
/* @r's back-end is dead. */
void kept_die(const struct ring *r);

/* Before the next one recovers: what it should come to. */
void kept_expect(const struct fuzz_guest *g, const void *region);
/* It has: @why as ring_keep_recover() returned it. */
void kept_check(const struct fuzz_guest *g, const struct ring *r, const void *region,
		const char *why);

#endif
