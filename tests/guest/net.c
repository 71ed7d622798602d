/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/net.h"

#include <stdlib.h>
#include <string.h>

static_assert(sizeof(struct virtio_net_hdr_v1) == GUEST_NET_HDR_BYTES, "virtio 1.3 5.1.6");

static int make_bufs(struct guest_net *n, unsigned count, uint32_t bytes,
		     struct guest_net_buf **bufs, struct guest_net_buf ***list)
{
	uint32_t stride = ALIGN_UP(bytes, 64);
	uint64_t gpa;
	uint8_t *host = guest_alloc(n->f->memory, (uint64_t)count * stride, 4096, &gpa);

	*bufs = calloc(count, sizeof(**bufs));
	*list = calloc(count, sizeof(**list));
	if (!host || !*bufs || !*list)
		return frontend_fail(n->f, -ENOMEM, "no memory for %u buffers of %u bytes", count,
				     bytes);
	for (unsigned i = 0; i < count; i++) {
		(*bufs)[i] = (struct guest_net_buf) { .gpa = gpa + (uint64_t)i * stride,
						      .host = host + (uint64_t)i * stride };
		(*list)[i] = &(*bufs)[i];
	}
	return 0;
}

int guest_net_open(struct guest_net *n, struct frontend *f, unsigned pair,
		   const struct guest_net_options *opt)
{
	int rc;

	*n = (struct guest_net) { .f = f, .rx = 2 * pair, .tx = 2 * pair + 1 };
	if (opt)
		n->opt = *opt;
	if (!n->opt.rx_bytes)
		n->opt.rx_bytes = n->opt.mergeable ? 2048 : GUEST_NET_HDR_BYTES + 1514;
	if (!n->opt.rx_segs)
		n->opt.rx_segs = 1;
	if (!n->opt.tx_bytes)
		n->opt.tx_bytes = 1514;
	if (n->opt.rx_segs > GUEST_NET_SEGS_MAX || n->opt.tx_segs >= GUEST_NET_SEGS_MAX)
		return frontend_fail(f, -EINVAL, "more than %u segments", GUEST_NET_SEGS_MAX);
	n->n_rx = n->n_rx_free = n->opt.rx_count ? n->opt.rx_count : f->queue[n->rx].ring.size;
	n->n_tx = n->n_tx_free = f->queue[n->tx].ring.size;
	rc = make_bufs(n, n->n_rx, n->opt.rx_bytes, &n->rx_bufs, &n->rx_free);
	if (rc == 0)
		rc = make_bufs(n, n->n_tx, n->opt.tx_bytes + GUEST_NET_HDR_BYTES, &n->tx_bufs,
			       &n->tx_free);
	if (rc < 0)
		guest_net_close(n);
	return rc;
}

void guest_net_close(struct guest_net *n)
{
	free(n->rx_bufs);
	free(n->tx_bufs);
	free(n->rx_free);
	free(n->tx_free);
	n->rx_bufs = n->tx_bufs = NULL;
	n->rx_free = n->tx_free = NULL;
}

static int add(struct driver_ring *r, const struct driver_seg *segs, unsigned n_out, unsigned n_in,
	       void *cookie)
{
	return r->layout == DRIVER_SPLIT ? driver_add(r, DRIVER_SPLIT, segs, n_out, n_in, cookie)
					 : driver_add(r, DRIVER_PACKED, segs, n_out, n_in, cookie);
}

/* Cuts [@gpa, @gpa + @len) into at most @n pieces of about one size. @return how many. */
static unsigned cut(struct driver_seg *segs, uint64_t gpa, uint32_t len, unsigned n)
{
	unsigned i;

	for (i = 0; len && i < n; i++) {
		uint32_t piece = MAX(len / (n - i), 1u);

		segs[i] = (struct driver_seg) { gpa, piece };
		gpa += piece;
		len -= piece;
	}
	return i;
}

unsigned guest_net_fill(struct guest_net *n)
{
	struct driver_ring *r = &n->f->queue[n->rx].ring;
	struct driver_seg segs[GUEST_NET_SEGS_MAX];
	unsigned count = 0;

	while (n->n_rx_free) {
		struct guest_net_buf *b = n->rx_free[n->n_rx_free - 1];
		unsigned n_segs = cut(segs, b->gpa, n->opt.rx_bytes, n->opt.rx_segs);

		if (add(r, segs, 0, n_segs, b) < 0)
			break;
		/* 5.1.6.4.1: num_buffers is the device's to write; see that it does. */
		memset(b->host, 0xdb, GUEST_NET_HDR_BYTES);
		n->n_rx_free--;
		count++;
	}
	frontend_submit(n->f, n->rx);
	return count;
}

