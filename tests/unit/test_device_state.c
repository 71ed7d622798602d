/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user "Migrating back-end state": there and back, and all that a peer can do to it. T21. */
#include "tests/unit/blk_util.h"
#include "tests/unit/fuse_silent.h"
#include "tests/unit/net_guest.h"
#include "tests/unit/stuck.h"
#include "vhost/state_blob.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define PF_DEVICE_STATE (UINT64_C(1) << 19)
#define IMAGE (2 * MIB)

enum { SAVE, LOAD };

/* SET_DEVICE_STATE_FD. @return its reply. */
static uint64_t transfer(struct frontend *f, uint32_t direction, uint32_t phase, int fd)
{
	uint32_t payload[] = { direction, phase };
	uint64_t reply = 0;

	cr_assert_eq(frontend_send(f, VU_SET_DEVICE_STATE_FD, VU_VERSION, payload, sizeof(payload),
				   &fd, 1),
		     0);
	cr_assert_geq(
		frontend_recv_reply(f, VU_SET_DEVICE_STATE_FD, &reply, sizeof(reply), NULL, NULL),
		0, "%s", f->error);
	return reply;
}

static uint64_t outcome(struct frontend *f)
{
	uint64_t reply = 0;

	cr_assert_eq(frontend_u64_get(f, VU_CHECK_DEVICE_STATE, &reply), 0, "%s", f->error);
	return reply;
}

static void channel(int fds[2], bool is_socket)
{
	if (!is_socket) {
		cr_assert_eq(pipe(fds), 0);
		return;
	}
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
}

/* As read(), of a descriptor that does not block; steps the loop while there is nothing. */
static ssize_t read_stepping(int fd, void *to, size_t len)
{
	ssize_t n = -1;

	cr_assert(VM_EVENTUALLY((n = read(fd, to, len)) >= 0 || errno != EAGAIN));
	return n;
}

/* @return bytes of state. */
static size_t save(struct frontend *f, bool is_socket, uint8_t *to, size_t max)
{
	size_t n = 0;
	ssize_t got;
	int fds[2];

	channel(fds, is_socket);
	cr_assert_eq(transfer(f, SAVE, 0, fds[1]), 0x100);
	close(fds[1]);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	while ((got = read_stepping(fds[0], to + n, max - n)) > 0)
		n += (size_t)got;
	cr_assert_eq(got, 0, "no end of file");
	close(fds[0]);
	cr_assert_eq(outcome(f), 0);
	return n;
}

/* @return CHECK_DEVICE_STATE's reply. */
static uint64_t load(struct frontend *f, bool is_socket, const void *state, size_t n)
{
	int fds[2];

	channel(fds, is_socket);
	cr_assert_eq(transfer(f, LOAD, 0, fds[0]), 0x100);
	close(fds[0]);
	cr_assert_eq(write(fds[1], state, n), (ssize_t)n);
	close(fds[1]);
	return outcome(f);
}

static void disk_open(struct vm *vm, uint64_t size)
{
	signal(SIGPIPE, SIG_IGN); /* as the daemon does */
	vm_create(vm, &variant_split, &(struct blk_config) { .kind = DISK_RAM }, size);
	frontend_init(&vm->f);
	vm->f.idle = vm_idle;
	VM_OK(vm, frontend_connect(&vm->f, vm->socket));
	VM_OK(vm, frontend_hello(&vm->f, VU_PF_USUAL | PF_DEVICE_STATE));
	cr_assert(vm->f.protocol & PF_DEVICE_STATE);
	VM_OK(vm, frontend_set_features(&vm->f, VU_F_VERSION_1));
	VM_OK(vm, frontend_share_memory(&vm->f, &vm->mem));
}

Test(device_state, goes_there_and_back, .timeout = 30)
{
	struct vm vm;

	for (unsigned is_socket = 0; is_socket < 2; is_socket++) {
		uint8_t state[STATE_MAX];
		size_t n;

		disk_open(&vm, IMAGE);
		n = save(&vm.f, is_socket, state, sizeof(state));
		cr_assert_eq(n, 24u + 4 + 8 + 4 + 1);
		cr_assert_eq(load(&vm.f, is_socket, state, n), 0);
		vm_stop(&vm);
		/* A disk of another size is not the same disk. */
		disk_open(&vm, 2 * IMAGE);
		cr_assert_neq(load(&vm.f, is_socket, state, n), 0);
		vm_stop(&vm);
	}
}

