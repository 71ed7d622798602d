/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks a YAML document by a schema. libyaml's document API keeps the line of every node, which is
 * what lets each error, also of meaning, name its place.
 *
 * A configuration may come from somebody who means harm (later over the control socket): nesting is
 * refused before a tree is built, and a budget of visited nodes keeps aliases from multiplying.
 */
#include "daemon/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 16
#define NODES_MAX 100000

struct walk {
	yaml_document_t *doc;
	struct problems *p;
	unsigned nodes; /* visited, aliases counted each time */
};

static unsigned line_of(const yaml_node_t *n)
{
	return (unsigned)n->start_mark.line + 1;
}

static const char *text_of(const yaml_node_t *n)
{
	return (const char *)n->data.scalar.value;
}

/* The parser's own complaint, with the line where it gave up. */
static void add_syntax_problem(const yaml_parser_t *parser, const char *yaml, size_t len,
			       struct problems *p)
{
	unsigned line = (unsigned)parser->problem_mark.line + 1;

	if (parser->error == YAML_READER_ERROR) { /* has an offset instead of a line */
		line = 1;
		for (size_t i = 0; i < len && i < parser->problem_offset; i++)
			line += yaml[i] == '\n';
	}
	problems_add(p, line,
		     "not valid YAML: %s%s%s; check the indentation, brackets and quotes here",
		     parser->problem ? parser->problem : "out of memory",
		     parser->context ? " " : "", parser->context ? parser->context : "");
}

/* @return false, with a problem added, for what this event shows that we do not take. */
static bool event_allowed(const yaml_event_t *e, unsigned *depth, unsigned *documents,
			  struct problems *p)
{
	unsigned line = (unsigned)e->start_mark.line + 1;
	const yaml_char_t *tag = NULL;

	switch (e->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (++*documents > 1) {
			problems_add(p, line,
				     "a second document starts here; keep only one, "
				     "without a \"---\" between its parts");
			return false;
		}
		break;
	case YAML_SCALAR_EVENT:
		tag = e->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		tag = e->data.sequence_start.tag;
		++*depth;
		break;
	case YAML_MAPPING_START_EVENT:
		tag = e->data.mapping_start.tag;
		++*depth;
		break;
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		--*depth;
		break;
	default:
		break;
	}
	if (tag) {
		problems_add(p, line, "the tag \"%.40s\" has no meaning here; leave it out", tag);
		return false;
	}
	if (*depth > DEPTH_MAX) {
		problems_add(p, line, "nested more than %u deep; no configuration needs that",
			     DEPTH_MAX);
		return false;
	}
	return true;
}

/* Reads the text once without keeping it. @return true when it is safe to build its tree. */
static bool prescan(const char *yaml, size_t len, struct problems *p)
{
	unsigned depth = 0, documents = 0;
	yaml_parser_t parser;
	bool ok = true, end = false;

	if (!yaml_parser_initialize(&parser))
		abort();
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, len);
	while (ok && !end) {
		yaml_event_t event;

		if (!yaml_parser_parse(&parser, &event)) {
			add_syntax_problem(&parser, yaml, len, p);
			ok = false;
			break;
		}
		end = event.type == YAML_STREAM_END_EVENT;
		ok = event_allowed(&event, &depth, &documents, p);
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	return ok;
}

static const char *kind_of(const yaml_node_t *n)
{
	return n->type == YAML_MAPPING_NODE    ? "a map"
	       : n->type == YAML_SEQUENCE_NODE ? "a list"
					       : "a single value";
}

static bool is_quoted(const yaml_node_t *n)
{
	return n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

static bool is_null(const yaml_node_t *n)
{
	static const char *const names[] = { "", "~", "null", "Null", "NULL" };

	if (n->type != YAML_SCALAR_NODE || is_quoted(n))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(text_of(n), names[i]) == 0)
			return true;
	return false;
}

static void walk_map(struct walk *w, const struct schema *s, void *obj, const yaml_node_t *node);

