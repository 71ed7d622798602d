/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/status.h"

#include "base/clock.h"
#include "daemon/config_show.h"
#include "daemon/features.h"
#include "daemon/privilege.h"
#include "poll/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLE_US 1000000

static struct status_sample sample(const struct worker *w)
{
	return (struct status_sample) { clock_cycles(),
					counter_read(&worker_stats(w)->cycles_busy) };
}

static int take_samples(sd_event_source *timer, uint64_t usec, void *arg)
{
	struct status *s = arg;
	struct status_sample *old = s->before;

	(void)usec;
	s->before = s->last;
	s->last = old;
	for (unsigned i = 0; i < s->n_workers; i++)
		s->last[i] = sample(workers_get(s->appliance->workers, i));
	sd_event_source_set_time_relative(timer, SAMPLE_US);
	sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
	return 0;
}

int status_start(struct status *s, struct appliance *a)
{
	s->appliance = a;
	s->n_workers = workers_count(a->workers);
	s->last = calloc(s->n_workers, sizeof(*s->last));
	s->before = calloc(s->n_workers, sizeof(*s->before));
	if (!s->last || !s->before)
		return -ENOMEM;
	for (unsigned i = 0; i < s->n_workers; i++)
		s->last[i] = s->before[i] = sample(workers_get(a->workers, i));
	return sd_event_add_time_relative(control_event(), &s->timer, CLOCK_MONOTONIC, SAMPLE_US,
					  SAMPLE_US / 4, take_samples, s);
}

void status_stop(struct status *s)
{
	s->timer = sd_event_source_disable_unref(s->timer);
	free(s->last);
	free(s->before);
	s->last = s->before = NULL;
}

static json_t *count(const counter_t *c)
{
	return json_integer((json_int_t)counter_read(c));
}

/* Takes over @value; a NULL is left out. */
static void put(json_t *to, const char *key, json_t *value)
{
	if (value)
		json_object_set_new(to, key, value);
}

/* A user's text need not be UTF-8 (a path): then it is left out, not the whole reply. */
static void put_text(json_t *to, const char *key, const char *text)
{
	if (text)
		put(to, key, json_string(text));
}

static void put_number(json_t *to, const char *key, uint64_t value)
{
	put(to, key, json_integer((json_int_t)value));
}

static json_t *worker_json(const struct status *s, unsigned i)
{
	const struct worker *w = workers_get(s->appliance->workers, i);
	const struct worker_stats *stats = worker_stats(w);
	const struct status_sample now = sample(w), then = s->before[i];
	double busy = 100.0 * (double)(now.busy - then.busy) / (double)(now.cycles - then.cycles);
	json_t *j = json_object();
	int cpu = worker_cpu(w);

	put_number(j, "index", i);
	put(j, "cpu", cpu < 0 ? json_null() : json_integer(cpu));
	put_number(j, "pollers", worker_n_pollers(w));
	put_number(j, "active", worker_n_active(w));
	put(j, "busy_percent", json_real(MIN(busy, 100.0)));
	put(j, "rounds", count(&stats->rounds));
	put(j, "rounds_idle", count(&stats->rounds_idle));
	put(j, "sleeps", count(&stats->sleeps));
	put(j, "wakes", count(&stats->wakes));
	put(j, "submits", count(&stats->submits));
	return j;
}

static json_t *queue_json(const struct virtqueue *vq)
{
	static const char *const states[] = {
		[VIRTQUEUE_STOPPED] = "stopped",
		[VIRTQUEUE_RUNNING] = "running",
		[VIRTQUEUE_STOPPING] = "stopping",
	};
	const struct ring *r = &vq->ring;
	const char *broken = __atomic_load_n(&r->broken, __ATOMIC_RELAXED);
	uint64_t popped = counter_read(&r->stats.popped), pushed = counter_read(&r->stats.pushed);
	json_t *j = json_object();

	put_number(j, "index", vq->index);
	put_text(j, "state", states[vq->state]);
	if (vq->state != VIRTQUEUE_STOPPED) {
		put_number(j, "size", r->size);
		put_text(j, "layout", r->layout == RING_PACKED ? "packed" : "split");
		if (vq->worker)
			put_number(j, "worker", worker_index(vq->worker));
	}
	put(j, "enabled", json_boolean(__atomic_load_n(&vq->enabled, __ATOMIC_RELAXED)));
	put_text(j, "broken", broken);
	put_number(j, "popped", popped);
	put_number(j, "pushed", pushed);
	put(j, "calls", count(&r->stats.calls));
	put(j, "calls_spared", count(&r->stats.calls_spared));
	put(j, "calls_failed", count(&r->stats.calls_failed));
	put(j, "kicks_on", count(&r->stats.kicks_on));
	put(j, "done_again", count(&r->stats.again));
	return j;
}