/* T21: cut off anywhere, too long, any byte another one, none at all. */
Test(device_state, a_state_that_is_none_is_refused, .timeout = 60)
{
	uint8_t state[STATE_MAX], bad[STATE_MAX + 100] = { 0 };
	struct vm vm;
	size_t n;

	disk_open(&vm, IMAGE);
	n = save(&vm.f, false, state, sizeof(state));
	for (size_t len = 0; len < n; len++)
		cr_assert_neq(load(&vm.f, len % 2, state, len), 0, "%zu bytes were enough", len);
	for (size_t i = 0; i < n; i++) {
		bool version = i >= 8 && i < 12;    /* a later one's fields are its own business */
		bool optional = i == 36 || i == 37; /* the tag of a field that may be left out */

		memcpy(bad, state, n);
		bad[i] ^= 0x40;
		if (!version && !optional)
			cr_assert_neq(load(&vm.f, i % 2, bad, n), 0, "byte %zu", i);
	}
	memcpy(bad, state, n);
	cr_assert_neq(load(&vm.f, false, bad, n + 1), 0);
	cr_assert_neq(load(&vm.f, false, bad, STATE_MAX), 0);
	cr_assert_neq(load(&vm.f, false, bad, sizeof(bad)), 0);
	/* And the connection is as good as ever. */
	cr_assert_eq(load(&vm.f, false, state, n), 0);
	vm_stop(&vm);
}

Test(device_state, what_is_asked_for_wrongly_is_refused, .timeout = 30)
{
	int fds[2], event = eventfd(0, 0), file = memfd_create("state", 0), pair[2];
	struct vm vm;

	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	disk_open(&vm, IMAGE);
	cr_assert_neq(outcome(&vm.f), 0); /* of nothing */
	cr_assert_eq(transfer(&vm.f, 2, 0, fds[1]), 0x101);
	cr_assert_eq(transfer(&vm.f, SAVE, 1, fds[1]), 0x101);
	cr_assert_eq(transfer(&vm.f, UINT32_MAX, 0, fds[1]), 0x101);
	cr_assert_eq(transfer(&vm.f, SAVE, 0, fds[0]), 0x101); /* the wrong end */
	cr_assert_eq(transfer(&vm.f, LOAD, 0, fds[1]), 0x101);
	cr_assert_eq(transfer(&vm.f, SAVE, 0, event), 0x101);
	cr_assert_eq(transfer(&vm.f, SAVE, 0, file), 0x101);
	cr_assert_eq(transfer(&vm.f, LOAD, 0, file), 0x101);
	cr_assert_eq(transfer(&vm.f, LOAD, 0, pair[0]), 0x101);
	cr_assert_neq(outcome(&vm.f), 0);
	/* vhost-user: the device must be suspended. */
	vm_queue_start(&vm, 0, NULL);
	cr_assert_eq(transfer(&vm.f, SAVE, 0, fds[1]), 0x101);
	VM_OK(&vm, frontend_queue_stop(&vm.f, 0, NULL));
	cr_assert_eq(transfer(&vm.f, SAVE, 0, fds[1]), 0x100);
	cr_assert_eq(outcome(&vm.f), 0);
	vm_stop(&vm);
	for (unsigned i = 0; i < 2; i++) {
		close(fds[i]);
		close(pair[i]);
	}
	close(event);
	close(file);
}

