/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables that say which keys a configuration object has, and the code that fills plain structs
 * from a YAML document (and so from JSON, its subset) or from command-line options by these
 * tables. Every object remembers where each of its keys stood, so that rules checked later can
 * name file and line as well.
 */
#ifndef SLUICE_DAEMON_SCHEMA_H
#define SLUICE_DAEMON_SCHEMA_H

#include "daemon/problems.h"
#include "daemon/value.h"

#include <stddef.h>

#define SCHEMA_FIELDS_MAX 32
#define SCHEMA_LIST_MAX 4096

/* Stands first in every struct that a schema fills. */
struct object {
	char path[96];			   /* "networks[0].ports[1]"; empty: the top */
	bool options;			   /* from the command line: keys are named as options */
	bool bad;			   /* a problem was found while it was read */
	unsigned line;			   /* where it starts, from 1 */
	unsigned given[SCHEMA_FIELDS_MAX]; /* line of each key; 0: not there. Options: 1 */
};

enum field_kind {		/* type of the member at field.offset */
		  FIELD_BOOL,	/* bool */
		  FIELD_NUMBER, /* uint32_t */
		  FIELD_SIZE,	/* uint64_t */
		  FIELD_COUNT,	/* uint64_t */
		  FIELD_TEXT,	/* char *, owned */
		  FIELD_CHOICE, /* int, an index in @choices */
		  FIELD_MODE,	/* int */
		  FIELD_MAC,	/* uint8_t[6] */
		  FIELD_CPUS,	/* struct cpu_list, owned */
		  FIELD_VLANS,	/* struct vlan_list */
		  FIELD_MACS,	/* struct value_macs */
		  FIELD_IPS,	/* struct value_ips */
		  FIELD_MAP,	/* a struct of schema @of, embedded */
		  FIELD_LIST,	/* struct object_list of structs of schema @of */
};

struct object_list {
	void *items; /* contiguous, each of->size bytes */
	unsigned n;
};

struct schema;

/* Kinds that take one value or a list of them, each of which is added to what is there. */
static inline bool field_takes_many(enum field_kind kind)
{
	return kind == FIELD_CPUS || kind == FIELD_VLANS || kind == FIELD_MACS || kind == FIELD_IPS;
}

/* What one of them is called: "a CPU". */
static inline const char *field_item_name(enum field_kind kind)
{
	return kind == FIELD_CPUS    ? "a CPU"
	       : kind == FIELD_VLANS ? "a VLAN"
	       : kind == FIELD_MACS  ? "a MAC address"
				     : "an IP address";
}

struct field {
	const char *key;
	const char *option; /* its long option without the dashes; NULL: none of its own */
	enum field_kind kind;
	const char *what; /* "the path of a unix socket"; NULL: what its kind says */
	size_t offset;
	bool required;
	uint64_t min, max;	    /* NUMBER: the range; TEXT: most bytes, 0: 4095 */
	const char *const *choices; /* CHOICE, ends in NULL */
	const struct schema *of;    /* MAP, LIST */
	/* A rule beyond its kind. @return what is wrong with it, or NULL. TEXT, SIZE, COUNT, MAC.
	 */
	const char *(*rule)(const void *value);
};

struct schema {
	size_t size;
	unsigned n_fields;
	const struct field *fields;
	void (*defaults)(void *obj); /* @obj is zeroed */
};

/* @line 0 where the input has none. */
void schema_init(const struct schema *s, void *obj, const char *path, unsigned line);

/*
 * Sets field @index from @text. @quoted: written in quotes, and so text whatever it looks like.
 * @return false after a problem was added.
 */
bool schema_set(const struct schema *s, void *obj, unsigned index, const char *text, bool quoted,
		unsigned line, struct problems *p);

/*
 * Reads a whole YAML text of @len bytes into @obj (schema_init() done). Problems are added to @p;
 * what could be read is in @obj, which needs schema_free() in any case.
 */
void schema_load(const struct schema *s, void *obj, const char *yaml, size_t len,
		 struct problems *p);

/*
 * Makes @to, which is not initialised, a copy of @from, with all that its fields own. What is said
 * of it names keys as of an object that stands alone. Not for schemas with lists of objects.
 */
void schema_copy(const struct schema *s, void *to, const void *from);

/* Field @index of @obj, of a kind that owns nothing, is as if nobody had given it. */
void schema_unset(const struct schema *s, void *obj, unsigned index);

/* Adds a problem with field @index of @obj: names its line and its full key. */
void schema_problem(const struct schema *s, const void *obj, unsigned index, struct problems *p,
		    const char *fmt, ...) PRINTF_LIKE(5, 6);

/* "disks[0].queues", or "--queues". */
void schema_key(const struct schema *s, const void *obj, unsigned index, char *out, size_t size);

static inline bool schema_given(const void *obj, unsigned index)
{
	return ((const struct object *)obj)->given[index] != 0;
}

/* Frees all that @obj's fields own, and zeroes it. Not @obj itself. */
void schema_free(const struct schema *s, void *obj);

/* Completes "… is not %s" for a field: "a whole number from 1 to 256". */
void schema_describe(const struct field *f, char *out, size_t size);

#endif
