/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text to values, as configuration files and command lines write them. All return 0 or -EINVAL
 * (not such a value) or -ERANGE (it does not fit), and leave *@out alone then.
 */
#ifndef SLUICE_DAEMON_VALUE_H
#define SLUICE_DAEMON_VALUE_H

#include "base/compiler.h"

#include <stdbool.h>

/* true, false, yes, no, on, off. */
int value_bool(const char *text, bool *out);

/* Decimal digits, nothing else. */
int value_number(const char *text, uint64_t *out);

/* Bytes: digits and k, M, G or T, or KiB, MiB, GiB, TiB; all are powers of 1024, as for qemu-img.
 */
int value_size(const char *text, uint64_t *out);

/* How many: digits and k, M or G, which are powers of 1000. */
int value_count(const char *text, uint64_t *out);

/* Octal permission bits, up to 0777. */
int value_mode(const char *text, int *out);

/* Six bytes in hexadecimal with colons between them. */
int value_mac(const char *text, uint8_t out[6]);

struct cpu_list {
	unsigned *cpus;
	unsigned n;
};

/* Appends "2,3,6-8" to @out, whose array belongs to the caller. -EEXIST: a CPU stands there twice.
 */
int value_cpus(const char *text, struct cpu_list *out);

/* VLANs, a bit each. */
struct vlan_list {
	uint64_t bits[64];
};
#define VALUE_VLAN_MAX 4094

/* Adds "10,20-30" to @out. -EEXIST: a VLAN stands there twice. */
int value_vlans(const char *text, struct vlan_list *out);

/* "10,20-30", all of it, from malloc; never NULL. */
char *value_vlans_text(const struct vlan_list *list);

#define VALUE_ADDRESSES_MAX 64

struct value_macs {
	unsigned n;
	uint8_t mac[VALUE_ADDRESSES_MAX][6];
};

/* Adds the address of one station. -ENOSPC: they are too many; -EEXIST: it stands there twice. */
int value_macs(const char *text, struct value_macs *out);

struct value_ips {
	unsigned n;
	struct value_ip {
		bool v6;
		uint8_t bits; /* of addr that count; the others are zero */
		uint8_t addr[16];
	} ip[VALUE_ADDRESSES_MAX];
};

/* Adds "10.0.0.1", "10.0.0.0/24", "fd00::1" or "fd00::/64". Errors as of value_macs(). */
int value_ips(const char *text, struct value_ips *out);

/* CPUs that one can name at all. */
#define VALUE_CPU_MAX 65535

/* Levenshtein distance of two short words, for "did you mean"; 99 if either has over 40 letters. */
unsigned value_distance(const char *a, const char *b);

#endif
