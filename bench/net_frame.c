/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/net_frame.h"

#include <arpa/inet.h>

#define PROTO_TCP 6
#define PROTO_UDP 17

enum { AT_SOURCE = 6, AT_IP = 14, AT_IP_LEN = 16, AT_PROTO = 23, AT_IP_CHECK = 24, AT_L4 = 34 };
#define ETHER_HELLO 0x88b5 /* IEEE 802: for local experiments */
#define AT_UDP_LEN (AT_L4 + 4)
#define AT_TCP_CHECK (AT_L4 + 16)

static void put16(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static void put_mac(uint8_t *at, unsigned end, unsigned id)
{
	const uint8_t mac[] = { 2, 0x53, 0x4c, (uint8_t)end, (uint8_t)(id >> 8), (uint8_t)id };

	memcpy(at, mac, sizeof(mac));
}

static void put_ip(uint8_t *at, unsigned end, unsigned id)
{
	const uint8_t ip[] = { 10, (uint8_t)(1 + end), (uint8_t)(id >> 8), (uint8_t)id };

	memcpy(at, ip, sizeof(ip));
}

/* RFC 1071, of an even number of bytes, on top of @sum; not inverted. */
static uint32_t add_words(const uint8_t *at, unsigned bytes, uint32_t sum)
{
	for (unsigned i = 0; i < bytes; i += 2)
		sum += (uint32_t)at[i] << 8 | at[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

void flow_init(struct flow *f, unsigned id, unsigned direction, bool tcp)
{
	uint8_t *h = f->head;

	memset(f, 0, sizeof(*f));
	put_mac(h, !direction, id);
	put_mac(h + AT_SOURCE, direction, id);
	put16(h + 12, 0x0800);
	h[AT_IP] = 0x45;
	put16(h + AT_IP + 6, 0x4000); /* don't fragment */
	h[AT_IP + 8] = 64;
	h[AT_PROTO] = tcp ? PROTO_TCP : PROTO_UDP;
	put_ip(h + AT_IP + 12, direction, id);
	put_ip(h + AT_IP + 16, !direction, id);
	put16(h + AT_L4 + (direction ? 2 : 0), 1024 + id % 60000);
	put16(h + AT_L4 + (direction ? 0 : 2), 1024 + id * 7 % 60000);
	if (tcp) {
		h[AT_L4 + 12] = 5 << 4; /* words of the header */
		h[AT_L4 + 13] = 0x10;	/* ACK */
		put16(h + AT_L4 + 14, 0xffff);
	}
}

void frame_write_head(const struct flow *f, uint32_t size, uint16_t mss, uint8_t *buf)
{
	bool tcp = f->head[AT_PROTO] == PROTO_TCP;
	struct virtio_net_hdr_v1 h = { 0 };
	uint8_t *frame = buf + NET_HDR_BYTES;
	uint32_t l4 = size - AT_L4, sum;

	memcpy(frame, f->head, tcp ? TCP_HEAD : UDP_HEAD);
	put16(frame + AT_IP_LEN, size - AT_IP);
	put16(frame + AT_IP_CHECK, ~add_words(frame + AT_IP, 20, 0));
	if (tcp) {
		/* The sum of the pseudo header; who cuts or sends adds the rest (virtio 1.3
		 * 5.1.6.2). */
		sum = add_words(frame + AT_IP + 12, 8, PROTO_TCP + l4);
		put16(frame + AT_TCP_CHECK, sum);
		h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		h.csum_start = AT_L4;
		h.csum_offset = AT_TCP_CHECK - AT_L4;
		if (mss && size > TCP_HEAD + (uint32_t)mss) {
			h.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
			h.gso_size = mss;
			h.hdr_len = TCP_HEAD;
		}
	} else {
		put16(frame + AT_UDP_LEN, l4); /* and no checksum, which UDP may do without */
	}
	static_assert(sizeof(h) == NET_HDR_BYTES, "virtio 1.3 5.1.6.1");
	memcpy(buf, &h, sizeof(h));
}

void frame_write_hello(const struct flow *f, uint8_t *buf)
{
	uint8_t *frame = buf + NET_HDR_BYTES;

	memset(buf, 0, NET_HDR_BYTES + FRAME_MIN);
	memset(frame, 0xff, AT_SOURCE);
	memcpy(frame + AT_SOURCE, f->head, 6);
	put16(frame + 12, ETHER_HELLO);
}

bool frame_is_hello(const uint8_t *frame)
{
	static const uint8_t all[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint8_t type[2], ours[6];

	put16(type, ETHER_HELLO);
	put_mac(ours, 0, 0);
	return memcmp(frame, all, sizeof(all)) == 0 && memcmp(frame + AT_SOURCE, ours, 3) == 0 &&
	       memcmp(frame + 12, type, sizeof(type)) == 0;
}

static uint64_t pattern(uint64_t serial, uint32_t flow, uint32_t word)
{
	return ((serial << 17) + word + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ flow;
}

static uint8_t pattern_byte(uint64_t serial, uint32_t flow, uint32_t at)
{
	return (uint8_t)(pattern(serial, flow, at / 8) >> at % 8 * 8);
}

void frame_fill(uint8_t *bytes, uint32_t len, uint32_t offset, uint64_t serial, uint32_t flow)
{
	uint32_t i = 0;

	for (; i < len && (offset + i) % 8; i++)
		bytes[i] = pattern_byte(serial, flow, offset + i);
	for (; i + 8 <= len; i += 8) {
		uint64_t v = htole64(pattern(serial, flow, (offset + i) / 8));

		memcpy(bytes + i, &v, sizeof(v));
	}
	for (; i < len; i++)
		bytes[i] = pattern_byte(serial, flow, offset + i);
}

int64_t frame_differs(const uint8_t *bytes, uint32_t len, uint32_t offset, uint64_t serial,
		      uint32_t flow)
{
	for (uint32_t i = 0; i < len;) {
		uint64_t v;

		if ((offset + i) % 8 == 0 && i + 8 <= len) {
			memcpy(&v, bytes + i, sizeof(v));
			if (likely(v == htole64(pattern(serial, flow, (offset + i) / 8)))) {
				i += 8;
				continue;
			}
		}
		if (bytes[i] != pattern_byte(serial, flow, offset + i))
			return offset + i;
		i++;
	}
	return -1;
}
