/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks of a pcapng file (IETF draft-ietf-opsawg-pcapng) with one Ethernet interface. */
#ifndef SLUICE_DAEMON_PCAPNG_H
#define SLUICE_DAEMON_PCAPNG_H

#include "net/capture.h"

#include <stddef.h>

/* Bytes that a block takes beyond the packet's, at most. */
#define PCAPNG_BLOCK_MAX 512

/* Each writes a block to @at, which has the room, and returns its bytes. */
size_t pcapng_begin(uint8_t *at, const char *interface, uint32_t snap_bytes);
size_t pcapng_packet(uint8_t *at, const struct captured *p);
/* What passed so far, and what of it is missing. */
size_t pcapng_statistics(uint8_t *at, uint64_t time_ns, uint64_t passed, uint64_t dropped);

#endif
