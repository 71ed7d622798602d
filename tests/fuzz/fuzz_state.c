/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's state from a front-end that means ill: any bytes, or a state that is nearly right, cut
 * off or too long, over a pipe or a socket, in pieces, given up in the middle. What is taken is
 * what a second reading of the format takes, and is then what the device says of itself; what is
 * refused leaves no trace; what is saved can be loaded; and no descriptor is left.
 */
#include "base/error.h"
#include "base/log.h"
#include "blk/blk.h"
#include "net/net.h"
#include "poll/control.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/sim.h"
#include "vhost/state_blob.h"
#include "vhost/state_transfer.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define DISK_BYTES (1u << 20)
#define PAIRS 3
#define BYTES_MAX (STATE_MAX + 1000)
#define HEADER_BYTES 24
#define RSS_BYTES 308	    /* of STATE_NET_RSS, */
#define COALESCE_BYTES 2048 /* of STATE_NET_COALESCE */
#define FILTER_BYTES 1284   /* of STATE_NET_FILTER: 4, 2 x 64 addresses of 6, 4096 bits */
#define OFFLOADS_BYTES 8    /* of STATE_NET_OFFLOADS */
#define ADDRESSES 64	    /* of each kind in a filter */

enum { BLK, NET, N_DEVICES };

static struct {
	struct workers *workers;
	struct net_switch *sw;
	struct vhost_device *device[N_DEVICES];
	int free_fd; /* the lowest that is, between two runs */

	struct vhost_device *d;
	unsigned kind;
	uint8_t bytes[BYTES_MAX];
	size_t len;
} s;

static int lowest_free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	FUZZ_CHECK(fd >= 0);
	close(fd);
	return fd;
}

static void create_all(void)
{
	struct workers_config cfg = { .n = 1 };
	struct switch_config sc = { .name = "lan" };
	struct blk_config bc = {
		.name = "disk", .kind = DISK_RAM, .size = DISK_BYTES, .queues = 1
	};
	struct net_device_config nc = {
		.name = "card", .queue_pairs = PAIRS, .has_mac = true, .mac = { 0x52 }, .mtu = 1500
	};
	struct error err = { 0 };
	struct blk_device *b;
	struct net_device *n;

	signal(SIGPIPE, SIG_IGN); /* as the daemon does */
	log_set_level(LOG_LEVEL_ERROR);
	FUZZ_CHECK(control_init() == 0);
	FUZZ_CHECK(workers_start(&cfg, &s.workers, NULL) == 0);
	FUZZ_CHECK(switch_create(&sc, s.workers, &s.sw, NULL) == 0);
	bc.socket = fuzz_socket();
	nc.socket = fuzz_socket();
	FUZZ_CHECK(blk_device_create(&bc, s.workers, &b, &err) == 0, "%s", err.text);
	FUZZ_CHECK(net_device_create(&nc, s.sw, s.workers, &n, &err) == 0, "%s", err.text);
	s.device[BLK] = (struct vhost_device *)blk_device_vhost(b);
	s.device[NET] = (struct vhost_device *)net_device_vhost(n);
	fuzz_sessions_wait(s.device, N_DEVICES);
}

/* What the input makes of a state. */

static void add(const void *bytes, size_t len)
{
	len = MIN(len, sizeof(s.bytes) - s.len);
	memcpy(s.bytes + s.len, bytes, len);
	s.len += len;
}

static void add_field(uint16_t tag, uint16_t said, const void *bytes, size_t len)
{
	uint16_t f[2] = { htole16(tag), htole16(said) };

	add(f, sizeof(f));
	add(bytes, len);
}

/* What a card's driver wants to receive, right but for some of its bytes. */
static void filter_field(struct input *in)
{
	uint8_t bytes[FILTER_BYTES] = { 0 }, how = in_u8(in);
	uint16_t len = FILTER_BYTES;

	bytes[0] = in_u8(in); /* modes */
	bytes[2] = in_u8(in) % (ADDRESSES + 1);
	bytes[3] = in_u8(in) % (ADDRESSES + 1);
	for (unsigned i = 0; i < 2u * ADDRESSES; i++) {
		bytes[4 + 6 * i] = i < ADDRESSES ? 2 : 3; /* to a station, to a group */
		bytes[4 + 6 * i + 5] = (uint8_t)i;
	}
	for (unsigned i = how & 7; i > 0; i--) {
		uint16_t place = in_u16(in);

		bytes[place % len] = in_u8(in);
	}
	if (how & 0x80)
		len -= in_u8(in);
	add_field(STATE_NET_FILTER, len, bytes, len);
}

