/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libnbd, loaded for the first disk that needs it: GnuTLS, libxml2 and ICU come along, which takes
 * as long as all the rest of a start, and memory that no other disk is to pay for.
 */
#ifndef SLUICE_BLK_NBD_LIB_H
#define SLUICE_BLK_NBD_LIB_H

#include "base/error.h"

#include <libnbd.h>

/* libnbd.create is nbd_create(), and so on. */
#define NBD_LIB_CALLS(X)        \
	X(create)               \
	X(close)                \
	X(get_error)            \
	X(get_errno)            \
	X(set_export_name)      \
	X(set_tls)              \
	X(set_tls_certificates) \
	X(set_tls_psk_file)     \
	X(set_tls_username)     \
	X(set_tls_verify_peer)  \
	X(aio_connect_socket)   \
	X(aio_disconnect)       \
	X(aio_get_direction)    \
	X(aio_get_fd)           \
	X(aio_is_dead)          \
	X(aio_is_closed)        \
	X(aio_is_ready)         \
	X(aio_notify_read)      \
	X(aio_notify_write)     \
	X(get_block_size)       \
	X(get_size)             \
	X(is_read_only)         \
	X(can_flush)            \
	X(can_fua)              \
	X(can_trim)             \
	X(can_zero)             \
	X(can_multi_conn)       \
	X(aio_flush)            \
	X(aio_pread)            \
	X(aio_pwrite)           \
	X(aio_trim)             \
	X(aio_zero)

struct nbd_lib {
#define X(call) __typeof__(nbd_##call) *call;
	NBD_LIB_CALLS(X)
#undef X
};
extern struct nbd_lib libnbd;

/*
 * Control thread, before anything else of libnbd is called; again and again does no harm. It stays
 * until the process ends. @return 0 or -errno with @err.
 */
int nbd_lib_load(struct error *err);

#endif
