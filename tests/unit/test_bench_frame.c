/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/net_frame.h"

#include <criterion/criterion.h>

static struct flow_order order;

static void come(uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		cr_assert_eq(flow_came(&order, i), FLOW_IN_ORDER, "%llu", (unsigned long long)i);
}

Test(bench_frame, a_frame_that_comes_again_is_a_duplicate_and_a_late_one_is_out_of_order)
{
	come(0, 100);
	come(101, 3000);
	cr_assert_eq(flow_came(&order, 2999), FLOW_DUPLICATED);
	cr_assert_eq(flow_came(&order, 2999 - ORDER_WINDOW + 1), FLOW_DUPLICATED);
	come(3001, 3010);
	cr_assert_eq(flow_came(&order, 3000), FLOW_REORDERED);
	cr_assert_eq(flow_came(&order, 3000), FLOW_DUPLICATED);
}

Test(bench_frame, what_was_skipped_is_not_taken_for_what_came_a_window_before)
{
	come(0, 2 * ORDER_WINDOW);
	/* One more than a gap that clears bit by bit, and one that clears all. */
	for (unsigned gap = 5; gap <= 2 * ORDER_WINDOW; gap += 2 * ORDER_WINDOW - 5) {
		uint64_t at = order.next;

		cr_assert_eq(flow_came(&order, at + gap), FLOW_IN_ORDER);
		cr_assert_eq(flow_came(&order, at + gap - 1), FLOW_REORDERED);
		cr_assert_eq(flow_came(&order, at + gap - 1), FLOW_DUPLICATED);
	}
}

Test(bench_frame, each_byte_of_a_payload_is_looked_at_however_it_is_cut)
{
	uint8_t bytes[333];

	for (uint32_t cut = 0; cut < 20; cut++) {
		frame_fill(bytes, sizeof(bytes), 0, 7, 3);
		cr_assert_eq(frame_differs(bytes, cut, 0, 7, 3), -1);
		cr_assert_eq(frame_differs(bytes + cut, sizeof(bytes) - cut, cut, 7, 3), -1);
	}
	cr_assert_neq(frame_differs(bytes, sizeof(bytes), 0, 8, 3), -1, "another frame's");
	cr_assert_neq(frame_differs(bytes, sizeof(bytes), 0, 7, 2), -1, "another flow's");
	for (uint32_t i = 0; i < sizeof(bytes); i++) {
		bytes[i] ^= 1;
		cr_assert_eq(frame_differs(bytes, sizeof(bytes), 0, 7, 3), i);
		bytes[i] ^= 1;
	}
}

Test(bench_frame, a_hello_of_any_flow_is_known_and_nothing_else_is)
{
	static uint8_t buf[NET_HDR_BYTES + FRAME_MIN];
	uint8_t *frame = buf + NET_HDR_BYTES;
	struct flow f;

	for (unsigned id = 0; id < FLOWS_MAX; id += FLOWS_MAX - 1)
		for (unsigned direction = 0; direction < 2; direction++) {
			flow_init(&f, id, direction, false);
			frame_write_hello(&f, buf);
			cr_assert(frame_is_hello(frame));
			for (unsigned i = 0; i < ETHER_BYTES; i++) {
				frame[i] ^= 1;
				/* Behind the first three bytes of the source is which flow it is.
				 */
				cr_assert_eq(frame_is_hello(frame), i >= 9 && i < 12, "%u", i);
				frame[i] ^= 1;
			}
			frame_write_head(&f, FRAME_MIN, 0, buf);
			cr_assert_not(frame_is_hello(frame));
		}
}

Test(bench_frame, the_ip_header_adds_up_and_a_large_frame_tells_how_to_be_cut)
{
	static uint8_t buf[NET_HDR_BYTES + FRAME_MIN];
	struct virtio_net_hdr_v1 h;
	struct flow f;
	uint32_t sum = 0;

	flow_init(&f, 300, 0, true);
	frame_write_head(&f, FRAME_TSO_MAX, 1448, buf);
	for (unsigned i = 0; i < 20; i += 2)
		sum += (uint32_t)buf[NET_HDR_BYTES + 14 + i] << 8 | buf[NET_HDR_BYTES + 15 + i];
	sum = (sum & 0xffff) + (sum >> 16);
	cr_assert_eq((sum & 0xffff) + (sum >> 16), 0xffff);
	memcpy(&h, buf, sizeof(h));
	cr_assert(h.gso_type == VIRTIO_NET_HDR_GSO_TCPV4 && h.gso_size == 1448 &&
		  h.hdr_len == TCP_HEAD && h.csum_start == 34 && h.csum_offset == 16 &&
		  h.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
}
