/* SPDX-License-Identifier: Apache-2.0 */
/* A session and what a front-end's messages come to, for tests that need no more than one. */
#ifndef SLUICE_TESTS_SESSION_BED_H
#define SLUICE_TESTS_SESSION_BED_H

#include "tests/unit/session_util.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct bed b;

static inline void open_bed(const struct vhost_device_ops *ops)
{
	bed_init(&b, ops);
	bed_pair(&b);
	bed_negotiate(&b, ~VU_PF_GPA_ADDRESSES, 0);
}

static inline void reconnect(void)
{
	frontend_close(&b.f);
	cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
	bed_connect(&b);
	bed_negotiate(&b, ~VU_PF_GPA_ADDRESSES, 0);
}

static inline void open_listening(const struct vhost_device_ops *ops)
{
	bed_init(&b, ops);
	bed_listen(&b);
	bed_connect(&b);
	bed_negotiate(&b, ~VU_PF_GPA_ADDRESSES, 0);
}

/* Some descriptors are closed by another thread: waits for it, without the control loop. */
static inline bool comes_to_fds(unsigned fds)
{
	for (unsigned i = 0; i < 2000 && count_fds() != fds; i++)
		usleep(1000);
	return count_fds() == fds;
}

static inline unsigned rss_kib(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long size, pages;

	cr_assert_eq(fscanf(f, "%lu %lu", &size, &pages), 2);
	fclose(f);
	return (unsigned)(pages * (unsigned long)sysconf(_SC_PAGESIZE) / 1024);
}

/* The connection still works. */
static inline void check_alive(void)
{
	uint64_t features;

	OK(&b.f, frontend_u64_get(&b.f, VU_GET_FEATURES, &features));
	cr_assert(features & VU_F_VERSION_1);
}

/* Sends a message that asks for an ack. @return 0 acked, 1 refused, -ECONNRESET hung up. */
static inline int outcome(uint32_t request, const void *payload, uint32_t size, const int *fds,
			  unsigned n)
{
	uint8_t reply[VU_PAYLOAD_MAX];
	uint64_t ack;
	int rc = frontend_send(&b.f, request, VU_VERSION | VU_NEED_REPLY, payload, size, fds, n);

	if (rc == 0)
		rc = frontend_recv_reply(&b.f, request, reply, sizeof(reply), NULL, NULL);
	if (rc == -ECONNRESET)
		return rc;
	cr_assert_geq(rc, 0, "message %u: %s", request, b.f.error);
	if (rc != sizeof(ack))
		return 0; /* a reply of its own */
	memcpy(&ack, reply, sizeof(ack));
	return ack != 0;
}

#endif