static const char *state_name(const struct vhost_device *d)
{
	switch (vhost_device_state(d)) {
	case VHOST_DEVICE_WAITING:
		return "waiting";
	case VHOST_DEVICE_CONNECTED:
		return "connected";
	case VHOST_DEVICE_RUNNING:
		return "running";
	}
	return "unknown";
}

/* What every vhost-user device has, into the device's own object. */
static void put_vhost(json_t *j, const struct vhost_device *d, enum feature_set set)
{
	json_t *queues = json_array(), *front_end = json_object();

	put_text(j, "state", state_name(d));
	put(front_end, "connects", count(&d->stats.connects));
	put(front_end, "messages", count(&d->stats.messages));
	put(front_end, "messages_refused", count(&d->stats.messages_refused));
	put(front_end, "queues_broken", count(&d->stats.queues_broken));
	put(front_end, "iotlb_misses", count(&d->stats.iotlb_misses));
	put(front_end, "memory_lost", count(&d->stats.memory_lost));
	put(front_end, "throttled", count(&d->stats.throttled));
	put(front_end, "pages_awaited", count(&d->stats.pages_awaited));
	put(front_end, "features", features_json(set, d->features));
	put(front_end, "protocol_features", features_json(FEATURES_PROTOCOL, d->protocol_features));
	put_number(front_end, "memory_bytes", d->map ? mem_map_bytes(d->map) : 0);
	put_number(front_end, "memory_regions", d->map ? d->map->n : 0);
	put(j, "front_end", front_end);
	for (unsigned i = 0; i < d->n_queues; i++)
		json_array_append_new(queues, queue_json(&d->queues[i]));
	put(j, "queues", queues);
}

static void put_failure(json_t *j, const char *failure)
{
	put_text(j, "state", "failed");
	put_text(j, "error", failure);
}

/* What the disk behind it did not do, or has not done for long. */
static void put_faults(json_t *j, const struct blk_stats *s)
{
	json_t *f;

	if (s->fault_error) {
		f = json_pack("{s:s, s:i, s:s, s:I, s:f}", "reason", strerror(s->fault_error),
			      "errno", s->fault_error, "operation", s->fault_kind, "sector",
			      (json_int_t)s->fault_sector, "ago_s", (double)s->fault_ago_ns / 1e9);
		put(j, "last_fault", f);
	}
	if (s->lost_error)
		put(j, "lost",
		    json_pack("{s:s, s:i}", "reason", strerror(s->lost_error), "errno",
			      s->lost_error));
	if (s->waiting)
		put(j, "stopped",
		    json_pack("{s:I, s:f}", "requests", (json_int_t)s->waiting, "since_s",
			      (double)s->waiting_ns / 1e9));
	if (s->away_ns)
		put(j, "server",
		    json_pack("{s:s, s:f, s:s}", "state", "away", "since_s",
			      (double)s->away_ns / 1e9, "reason", s->away_why));
	if (s->slow)
		put(j, "no_answer",
		    json_pack("{s:I, s:s, s:I, s:f}", "requests", (json_int_t)s->slow, "operation",
			      s->slowest, "sector", (json_int_t)s->slowest_sector, "since_s",
			      (double)s->slowest_ns / 1e9));
}

static json_t *blk_counters_json(json_t *disk, const struct blk_device *b)
{
	struct blk_stats s;
	json_t *j = json_object();

	blk_device_stats(b, &s);
	put_faults(disk, &s);
	put_number(j, "reads", s.reads);
	put_number(j, "writes", s.writes);
	put_number(j, "flushes", s.flushes);
	put_number(j, "discards", s.discards);
	put_number(j, "write_zeroes", s.zeroes);
	put_number(j, "discarded_bytes", s.discarded_bytes);
	put_number(j, "zeroed_bytes", s.zeroed_bytes);
	put_number(j, "secure_erases", s.erases);
	put_number(j, "erased_bytes", s.erased_bytes);
	put_number(j, "get_ids", s.get_ids);
	put_number(j, "get_lifetimes", s.get_lifetimes);
	put_number(j, "read_bytes", s.read_bytes);
	put_number(j, "write_bytes", s.write_bytes);
	put_number(j, "errors", s.errors);
	put_number(j, "unsupported", s.unsupported);
	put_number(j, "malformed", s.malformed);
	put_number(j, "in_flight", s.in_flight);
	put_number(j, "bounced", s.bounced);
	put_number(j, "held", s.held);
	put_number(j, "held_now", s.held_now);
	put_number(j, "throttled_ms", s.throttled_ns / 1000000);
	put_number(j, "kicks_on", s.kicks_on);
	put_number(j, "calls", s.calls);
	put_number(j, "calls_spared", s.calls_spared);
	return j;
}

