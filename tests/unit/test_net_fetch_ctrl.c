/* SPDX-License-Identifier: Apache-2.0 */
/*
 * T5 on the control queue (CVE-2026-86562: its descriptors were fetched twice, and what had changed
 * in between was written past the copy's end): a command is one copy, and what is obeyed is that
 * copy. The code under test is ctrl.c, compiled here with a memcpy() that changes each byte of the
 * guest's as soon as it was copied.
 */
#include <stddef.h>
#include <string.h>

static void *shim_copy(void *to, const void *from, size_t len);

#define memcpy(to, from, len) shim_copy(to, from, len)
#include "net/ctrl.c"
#undef memcpy

#include <criterion/criterion.h>

#define COMMAND_BYTES 300

/* What the guest has written, and whether it has been read. */
static struct {
	uint8_t mem[COMMAND_BYTES];
	uint8_t seen[COMMAND_BYTES];
	unsigned reads;
} guest;

static void *shim_copy(void *to, const void *from, size_t len)
{
	uint8_t *p = (uint8_t *)(uintptr_t)from;

	__builtin_memcpy(to, from, len);
	if (p < guest.mem || p >= guest.mem + sizeof(guest.mem))
		return to;
	guest.reads++;
	for (size_t i = 0; i < len; i++) {
		size_t at = (size_t)(p - guest.mem) + i;

		cr_assert_eq(guest.seen[at], 0, "byte %zu of the guest's was read twice", at);
		guest.seen[at] = 1;
		guest.mem[at] ^= 0xff;
	}
	return to;
}

/* The chain's segments are of @piece bytes each. */
static void check(uint32_t piece)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 1, 2, 3, 4 };
	static struct net_device d;
	struct iovec segs[COMMAND_BYTES];
	struct chain c = { .segs = segs, .out_len = COMMAND_BYTES, .in_len = 1 };
	struct ctrl_command command;
	struct ctrl_answer answer;
	size_t len;

	memset(&guest, 0, sizeof(guest));
	guest.mem[0] = VIRTIO_NET_CTRL_MAC;
	guest.mem[1] = VIRTIO_NET_CTRL_MAC_ADDR_SET;
	memcpy(guest.mem + 2, mac, sizeof(mac));
	memset(&d, 0, sizeof(d));
	d.vdev.features = UINT64_C(1) << VIRTIO_NET_F_CTRL_MAC_ADDR;
	for (uint32_t at = 0; at < c.out_len; at += piece) {
		segs[c.n_out].iov_base = guest.mem + at;
		segs[c.n_out++].iov_len = MIN(piece, c.out_len - at);
	}
	len = command_read(&c, &command);
	ctrl_obey(&d, &c, &command, len, &answer);
	cr_assert_eq(len, COMMAND_BYTES);
	cr_assert_eq(guest.reads, c.n_out, "pieces of %u", piece);
	cr_assert_eq(answer.bytes[0], VIRTIO_NET_OK);
	cr_assert_eq(memcmp(&d.mac, mac, sizeof(mac)), 0, "obeyed is not what was read");
}

Test(net_fetch, a_command_is_read_once_T5)
{
	static const uint32_t pieces[] = { 1, 2, 3, 5, 8, COMMAND_BYTES };

	for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++)
		check(pieces[i]);
}
