/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/change.h"

#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool change_is_good(struct problems *p, struct rpc_error *err)
{
	size_t used = 0;

	if (p->n == 0)
		return true;
	rpc_refuse(err, "%s", "");
	for (unsigned i = 0; i < p->n && used < sizeof(err->text); i++)
		used += (size_t)snprintf(err->text + used, sizeof(err->text) - used, "%s%s",
					 i ? "; " : "", p->text[i]);
	problems_free(p);
	return false;
}

void *change_read(const struct schema *s, const json_t *params, struct rpc_error *err)
{
	/* JSON is YAML: the same walker reads what a file says and what a request does. */
	char *text = json_is_object(params) ? json_dumps(params, 0) : NULL;
	struct problems p = { 0 };
	void *obj = text ? malloc(s->size) : NULL;

	if (!obj) {
		free(text);
		rpc_refuse(err, "the parameters are an object of the keys of sluice.yaml(5)");
		return NULL;
	}
	schema_init(s, obj, "", 0);
	schema_load(s, obj, text, strlen(text), &p);
	free(text);
	if (change_is_good(&p, err))
		return obj;
	change_free(s, obj);
	return NULL;
}

void change_free(const struct schema *s, void *obj)
{
	if (obj)
		schema_free(s, obj);
	free(obj);
}

bool change_is_free(const struct appliance *a, const char *name, const char *socket,
		    struct rpc_error *err)
{
	char other[80];

	if (a->closing) {
		rpc_refuse(err, "sluiced is ending");
		return false;
	}
	if (!appliance_taken(a, name, socket, other))
		return true;
	rpc_refuse(err, "%s: there is %s already with this name or socket; choose others", name,
		   other);
	return false;
}

bool change_take_files(struct rpc_request *r, bool socket, bool image, struct device_files *out,
		       struct rpc_error *err)
{
	unsigned least = socket + image, most = least + image, n = r->fds->n;

	*out = (struct device_files) { -1, { -1, -1 } };
	if (n < least || n > most) {
		rpc_refuse(err,
			   "%u descriptors came along, and this takes %s%s%s; the command line "
			   "of this version opens and sends them",
			   n, least == 0 ? "none" : "", socket ? "a bound socket" : "",
			   !image   ? ""
			   : socket ? " and an image, opened"
				    : "an image, opened");
		return false;
	}
	if (socket)
		out->socket = rpc_fds_take(r->fds, 0);
	if (image) {
		out->image.fd = rpc_fds_take(r->fds, socket);
		out->image.fd_buffered = rpc_fds_take(r->fds, socket + 1);
	}
	return true;
}

void change_log(const struct rpc_request *r, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_info("%s, by user %d (process %d)", text, (int)r->peer.uid, (int)r->peer.pid);
}
