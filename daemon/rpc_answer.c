/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON-RPC 2.0 request to its reply; rpc.c moves the bytes. */
#include "daemon/rpc_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* @id is borrowed. A reply that cannot be built (out of memory) is NULL, as for a notification. */
static char *to_text(json_t *reply)
{
	char *text = reply ? json_dumps(reply, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0;
	char *line = text ? malloc(len + 2) : NULL;

	if (line) {
		memcpy(line, text, len);
		line[len] = '\n';
		line[len + 1] = '\0';
	}
	free(text);
	json_decref(reply);
	return line;
}

/* @return how many bytes the UTF-8 character at @c has (RFC 3629); 0: there is none. */
static unsigned character_at(const unsigned char *c)
{
	unsigned more = c[0] < 0x80 ? 0 : c[0] < 0xe0 ? 1 : c[0] < 0xf0 ? 2 : 3;

	if ((c[0] >= 0x80 && c[0] < 0xc2) || c[0] > 0xf4)
		return 0;
	for (unsigned i = 1; i <= more; i++)
		if (c[i] < 0x80 || c[i] > 0xbf)
			return 0;
	if ((c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xed && c[1] > 0x9f) ||
	    (c[0] == 0xf0 && c[1] < 0x90) || (c[0] == 0xf4 && c[1] > 0x8f))
		return 0;
	return 1 + more;
}

/*
 * What is no character of UTF-8 is left out: mostly it is the beginning of one, that did not fit.
 * A reply that cannot be made would leave the caller waiting.
 */
static json_t *whole_characters(const char *text)
{
	char *copy = strdup(text), *to = copy;
	json_t *j;

	if (!copy)
		return NULL;
	for (const char *from = text; *from;) {
		unsigned n = character_at((const unsigned char *)from);

		memcpy(to, from, n);
		to += n;
		from += n ? n : 1;
	}
	*to = '\0';
	j = json_string(copy);
	free(copy);
	return j;
}

static char *error_reply(json_t *id, int code, const char *text)
{
	json_t *message = whole_characters(text);

	return to_text(json_pack("{s:s, s:O, s:{s:i, s:o}}", "jsonrpc", "2.0", "id",
				 id ? id : json_null(), "error", "code", code, "message", message));
}

json_t *rpc_refuse(struct rpc_error *err, const char *fmt, ...)
{
	va_list args;

	err->code = RPC_INVALID_PARAMS;
	va_start(args, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, args);
	va_end(args);
	return NULL;
}

static const struct rpc_method *find_method(const struct rpc_config *cfg, const char *name)
{
	for (const struct rpc_method *m = cfg->methods; m->name; m++)
		if (strcmp(m->name, name) == 0)
			return m;
	return NULL;
}

static char *no_method(const struct rpc_config *cfg, json_t *id, const char *name)
{
	char text[480];
	size_t used = (size_t)snprintf(text, sizeof(text), "there is no method \"%.60s\"; there is",
				       name);

	for (const struct rpc_method *m = cfg->methods; m->name && used < sizeof(text); m++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %s",
					 m == cfg->methods ? "" : ",", m->name);
	return error_reply(id, RPC_METHOD_NOT_FOUND, text);
}

/* @return what makes @request no request of JSON-RPC 2.0, or NULL. */
static const char *request_wrong(const json_t *request)
{
	const json_t *version = json_object_get(request, "jsonrpc");
	const json_t *id = json_object_get(request, "id");
	const json_t *params = json_object_get(request, "params");

	if (json_is_array(request))
		return "batches are not supported; send one request a line";
	if (!json_is_object(request))
		return "a request is an object";
	if (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0)
		return "\"jsonrpc\" must be \"2.0\"";
	if (id && !json_is_string(id) && !json_is_number(id) && !json_is_null(id))
		return "\"id\" must be a string, a number or null";
	if (!json_is_string(json_object_get(request, "method")))
		return "\"method\" must be a string";
	if (params && !json_is_object(params) && !json_is_array(params))
		return "\"params\" must be an object or an array";
	return NULL;
}

struct rpc_reply *rpc_later(struct rpc_request *r)
{
	r->later = calloc(1, sizeof(*r->later));
	if (r->later)
		r->later->id = r->id ? json_deep_copy(r->id) : NULL;
	return r->later;
}

/* @return the reply as text; NULL for a notification, which is done and not answered. */
static char *reply_text(json_t *id, bool has_id, json_t *result, const struct rpc_error *err)
{
	if (!has_id) {
		json_decref(result);
		return NULL;
	}
	if (!result)
		return error_reply(id, err->code, err->text);
	return to_text(json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id ? id : json_null(),
				 "result", result));
}

void rpc_finish(struct rpc_reply *reply, json_t *result, const struct rpc_error *err)
{
	char *text = reply_text(reply->id, reply->id != NULL, result, err);

	json_decref(reply->id);
	if (!reply->outlives) { /* serve() has not returned: rpc_dispatch() takes it */
		reply->text = text;
		reply->finished = true;
		return;
	}
	if (reply->client)
		client_answered(reply->client, text);
	else
		free(text);
	free(reply);
}

static char *serve(const struct rpc_config *cfg, const struct rpc_method *m, json_t *id,
		   struct rpc_request *r)
{
	struct rpc_error err = { RPC_INTERNAL_ERROR, "" };
	json_t *result;
	char *text;

	if (r->fds->lost) {
		rpc_refuse(&err,
			   "descriptors of this request were lost: %s takes at most %u, or sluiced "
			   "has no room for more files",
			   m->name, m->takes_fds ? RPC_FDS_MAX : 0);
		return reply_text(id, id != NULL, NULL, &err);
	}
	if (r->fds->n && !m->takes_fds) {
		rpc_refuse(&err, "%s takes no descriptors, and %u came along", m->name, r->fds->n);
		return reply_text(id, id != NULL, NULL, &err);
	}
	result = m->serve ? m->serve(cfg->ctx, r, &err) : m->call(cfg->ctx, r->params, &err);
	if (!r->later)
		return reply_text(id, id != NULL, result, &err);
	r->later->outlives = true;
	if (!r->later->finished)
		return NULL;
	text = r->later->text;
	free(r->later);
	r->later = NULL;
	return text;
}

char *rpc_dispatch(const struct rpc_config *cfg, const char *line, size_t len,
		   struct rpc_request *r)
{
	json_error_t syntax;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &syntax);
	json_t *id = json_object_get(request, "id");
	const struct rpc_method *method;
	const char *wrong, *name;
	char *reply = NULL;

	if (!request)
		return error_reply(NULL, RPC_PARSE_ERROR, syntax.text);
	wrong = request_wrong(request);
	if (wrong) {
		reply = error_reply(json_is_string(id) || json_is_number(id) ? id : NULL,
				    RPC_INVALID_REQUEST, wrong);
		json_decref(request);
		return reply;
	}
	name = json_string_value(json_object_get(request, "method"));
	method = find_method(cfg, name);
	r->params = json_object_get(request, "params");
	r->id = id;
	if (method)
		reply = serve(cfg, method, id, r);
	else if (id)
		reply = no_method(cfg, id, name);
	r->params = r->id = NULL;
	json_decref(request);
	return reply;
}

char *rpc_answer(const struct rpc_config *cfg, const char *line, size_t len)
{
	struct rpc_fds none = { 0 };
	struct rpc_request r = { .fds = &none };

	return rpc_dispatch(cfg, line, len, &r);
}