/*
 * What a card's driver has set over its control queue, right but for some of its bytes: a table, or
 * what notifications wait for.
 */
static void driver_field(struct input *in, bool coalesces)
{
	uint8_t bytes[COALESCE_BYTES] = { 0x3f }, how = in_u8(in), last = (1u << how % 8) - 1;
	uint16_t len = coalesces ? COALESCE_BYTES : RSS_BYTES;

	bytes[4] = last;
	bytes[8] = 1; /* transmit queues */
	bytes[10] = how >> 3 & 1;
	bytes[11] = 40;
	for (unsigned i = 0; !coalesces && i <= last; i++)
		bytes[52 + 2 * i] = i % PAIRS;
	if (coalesces)
		in_bytes(in, bytes, 16 + 8 * 2 * PAIRS);
	for (unsigned i = how >> 6; i > 0; i--) {
		uint16_t place = in_u16(in);

		bytes[place % len] = in_u8(in);
	}
	if (how & 0x20)
		len -= in_u8(in);
	add_field(coalesces ? STATE_NET_COALESCE : STATE_NET_RSS, len, bytes, len);
}

/* Offloads that a card's driver has off, now and then such as there are not. */
static void offloads_field(struct input *in)
{
	static const uint8_t may[OFFLOADS_BYTES] = { 0x82, 3, 0, 0, 0, 0, 0xc0 };
	uint8_t bytes[OFFLOADS_BYTES], how = in_u8(in);
	uint16_t len = OFFLOADS_BYTES;

	in_bytes(in, bytes, sizeof(bytes));
	for (unsigned i = 0; !(how & 1) && i < sizeof(bytes); i++)
		bytes[i] &= may[i];
	if (how & 2)
		len = how >> 4 & 7;
	add_field(STATE_NET_OFFLOADS, len, bytes, len);
}

/* A field that is known, nearly, or none at all. */
static void any_field(struct input *in)
{
	static uint8_t zero[STATE_MAX];
	uint8_t how = in_u8(in), bytes[8];
	uint64_t capacity = htole64(DISK_BYTES);
	uint16_t tag = 1 + (how >> 3 & 1), len = tag == 1 ? 6 : 2;

	if (s.kind == NET && how & 0x80) {
		if (how & 0x40 && how & 0x10)
			offloads_field(in);
		else if (how & 0x40)
			filter_field(in);
		else
			driver_field(in, how & 0x20);
		return;
	}
	in_bytes(in, bytes, sizeof(bytes));
	if (s.kind == BLK && tag == 1) {
		len = 8;
		if (!(how & 0x40))
			memcpy(bytes, &capacity, sizeof(capacity));
	} else if (s.kind == BLK) {
		tag = STATE_BLK_WRITEBACK;
		len = 1;
		bytes[0] %= how & 0x40 ? 256 : 3;
	} else if (tag == 2 && !(how & 0x40)) {
		bytes[0] %= 2 * PAIRS;
		bytes[1] = 0;
	}
	switch (how % 8) {
	case 5: /* of a tag that may be left out, or not; long, perhaps */
		len = (uint16_t)(bytes[1] * 8u);
		add_field(bytes[0] | (how & 0x10 ? STATE_OPTIONAL : 0), len, zero, len);
		break;
	case 6: /* of another length */
		add_field(tag, bytes[7] % 9, bytes, bytes[7] % 9);
		break;
	case 7: /* that says another length than it has */
		add_field(bytes[5] & 1 ? tag : STATE_OPTIONAL | tag, (uint16_t)(len + bytes[6]),
			  bytes, len);
		break;
	default:
		add_field(tag, len, bytes, len);
	}
}

static void any_state(struct input *in)
{
	uint8_t how = in_u8(in);
	uint32_t header[6] = { 0, 0, htole32(STATE_VERSION),
			       htole32(s.kind == BLK ? VIRTIO_ID_BLOCK : VIRTIO_ID_NET) };

	s.len = 0;
	if (how & 0x80) { /* any bytes */
		s.len = MIN(in_left(in), sizeof(s.bytes));
		in_bytes(in, s.bytes, s.len);
		return;
	}
	memcpy(header, "sluicest", 8);
	add(header, sizeof(header));
	for (unsigned n = how & 7; n > 0; n--)
		any_field(in);
	header[4] = htole32((uint32_t)(s.len - HEADER_BYTES));
	memcpy(s.bytes + 16, &header[4], 4);
	if (how & 8) /* the header is not as it should be */
		s.bytes[in_u8(in) % HEADER_BYTES] = in_u8(in);
	if (how & 0x10) /* cut off */
		s.len -= MIN((size_t)in_u8(in), s.len);
}

