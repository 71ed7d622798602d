/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's internal state on its way to another back-end (vhost-user "Migrating back-end state"):
 * a header that says what it is, then fields of a tag, a length and their bytes, all little-endian.
 *
 *	magic[8] "sluicest"   version   virtio device id   bytes of fields   0     (4 bytes each)
 *	tag   length   (2 bytes each)   bytes …
 *
 * A version adds fields and changes none. Who does not know a field must refuse the state, unless
 * its tag says that it may be left out.
 */
#ifndef SLUICE_VHOST_STATE_BLOB_H
#define SLUICE_VHOST_STATE_BLOB_H

#include "base/compiler.h"

#include <stdbool.h>

struct error;

#define STATE_MAX 4096 /* bytes in all; what is longer is refused */
#define STATE_VERSION 1
#define STATE_OPTIONAL 0x8000u /* in a tag: may be left out */

enum state_tag {
	STATE_BLK_CAPACITY = 1, /* u64, bytes: the destination's disk must have as many */
	STATE_BLK_WRITEBACK = 2 | STATE_OPTIONAL, /* u8: 0: the guest has writes durable at once */
	STATE_NET_MAC = 1,			  /* 6 bytes: as the driver has set it */
	STATE_NET_PAIRS = 2,	/* u16: pairs in use, where the control queue is ours; else 0 */
	STATE_NET_RSS = 3,	/* struct rss_state; where the driver has set any of it */
	STATE_NET_COALESCE = 4, /* struct coalesce_state; likewise */
	STATE_NET_FILTER = 5,	/* struct filter_state; likewise */
	STATE_NET_OFFLOADS = 6, /* u64, bits of features: what the driver has off; likewise */
};

struct state_blob {
	uint32_t len;
	uint8_t bytes[STATE_MAX];
};

/* Begins a state of this version. @device_id: virtio 1.3 clause 5. */
void state_begin(struct state_blob *b, uint32_t device_id);
/* Adds a field, for which there is room. */
void state_put(struct state_blob *b, unsigned tag, const void *data, unsigned len);
/*
 * Is it a whole state of this device kind, with none but the @n_known fields of @known, each once
 * at most? @return 0 or -errno with @err.
 */
int state_check(const struct state_blob *b, uint32_t device_id, const uint16_t *known,
		unsigned n_known, struct error *err);
/* Has a checked state this field, of whatever length? */
bool state_has(const struct state_blob *b, unsigned tag);
/* The field of a checked state, if it is there with exactly @len bytes. */
bool state_get(const struct state_blob *b, unsigned tag, void *data, unsigned len);

#endif