int guest_net_add(struct guest_net *n, const struct virtio_net_hdr_v1 *h, const void *frame,
		  uint32_t len)
{
	struct driver_seg segs[GUEST_NET_SEGS_MAX + 1];
	struct guest_net_buf *b;
	unsigned n_segs = 1;
	int rc;

	if (len > n->opt.tx_bytes)
		return -EMSGSIZE;
	if (n->n_tx_free == 0)
		return -ENOSPC;
	b = n->tx_free[n->n_tx_free - 1];
	if (h)
		memcpy(b->host, h, GUEST_NET_HDR_BYTES);
	else
		memset(b->host, 0, GUEST_NET_HDR_BYTES);
	memcpy(b->host + GUEST_NET_HDR_BYTES, frame, len);
	segs[0] = (struct driver_seg) { b->gpa, GUEST_NET_HDR_BYTES };
	if (n->opt.tx_segs)
		n_segs += cut(segs + 1, b->gpa + GUEST_NET_HDR_BYTES, len, n->opt.tx_segs);
	else
		segs[0].len += len;
	rc = add(&n->f->queue[n->tx].ring, segs, n_segs, 0, b);
	if (rc == 0) {
		n->n_tx_free--;
		n->sent++;
	}
	return rc;
}

void guest_net_kick(struct guest_net *n)
{
	frontend_submit(n->f, n->tx);
}

static int violation(struct guest_net *n, unsigned queue)
{
	const char *why = driver_violation(&n->f->queue[queue].ring);

	return why ? frontend_fail(n->f, -EPROTO, "queue %u: %s", queue, why) : 0;
}

int guest_net_reap(struct guest_net *n)
{
	struct driver_used u;
	int count = 0, rc;

	while (frontend_poll(n->f, n->tx, &u)) {
		n->tx_free[n->n_tx_free++] = u.cookie;
		count++;
	}
	rc = violation(n, n->tx);
	return rc < 0 ? rc : count;
}

int guest_net_drain(struct guest_net *n)
{
	struct driver_used u;

	while (n->n_tx_free < n->n_tx) {
		int rc = frontend_wait_used(n->f, n->tx, &u);

		if (rc < 0)
			return rc;
		n->tx_free[n->n_tx_free++] = u.cookie;
	}
	return 0;
}

int guest_net_send(struct guest_net *n, const struct virtio_net_hdr_v1 *h, const void *frame,
		   uint32_t len)
{
	int rc = guest_net_add(n, h, frame, len);

	if (rc < 0)
		return rc;
	guest_net_kick(n);
	rc = guest_net_reap(n);
	return rc < 0 ? rc : 0;
}

/* The first buffer's header: how many buffers does the frame take? */
static int check_header(struct guest_net *n, const struct virtio_net_hdr_v1 *h, uint32_t used_len)
{
	uint32_t num = h->num_buffers;

	if (used_len < GUEST_NET_HDR_BYTES)
		return frontend_fail(n->f, -EPROTO, "received %u bytes, less than a header",
				     used_len);
	/* 5.1.6.4.1: 1 where mergeable buffers were not negotiated. */
	if (num == 0 || (num > 1 && !n->opt.mergeable) || num > n->n_rx)
		return frontend_fail(n->f, -EPROTO, "received a frame of %u buffers%s", num,
				     n->opt.mergeable ? "" : " without MRG_RXBUF");
	return (int)num;
}

/* The frame whose first buffer is @u. All its buffers are there: the device publishes them at once.
 */
static int receive(struct guest_net *n, struct driver_used u, struct virtio_net_hdr_v1 *h,
		   uint8_t *frame, uint32_t max)
{
	struct virtio_net_hdr_v1 first;
	uint32_t len = 0, skip = GUEST_NET_HDR_BYTES;
	int num;

	memcpy(&first, ((struct guest_net_buf *)u.cookie)->host, sizeof(first));
	num = check_header(n, &first, u.len);
	if (num < 0)
		return num;
	for (int i = 0;;) {
		struct guest_net_buf *b = u.cookie;
		uint32_t bytes = u.len - skip;

		if (len < max)
			memcpy(frame + len, b->host + skip, MIN(bytes, max - len));
		len += bytes;
		skip = 0;
		n->rx_free[n->n_rx_free++] = b;
		if (++i == num)
			break;
		if (!frontend_poll(n->f, n->rx, &u)) {
			int rc = violation(n, n->rx);

			return rc < 0 ? rc
				      : frontend_fail(n->f, -EPROTO,
						      "buffer %d of %d of a frame is not there", i,
						      num);
		}
	}
	if (h)
		*h = first;
	n->received++;
	return len > max ? -EMSGSIZE : (int)len;
}

int guest_net_recv(struct guest_net *n, struct virtio_net_hdr_v1 *h, void *frame, uint32_t max)
{
	struct driver_used u;

	if (!frontend_poll(n->f, n->rx, &u))
		return violation(n, n->rx);
	return receive(n, u, h, frame, max);
}

int guest_net_wait(struct guest_net *n, struct virtio_net_hdr_v1 *h, void *frame, uint32_t max)
{
	struct driver_used u;
	int rc;

	guest_net_fill(n);
	rc = frontend_wait_used(n->f, n->rx, &u);
	return rc < 0 ? rc : receive(n, u, h, frame, max);
}
