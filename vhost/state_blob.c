/* SPDX-License-Identifier: Apache-2.0 */
#include "vhost/state_blob.h"

#include "base/error.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

struct header {
	char magic[8];
	uint32_t version, device_id, fields, reserved;
};
static_assert(sizeof(struct header) == 24, "wire");

struct field {
	uint16_t tag, len;
};
static_assert(sizeof(struct field) == 4, "wire");

static const char magic[8] = { 's', 'l', 'u', 'i', 'c', 'e', 's', 't' };

void state_begin(struct state_blob *b, uint32_t device_id)
{
	struct header h = { .version = htole32(STATE_VERSION), .device_id = htole32(device_id) };

	memcpy(h.magic, magic, sizeof(magic));
	memcpy(b->bytes, &h, sizeof(h));
	b->len = sizeof(h);
}

void state_put(struct state_blob *b, unsigned tag, const void *data, unsigned len)
{
	struct field f = { .tag = htole16((uint16_t)tag), .len = htole16((uint16_t)len) };
	uint32_t fields;

	assert(len <= UINT16_MAX && b->len + sizeof(f) + len <= STATE_MAX);
	memcpy(b->bytes + b->len, &f, sizeof(f));
	memcpy(b->bytes + b->len + sizeof(f), data, len);
	b->len += (uint32_t)sizeof(f) + len;
	fields = htole32(b->len - (uint32_t)sizeof(struct header));
	memcpy(b->bytes + offsetof(struct header, fields), &fields, sizeof(fields));
}

/* The field at @at, which is followed by @len bytes of its own. @return false: cut off. */
static bool field_at(const struct state_blob *b, uint32_t at, struct field *f)
{
	if (b->len - at < sizeof(*f))
		return false;
	memcpy(f, b->bytes + at, sizeof(*f));
	f->tag = le16toh(f->tag);
	f->len = le16toh(f->len);
	return f->len <= b->len - at - sizeof(*f);
}

static int header_check(const struct state_blob *b, uint32_t device_id, struct error *err)
{
	struct header h;

	if (b->len < sizeof(h))
		return error_set(err, -EBADMSG, "a state of %u bytes is none: it was cut off",
				 b->len);
	memcpy(&h, b->bytes, sizeof(h));
	if (memcmp(h.magic, magic, sizeof(magic)) != 0)
		return error_set(err, -EBADMSG, "the state is not one of sluiced's");
	if (le32toh(h.version) == 0 || h.reserved)
		return error_set(err, -EBADMSG, "the state's header is not right");
	if (le32toh(h.device_id) != device_id)
		return error_set(err, -EINVAL,
				 "the state is that of a virtio device of kind %u, and this one "
				 "is of kind %u",
				 le32toh(h.device_id), device_id);
	if (le32toh(h.fields) != b->len - sizeof(h))
		return error_set(err, -EBADMSG, "the state has %u bytes instead of the %u it says",
				 b->len - (uint32_t)sizeof(h), le32toh(h.fields));
	return 0;
}

int state_check(const struct state_blob *b, uint32_t device_id, const uint16_t *known,
		unsigned n_known, struct error *err)
{
	uint64_t seen = 0;
	struct field f;

	assert(n_known < 64);
	if (header_check(b, device_id, err) < 0)
		return err->code;
	for (uint32_t at = sizeof(struct header); at < b->len; at += sizeof(f) + f.len) {
		unsigned i = 0;

		if (!field_at(b, at, &f))
			return error_set(err, -EBADMSG, "a field of the state is cut off");
		while (i < n_known && known[i] != f.tag)
			i++;
		if (i == n_known && !(f.tag & STATE_OPTIONAL))
			return error_set(err, -EOPNOTSUPP,
					 "the state has a field (%u) that this sluiced does not "
					 "know: the source's is newer",
					 f.tag);
		if (i < n_known && (seen & UINT64_C(1) << i))
			return error_set(err, -EBADMSG, "a field of the state is there twice");
		if (i < n_known)
			seen |= UINT64_C(1) << i;
	}
	return 0;
}

bool state_has(const struct state_blob *b, unsigned tag)
{
	struct field f;

	for (uint32_t at = sizeof(struct header); at < b->len && field_at(b, at, &f);
	     at += sizeof(f) + f.len)
		if (f.tag == tag)
			return true;
	return false;
}

bool state_get(const struct state_blob *b, unsigned tag, void *data, unsigned len)
{
	struct field f;

	for (uint32_t at = sizeof(struct header); at < b->len && field_at(b, at, &f);
	     at += sizeof(f) + f.len) {
		if (f.tag != tag || f.len != len)
			continue;
		memcpy(data, b->bytes + at + sizeof(f), len);
		return true;
	}
	return false;
}