/* A peer that does not read, does not close, or goes: it holds up nobody, and nothing is left. */
Test(device_state, a_transfer_that_does_not_end_holds_up_nobody, .timeout = 60)
{
	uint8_t block[65536] = { 0 };
	int fds[2];
	struct vm vm;

	disk_open(&vm, IMAGE);
	for (unsigned i = 0; i < 300; i++) {
		channel(fds, i % 2);
		if (i % 3 == 0) { /* full: nothing can be written, O_NONBLOCK or not */
			fcntl(fds[1], F_SETFL, O_NONBLOCK);
			while (write(fds[1], block, sizeof(block)) > 0)
				;
			fcntl(fds[1], F_SETFL, 0);
			cr_assert_eq(transfer(&vm.f, SAVE, 0, fds[1]), 0x100);
			cr_assert_neq(outcome(&vm.f), 0);
		} else {
			cr_assert_eq(transfer(&vm.f, LOAD, 0, fds[0]), 0x100);
			cr_assert_eq(write(fds[1], "sluice", 6), 6);
			cr_assert_neq(outcome(&vm.f), 0);
		}
		close(fds[0]);
		close(fds[1]);
		/* The other end is gone. */
		if (i % 3 == 0)
			cr_assert_neq(outcome(&vm.f), 0);
	}
	vm_stop(&vm); /* in the middle of one */
}

static size_t drain(int fd, uint8_t *block, size_t size)
{
	size_t bytes = 0;
	ssize_t n;

	while ((n = read(fd, block, size)) > 0)
		bytes += (size_t)n;
	return bytes;
}

/*
 * T13: its other end writes to the pipe, from memory that does not come; so it holds the pipe's
 * lock, and whoever touches that pipe waits.
 */
Test(device_state, a_pipe_that_its_owner_has_locked_holds_up_nobody, .timeout = 60)
{
	struct fuse_silent fuse;
	struct stuck stuck;
	uint64_t features;
	int fds[2];
	struct vm vm;

	for (unsigned direction = SAVE; direction <= LOAD; direction++) {
		if (fuse_silent_open(&fuse) < 0)
			cr_skip_test("no FUSE here");
		disk_open(&vm, IMAGE);
		channel(fds, false);
		stuck_open(&stuck, fuse.fd, fds[1], STUCK_WRITING);
		cr_assert_eq(transfer(&vm.f, direction, 0, fds[direction == SAVE]), 0x100);
		VM_OK(&vm, frontend_u64_get(&vm.f, VU_GET_FEATURES, &features));
		/* To be told how it stands is to wait for that; but not to be rid of the device. */
		cr_assert_eq(
			frontend_send(&vm.f, VU_CHECK_DEVICE_STATE, VU_VERSION, NULL, 0, NULL, 0),
			0);
		for (unsigned i = 0; i < 50; i++)
			control_step(1000);
		vm_disconnect(&vm);
		vm_close_device(&vm);
		/* Before leaks are looked for: that stops all threads, and this one cannot be. */
		fuse_silent_close(&fuse);
		stuck_close(&stuck);
		vm_stop_closed(&vm);
		close(fds[0]);
		close(fds[1]);
	}
}

/* Where there is no room yet (a pipe is full to the last byte) the state waits for some. */
Test(device_state, a_state_is_saved_when_there_is_room_for_it, .timeout = 60)
{
	uint8_t block[65536];
	size_t state;
	int fds[2];
	struct vm vm;

	disk_open(&vm, IMAGE);
	state = save(&vm.f, false, block, sizeof(block));
	for (unsigned is_socket = 0; is_socket < 2; is_socket++) {
		size_t before = 0, got;
		ssize_t n;

		channel(fds, is_socket);
		fcntl(fds[1], F_SETFL, O_NONBLOCK);
		while ((n = write(fds[1], block, sizeof(block))) > 0)
			before += (size_t)n;
		cr_assert_eq(transfer(&vm.f, SAVE, 0, fds[1]), 0x100);
		close(fds[1]);
		fcntl(fds[0], F_SETFL, O_NONBLOCK);
		got = drain(fds[0], block, sizeof(block));
		cr_assert_eq(outcome(&vm.f), 0);
		got += drain(fds[0], block, sizeof(block));
		cr_assert_eq(got, before + state);
		close(fds[0]);
	}
	vm_stop(&vm);
}

/* A socket that ends with an error: its owner wrote to the end that we read, and closed the other.
 */
Test(device_state, a_channel_that_breaks_is_no_state)
{
	int fds[2];
	struct vm vm;

	disk_open(&vm, IMAGE);
	channel(fds, true);
	cr_assert_eq(write(fds[0], "unread", 6), 6);
	cr_assert_eq(transfer(&vm.f, LOAD, 0, fds[0]), 0x100);
	close(fds[1]);
	cr_assert_neq(outcome(&vm.f), 0);
	close(fds[0]);
	vm_stop(&vm);
}