/* Names the field nearest to @key, if one is near, and all the others. */
static void add_unknown_key(struct walk *w, const struct schema *s, const void *obj,
			    const yaml_node_t *key)
{
	const struct object *o = obj;
	unsigned best = SCHEMA_FIELDS_MAX, least = 3;
	char known[400] = "", guess[80] = "";
	size_t used = 0, letters = strlen(text_of(key));

	for (unsigned i = 0; i < s->n_fields; i++) {
		unsigned d = value_distance(text_of(key), s->fields[i].key);

		if (d < least && d < letters) {
			least = d;
			best = i;
		}
		if (used < sizeof(known))
			used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s",
						 i ? ", " : "", s->fields[i].key);
	}
	if (best < SCHEMA_FIELDS_MAX)
		snprintf(guess, sizeof(guess), "; did you mean \"%s\"?", s->fields[best].key);
	problems_add(w->p, line_of(key), "%s%s%.60s: unknown key%s (known keys: %s)", o->path,
		     o->path[0] ? "." : "", text_of(key), guess, known);
}

/* A list of values, or their text form, for numbers "2,4-7". */
static void walk_many(struct walk *w, const struct schema *s, void *obj, unsigned index,
		      const yaml_node_t *node)
{
	const char *item_name = field_item_name(s->fields[index].kind);
	struct object *o = obj;

	o->given[index] = line_of(node);
	if (node->type == YAML_SCALAR_NODE) {
		schema_set(s, obj, index, text_of(node), is_quoted(node), line_of(node), w->p);
		return;
	}
	if (node->data.sequence.items.start == node->data.sequence.items.top)
		schema_problem(s, obj, index, w->p,
			       "the list is empty; name %s or leave the key out", item_name);
	for (yaml_node_item_t *i = node->data.sequence.items.start;
	     i < node->data.sequence.items.top && !problems_full(w->p); i++) {
		const yaml_node_t *item = yaml_document_get_node(w->doc, *i);

		if (++w->nodes > NODES_MAX)
			return;
		if (item->type != YAML_SCALAR_NODE)
			schema_problem(s, obj, index, w->p, "%s stands where %s%s is wanted",
				       kind_of(item), item_name,
				       s->fields[index].kind == FIELD_CPUS ? " number" : "");
		else if (!schema_set(s, obj, index, text_of(item), is_quoted(item), line_of(item),
				     w->p))
			return;
	}
}

static void walk_list(struct walk *w, const struct schema *s, void *obj, unsigned index,
		      const yaml_node_t *node)
{
	const struct field *f = &s->fields[index];
	struct object_list *list = (void *)((char *)obj + f->offset);
	size_t n = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
	char key[160], path[200];

	if (n > SCHEMA_LIST_MAX) {
		schema_problem(s, obj, index, w->p, "holds %zu entries; at most %u are possible", n,
			       SCHEMA_LIST_MAX);
		return;
	}
	if (n == 0)
		return;
	list->items = calloc(n, f->of->size);
	if (!list->items)
		abort();
	schema_key(s, obj, index, key, sizeof(key));
	for (unsigned i = 0; i < n && !problems_full(w->p); i++) {
		const yaml_node_t *item = yaml_document_get_node(
			w->doc, node->data.sequence.items.start[i]);
		void *at = (char *)list->items + i * f->of->size;

		snprintf(path, sizeof(path), "%s[%u]", key, i);
		schema_init(f->of, at, path, line_of(item));
		list->n = i + 1;
		if (++w->nodes > NODES_MAX)
			return;
		if (item->type == YAML_MAPPING_NODE) {
			walk_map(w, f->of, at, item);
			continue;
		}
		((struct object *)at)->bad = true;
		problems_add(w->p, line_of(item), "%s: %s stands where %s is wanted", path,
			     is_null(item) ? "nothing" : kind_of(item), "a map of keys and values");
	}
}

/* Does a node of this shape fit the field at all? */
static bool shape_fits(const struct field *f, const yaml_node_t *node)
{
	switch (f->kind) {
	case FIELD_MAP:
		return node->type == YAML_MAPPING_NODE;
	case FIELD_LIST:
		return node->type == YAML_SEQUENCE_NODE;
	case FIELD_CPUS:
	case FIELD_VLANS:
	case FIELD_MACS:
	case FIELD_IPS:
		return node->type != YAML_MAPPING_NODE;
	default:
		return node->type == YAML_SCALAR_NODE;
	}
}

