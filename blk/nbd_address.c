/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/nbd_address.h"

#include "base/compiler.h"
#include "base/error.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static int hex(char c)
{
	return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* RFC 3986 2.1. @return the text of [@from, @to) without escapes, or NULL: they are none. */
static char *unescape(const char *from, const char *to)
{
	char *text = malloc((size_t)(to - from) + 1), *end = text;

	if (!text)
		abort(); /* as everywhere in start-up */
	for (; from < to; from++) {
		if (*from != '%') {
			*end++ = *from;
			continue;
		}
		if (to - from < 3 || !isxdigit((unsigned char)from[1]) ||
		    !isxdigit((unsigned char)from[2]) || (from[1] == '0' && from[2] == '0')) {
			free(text);
			return NULL;
		}
		*end++ = (char)(hex(from[1]) * 16 + hex(from[2]));
		from += 2;
	}
	*end = '\0';
	return text;
}

static int take(char **to, const char *from, const char *end, struct error *err)
{
	free(*to);
	*to = unescape(from, end);
	return *to ? 0
		   : error_set(err, -EINVAL, "\"%.*s\" has a %% that begins no escape; write %%25",
			       (int)(end - from), from);
}

static int parse_query(const char *query, struct nbd_address *a, struct error *err)
{
	char *verify = NULL;
	const struct {
		const char *key;
		char **value;
	} keys[] = { { "socket=", &a->path },
		     { "tls-certificates=", &a->certificates },
		     { "tls-psk-file=", &a->psk_file },
		     { "tls-verify-peer=", &verify } };
	int rc = 0;

	while (rc == 0 && *query) {
		const char *end = strchrnul(query, '&');
		unsigned i = 0;

		while (i < ARRAY_SIZE(keys) &&
		       strncmp(query, keys[i].key, strlen(keys[i].key)) != 0)
			i++;
		if (i == ARRAY_SIZE(keys))
			rc = error_set(err, -EINVAL,
				       "\"%.*s\" is not known; after the ? stand socket=, "
				       "tls-certificates=, tls-psk-file=, tls-verify-peer=",
				       (int)(end - query), query);
		else
			rc = take(keys[i].value, query + strlen(keys[i].key), end, err);
		query = *end ? end + 1 : end;
	}
	if (rc == 0 && verify && strcmp(verify, "true") != 0 && strcmp(verify, "false") != 0)
		rc = error_set(err, -EINVAL, "tls-verify-peer is \"%s\"; it is true or false",
			       verify);
	a->no_verify = rc == 0 && verify && strcmp(verify, "false") == 0;
	free(verify);
	return rc;
}

/* [USER@]HOST[:PORT]; a host of IPv6 stands in brackets. */
static int parse_authority(const char *from, const char *end, struct nbd_address *a,
			   struct error *err)
{
	const char *at = memchr(from, '@', (size_t)(end - from));
	const char *host_end;
	int rc = 0;

	if (at) {
		rc = take(&a->user, from, at, err);
		from = at + 1;
	}
	if (rc == 0 && from < end && *from == '[') {
		host_end = memchr(from, ']', (size_t)(end - from));
		if (!host_end)
			return error_set(err, -EINVAL, "\"%.*s\" has no ] after its [",
					 (int)(end - from), from);
		rc = take(&a->host, from + 1, host_end++, err);
	} else if (rc == 0) {
		host_end = memchr(from, ':', (size_t)(end - from));
		host_end = host_end ? host_end : end;
		rc = take(&a->host, from, host_end, err);
	}
	if (rc)
		return rc;
	if (host_end < end && *host_end != ':')
		return error_set(err, -EINVAL, "\"%.*s\" is no port; write :%s",
				 (int)(end - host_end), host_end, NBD_PORT);
	if (end - host_end > 1)
		return take(&a->port, host_end + 1, end, err);
	a->port = strdup(NBD_PORT);
	return a->port ? 0 : -ENOMEM;
}

static bool is_port(const char *text)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	return isdigit((unsigned char)text[0]) && !*end && port > 0 && port <= UINT16_MAX;
}

static int check(const struct nbd_address *a, bool is_unix, struct error *err)
{
	if (is_unix && (!a->path || !a->path[0]))
		return error_set(err, -EINVAL, "it names no socket; add ?socket=PATH");
	if (is_unix && a->host && a->host[0])
		return error_set(err, -EINVAL,
				 "it has a host, \"%s\", and a unix socket; write nbd+unix:///…",
				 a->host);
	if (!is_unix && a->path)
		return error_set(err, -EINVAL, "it has a socket= and is not nbd+unix:");
	if (is_unix && strlen(a->path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return error_set(err, -EINVAL, "the path of its socket is too long");
	if (!is_unix && (!a->host || !a->host[0]))
		return error_set(err, -EINVAL, "it names no host");
	if (!is_unix && (!a->port || !is_port(a->port)))
		return error_set(err, -EINVAL, "\"%s\" is no port; write a number from 1 to 65535",
				 a->port);
	if (!a->tls && (a->certificates || a->psk_file || a->user))
		return error_set(err, -EINVAL, "it has settings of TLS; write nbds:");
	return 0;
}

int nbd_address_parse(const char *uri, struct nbd_address *a, struct error *err)
{
	static const struct {
		const char *scheme;
		bool tls, is_unix;
	} schemes[] = { { "nbd://", false, false },
			{ "nbds://", true, false },
			{ "nbd+unix://", false, true },
			{ "nbds+unix://", true, true } };
	const char *at, *path, *query;
	unsigned i = 0;
	int rc;

	memset(a, 0, sizeof(*a));
	while (i < ARRAY_SIZE(schemes) &&
	       strncasecmp(uri, schemes[i].scheme, strlen(schemes[i].scheme)) != 0)
		i++;
	if (i == ARRAY_SIZE(schemes))
		return error_set(err, -EINVAL,
				 "\"%s\" is no NBD URI; write nbd://HOST/EXPORT, "
				 "nbd+unix:///EXPORT?socket=PATH, or nbds for TLS",
				 uri);
	a->tls = schemes[i].tls;
	at = uri + strlen(schemes[i].scheme);
	query = strchrnul(at, '?');
	path = memchr(at, '/', (size_t)(query - at));
	path = path ? path : query;
	rc = parse_authority(at, path, a, err);
	if (rc == 0)
		rc = take(&a->export, path < query ? path + 1 : path, query, err);
	if (rc == 0)
		rc = parse_query(*query ? query + 1 : query, a, err);
	return rc ? rc : check(a, schemes[i].is_unix, err);
}

int nbd_address_resolve(struct nbd_address *a, struct error *err)
{
	const struct addrinfo want = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	int rc;

	if (a->path)
		return 0;
	rc = getaddrinfo(a->host, a->port, &want, &a->found);
	if (rc)
		return error_set(err, -EHOSTUNREACH, "host %s, port %s: %s", a->host, a->port,
				 gai_strerror(rc));
	return 0;
}

uint16_t nbd_uri_port(const char *uri)
{
	struct nbd_address a;
	unsigned long port = 0;

	if (nbd_address_parse(uri, &a, NULL) == 0 && !a.path && a.port)
		port = strtoul(a.port, NULL, 10);
	nbd_address_free(&a);
	return port <= UINT16_MAX ? (uint16_t)port : 0;
}

void nbd_address_free(struct nbd_address *a)
{
	free(a->export);
	free(a->path);
	free(a->host);
	free(a->port);
	free(a->user);
	free(a->certificates);
	free(a->psk_file);
	if (a->found)
		freeaddrinfo(a->found);
	memset(a, 0, sizeof(*a));
}
