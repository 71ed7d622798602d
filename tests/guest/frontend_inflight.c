/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/frontend_inflight.h"

#include <unistd.h>

static_assert(sizeof(struct vu_inflight) == 24, "as QEMU sends it");

int frontend_get_inflight(struct frontend *f, struct frontend_inflight *b, uint16_t queues,
			  uint16_t queue_size)
{
	struct vu_inflight d = { .num_queues = queues, .queue_size = queue_size };
	unsigned n_fds = 1;
	int fd = -1, rc;

	b->fd = -1;
	rc = frontend_send(f, VU_GET_INFLIGHT_FD, VU_VERSION, &d, sizeof(d), NULL, 0);
	if (rc < 0)
		return rc;
	rc = frontend_recv_reply(f, VU_GET_INFLIGHT_FD, &d, sizeof(d), &fd, &n_fds);
	if (rc < 0)
		return rc;
	if (rc != sizeof(d))
		return frontend_fail(f, -EPROTO, "answer to GET_INFLIGHT_FD: %d bytes", rc);
	if (d.mmap_size == 0)
		return n_fds ? frontend_fail(f, -EPROTO, "a descriptor without a buffer")
			     : frontend_fail(f, -ENODATA, "the back-end gives no buffer");
	if (n_fds != 1)
		return frontend_fail(f, -EPROTO, "a buffer without a descriptor");
	b->desc = d;
	b->fd = fd;
	return 0;
}

int frontend_set_inflight(struct frontend *f, const struct frontend_inflight *b)
{
	return frontend_set(f, VU_SET_INFLIGHT_FD, &b->desc, sizeof(b->desc), &b->fd, 1);
}

void frontend_inflight_close(struct frontend_inflight *b)
{
	if (b->fd >= 0)
		close(b->fd);
	b->fd = -1;
}

void frontend_hang_up(struct frontend *f)
{
	if (f->backend_sock >= 0)
		close(f->backend_sock);
	if (f->sock >= 0)
		close(f->sock);
	f->sock = f->backend_sock = -1;
}
