/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON-RPC 2.0 request to its reply; rpc.c moves the bytes. */
#include "daemon/rpc.h"

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

static char *error_reply(json_t *id, int code, const char *text)
{
	/* Replace what is not UTF-8: a reply that cannot be made would leave the caller waiting. */
	json_t *message = json_string(text);

	if (!message)
		message = json_string("error text is not UTF-8");
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

char *rpc_answer(const struct rpc_config *cfg, const char *line, size_t len)
{
	struct rpc_error err = { RPC_INTERNAL_ERROR, "" };
	json_error_t syntax;
	json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &syntax);
	json_t *id = json_object_get(request, "id"), *result;
	const struct rpc_method *method;
	const char *wrong;
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
	method = find_method(cfg, json_string_value(json_object_get(request, "method")));
	if (!method) {
		reply = no_method(cfg, id, json_string_value(json_object_get(request, "method")));
	} else {
		result = method->call(cfg->ctx, json_object_get(request, "params"), &err);
		reply = result ? to_text(json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id",
						   id ? id : json_null(), "result", result))
			       : error_reply(id, err.code, err.text);
	}
	/* A notification is a request without an id: it is done, and not answered. */
	if (!id) {
		free(reply);
		reply = NULL;
	}
	json_decref(request);
	return reply;
}