/* The format read once more, by the text in vhost/state_blob.h. */

struct said {
	bool good;
	unsigned n[7];	 /* how many fields of each kind: 1 to 6 */
	unsigned len[7]; /* of the last */
	uint8_t value[7][COALESCE_BYTES];
};

static unsigned known_field(unsigned tag)
{
	if (s.kind == NET)
		return tag >= 1 && tag <= 6 ? tag : 0;
	return tag == 1 ? 1 : tag == 0x8002 ? 2 : 0;
}

static struct said read_state(void)
{
	struct said r = { 0 };
	uint32_t h[6];

	if (s.len < HEADER_BYTES || s.len > STATE_MAX)
		return r;
	memcpy(h, s.bytes, sizeof(h));
	if (memcmp(h, "sluicest", 8) != 0 || h[2] == 0 || h[5] != 0 ||
	    le32toh(h[3]) != (s.kind == BLK ? 2u : 1u) || le32toh(h[4]) != s.len - HEADER_BYTES)
		return r;
	for (size_t at = HEADER_BYTES; at < s.len;) {
		unsigned tag, len, known;

		if (s.len - at < 4)
			return r;
		tag = s.bytes[at] | s.bytes[at + 1] << 8;
		len = s.bytes[at + 2] | s.bytes[at + 3] << 8;
		at += 4;
		if (len > s.len - at)
			return r;
		known = known_field(tag);
		if (known) {
			r.n[known]++;
			r.len[known] = len;
			memcpy(r.value[known], s.bytes + at, MIN(len, (unsigned)COALESCE_BYTES));
		} else if (!(tag & 0x8000)) {
			return r;
		}
		at += len;
	}
	r.good = true;
	return r;
}

static unsigned word(const uint8_t *at)
{
	return at[0] | at[1] << 8;
}

/* virtio 1.3 5.1.6.5.7.1, and what the configuration space promises (5.1.4). */
static bool table_is_right(const uint8_t *t)
{
	unsigned entries = word(t + 4) + 1u;

	if (t[10] > 1 || t[0] & ~0x3f || t[1] || t[2] || t[3] || t[11] > 40)
		return false;
	if (!t[10])
		return true;
	if (entries > 128 || !IS_POWER_OF_2(entries) || word(t + 6) >= PAIRS || word(t + 8) < 1 ||
	    word(t + 8) > PAIRS)
		return false;
	for (unsigned i = 0; i < entries; i++)
		if (word(t + 52 + 2 * i) >= PAIRS)
			return false;
	return true;
}

/* virtio 1.3 5.1.6.5.1, .2: modes that there are, and no more addresses than there is room for. */
static bool filter_is_right(const uint8_t *f)
{
	return f[1] == 0 && f[2] <= ADDRESSES && f[3] <= ADDRESSES;
}

/* virtio 1.3 5.1.6.5.8, as bytes: GUEST_CSUM, TSO4; TSO6, ECN; USO4, USO6. */
static bool offloads_are_right(const uint8_t *o)
{
	return !(o[0] & ~0x82 || o[1] & ~3 || o[2] || o[3] || o[4] || o[5] || o[6] & ~0xc0 || o[7]);
}

static bool acceptable(const struct said *r)
{
	uint64_t capacity;

	if (!r->good || r->n[1] != 1)
		return false;
	if (s.kind == BLK) {
		memcpy(&capacity, r->value[1], sizeof(capacity));
		/* Of another length the second one is as good as none. */
		return r->len[1] == 8 && le64toh(capacity) == DISK_BYTES && r->n[2] <= 1 &&
		       (r->n[2] == 0 || r->len[2] != 1 || r->value[2][0] <= 1);
	}
	if (r->n[3] > 1 || (r->n[3] && (r->len[3] != RSS_BYTES || !table_is_right(r->value[3]))))
		return false;
	if (r->n[4] > 1 || (r->n[4] && r->len[4] != COALESCE_BYTES))
		return false;
	if (r->n[5] > 1 ||
	    (r->n[5] && (r->len[5] != FILTER_BYTES || !filter_is_right(r->value[5]))))
		return false;
	if (r->n[6] > 1 ||
	    (r->n[6] && (r->len[6] != OFFLOADS_BYTES || !offloads_are_right(r->value[6]))))
		return false;
	return r->n[2] == 1 && r->len[1] == 6 && r->len[2] == 2 && !(r->value[1][0] & 1) &&
	       word(r->value[2]) <= PAIRS;
}

static struct state_blob saved(void)
{
	struct state_blob b = { 0 };

	s.d->ops->save_state(s.d, &b);
	FUZZ_CHECK(b.len <= STATE_MAX);
	return b;
}

