/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/disk_change.h"

#include "base/error.h"
#include "daemon/change.h"
#include "daemon/status.h"

#include <stdlib.h>
#include <string.h>

static struct appliance *appliance_of(void *ctx)
{
	return ((struct status *)ctx)->appliance;
}

/* Takes over @d, also when it fails. @return the new disk, or NULL with @err. */
static struct disk_entry *add(struct appliance *a, struct disk_config *d, struct rpc_request *r,
			      struct rpc_error *err)
{
	struct device_files files;
	struct error why = { 0 };
	struct problems p = { 0 };

	config_check_disk(d, &p);
	if (!change_is_good(&p, err) || !change_is_free(a, d->name, d->socket.path, err) ||
	    !change_take_files(r, !d->socket.connect, d->file != NULL, &files, err)) {
		change_free(&disk_schema, d);
		return NULL;
	}
	if (appliance_add_disk(a, d, &files, &why) < 0) {
		change_free(&disk_schema, d);
		rpc_refuse(err, "%s", why.text);
		return NULL;
	}
	return appliance_find_disk(a, d->name);
}

json_t *disk_add_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	struct disk_config *d = change_read(&disk_schema, r->params, err);
	const struct disk_entry *e = d ? add(appliance_of(ctx), d, r, err) : NULL;

	if (!e)
		return NULL;
	change_log(r, "disk %s: added", e->config->name);
	return json_pack("{s:s, s:I, s:s}", "name", e->config->name, "capacity",
			 (json_int_t)blk_device_capacity(e->device), "how",
			 blk_device_how(e->device));
}

struct removal {
	struct rpc_reply *reply;
	char *socket; /* NULL: no file of ours */
};

static void removed(void *arg)
{
	struct removal *m = arg;

	rpc_finish(m->reply, json_pack("{s:s?}", "socket", m->socket), NULL);
	free(m->socket);
	free(m);
}

/* Is it fine to remove the disk? @return false with @err. */
static bool may_remove(const struct appliance *a, const struct disk_entry *e, bool force,
		       struct rpc_error *err)
{
	const char *name = e->config->name;

	if (a->closing)
		rpc_refuse(err, "sluiced is ending");
	else if (e->removed)
		rpc_refuse(err, "disk %s is being removed already; requests in flight have to end",
			   name);
	else if (e->device && !force &&
		 vhost_device_state(blk_device_vhost(e->device)) != VHOST_DEVICE_WAITING)
		rpc_refuse(err,
			   "disk %s is in use: a front-end is connected; have its guest give it up "
			   "and detach it there, or --force",
			   name);
	else
		return true;
	return false;
}

json_t *disk_remove_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	const struct appliance *a = appliance_of(ctx);
	struct disk_entry *e;
	struct removal *m;
	json_error_t wrong;
	const char *name;
	int force = 0;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s, s?b}", "disk", &name,
			   "force", &force) < 0)
		return rpc_refuse(err, "disk.remove takes \"disk\", a name, and perhaps \"force\"");
	e = appliance_find_disk(a, name);
	if (!e)
		return rpc_refuse(err, "there is no disk called \"%s\"", name);
	if (!may_remove(a, e, force, err))
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m || !(m->reply = rpc_later(r))) {
		free(m);
		return rpc_refuse(err, "out of memory");
	}
	if (e->config->socket.path && !e->config->socket.connect)
		m->socket = strdup(e->config->socket.path);
	change_log(r, "disk %s: removed", name);
	appliance_remove_disk(e, removed, m);
	return NULL;
}

struct replacement {
	struct rpc_reply *reply;
	const struct blk_device *device;
	uint64_t before; /* bytes */
};

static void replaced(void *arg)
{
	struct replacement *m = arg;

	rpc_finish(m->reply,
		   json_pack("{s:I, s:I}", "capacity", (json_int_t)blk_device_capacity(m->device),
			     "before", (json_int_t)m->before),
		   NULL);
	free(m);
}

/* The answer comes later, also that it has failed. */
static void replace(struct disk_entry *e, const char *file, struct rpc_request *r,
		    struct device_files *files, struct rpc_error *err)
{
	struct replacement *m = calloc(1, sizeof(*m));
	struct rpc_reply *reply = m ? rpc_later(r) : NULL;
	struct error why = { 0 };

	if (!reply) {
		image_file_close(&files->image);
		free(m);
		rpc_refuse(err, "out of memory");
		return;
	}
	*m = (struct replacement) { reply, e->device, blk_device_capacity(e->device) };
	if (blk_device_replace(e->device, file, &files->image, replaced, m, &why) == 0) {
		change_log(r, "disk %s: its image is %s now", e->config->name, file);
		return;
	}
	free(m);
	rpc_refuse(err, "%s", why.text);
	rpc_finish(reply, NULL, err);
}

json_t *disk_replace_serve(void *ctx, struct rpc_request *r, struct rpc_error *err)
{
	const struct appliance *a = appliance_of(ctx);
	struct device_files files;
	struct disk_entry *e;
	json_error_t wrong;
	const char *name, *file;

	if (!json_is_object(r->params) ||
	    json_unpack_ex((json_t *)r->params, &wrong, JSON_STRICT, "{s:s, s:s}", "disk", &name,
			   "file", &file) < 0)
		return rpc_refuse(err, "disk.replace takes \"disk\", a name, and \"file\", a path");
	e = appliance_find_disk(a, name);
	if (!e || !e->device || e->removed || a->closing)
		return rpc_refuse(err, "there is no open disk called \"%s\"", name);
	if (change_take_files(r, false, true, &files, err))
		replace(e, file, r, &files, err);
	return NULL;
}