/* The fields themselves, which may be anything. */
Test(device_state, fields_are_checked_one_by_one)
{
	static const uint16_t known[] = { 1, 2 };
	struct state_blob b;
	uint64_t value = 7, got = 0;
	struct error err = { 0 };

	state_begin(&b, 1);
	cr_assert_eq(state_check(&b, 1, known, 2, &err), 0);
	state_put(&b, 1, &value, 8);
	state_put(&b, 2 | STATE_OPTIONAL, &value, 3); /* of a later version, and may be skipped */
	cr_assert_eq(state_check(&b, 1, known, 2, &err), 0, "%s", err.text);
	cr_assert(state_get(&b, 1, &got, 8));
	cr_assert_eq(got, 7);
	cr_assert_not(state_get(&b, 1, &got, 4), "of another length");
	cr_assert_not(state_get(&b, 2, &got, 3));
	cr_assert_eq(state_check(&b, 2, known, 2, &err), -EINVAL);
	state_put(&b, 3, &value, 0);
	cr_assert_eq(state_check(&b, 1, known, 2, &err), -EOPNOTSUPP);
	state_begin(&b, 1);
	state_put(&b, 2, &value, 1);
	state_put(&b, 2, &value, 1);
	cr_assert_eq(state_check(&b, 1, known, 2, &err), -EBADMSG);
	/* A length that reaches beyond the end, by one and by all. */
	state_begin(&b, 1);
	state_put(&b, 2, &value, 4);
	b.bytes[26] = 5;
	cr_assert_eq(state_check(&b, 1, known, 2, &err), -EBADMSG);
	b.bytes[26] = b.bytes[27] = 0xff;
	cr_assert_eq(state_check(&b, 1, known, 2, &err), -EBADMSG);
	/* A tag and no length, or half of one; what stands behind it belongs to nobody. */
	for (uint8_t cut = 1; cut < 4; cut++) {
		state_begin(&b, 1);
		state_put(&b, 1, &value, 8);
		b.len = 24 + cut;
		b.bytes[16] = cut;
		cr_assert_eq(state_check(&b, 1, known, 2, &err), -EBADMSG, "%u bytes", cut);
		cr_assert_not(state_get(&b, 1, &got, 8));
	}
	/* Nobody ever made a version 0. */
	state_begin(&b, 1);
	b.bytes[8] = 0;
	cr_assert_eq(state_check(&b, 1, known, 2, &err), -EBADMSG);
}

/* A card: what came over a control queue that is ours. */
static void card_open(struct net_guest *g, unsigned number, unsigned pairs)
{
	struct ng_options o = { .features = NG_BIT(VIRTIO_NET_F_CTRL_VQ) |
					    NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
					    (pairs > 1 ? NG_BIT(VIRTIO_NET_F_MQ) : 0),
				.pairs = pairs,
				.has_mac = true };

	ng_start(g, number, &o);
}

static uint8_t ctrl(struct net_guest *g, uint8_t class, uint8_t cmd, const void *data, unsigned len)
{
	uint64_t gpa;
	uint8_t *p = ng_alloc(g, 128, &gpa);
	struct driver_seg segs[] = { { gpa, 2 + len }, { gpa + 96, 1 } };

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, len);
	p[96] = 0x77;
	cr_assert_eq(ng_submit_wait(g, ng_ctrl_index(g), segs, 1, 1), 1);
	return p[96];
}

/* A second connection of the same card, as that of a destination, with no features yet. */
static void card_reconnect(struct net_guest *g)
{
	ng_disconnect(g);
	frontend_init(&g->fe);
	g->fe.idle = ng_idle;
	cr_assert_eq(frontend_connect(&g->fe, g->path), 0);
	cr_assert_eq(frontend_hello(&g->fe, VU_PF_USUAL | PF_DEVICE_STATE), 0);
}

/* The same with them, and with nothing started. */
static void card_reopen(struct net_guest *g)
{
	card_reconnect(g);
	cr_assert_eq(frontend_set_features(&g->fe, VU_F_VERSION_1 | g->opt.features), 0);
}