static void put_limit(const char *key, uint64_t value, void *j)
{
	put_number(j, key, value);
}

json_t *limit_json(const struct blk_limits *l)
{
	json_t *j = json_object();

	limit_for_each(l, put_limit, j);
	return j;
}

static json_t *disk_json(const struct disk_entry *e)
{
	const struct disk_config *c = e->config;
	json_t *j = json_object();

	put_text(j, "name", c->name);
	put_text(j, "socket", c->socket.path);
	put_text(j, "kind", c->file ? "file" : c->nbd ? "nbd" : c->null_size ? "null" : "ram");
	put_text(j, "file", e->device ? blk_device_config(e->device)->file : c->file);
	put(j, "read_only", json_boolean(c->read_only));
	put(j, "discard", json_boolean(c->discard && !c->read_only));
	put(j, "added", json_boolean(e->own != NULL));
	if (e->removed)
		put(j, "removing", json_true());
	if (!e->device) {
		put_failure(j, e->failure);
		return j;
	}
	put_number(j, "capacity", blk_device_capacity(e->device));
	put_text(j, "how", blk_device_how(e->device));
	put_text(j, "on_error", c->on_error == DISK_ERROR_STOP ? "stop" : "report");
	put_text(j, "write_cache", blk_device_write_cache(e->device));
	put(j, "limit", limit_json(&blk_device_config(e->device)->limits));
	put_vhost(j, blk_device_vhost(e->device), FEATURES_BLK);
	put(j, "counters", blk_counters_json(j, e->device));
	return j;
}

/* "counters" are all there are; "drops" those of dropped frames that have counted any. */
static void put_port_counters(json_t *port, const struct port *p, unsigned n_workers)
{
	struct port_stats s;
	json_t *j = json_object(), *drops = json_object();
	uint64_t dropped = 0;

	port_stats_sum(p, n_workers, &s);
	for (unsigned i = 0; i < port_n_counters; i++) {
		uint64_t n = port_stats_get(&s, i);

		put_number(j, port_counters[i].name, n);
		if (port_counters[i].drop && n) {
			put_number(drops, port_counters[i].name, n);
			dropped += n;
		}
	}
	put_number(j, "dropped", dropped);
	put(port, "counters", j);
	put(port, "drops", drops);
}

/* What holds now, as the configuration says it. */
static void put_rules(json_t *j, const struct port_entry *e)
{
	static const unsigned fields[] = { PORT_VLAN_ACCESS, PORT_TRUNK, PORT_NATIVE,
					   PORT_MACS,	     PORT_IPS,	 PORT_STATIC_MACS,
					   PORT_MAC_MAX,     PORT_LIMIT, PORT_FLOOD_LIMIT };
	json_t *now = config_show_port(e);

	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		const char *key = port_schema.fields[fields[i]].key;

		put(j, key, json_incref(json_object_get(now, key)));
	}
	put(j, "isolated", json_boolean(port_config_now(e)->isolated));
	json_decref(now);
}

static json_t *port_json(const struct port_entry *e, unsigned n_workers)
{
	const struct port_config *c = port_config_now(e);
	json_t *j = json_object();
	char mac[18];

	put_text(j, "name", c->name);
	put_text(j, "kind", c->dpdk ? "dpdk" : "guest");
	put(j, "added", json_boolean(e->own != NULL));
	if (e->removed)
		put(j, "removing", json_true());
	put_text(j, "socket", c->socket.path);
	put_text(j, "device", c->dpdk);
	if (schema_given(c, PORT_MAC)) {
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", c->mac[0], c->mac[1],
			 c->mac[2], c->mac[3], c->mac[4], c->mac[5]);
		put_text(j, "mac", mac);
	}
	if (c->mtu)
		put_number(j, "mtu", c->mtu);
	if (c->speed)
		put_number(j, "speed", c->speed);
	put_rules(j, e);
	if (e->guest || e->dpdk)
		put(j, "up",
		    json_boolean(!port_is_down(e->guest ? net_device_port(e->guest)
							: dpdk_port_port(e->dpdk))));
	if (e->guest) {
		put_vhost(j, net_device_vhost(e->guest), FEATURES_NET);
		put_port_counters(j, net_device_port(e->guest), n_workers);
	} else if (e->dpdk) {
		put_text(j, "state", "running");
		put_text(j, "how", dpdk_port_how(e->dpdk));
		put_port_counters(j, dpdk_port_port(e->dpdk), n_workers);
	} else {
		put_failure(j, e->failure);
	}
	return j;
}

