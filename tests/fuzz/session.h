/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the session target is made of: devices and the files that a front-end may send
 * (session_world.c), and how it says things, right and wrong (session_say.c).
 */
#ifndef SLUICE_TESTS_FUZZ_SESSION_H
#define SLUICE_TESTS_FUZZ_SESSION_H

#include "tests/fuzz/guest.h"
#include "vhost/session.h"

#define QUEUES 4

enum { BLK, NET, NEIGHBOUR, N_DEVICES };

/* What a front-end may send along. */
enum {
	FD_MAIN, /* the guest's memory, FG_REGIONS of them */
	FD_EVENT = FG_REGIONS,
	FD_EVENT_BLOCKING,
	FD_PIPE,
	FD_SOCKET,
	FD_NULL,
	FD_ZERO,
	FD_FOLDER,
	FD_EMPTY,  /* a file of no bytes */
	FD_SMALL,  /* of 4096, not all zero */
	FD_SPARSE, /* of a TiB, of which nothing is there */
	FD_SEALED, /* cannot be written */
	FD_PATH,   /* opened with O_PATH */
	FD_KINDS,
};

struct session_fuzz {
	struct workers *workers;
	struct net_switch *sw;
	struct vhost_device *device[N_DEVICES];
	struct fuzz_guest guest;
	int fds[FD_KINDS];
	int kick[QUEUES], call, err;
	int neighbour;
	unsigned n_fds; /* open, while no front-end is there */

	/* One life. */
	struct vhost_device *d;
	int sock;	/* ours: -1 while there is none */
	int channel;	/* our end of the back-end's channel: -1 while there is none */
	uint64_t asked; /* bits: numbers of messages that were sent, and may be answered */
	uint8_t rx[65536];
	size_t rx_got;
	struct {
		uint8_t bytes[sizeof(struct vhost_user_header) + VHOST_USER_PAYLOAD_MAX];
		size_t len, sent;
	} tx;
};
extern struct session_fuzz f;

/* session_world.c */

/* Devices, files and a neighbour's connection; once. */
void create_all(void);
/* A connection to @d, as if it had come through its socket. @return the front-end's end. */
int connect_to(struct vhost_device *d);
/* A round of the workers and of the control thread. */
void step(void);
void ask_neighbour(void);
unsigned count_fds(void);
void print_fds(void);
/* Bytes mapped and not unmapped by everything that is linked in. */
long count_mapped(void);

/* session_say.c */

void hang_up(void);
/* A message whose first @first bytes go out now; send_rest() sends more. */
void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		  const int *fds, unsigned n_fds, size_t first);
/* Up to @most bytes of the rest of a message that was begun. */
void send_rest(size_t most);
struct vhost_user_region right_region(unsigned i);
struct vhost_user_vring_addr right_addr(uint32_t index);
/* What an honest front-end makes of what is offered, with the guest's ring layout. */
uint64_t right_features(bool iommu);
/* A translation of all of region @i, whose I/O virtual addresses are its guest or user addresses.
 */
struct vhost_user_iotlb right_iotlb(unsigned i, bool user);
/* A new channel for the back-end. */
void open_channel(void);
void close_channel(void);
/* Reads what the back-end says there, and answers as the input has it: right, wrong or not at all.
 */
void answer_channel(struct input *in);
/* A payload for @request that is right, nearly, or anything. @return the size to be said. */
uint32_t any_payload(struct input *in, uint32_t request, union vhost_user_payload *p);
/* Its descriptors. @return how many. */
unsigned any_fds(struct input *in, uint32_t request, uint32_t n_regions, int fds[40]);

#endif
