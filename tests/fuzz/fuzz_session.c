/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front-end that says anything: messages of every row of messages.def with payloads that are
 * right, nearly right or any bytes, with descriptors of all kinds, whole, in pieces, in any order,
 * while its guest's rings run, also behind an IOMMU, whose misses it answers or not; it hangs up
 * and comes back. A disk and a network card take turns.
 *
 * What must hold: every answer is to something that was asked, and well-formed; nothing keeps a
 * session from ending; then no descriptor and no mapping is left, and another front-end's device
 * answers as before.
 */
#include "base/error.h"
#include "base/log.h"
#include "poll/control.h"
#include "tests/fuzz/session.h"
#include "tests/fuzz/sim.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define STEPS_MAX 200 /* what a guest's boot takes */

/* A reply, or what comes through the back-end's channel, as far as any of it can be wrong. */
static void check_reply(const struct vhost_user_header *h, const uint8_t *payload)
{
	const struct message_row *row = message_row(h->request);
	uint64_t ack;

	FUZZ_CHECK(h->flags == (VHOST_USER_VERSION | VHOST_USER_REPLY), "flags 0x%x", h->flags);
	FUZZ_CHECK(h->request < 64 && f.asked & UINT64_C(1) << h->request,
		   "an answer to %u, which was not asked", h->request);
	FUZZ_CHECK(h->size <= VHOST_USER_PAYLOAD_MAX);
	if (!row || row->reply == ACK) {
		FUZZ_CHECK(h->size == sizeof(ack), "an ack of %u bytes", h->size);
		memcpy(&ack, payload, sizeof(ack));
		FUZZ_CHECK(ack <= 1);
	}
}

/* Looks at all that has come. */
static void read_replies(void)
{
	struct vhost_user_header h;
	ssize_t n;

	if (f.sock < 0)
		return;
	while ((n = recv(f.sock, f.rx + f.rx_got, sizeof(f.rx) - f.rx_got, MSG_DONTWAIT)) > 0)
		f.rx_got += (size_t)n;
	for (size_t at = 0;;) {
		if (f.rx_got - at >= sizeof(h)) {
			memcpy(&h, f.rx + at, sizeof(h));
			FUZZ_CHECK(h.size <= VHOST_USER_PAYLOAD_MAX, "an answer of %u bytes",
				   h.size);
			if (f.rx_got - at >= sizeof(h) + h.size) {
				check_reply(&h, f.rx + at + sizeof(h));
				at += sizeof(h) + h.size;
				continue;
			}
		}
		memmove(f.rx, f.rx + at, f.rx_got - at);
		f.rx_got -= at;
		break;
	}
}

static void tell(uint32_t request, const void *payload, uint32_t size, int fd)
{
	send_message(request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, payload, size, &fd,
		     fd >= 0, SIZE_MAX);
	step();
	read_replies();
}

static void tell_u64(uint32_t request, uint64_t value, int fd)
{
	tell(request, &value, sizeof(value), fd);
}

static void tell_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { index, num };

	tell(request, &s, sizeof(s), -1);
}

static void step_message(struct input *in)
{
	static const uint32_t numbers[] = {
#define MESSAGE(number, ...) number,
#include "vhost/messages.def"
	};
	uint8_t which = in_u8(in), how = in_u8(in);
	uint32_t request = numbers[which % ARRAY_SIZE(numbers)], flags = VHOST_USER_VERSION;
	union vhost_user_payload payload;
	uint32_t size = any_payload(in, request, &payload);
	int fds[40];
	unsigned n_fds;

	if (how & 1)
		flags |= VHOST_USER_NEED_REPLY;
	if (how == 0xff)
		flags = in_u32(in);
	if (how == 0xfe)
		request = in_u32(in);
	n_fds = any_fds(in, request, payload.memory.n_regions, fds);
	send_message(request, flags, &payload, size, fds, n_fds,
		     how & 2 && how < 0x80 ? 1u + in_u8(in) % 64u : SIZE_MAX);
}

/* With nothing left out, a ring that an honest front-end has described begins to run. */
static void check_runs(const struct virtqueue *vq)
{
	enum virtqueue_state state = vq->state;

	FUZZ_CHECK(state == VIRTQUEUE_RUNNING, "%s was started, and its state is %u", vq->name,
		   state);
}