/*
 * It says of itself the first @n bytes of what it was told of the driver (@len, if it was: else all
 * is zero), and zeros behind them; nothing at all where @none.
 */
static void check_driver_field(const struct state_blob *b, enum state_tag tag, const struct said *r,
			       unsigned n, unsigned len, bool none)
{
	static const uint8_t zero[COALESCE_BYTES];
	uint8_t said[COALESCE_BYTES];

	FUZZ_CHECK(state_has(b, tag) == !none, "field %d", tag);
	if (none)
		return;
	FUZZ_CHECK(state_get(b, tag, said, len));
	FUZZ_CHECK(memcmp(said, r->value[tag], n) == 0 && memcmp(said + n, zero, len - n) == 0,
		   "field %d", tag);
}

/* What it wants to receive is what it was told; of one that wants everything nothing is said. */
static void check_filter(const struct state_blob *b, const struct said *r)
{
	uint8_t want[FILTER_BYTES], said[FILTER_BYTES];
	bool any = false;

	memcpy(want, r->value[5], sizeof(want));
	for (unsigned i = 0; i < 2u * ADDRESSES; i++)
		if (i % ADDRESSES >= want[2 + i / ADDRESSES])
			memset(want + 4 + 6 * i, 0, 6);
	for (unsigned i = 4 + 2 * ADDRESSES * 6; i < FILTER_BYTES; i++)
		any |= want[i];
	any |= want[0] != 1 || want[2] || want[3]; /* promiscuous, and no more */
	any &= r->n[5];
	FUZZ_CHECK(state_has(b, STATE_NET_FILTER) == any);
	if (!any)
		return;
	FUZZ_CHECK(state_get(b, STATE_NET_FILTER, said, sizeof(said)));
	FUZZ_CHECK(memcmp(said, want, sizeof(said)) == 0);
}

/* What the device says of itself after it took @r, having said @before. */
static void check_taken(const struct said *r, const struct state_blob *before)
{
	struct state_blob after = saved();
	const unsigned known = 16 + 8 * 2 * PAIRS;
	static const uint8_t zero[COALESCE_BYTES];
	uint8_t mac[6], pairs[2], old[2];

	if (s.kind == BLK)
		return;
	FUZZ_CHECK(state_get(&after, STATE_NET_MAC, mac, 6) &&
		   state_get(&after, STATE_NET_PAIRS, pairs, 2) &&
		   state_get(before, STATE_NET_PAIRS, old, 2));
	/* Of a queue that the card lacks nothing is kept. */
	check_driver_field(&after, STATE_NET_COALESCE, r, known, COALESCE_BYTES,
			   memcmp(r->value[4], zero, known) == 0);
	check_driver_field(&after, STATE_NET_RSS, r, RSS_BYTES, RSS_BYTES,
			   !r->value[3][10] && !r->value[3][0]);
	check_filter(&after, r);
	check_driver_field(&after, STATE_NET_OFFLOADS, r, OFFLOADS_BYTES, OFFLOADS_BYTES,
			   memcmp(r->value[6], zero, OFFLOADS_BYTES) == 0);
	FUZZ_CHECK(memcmp(mac, r->value[1], 6) == 0);
	/* 0: the front-end tells of pairs, and nothing changes. */
	FUZZ_CHECK(memcmp(pairs, r->value[2][0] | r->value[2][1] ? r->value[2] : old, 2) == 0);
}

static void channel(uint8_t how, bool load, int *ours, int *theirs)
{
	int fds[2];

	if (how & 4)
		FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
	else
		FUZZ_CHECK(pipe2(fds, O_CLOEXEC) == 0);
	*theirs = fds[load ? 0 : 1];
	*ours = fds[load ? 1 : 0];
	FUZZ_CHECK(fcntl(*ours, F_SETFL, O_NONBLOCK) == 0);
}

/* All of it goes through, unless they have had enough; where there is no room they make some. */
static void say(int fd, const uint8_t *bytes, size_t len)
{
	for (unsigned i = 0; len; i++) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EPIPE && s.len > STATE_MAX)
			return;
		FUZZ_CHECK(n > 0 || (errno == EAGAIN && i < 10000), "%s", strerror(errno));
		if (n > 0) {
			bytes += n;
			len -= (size_t)n;
		} else {
			control_step(0);
			usleep(50);
		}
	}
}

static void on_settled(void *arg)
{
	*(bool *)arg = true;
}

/* Another thread reads and writes. */
static int outcome(struct state_transfer *t, struct error *err)
{
	bool settled = false;

	if (state_transfer_settle(t, on_settled, &settled))
		settled = true;
	while (!settled)
		control_step(1000);
	return state_transfer_outcome(t, err);
}