/* Guests fill the table: more would only cost the control thread time and memory. */
#define MACS_MAX 1000

static void mac_json(const uint8_t mac[6], uint16_t vlan, const struct port *p, unsigned age_s,
		     void *arg)
{
	json_t *j;
	char text[18];

	if (json_array_size(arg) == MACS_MAX)
		return;
	j = json_object();

	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
	put_text(j, "mac", text);
	if (vlan)
		put_number(j, "vlan", vlan);
	put_text(j, "port", p->name);
	put_number(j, "age_s", age_s);
	json_array_append_new(arg, j);
}

/* The addresses that @sw knows, and how many more there are. */
static void put_macs(json_t *j, const struct net_switch *sw, uint64_t n)
{
	json_t *macs = json_array();

	switch_for_each_mac(sw, mac_json, macs);
	if (n > MACS_MAX)
		put_number(j, "macs_left_out", n - MACS_MAX);
	put(j, "macs", macs);
}

static json_t *network_json(const struct network_entry *n, unsigned n_workers, bool with_macs)
{
	json_t *j = json_object(), *ports = json_array();
	const struct port_entry *p;
	struct switch_stats s = { 0 };

	put_text(j, "name", n->config->name);
	if (n->sw)
		switch_stats(n->sw, &s);
	put_number(j, "addresses", s.macs);
	put(j, "counters",
	    json_pack("{s:I, s:I, s:I, s:I, s:I}", "flooded", (json_int_t)s.flooded, "learned",
		      (json_int_t)s.learned, "moved", (json_int_t)s.moved, "aged",
		      (json_int_t)s.aged, "table_full", (json_int_t)s.table_full));
	if (n->sw && with_macs)
		put_macs(j, n->sw, s.macs);
	TAILQ_FOREACH (p, &n->ports, link) {
		json_array_append_new(ports, port_json(p, n_workers));
	}
	put(j, "ports", ports);
	return j;
}

json_t *version_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	(void)ctx, (void)params, (void)err;
	/* Whom a socket file that is made for us has to belong to. */
	return json_pack("{s:s, s:s, s:I, s:I}", "name", "sluiced", "version", SLUICE_VERSION,
			 "uid", (json_int_t)getuid(), "gid", (json_int_t)getgid());
}

static json_t *sandbox_json(const struct confinement *c)
{
	json_t *j = json_object();

	put_text(j, "seccomp", c->seccomp);
	put_number(j, "landlock", (uint64_t)c->landlock);
	put_text(j, "why", c->why);
	return j;
}

json_t *status_call(void *ctx, const json_t *params, struct rpc_error *err)
{
	const struct status *s = ctx;
	const struct appliance *a = s->appliance;
	json_t *j, *workers, *disks, *networks;
	const struct network_entry *n;
	const struct disk_entry *d;
	const char *macs = NULL;
	json_error_t wrong;

	if (json_array_size(params) ||
	    (json_is_object(params) &&
	     json_unpack_ex((json_t *)params, &wrong, JSON_STRICT, "{s?s}", "macs", &macs) < 0))
		return rpc_refuse(err, "status takes no parameters, or \"macs\", the name of a "
				       "network whose addresses are to be listed");
	j = json_object();
	workers = json_array();
	disks = json_array();
	networks = json_array();
	put_text(j, "version", SLUICE_VERSION);
	put_number(j, "pid", (uint64_t)getpid());
	put(j, "uptime_s", json_real((double)(clock_ns() - a->started_ns) / 1e9));
	put_text(j, "user", a->identity->user);
	put_text(j, "config", a->config_file);
	put(j, "sandbox", sandbox_json(&a->confinement));
	for (unsigned i = 0; i < s->n_workers; i++)
		json_array_append_new(workers, worker_json(s, i));
	put(j, "workers", workers);
	TAILQ_FOREACH (n, &a->networks, link) {
		json_array_append_new(
			networks,
			network_json(n, s->n_workers, macs && strcmp(macs, n->config->name) == 0));
	}
	put(j, "networks", networks);
	TAILQ_FOREACH (d, &a->disks, link) {
		json_array_append_new(disks, disk_json(d));
	}
	put(j, "disks", disks);
	return j;
}