/* What an honest front-end says until a ring runs, with features that the input chooses. */
static void step_start(struct input *in, bool first)
{
	uint8_t which = in_u8(in), less_low = in_u8(in), less_protocol = in_u8(in),
		index = which % QUEUES;
	bool iommu = which & 0x80;
	uint64_t less = which & 0x10 ? in_u64(in) : less_low; /* any, or of the device's first */
	uint64_t features = right_features(iommu) & ~less;
	uint64_t protocol = device_protocol_features(f.d) & ~((uint64_t)less_protocol << 4);
	struct vhost_user_memory m = { .n_regions = 2,
				       .regions = { right_region(0), right_region(1) } };
	struct vhost_user_vring_addr addr;
	struct vhost_user_iotlb iotlb;

	tell_u64(VHOST_USER_SET_PROTOCOL_FEATURES, protocol, -1);
	tell_u64(VHOST_USER_SET_FEATURES, features, -1);
	send_message(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, &m, VHOST_USER_MEMORY_SIZE(2),
		     f.fds, 2, SIZE_MAX);
	if (which & 0x40 || iommu)
		open_channel();
	addr = right_addr(index);
	iotlb = right_iotlb(FG_MAIN, true);
	if (iommu && !(which & 0x20)) /* else the ring's own addresses are missed */
		tell(VHOST_USER_IOTLB_MSG, &iotlb, sizeof(iotlb), -1);
	tell_state(VHOST_USER_SET_VRING_NUM, index, f.guest.size);
	tell_state(VHOST_USER_SET_VRING_BASE, index, f.guest.base);
	tell(VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), -1);
	tell_u64(VHOST_USER_SET_VRING_ERR, index, f.err);
	tell_u64(VHOST_USER_SET_VRING_CALL, index, f.call);
	tell_u64(VHOST_USER_SET_VRING_KICK, index, f.kick[index]);
	tell_state(VHOST_USER_SET_VRING_ENABLE, index, 1);
	if (first && !less && !less_protocol && !(which & 0x20) && f.guest.size >= 16)
		check_runs(&f.d->queues[index]);
}

/* Until the device has none: it may have to let requests finish, but not for ever. */
static void session_end(void)
{
	hang_up();
	for (unsigned i = 0; f.d->session; i++) {
		FUZZ_CHECK(i < 200, "the session does not end");
		sim_wake(f.workers);
		step();
	}
}

static void begin(struct input *in)
{
	f.d = f.device[in_u8(in) % 2 ? NET : BLK];
	fg_begin(&f.guest, in);
	f.asked = 0;
	f.rx_got = 0;
	f.tx.len = f.tx.sent = 0;
	f.sock = connect_to(f.d);
}

static void reconnect(void)
{
	session_end();
	f.asked = 0;
	f.rx_got = 0;
	f.tx.len = f.tx.sent = 0;
	f.sock = connect_to(f.d);
}

static void run(struct input *in)
{
	for (unsigned i = 0; i < STEPS_MAX && in_left(in); i++) {
		uint8_t what = in_u8(in);

		switch (what % 12) {
		default:
			step_message(in);
			break;
		case 5:
			step_start(in, i == 0);
			break;
		case 6:
			fg_chain(&f.guest, in);
			break;
		case 7:
			fg_step(&f.guest, in);
			break;
		case 8:
			sim_wake(f.workers);
			step();
			break;
		case 9:
			sim_park(f.workers);
			control_step(0);
			break;
		case 10:
			send_rest(what & 0x80 ? SIZE_MAX : what >> 4);
			control_step(0);
			break;
		case 11:
			if (what & 0x80)
				reconnect();
			else if (what & 0x40)
				answer_channel(in);
			else
				step();
			break;
		}
		read_replies();
	}
	send_rest(SIZE_MAX);
	for (unsigned i = 0; i < 4; i++) {
		step();
		read_replies();
		answer_channel(in);
	}
}

/* What takes time to close or to free is left to another thread (vhost/disposal.h). */
static void wait_for_disposal(long mapped_before)
{
	for (unsigned i = 0; count_fds() != f.n_fds || count_mapped() != mapped_before; i++) {
		if (i == 100000) {
			print_fds();
			FUZZ_CHECK(count_mapped() == mapped_before, "%ld bytes stay mapped",
				   count_mapped() - mapped_before);
			FUZZ_CHECK(count_fds() == f.n_fds, "%u descriptors became %u", f.n_fds,
				   count_fds());
		}
		usleep(50);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	long mapped_before;
	eventfd_t count;

	if (!f.workers) {
		create_all();
		f.n_fds = count_fds();
	}
	mapped_before = count_mapped();
	begin(&in);
	run(&in);
	session_end();
	ask_neighbour();
	/* Counters that are full would block who writes to the blocking one. */
	eventfd_read(f.fds[FD_EVENT], &count);
	FUZZ_CHECK(sim_n_pollers(f.workers) == 0, "%u pollers are left", sim_n_pollers(f.workers));
	wait_for_disposal(mapped_before);
	return 0;
}
