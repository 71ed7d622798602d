/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/pcapng.h"

#include <stdio.h>
#include <string.h>

#define SECTION_HEADER 0x0a0d0d0a
#define INTERFACE_DESCRIPTION 1
#define INTERFACE_STATISTICS 5
#define ENHANCED_PACKET 6
#define BYTE_ORDER_MAGIC 0x1a2b3c4d
#define LINKTYPE_ETHERNET 1

#define OPT_END 0
#define SHB_USERAPPL 4
#define IF_NAME 2
#define IF_TSRESOL 9
#define EPB_FLAGS 2
#define ISB_IFRECV 4
#define ISB_IFDROP 5

/* In this machine's byte order, which the section header tells. */
static uint8_t *put(uint8_t *at, const void *from, size_t len)
{
	memcpy(at, from, len);
	return at + len;
}

static uint8_t *put16(uint8_t *at, uint16_t v)
{
	return put(at, &v, sizeof(v));
}

static uint8_t *put32(uint8_t *at, uint32_t v)
{
	return put(at, &v, sizeof(v));
}

static uint8_t *put_time(uint8_t *at, uint64_t ns)
{
	return put32(put32(at, (uint32_t)(ns >> 32)), (uint32_t)ns);
}

static uint8_t *pad(uint8_t *at, size_t len)
{
	static const uint8_t zero[4];

	return put(at, zero, (4 - len % 4) % 4);
}

static uint8_t *option(uint8_t *at, uint16_t code, const void *value, uint16_t len)
{
	return pad(put(put16(put16(at, code), len), value, len), len);
}

static uint8_t *options_end(uint8_t *at)
{
	return put16(put16(at, OPT_END), 0);
}

/* The length stands at both ends of a block. */
static size_t block_end(uint8_t *block, uint8_t *at)
{
	uint32_t len = (uint32_t)(at - block) + 4;

	put32(at, len);
	put32(block + 4, len);
	return len;
}

size_t pcapng_begin(uint8_t *block, const char *interface, uint32_t snap_bytes)
{
	static const char program[] = "sluiced " SLUICE_VERSION;
	const uint64_t unknown = UINT64_MAX;
	const uint8_t nanoseconds = 9;
	uint8_t *at = put32(put32(block, SECTION_HEADER), 0);
	size_t len;

	at = put16(put16(put32(at, BYTE_ORDER_MAGIC), 1), 0);
	at = put(at, &unknown, sizeof(unknown));
	at = options_end(option(at, SHB_USERAPPL, program, sizeof(program) - 1));
	len = block_end(block, at);

	block += len;
	at = put32(put32(block, INTERFACE_DESCRIPTION), 0);
	at = put32(put16(put16(at, LINKTYPE_ETHERNET), 0), snap_bytes);
	at = option(at, IF_NAME, interface, (uint16_t)strlen(interface));
	at = options_end(option(at, IF_TSRESOL, &nanoseconds, 1));
	return len + block_end(block, at);
}

size_t pcapng_packet(uint8_t *block, const struct captured *p)
{
	const uint32_t direction = p->out ? 2
					  : 1; /* as the switch sees it: in from the port is 1 */
	uint8_t *at = put32(put32(put32(block, ENHANCED_PACKET), 0), 0);

	at = put32(put32(put_time(at, p->time_ns), p->copied), p->len);
	at = pad(put(at, p->bytes, p->copied), p->copied);
	at = options_end(option(at, EPB_FLAGS, &direction, sizeof(direction)));
	return block_end(block, at);
}

size_t pcapng_statistics(uint8_t *block, uint64_t time_ns, uint64_t passed, uint64_t dropped)
{
	uint8_t *at = put32(put32(put32(block, INTERFACE_STATISTICS), 0), 0);

	at = put_time(at, time_ns);
	at = option(at, ISB_IFRECV, &passed, sizeof(passed));
	at = options_end(option(at, ISB_IFDROP, &dropped, sizeof(dropped)));
	return block_end(block, at);
}