Test(device_state, a_card_brings_its_address_and_its_pairs, .timeout = 30)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0, 0, 0x99 };
	uint8_t state[STATE_MAX], again[STATE_MAX], seen[6];
	uint16_t pairs = 2;
	struct net_guest g, small;
	size_t n;

	signal(SIGPIPE, SIG_IGN);
	ng_world_start(1);
	card_open(&g, 0, 3);
	cr_assert_eq(ctrl(&g, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), 0);
	cr_assert_eq(ctrl(&g, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2), 0);
	for (unsigned i = 0; i < 7; i++)
		cr_assert_eq(frontend_queue_stop(&g.fe, i, NULL), 0);
	/* Negotiated late: the connection's other features stay. */
	cr_assert_eq(
		frontend_u64_set(&g.fe, VU_SET_PROTOCOL_FEATURES, g.fe.protocol | PF_DEVICE_STATE),
		0);
	n = save(&g.fe, false, state, sizeof(state));
	card_reopen(&g);
	cr_assert_eq(frontend_get_config(&g.fe, 0, seen, 6), 0);
	cr_assert_arr_neq(seen, mac, 6);
	cr_assert_eq(load(&g.fe, true, state, n), 0);
	cr_assert_eq(frontend_get_config(&g.fe, 0, seen, 6), 0);
	cr_assert_arr_eq(seen, mac, 6);
	/* The state again is the same one. */
	cr_assert_eq(save(&g.fe, false, again, sizeof(again)), n);
	cr_assert_arr_eq(again, state, n);
	g.rx = NULL;
	/* Who has fewer pairs cannot take it, and changes nothing of it. */
	card_open(&small, 1, 1);
	card_reopen(&small);
	cr_assert_neq(load(&small.fe, false, state, n), 0);
	cr_assert_eq(frontend_get_config(&small.fe, 0, seen, 6), 0);
	cr_assert_arr_eq(seen, small.mac, 6);
	frontend_close(&g.fe);
	frontend_close(&small.fe);
	ng_stop(&g);
	ng_stop(&small);
	ng_world_stop();
}

/* As a front-end does that hands over the state before it starts the device. */
Test(device_state, a_card_keeps_what_came_before_its_features, .timeout = 30)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0, 0, 0x99 };
	uint8_t state[STATE_MAX], again[STATE_MAX], seen[6];
	const struct guest_range range = { 0, 1 << 21 };
	struct frontend_queue_options opt = { .size = 64 };
	struct guest_memory mem;
	struct net_guest g;
	uint64_t features;
	size_t n;

	signal(SIGPIPE, SIG_IGN);
	ng_world_start(1);
	card_open(&g, 0, 1);
	features = VU_F_VERSION_1 | g.opt.features;
	cr_assert_eq(ctrl(&g, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, 6), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(frontend_queue_stop(&g.fe, i, NULL), 0);
	cr_assert_eq(
		frontend_u64_set(&g.fe, VU_SET_PROTOCOL_FEATURES, g.fe.protocol | PF_DEVICE_STATE),
		0);
	n = save(&g.fe, false, state, sizeof(state));
	card_reconnect(&g);
	cr_assert_eq(load(&g.fe, true, state, n), 0);
	cr_assert_eq(frontend_set_features(&g.fe, features), 0);
	cr_assert_eq(frontend_get_config(&g.fe, 0, seen, 6), 0);
	cr_assert_arr_eq(seen, mac, 6);
	cr_assert_eq(save(&g.fe, false, again, sizeof(again)), n);
	cr_assert_arr_eq(again, state, n);
	/* Once it runs, other features are those of another driver. */
	cr_assert_eq(guest_memory_create(&mem, &range, 1, 0), 0);
	cr_assert_eq(frontend_share_memory(&g.fe, &mem), 0);
	cr_assert_eq(frontend_queue_setup(&g.fe, 1, &opt), 0);
	cr_assert_eq(frontend_queue_start(&g.fe, 1), 0);
	cr_assert_eq(frontend_queue_stop(&g.fe, 1, NULL), 0);
	cr_assert_eq(frontend_set_features(&g.fe, features & ~NG_BIT(VIRTIO_NET_F_CTRL_VQ) &
							  ~NG_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR)),
		     0);
	cr_assert_eq(frontend_get_config(&g.fe, 0, seen, 6), 0);
	cr_assert_arr_neq(seen, mac, 6);
	g.rx = NULL;
	frontend_close(&g.fe);
	guest_memory_destroy(&mem);
	ng_stop(&g);
	ng_world_stop();
}

