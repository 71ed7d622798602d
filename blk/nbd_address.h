/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where an NBD server is, as its URI says (the NBD project's doc/uri.md): nbd://HOST[:PORT]/EXPORT,
 * nbd+unix:///EXPORT?socket=PATH, and nbds for TLS. Names are resolved once: what serves cannot
 * look them up any more (daemon/sandbox.h).
 */
#ifndef SLUICE_BLK_NBD_ADDRESS_H
#define SLUICE_BLK_NBD_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct addrinfo;

#define NBD_PORT "10809"

struct nbd_address {
	bool tls;
	bool no_verify; /* tls-verify-peer=false: whoever answers is believed */
	char *export;	/* never NULL */
	char *path;	/* of a unix socket; NULL: TCP */
	char *host, *port;
	char *user;		/* TLS; NULL: none */
	char *certificates;	/* TLS: a folder; NULL: none */
	char *psk_file;		/* TLS: the same as a file of keys */
	struct addrinfo *found; /* TCP, once it is resolved */
};

/* @return 0, or -EINVAL with @err, which does not name the disk. nbd_address_free() in any case. */
int nbd_address_parse(const char *uri, struct nbd_address *a, struct error *err);
/* TCP: asks for the addresses of the host; may take as long as a resolver does. */
int nbd_address_resolve(struct nbd_address *a, struct error *err);
/* The TCP port of @uri, a number; 0: it has none, or is no URI. For the sandbox. */
uint16_t nbd_uri_port(const char *uri);
void nbd_address_free(struct nbd_address *a);

#endif
