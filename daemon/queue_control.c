/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/queue_control.h"

#include "base/log.h"
#include "daemon/status.h"

#include <string.h>

/* The open disk or guest port called @name; NULL: none. */
static const struct vhost_device *find_device(const struct appliance *a, const char *name)
{
	const struct disk_entry *d;
	const struct network_entry *n;
	const struct port_entry *p;

	TAILQ_FOREACH (d, &a->disks, link) {
		if (d->device && strcmp(blk_device_vhost(d->device)->name, name) == 0)
			return blk_device_vhost(d->device);
	}
	TAILQ_FOREACH (n, &a->networks, link) {
		TAILQ_FOREACH (p, &n->ports, link) {
			if (p->guest && strcmp(net_device_vhost(p->guest)->name, name) == 0)
				return net_device_vhost(p->guest);
		}
	}
	return NULL;
}

json_t *queue_move_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct appliance *a = ((const struct status *)ctx)->appliance;
	const struct vhost_device *d;
	json_int_t queue, worker;
	json_error_t wrong;
	const char *name;
	bool moved;

	if (!json_is_object(params) ||
	    json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s:s, s:I, s:I}", "device",
			   &name, "queue", &queue, "worker", &worker) < 0)
		return rpc_refuse(err, "queue.move takes \"device\", a name, and \"queue\" and "
				       "\"worker\", numbers");
	d = find_device(a, name);
	if (!d)
		return rpc_refuse(err, "there is no open disk or guest port called \"%s\"", name);
	if (queue < 0 || queue >= d->n_queues)
		return rpc_refuse(err, "%s has queues 0 to %u, and no %" JSON_INTEGER_FORMAT, name,
				  d->n_queues - 1, queue);
	if (worker < 0 || worker >= workers_count(a->workers))
		return rpc_refuse(err, "there are workers 0 to %u, and no %" JSON_INTEGER_FORMAT,
				  workers_count(a->workers) - 1, worker);
	moved = vhost_queue_move(&d->queues[queue], workers_get(a->workers, (unsigned)worker));
	log_info("%s moves to worker %d", d->queues[queue].name, (int)worker);
	return json_pack("{s:b}", "moved", moved);
}