/* Where the field with @tag begins in a state; its length stands two bytes on. */
static uint8_t *field_of(uint8_t *state, size_t n, unsigned tag)
{
	for (size_t at = 24; at < n; at += 4 + (state[at + 2] | state[at + 3] << 8))
		if ((state[at] | state[at + 1] << 8) == (int)tag)
			return state + at;
	return NULL;
}

/* RSS_CONFIG of 4 entries with a key of 40 bytes: hash types, mask, unclassified, table, max_tx,
 * key. */
static const uint8_t rss_command[59] = { 0x3f, 0, 0, 0, 3, 0, 1, 0,  2, 0, 1,
					 0,    0, 0, 2, 0, 3, 0, 40, 1, 2, 3 };

/* NOTF_COAL_RX_SET of 5 packets and 50 microseconds. */
static const uint8_t coalesce_command[8] = { 5, 0, 0, 0, 50, 0, 0, 0 };

static void refuse_rss(struct net_guest *g, const uint8_t *good, size_t n, unsigned at,
		       uint8_t value)
{
	uint8_t state[STATE_MAX];

	memcpy(state, good, n);
	field_of(state, n, STATE_NET_RSS)[4 + at] = value;
	cr_assert_neq(load(&g->fe, false, state, n), 0, "byte %u", at);
}

/* Everything that there is: modes, one address of each kind, a VLAN. */
static void set_filter(struct net_guest *g)
{
	static const uint8_t macs[] = { 1, 0, 0, 0, 2, 4, 6, 8, 10, 12,
					1, 0, 0, 0, 3, 5, 7, 9, 11, 13 };

	cr_assert_eq(ctrl(g, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, "", 1), 0);
	cr_assert_eq(ctrl(g, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, "\1", 1), 0);
	cr_assert_eq(
		ctrl(g, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, macs, sizeof(macs)), 0);
	cr_assert_eq(ctrl(g, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, "\x41", 2), 0);
}

static void see_filter(const uint8_t *field)
{
	cr_assert_not_null(field);
	cr_assert_arr_eq(field + 4, "\2\0\1\1\2\4\6\10\12\14", 10);
	cr_assert_arr_eq(field + 8 + 6 * 64, "\3\5\7\11\13\15", 6);
	cr_assert_eq(field[8 + 2 * 6 * 64 + 8], 2);
}

/* Modes that there are not, and more addresses than fit. */
static void refuse_filter(struct net_guest *g, const uint8_t *state, size_t n)
{
	static const struct {
		unsigned at;
		uint8_t value;
	} bad[] = { { 1, 1 }, { 2, 65 }, { 3, 255 } };
	uint8_t copy[STATE_MAX], *field;

	for (unsigned i = 0; i < 3; i++) {
		memcpy(copy, state, n);
		field_of(copy, n, STATE_NET_FILTER)[4 + bad[i].at] = bad[i].value;
		cr_assert_neq(load(&g->fe, false, copy, n), 0, "byte %u", bad[i].at);
	}
	memcpy(copy, state, n);
	field = field_of(copy, n, STATE_NET_FILTER);
	field[2] -= 1; /* a byte shorter */
	copy[16] -= 1;
	memmove(field + 4, field + 5, n - (size_t)(field + 5 - copy));
	cr_assert_neq(load(&g->fe, false, copy, n - 1), 0);
}