static void walk_field(struct walk *w, const struct schema *s, void *obj, unsigned index,
		       const yaml_node_t *node)
{
	const struct field *f = &s->fields[index];
	struct object *o = obj;
	char wanted[200];

	schema_describe(f, wanted, sizeof(wanted));
	if (is_null(node)) {
		schema_problem(s, obj, index, w->p, "has no value; write %s, or leave the key out",
			       wanted);
		return;
	}
	if (!shape_fits(f, node)) {
		schema_problem(s, obj, index, w->p, "%s stands where %s is wanted", kind_of(node),
			       wanted);
		return;
	}
	if (node->type == YAML_SCALAR_NODE && strlen(text_of(node)) != node->data.scalar.length) {
		schema_problem(s, obj, index, w->p, "holds a NUL character; take it out");
		return;
	}
	if (f->kind == FIELD_MAP) {
		char key[160];

		schema_key(s, obj, index, key, sizeof(key));
		schema_init(f->of, (char *)obj + f->offset, key, line_of(node));
		walk_map(w, f->of, (char *)obj + f->offset, node);
	} else if (f->kind == FIELD_LIST) {
		walk_list(w, s, obj, index, node);
	} else if (field_takes_many(f->kind)) {
		walk_many(w, s, obj, index, node);
	} else {
		schema_set(s, obj, index, text_of(node), is_quoted(node), o->given[index], w->p);
	}
}

/* @return the field that @key names, or n_fields with a problem added. */
static unsigned find_field(struct walk *w, const struct schema *s, const void *obj,
			   const yaml_node_t *key)
{
	const struct object *o = obj;

	if (key->type != YAML_SCALAR_NODE) {
		problems_add(w->p, line_of(key), "%s%s%s stands where a key is wanted", o->path,
			     o->path[0] ? ": " : "", kind_of(key));
		return s->n_fields;
	}
	for (unsigned i = 0; i < s->n_fields; i++)
		if (strcmp(text_of(key), s->fields[i].key) == 0)
			return i;
	add_unknown_key(w, s, obj, key);
	return s->n_fields;
}

static void walk_map(struct walk *w, const struct schema *s, void *obj, const yaml_node_t *node)
{
	unsigned before = w->p->n + w->p->more;
	struct object *o = obj;
	char wanted[200];

	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start;
	     pair < node->data.mapping.pairs.top && !problems_full(w->p); pair++) {
		const yaml_node_t *key = yaml_document_get_node(w->doc, pair->key);
		unsigned index;

		if (++w->nodes > NODES_MAX)
			return;
		index = find_field(w, s, obj, key);
		if (index == s->n_fields)
			continue;
		if (o->given[index]) {
			problems_add(w->p, line_of(key),
				     "%s%s%s: stands here twice (first on line "
				     "%u); keep one",
				     o->path, o->path[0] ? "." : "", s->fields[index].key,
				     o->given[index]);
			continue;
		}
		o->given[index] = line_of(key);
		walk_field(w, s, obj, index, yaml_document_get_node(w->doc, pair->value));
	}
	for (unsigned i = 0; i < s->n_fields && !problems_full(w->p); i++) {
		if (!s->fields[i].required || o->given[i])
			continue;
		schema_describe(&s->fields[i], wanted, sizeof(wanted));
		schema_problem(s, obj, i, w->p, "is missing; it must be %s", wanted);
	}
	o->bad = w->p->n + w->p->more > before;
}

void schema_load(const struct schema *s, void *obj, const char *yaml, size_t len,
		 struct problems *p)
{
	struct walk w = { .p = p };
	const yaml_node_t *root;
	yaml_parser_t parser;
	yaml_document_t doc;

	if (!prescan(yaml, len, p))
		return;
	if (!yaml_parser_initialize(&parser))
		abort();
	yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, len);
	if (!yaml_parser_load(&parser, &doc)) {
		add_syntax_problem(&parser, yaml, len, p);
		yaml_parser_delete(&parser);
		return;
	}
	w.doc = &doc;
	root = yaml_document_get_root_node(&doc);
	if (root && root->type == YAML_MAPPING_NODE)
		walk_map(&w, s, obj, root);
	else if (root && !is_null(root))
		problems_add(p, line_of(root), "%s stands where a map of keys and values is wanted",
			     kind_of(root));
	if (w.nodes > NODES_MAX)
		problems_add(p, 0, "more than %u entries, aliases counted each time; shorten it",
			     NODES_MAX);
	yaml_document_delete(&doc);
	yaml_parser_delete(&parser);
}
