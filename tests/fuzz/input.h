/* SPDX-License-Identifier: Apache-2.0 */
/* A fuzzer's bytes, taken from the front; past the end everything reads as zero. */
#ifndef SLUICE_TESTS_FUZZ_INPUT_H
#define SLUICE_TESTS_FUZZ_INPUT_H

#include "base/compiler.h"

#include <string.h>

struct input {
	const uint8_t *at, *end;
};

static inline size_t in_left(const struct input *in)
{
	return (size_t)(in->end - in->at);
}

/* Up to @len bytes to @to, the rest of which is cleared. */
static inline void in_bytes(struct input *in, void *to, size_t len)
{
	size_t n = MIN(len, in_left(in));

	memcpy(to, in->at, n);
	memset((uint8_t *)to + n, 0, len - n);
	in->at += n;
}

static inline uint8_t in_u8(struct input *in)
{
	uint8_t v;

	in_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint16_t in_u16(struct input *in)
{
	uint16_t v;

	in_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint32_t in_u32(struct input *in)
{
	uint32_t v;

	in_bytes(in, &v, sizeof(v));
	return v;
}

static inline uint64_t in_u64(struct input *in)
{
	uint64_t v;

	in_bytes(in, &v, sizeof(v));
	return v;
}

/* What every target defines; @return 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An invariant does not hold: says so and aborts, in every kind of build. */
#define FUZZ_CHECK(cond, ...)                                                  \
	do {                                                                   \
		if (unlikely(!(cond)))                                         \
			fuzz_fail(__FILE__, __LINE__, #cond, " " __VA_ARGS__); \
	} while (0)
void fuzz_fail(const char *file, int line, const char *cond, const char *fmt, ...)
	__attribute__((noreturn)) PRINTF_LIKE(4, 5);

#endif
