/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that tell of guest memory. A map that is refused leaves the old one in place. */
#include "vhost/postcopy.h"
#include "vhost/session.h"

#include <errno.h>
#include <inttypes.h>

/* GPA_ADDRESSES: where user addresses are asked for, rings among them, guest addresses come. */
static struct mem_region_desc region_desc(const struct vhost_session *s,
					  const struct vhost_user_region *r)
{
	bool gpa = session_negotiated(s, VHOST_USER_PROTOCOL_F_GPA_ADDRESSES);

	return (struct mem_region_desc) { .gpa = r->guest_addr,
					  .size = r->size,
					  .uva = gpa ? r->guest_addr : r->user_addr,
					  .offset = r->mmap_offset };
}

int handle_set_mem_table(struct vhost_session *s, struct message *m, struct error *err)
{
	const struct vhost_user_memory *table = &m->payload.memory;
	struct mem_map *map = NULL;
	uint64_t bytes = 0;

	if (memory_changed(s))
		return 0;
	if (table->n_regions > VHOST_USER_MEMORY_REGIONS)
		return error_set(err, -EINVAL, "it has %" PRIu32 " regions; the most is %d",
				 table->n_regions, VHOST_USER_MEMORY_REGIONS);
	/* Some front-ends send the table at its full length whatever it holds. */
	if (m->hdr.size != VHOST_USER_MEMORY_SIZE(table->n_regions) &&
	    m->hdr.size != sizeof(*table))
		return error_set(err, -EBADMSG,
				 "its payload has %" PRIu32
				 " bytes, which is not right for %" PRIu32 " regions",
				 m->hdr.size, table->n_regions);
	if (m->n_fds != table->n_regions)
		return error_set(err, -EBADMSG,
				 "it has %" PRIu32 " regions and %u file descriptors",
				 table->n_regions, m->n_fds);

	for (unsigned i = 0; i < table->n_regions; i++) {
		struct mem_region_desc desc = region_desc(s, &table->regions[i]);

		bytes += mem_bytes_to_map(s->device->map, &desc, m->fds[i]);
	}
	if (memory_must_wait(s, bytes))
		return HANDLER_LATER;
	postcopy_memory(s);
	for (unsigned i = 0; i < table->n_regions; i++) {
		struct mem_region_desc desc = region_desc(s, &table->regions[i]);
		struct mem_map *next = mem_map_add_shared(s->device->account, map, s->device->map,
							  &desc, m->fds[i], err);

		mem_map_free(map);
		if (!next)
			return err->code;
		map = next;
	}
	if (postcopy_on(s->device)) {
		if (postcopy_take(s, map, err) < 0) {
			mem_map_free(map);
			return err->code;
		}
		for (unsigned i = 0; i < table->n_regions; i++)
			postcopy_answer(map, &m->payload.memory.regions[i]);
		m->reply_size = m->hdr.size;
	}
	return memory_change(s, map, err);
}

/*
 * QEMU before 8.0 says everything once for each pair of a network card's queues: what is there
 * already is added again, and what is gone is removed again. Both leave the map as it was asked
 * for.
 */
int handle_add_mem_reg(struct vhost_session *s, struct message *m, struct error *err)
{
	struct mem_region_desc desc = region_desc(s, &m->payload.region.region);
	struct mem_map *map;

	postcopy_memory(s);
	m->reply_size = m->hdr.size;
	if (mem_map_has(s->device->map, &desc, m->fds[0])) {
		postcopy_answer(s->device->map, &m->payload.region.region);
		return 0;
	}
	if (memory_must_wait(s, mem_bytes_to_map(NULL, &desc, m->fds[0])))
		return HANDLER_LATER;
	map = mem_map_add(s->device->account, s->device->map, &desc, m->fds[0], err);
	if (!map)
		return err->code;
	if (postcopy_on(s->device) && postcopy_take(s, map, err) < 0) {
		mem_map_free(map);
		return err->code;
	}
	postcopy_answer(map, &m->payload.region.region);
	return memory_change(s, map, err);
}

/* A descriptor that comes along is closed unused (vhost-user "VHOST_USER_REM_MEM_REG"). */
int handle_rem_mem_reg(struct vhost_session *s, struct message *m, struct error *err)
{
	struct mem_region_desc desc = region_desc(s, &m->payload.region.region);
	struct mem_map *map;

	if (memory_changed(s))
		return 0;
	if (!mem_map_overlaps(s->device->map, &desc))
		return 0;
	map = mem_map_remove(s->device->map, &desc, err);
	if (!map)
		return err->code;
	return memory_change(s, map, err);
}

int handle_get_max_mem_slots(struct vhost_session *s, struct message *m, struct error *err)
{
	(void)s;
	(void)err;
	m->payload.u64 = MEM_SLOTS_MAX;
	m->reply_size = sizeof(m->payload.u64);
	return 0;
}
