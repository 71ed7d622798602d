/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NBD server of the test's own that says and does what no good one does. It greets in the old
 * style of the NBD project's doc/proto.md, which has no options.
 */
#ifndef SLUICE_TESTS_NBD_LIAR_H
#define SLUICE_TESTS_NBD_LIAR_H

#include "tests/unit/nbd_util.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>

#define LIAR_HELLO 152u
#define LIAR_HAS_FLAGS 1u
#define LIAR_READ_ONLY 2u
#define LIAR_FLUSH 4u
#define LIAR_FUA 8u
#define LIAR_CONNECTIONS 64
#define LIAR_MEMORY (1u << 20)

struct liar {
	struct nbd_server at;
	int listener;
	pthread_t thread;
	uint8_t *memory;

	/* What it says and does; atomic. */
	uint64_t size;
	uint32_t flags;
	uint32_t hello;	       /* bytes of the greeting that it sends */
	uint32_t answers;      /* commands that it answers; then it is silent */
	uint32_t error;	       /* NBD's number, its answer to each command; 0: it does them */
	uint32_t short_by;     /* bytes of the answer that are missing when it hangs up */
	uint32_t wrong_cookie; /* it answers what nobody has asked */
	uint32_t hang_up;      /* it ends its connections */

	/* What came; atomic. */
	uint32_t connections, commands[8], at_end;
};

struct liar_command {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct liar_answer {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

#define LIAR_GET(l, what) __atomic_load_n(&(l)->what, __ATOMIC_SEQ_CST)
#define LIAR_SET(l, what, value) __atomic_store_n(&(l)->what, value, __ATOMIC_SEQ_CST)
#define LIAR_COUNT(l, what) __atomic_fetch_add(&(l)->what, 1, __ATOMIC_SEQ_CST)

static inline bool liar_read(int fd, void *to, size_t len)
{
	return len == 0 || recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

static inline bool liar_write(int fd, const void *from, size_t len)
{
	return send(fd, from, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static inline bool liar_greet(struct liar *l, int fd)
{
	uint8_t hello[LIAR_HELLO] = "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53";
	uint64_t size = htobe64(LIAR_GET(l, size));
	uint32_t flags = htobe32(LIAR_GET(l, flags) | LIAR_HAS_FLAGS);

	memcpy(hello + 16, &size, 8);
	memcpy(hello + 24, &flags, 4);
	return liar_write(fd, hello, LIAR_GET(l, hello));
}

/* @return false: it hangs up. */
static inline bool liar_answer(struct liar *l, int fd, const struct liar_command *c)
{
	uint32_t len = be32toh(c->len), lacks = LIAR_GET(l, short_by);
	uint64_t offset = be64toh(c->offset) % LIAR_MEMORY;
	struct liar_answer a = { htobe32(0x67446698), htobe32(LIAR_GET(l, error)),
				 c->cookie ^ (LIAR_GET(l, wrong_cookie) ? ~UINT64_C(0) : 0) };
	bool reads = be16toh(c->type) == 0 && !a.error;
	bool sent;

	len = MIN(len, (uint32_t)(LIAR_MEMORY - offset));
	if (lacks > len || !reads)
		return liar_write(fd, &a, sizeof(a) - (lacks ? 1 : 0)) && !lacks;
	sent = liar_write(fd, &a, sizeof(a)) && liar_write(fd, l->memory + offset, len - lacks);
	return sent && !lacks;
}

static inline bool liar_command(struct liar *l, int fd)
{
	static const struct timeval soon = { .tv_sec = 5 };
	static __thread uint8_t data[LIAR_MEMORY];
	struct liar_command c;
	uint64_t offset;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon));
	if (!liar_read(fd, &c, sizeof(c)))
		return false;
	offset = be64toh(c.offset) % LIAR_MEMORY;
	if (be16toh(c.type) == 1 && !liar_read(fd, data, be32toh(c.len)))
		return false;
	LIAR_COUNT(l, commands[be16toh(c.type) % 8]);
	if (LIAR_GET(l, answers) == 0)
		return true;
	__atomic_fetch_sub(&l->answers, 1, __ATOMIC_SEQ_CST);
	if (be16toh(c.type) == 1 && !LIAR_GET(l, error))
		memcpy(l->memory + offset, data,
		       MIN(be32toh(c.len), (uint32_t)(LIAR_MEMORY - offset)));
	return liar_answer(l, fd, &c);
}

/* One thread, for all connections. A silent one does not end where its client has shut down. */
static inline void *liar_run(void *arg)
{
	struct liar *l = arg;
	struct pollfd p[1 + LIAR_CONNECTIONS];
	unsigned n = 1;

	p[0] = (struct pollfd) { .fd = l->listener, .events = POLLIN };
	while (!LIAR_GET(l, at_end)) {
		unsigned end = n;

		poll(p, n, 5);
		for (unsigned i = 1; i < end; i++) {
			bool stays = !LIAR_GET(l, hang_up);

			if (stays && p[i].revents)
				stays = liar_command(l, p[i].fd) || LIAR_GET(l, answers) == 0;
			if (stays || p[i].fd < 0)
				continue;
			close(p[i].fd);
			p[i].fd = -1;
		}
		if (!(p[0].revents & POLLIN) || n > LIAR_CONNECTIONS)
			continue;
		p[n] = (struct pollfd) { .fd = accept4(l->listener, NULL, NULL, SOCK_CLOEXEC),
					 .events = POLLIN };
		LIAR_SET(l, hang_up, 0);
		LIAR_COUNT(l, connections);
		if (liar_greet(l, p[n].fd))
			n++;
		else
			close(p[n].fd);
	}
	for (unsigned i = 1; i < n; i++)
		if (p[i].fd >= 0)
			close(p[i].fd);
	return NULL;
}

static inline void liar_start(struct liar *l, uint64_t size, uint32_t flags)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	memset(l, 0, sizeof(*l));
	nbd_server_init(&l->at);
	l->size = size;
	l->flags = flags;
	l->hello = LIAR_HELLO;
	l->answers = UINT32_MAX;
	l->memory = calloc(1, LIAR_MEMORY);
	l->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	memcpy(at.sun_path, l->at.socket, sizeof(l->at.socket));
	cr_assert_eq(bind(l->listener, (struct sockaddr *)&at, sizeof(at)), 0);
	cr_assert_eq(listen(l->listener, 64), 0);
	cr_assert_eq(pthread_create(&l->thread, NULL, liar_run, l), 0);
}

static inline void liar_stop(struct liar *l)
{
	LIAR_SET(l, at_end, 1);
	pthread_join(l->thread, NULL);
	close(l->listener);
	unlink(l->at.socket);
	free(l->memory);
}

#endif
