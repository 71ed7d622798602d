/* SPDX-License-Identifier: Apache-2.0 */
#include "poll/ring_limits.h"

#include "base/compiler.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Operations on descriptors that are open already, and on the ring itself. */
static const uint8_t operations[] = {
	IORING_OP_NOP,		IORING_OP_READ,		  IORING_OP_WRITE,
	IORING_OP_READV,	IORING_OP_WRITEV,	  IORING_OP_READ_FIXED,
	IORING_OP_WRITE_FIXED,	IORING_OP_FSYNC,	  IORING_OP_SYNC_FILE_RANGE,
	IORING_OP_FALLOCATE,	IORING_OP_POLL_ADD,	  IORING_OP_POLL_REMOVE,
	IORING_OP_TIMEOUT,	IORING_OP_TIMEOUT_REMOVE, IORING_OP_LINK_TIMEOUT,
	IORING_OP_ASYNC_CANCEL, IORING_OP_URING_CMD,	  IORING_OP_SEND,
	IORING_OP_RECV,
};

static const uint8_t registrations[] = {
	IORING_REGISTER_BUFFERS,       IORING_UNREGISTER_BUFFERS,
	IORING_REGISTER_BUFFERS2,      IORING_REGISTER_BUFFERS_UPDATE,
	IORING_REGISTER_FILES,	       IORING_UNREGISTER_FILES,
	IORING_REGISTER_FILES_UPDATE,  IORING_REGISTER_FILES2,
	IORING_REGISTER_FILES_UPDATE2, IORING_REGISTER_PROBE,
	IORING_REGISTER_IOWQ_AFF,      IORING_REGISTER_IOWQ_MAX_WORKERS,
	IORING_REGISTER_RING_FDS,      IORING_UNREGISTER_RING_FDS,
	IORING_REGISTER_ENABLE_RINGS,
};

#define N_OPS ARRAY_SIZE(operations)
#define N_REGS ARRAY_SIZE(registrations)

/* liburing 2.3's library leaves both functions out, though its header declares them. */
static int ring_register(struct io_uring *ring, unsigned opcode, const void *arg, unsigned n)
{
	long rc = syscall(SYS_io_uring_register, ring->ring_fd, opcode, arg, n);

	return rc < 0 ? -errno : 0;
}

int ring_limit_and_enable(struct io_uring *ring)
{
	struct io_uring_restriction r[N_OPS + N_REGS + 1] = { 0 };
	unsigned n = 0;
	int rc;

	for (unsigned i = 0; i < N_OPS; i++, n++) {
		r[n].opcode = IORING_RESTRICTION_SQE_OP;
		r[n].sqe_op = operations[i];
	}
	for (unsigned i = 0; i < N_REGS; i++, n++) {
		r[n].opcode = IORING_RESTRICTION_REGISTER_OP;
		r[n].register_op = registrations[i];
	}
	r[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	r[n++].sqe_flags = IOSQE_FIXED_FILE | IOSQE_IO_DRAIN | IOSQE_IO_LINK | IOSQE_IO_HARDLINK |
			   IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS;
	rc = ring_register(ring, IORING_REGISTER_RESTRICTIONS, r, n);
	return rc ? rc : ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}