static void load(uint8_t how, struct input *in)
{
	struct state_blob before = saved(), after;
	struct error err = { 0 };
	struct state_transfer *t;
	struct said r;
	int ours, theirs, rc;
	unsigned piece = 1 + in_u8(in) * 16u;
	bool whole = !(how & 0x10);

	any_state(in);
	channel(how, true, &ours, &theirs);
	t = state_transfer_begin(s.d, theirs, true, &err);
	FUZZ_CHECK(t, "%s", err.text);
	for (size_t at = 0; at < s.len; at += piece) {
		say(ours, s.bytes + at, MIN(s.len - at, (size_t)piece));
		if (how & 0x20)
			control_step(0);
	}
	if (whole)
		close(ours);
	rc = outcome(t, &err);
	r = read_state();
	if (!whole) {
		FUZZ_CHECK(rc == (s.len > STATE_MAX ? -EFBIG : -EINPROGRESS), "%d", rc);
		close(ours);
	} else {
		FUZZ_CHECK((rc == 0) == acceptable(&r), "%d %s", rc, err.text);
	}
	after = saved();
	if (rc == 0)
		check_taken(&r, &before);
	else
		FUZZ_CHECK(after.len == before.len &&
			   memcmp(after.bytes, before.bytes, after.len) == 0);
	state_transfer_free(t);
}

/* Its own state, read in pieces; then it is as good as any. */
static void save(uint8_t how, struct input *in)
{
	struct state_blob b = saved();
	struct error err = { 0 };
	struct state_transfer *t;
	int ours, theirs, rc;
	struct said r;
	ssize_t n;

	channel(how, false, &ours, &theirs);
	t = state_transfer_begin(s.d, theirs, false, &err);
	FUZZ_CHECK(t, "%s", err.text);
	for (s.len = 0; s.len < b.len; s.len += (size_t)n) {
		size_t piece = 1 + in_u8(in);

		while ((n = read(ours, s.bytes + s.len, piece)) < 0 && errno == EAGAIN)
			control_step(1000);
		FUZZ_CHECK(n > 0);
	}
	rc = outcome(t, &err);
	FUZZ_CHECK(rc == 0);
	/* Its end is closed by another thread. */
	for (unsigned i = 0; (n = read(ours, s.bytes + s.len, 1)) != 0; i++) {
		FUZZ_CHECK(n < 0 && errno == EAGAIN && i < 100000);
		usleep(50);
	}
	close(ours);
	state_transfer_free(t);
	FUZZ_CHECK(memcmp(s.bytes, b.bytes, b.len) == 0);
	r = read_state();
	FUZZ_CHECK(acceptable(&r));
	FUZZ_CHECK(s.d->ops->load_state(s.d, &b, &err) == 0, "%s", err.text);
}

/* A descriptor of any kind, and either way. */
static void odd_channel(struct input *in)
{
	static const char *const paths[] = { "/dev/null", "/", "/proc/self/maps" };
	uint8_t how = in_u8(in);
	bool is_load = how & 1;
	struct error err = { 0 };
	struct state_transfer *t;
	int fds[2] = { -1, -1 }, fd;

	if (how & 2) {
		FUZZ_CHECK(pipe2(fds, O_CLOEXEC) == 0);
		fd = fds[is_load ? 1 : 0]; /* the wrong end */
		fds[is_load ? 1 : 0] = -1;
	} else if (how & 4) {
		fd = socket(how & 8 ? AF_INET : AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	} else {
		fd = open(paths[how / 8 % ARRAY_SIZE(paths)], O_RDONLY | O_CLOEXEC);
	}
	FUZZ_CHECK(fd >= 0);
	t = state_transfer_begin(s.d, fd, is_load, &err);
	FUZZ_CHECK(!t, "a state over a descriptor of kind 0x%x", how);
	for (unsigned i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	uint8_t how;

	if (!s.workers) {
		create_all();
		s.free_fd = lowest_free_fd();
	}
	s.device[NET]->ops->disconnected(s.device[NET]); /* its state is that of a new one */
	while (in_left(&in)) {
		how = in_u8(&in);
		s.kind = how & 1 ? NET : BLK;
		s.d = s.device[s.kind];
		if (how & 2)
			load(how, &in);
		else if (how & 8)
			odd_channel(&in);
		else
			save(how, &in);
	}
	/* What might take its time to close is left to another thread. */
	for (unsigned i = 0; lowest_free_fd() != s.free_fd; i++) {
		FUZZ_CHECK(i < 100000, "a descriptor is left");
		usleep(50);
	}
	return 0;
}
