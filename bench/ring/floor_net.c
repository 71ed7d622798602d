/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of the network benchmarks: what two rings and one copy cost, with nothing else done.
 *
 *	net-floor SOCKET SOCKET
 *
 * NOT a back-end to give a guest to: it believes every index, address and length that it reads, so
 * that any guest can write to all of this process's memory. It serves one run of sluice-bench net
 * that polls (no call is ever made), in frames of one descriptor that fit into one buffer, without
 * EVENT_IDX and indirect descriptors; and then it ends.
 */
#include "bench/ring/floor_device.h"

#include <err.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>

#define BURST 32u
#define MRG_RXBUF (UINT64_C(1) << VIRTIO_NET_F_MRG_RXBUF)

enum { RX, TX }; /* virtio 1.3 5.1.2 */

/* Frames that @from sends, to @to; what it has no buffers for is dropped. */
HOT void forward(struct floor_device *from, struct floor_device *to, bool packed)
{
	struct floor_buffer in[BURST], out[BURST];
	unsigned n = floor_pop(from, &from->ring[TX], packed, in, BURST);
	unsigned n_out = n ? floor_pop(to, &to->ring[RX], packed, out, n) : 0;

	for (unsigned i = 0; i < n_out; i++) {
		__builtin_prefetch(in[i].at);
		__builtin_prefetch(out[i].at, 1);
	}
	for (unsigned i = 0; i < n_out; i++) {
		struct virtio_net_hdr_v1 *h = memcpy(out[i].at, in[i].at, in[i].len);

		h->num_buffers = 1;
		out[i].len = in[i].len;
	}
	floor_push(&to->ring[RX], packed, out, n_out, true);
	floor_push(&from->ring[TX], packed, in, n, false);
}

static void serve(struct floor_device *d, bool packed)
{
	while (floor_obey(&d[0], false) && floor_obey(&d[1], false))
		for (unsigned i = 0; i < 100000; i++) {
			if (packed) {
				forward(&d[0], &d[1], true);
				forward(&d[1], &d[0], true);
			} else {
				forward(&d[0], &d[1], false);
				forward(&d[1], &d[0], false);
			}
		}
}

int main(int argc, char **argv)
{
	static struct floor_device d[2];
	int listener[2];

	if (argc != 3) {
		fprintf(stderr,
			"Usage: net-floor SOCKET SOCKET\n"
			"Copies frames from either to the other, and checks nothing: never give "
			"it to a guest.\n");
		return 2;
	}
	for (unsigned i = 0; i < 2; i++)
		listener[i] = floor_listen(argv[1 + i]);
	for (unsigned i = 0; i < 2; i++) {
		d[i].features = VU_F_VERSION_1 | VU_F_PACKED | VU_F_IN_ORDER | MRG_RXBUF;
		floor_accept(&d[i], listener[i]);
		while (!d[i].ring[RX].started || !d[i].ring[TX].started)
			if (!floor_obey(&d[i], true))
				errx(1, "%s: the front-end hung up", argv[1 + i]);
	}
	if (d[0].packed != d[1].packed)
		errx(1, "one front-end has packed rings, and the other has not");
	serve(d, d[0].packed);
	return 0;
}
