/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of few bytes, in line: a call of memcpy() costs as much as the bytes of a small frame. */
#ifndef SLUICE_BASE_COPY_H
#define SLUICE_BASE_COPY_H

#include "base/compiler.h"

#include <stdint.h>
#include <string.h>

/* More than that is memcpy()'s to do. */
#define COPY_INLINE_MAX 64

/* As memcpy(). Each byte is read once. */
HOT void copy_bytes(void *to, const void *from, size_t n)
{
	const uint8_t *in = from;
	uint8_t *out = to;

	if (unlikely(n > COPY_INLINE_MAX)) {
		memcpy(to, from, n);
		return;
	}
	for (size_t left = n / 16; left > 0; left--, in += 16, out += 16)
		memcpy(out, in, 16);
	if (n & 8) {
		memcpy(out, in, 8);
		in += 8;
		out += 8;
	}
	if (n & 4) {
		memcpy(out, in, 4);
		in += 4;
		out += 4;
	}
	if (n & 2) {
		memcpy(out, in, 2);
		in += 2;
		out += 2;
	}
	if (n & 1)
		memcpy(out, in, 1); /* by its name, which tests put theirs in the place of */
}

#endif