Test(device_state, a_card_brings_its_steering_and_a_hostile_one_is_refused, .timeout = 30)
{
	uint8_t state[STATE_MAX], again[STATE_MAX], *field;
	struct ng_options o = { .features = NG_BIT(VIRTIO_NET_F_CTRL_VQ) |
					    NG_BIT(VIRTIO_NET_F_RSS) |
					    NG_BIT(VIRTIO_NET_F_CTRL_RX) |
					    NG_BIT(VIRTIO_NET_F_CTRL_VLAN) |
					    NG_BIT(VIRTIO_NET_F_NOTF_COAL),
				.pairs = 3 };
	struct net_guest g, small;
	size_t n;

	signal(SIGPIPE, SIG_IGN);
	ng_world_start(1);
	ng_start(&g, 0, &o);
	cr_assert_eq(ctrl(&g, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, rss_command,
			  sizeof(rss_command)),
		     0);
	cr_assert_eq(ctrl(&g, VIRTIO_NET_CTRL_NOTF_COAL, VIRTIO_NET_CTRL_NOTF_COAL_RX_SET,
			  coalesce_command, sizeof(coalesce_command)),
		     0);
	set_filter(&g);
	for (unsigned i = 0; i < 7; i++)
		cr_assert_eq(frontend_queue_stop(&g.fe, i, NULL), 0);
	cr_assert_eq(
		frontend_u64_set(&g.fe, VU_SET_PROTOCOL_FEATURES, g.fe.protocol | PF_DEVICE_STATE),
		0);
	n = save(&g.fe, false, state, sizeof(state));
	see_filter(field_of(state, n, STATE_NET_FILTER));
	field = field_of(state, n, STATE_NET_RSS);
	cr_assert_not_null(field);
	cr_assert_arr_eq(field + 4, rss_command, 8);
	field = field_of(state, n, STATE_NET_COALESCE);
	cr_assert_not_null(field);
	cr_assert_arr_eq(field + 4, coalesce_command, 8);
	cr_assert_arr_eq(field + 4 + 16 + 4 * 8, coalesce_command, 8); /* queue 4 */
	card_reopen(&g);
	g.rx = NULL;
	/* What a driver has not set is not in the state: an older back-end can take it. */
	cr_assert_null(field_of(again, save(&g.fe, false, again, sizeof(again)), STATE_NET_RSS));
	cr_assert_null(field_of(again, save(&g.fe, false, again, sizeof(again)), STATE_NET_FILTER));
	refuse_filter(&g, state, n);
	/* Hash types, mask, queues, the key's length, a bool. Entries are behind the key. */
	refuse_rss(&g, state, n, 0, 0x40);
	refuse_rss(&g, state, n, 3, 0x80);
	refuse_rss(&g, state, n, 4, 2);
	refuse_rss(&g, state, n, 4, 128);
	refuse_rss(&g, state, n, 4, 255);
	refuse_rss(&g, state, n, 5, 1);
	refuse_rss(&g, state, n, 6, 3);
	refuse_rss(&g, state, n, 8, 0);
	refuse_rss(&g, state, n, 8, 4);
	refuse_rss(&g, state, n, 10, 2);
	refuse_rss(&g, state, n, 11, 41);
	refuse_rss(&g, state, n, 12 + 40 + 6, 3);
	refuse_rss(&g, state, n, 12 + 40 + 1, 0x80);
	/* Of another length. */
	memcpy(again, state, n);
	again[16] -= 2;
	field_of(again, n, STATE_NET_RSS)[2] -= 2;
	cr_assert_neq(load(&g.fe, false, again, n - 2), 0);
	cr_assert_null(field_of(again, save(&g.fe, false, again, sizeof(again)), STATE_NET_RSS),
		       "something of that was taken");
	memcpy(again, state, n); /* the last field is a byte shorter */
	again[16] -= 1;
	field_of(again, n, STATE_NET_COALESCE)[2] = 0xff;
	field_of(again, n, STATE_NET_COALESCE)[3] -= 1;
	cr_assert_neq(load(&g.fe, false, again, n - 1), 0);
	cr_assert_eq(load(&g.fe, true, state, n), 0);
	cr_assert_eq(save(&g.fe, false, again, sizeof(again)), n);
	cr_assert_arr_eq(again, state, n);
	/* Who has fewer queues. */
	o.pairs = 2;
	ng_start(&small, 1, &o);
	card_reopen(&small);
	small.rx = NULL;
	cr_assert_neq(load(&small.fe, false, state, n), 0);
	frontend_close(&g.fe);
	frontend_close(&small.fe);
	ng_stop(&g);
	ng_stop(&small);
	ng_world_stop();
}
