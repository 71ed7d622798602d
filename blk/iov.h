/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking over scattered memory: moving bytes between an array of segments and one flat buffer, and
 * taking bytes off either end. Every function stops at the end of the segments. Any thread.
 */
#ifndef SLUICE_BLK_IOV_H
#define SLUICE_BLK_IOV_H

#include "base/compiler.h"

#include <string.h>
#include <sys/uio.h>

/* Copies the first @len bytes of the segments to @dst. @return bytes copied. */
static inline size_t iov_gather(const struct iovec *iov, unsigned n, void *dst, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t piece = MIN(iov[i].iov_len, len - done);

		memcpy((char *)dst + done, iov[i].iov_base, piece);
		done += piece;
	}
	return done;
}

/* Copies @len bytes from @src to the start of the segments. @return bytes copied. */
static inline size_t iov_scatter(const struct iovec *iov, unsigned n, const void *src, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t piece = MIN(iov[i].iov_len, len - done);

		memcpy(iov[i].iov_base, (const char *)src + done, piece);
		done += piece;
	}
	return done;
}

/* Clears the first @len bytes of the segments. */
static inline void iov_zero(const struct iovec *iov, unsigned n, size_t len)
{
	for (unsigned i = 0; i < n && len; i++) {
		size_t piece = MIN(iov[i].iov_len, len);

		memset(iov[i].iov_base, 0, piece);
		len -= piece;
	}
}

/* Takes @bytes off the front: moves *@iov and *@n on, and shortens the segment it ends in. */
static inline void iov_advance(struct iovec **iov, unsigned *n, size_t bytes)
{
	while (*n && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
}

/* Every address a multiple of @align_addr and every length of @align_len (powers of two)? */
static inline int iov_is_aligned(const struct iovec *iov, unsigned n, uint32_t align_addr,
				 uint32_t align_len)
{
	uintptr_t addrs = 0, lens = 0;

	for (unsigned i = 0; i < n; i++) {
		addrs |= (uintptr_t)iov[i].iov_base;
		lens |= iov[i].iov_len;
	}
	return IS_ALIGNED(addrs, align_addr) && IS_ALIGNED(lens, align_len);
}

#endif
