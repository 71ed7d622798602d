/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/change.h"

#include "base/compiler.h"
#include "base/error.h"
#include "base/image_file.h"
#include "base/socket_file.h"
#include "cli/clean.h"
#include "cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Keys whose values are text whatever they look like. */
static bool is_text(const char *key)
{
	static const char *const keys[] = { "name", "socket", "file", "serial", "group" };

	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
		if (strcmp(key, keys[i]) == 0)
			return true;
	return false;
}

static json_t *value_of(const char *key, const char *text);

/* "iops=20k,bandwidth=200M": a map of a few values. @return NULL: it is none. */
static json_t *map_of(const char *text)
{
	char *copy = strdup(text), *rest = copy, *word;
	json_t *map = json_object();

	while (map && (word = strsep(&rest, ","))) {
		char *value = strchr(word, '=');

		if (!value) {
			json_decref(map);
			map = NULL;
			break;
		}
		*value = '\0';
		if (json_object_set_new(map, word, value_of(word, value + 1)) < 0) {
			json_decref(map);
			map = NULL;
		}
	}
	free(copy);
	return map;
}

/* "52:54:00:00:00:01,52:54:00:00:00:02" */
static json_t *list_of(const char *text)
{
	char *copy = strdup(text), *rest = copy, *word;
	json_t *list = json_array();

	while (list && (word = strsep(&rest, ","))) {
		if (json_array_append_new(list, json_string(word)) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	free(copy);
	return list;
}

static bool is_list(const char *key)
{
	return strcmp(key, "macs") == 0 || strcmp(key, "ips") == 0 ||
	       strcmp(key, "static_macs") == 0;
}

/* As a configuration file would be read: a number without quotes is one. */
static json_t *value_of(const char *key, const char *text)
{
	char again[32];
	long long number;

	if (!text)
		return json_true();
	if (is_text(key))
		return json_string(text);
	if (strcmp(key, "limit") == 0)
		return map_of(text);
	if (is_list(key))
		return list_of(text);
	if (strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "on") == 0)
		return json_true();
	if (strcmp(text, "false") == 0 || strcmp(text, "no") == 0 || strcmp(text, "off") == 0)
		return json_false();
	number = strtoll(text, NULL, 10);
	snprintf(again, sizeof(again), "%lld", number);
	return strcmp(again, text) == 0 ? json_integer(number) : json_string(text);
}

bool change_options(char **words, int n, json_t *params, struct error *err)
{
	for (int i = 0; i < n; i++) {
		const char *value = NULL, *equals;
		char key[64];
		size_t len;

		if (strncmp(words[i], "--", 2) != 0 || !words[i][2]) {
			error_set(err, -EINVAL, "\"%s\" is no option; say --KEY VALUE", words[i]);
			return false;
		}
		equals = strchr(words[i], '=');
		len = equals ? (size_t)(equals - words[i] - 2) : strlen(words[i]) - 2;
		snprintf(key, sizeof(key), "%.*s", (int)len, words[i] + 2);
		for (char *c = key; *c; c++)
			*c = *c == '-' ? '_' : *c;
		if (equals)
			value = equals + 1;
		else if (i + 1 < n && strncmp(words[i + 1], "--", 2) != 0)
			value = words[++i];
		if (json_object_get(params, key)) {
			error_set(err, -EINVAL, "--%s stands here twice; keep one", key);
			return false;
		}
		if (json_object_set_new(params, key, value_of(key, value)) < 0) {
			error_set(err, -EINVAL, "--%s \"%s\" cannot be read", key,
				  value ? value : "");
			return false;
		}
	}
	return true;
}

/* sluiced was reached, or not even asked: as if it had refused. @return -1. */
static int failed_here(struct error *err)
{
	err->code = -EPROTO;
	return -1;
}

/* sluiced has another working folder than we. @return false with @err. */
static bool make_absolute(json_t *params, const char *key, struct error *err)
{
	const char *path = json_string_value(json_object_get(params, key));
	char *folder, *whole = NULL;
	bool set;

	if (!path || path[0] == '/')
		return true;
	folder = getcwd(NULL, 0);
	if (!folder || asprintf(&whole, "%s/%s", folder, path) < 0) {
		error_set(err, -errno, "the current folder: %s", strerror(errno));
		free(folder);
		failed_here(err);
		return false;
	}
	set = json_object_set_new(params, key, json_string(whole)) == 0;
	if (!set)
		error_set(err, -EPROTO, "the path of the current folder is not valid UTF-8");
	free(folder);
	free(whole);
	return set;
}

/* Whom sluiced runs as: the socket file is to be its own. @return false with @err. */
static bool find_owner(const char *control, uid_t *uid, gid_t *gid, struct error *err)
{
	json_t *answer = client_call(control, "version", err);
	const json_t *u = json_object_get(answer, "uid"), *g = json_object_get(answer, "gid");
	bool known = json_is_integer(u) && json_is_integer(g);

	*uid = (uid_t)json_integer_value(u);
	*gid = (gid_t)json_integer_value(g);
	if (answer && !known)
		error_set(err, -EPROTO, "sluiced is older than this command; restart it");
	json_decref(answer);
	return known;
}

/* @return a bound socket whose file has the owner, group and mode that it is to have, or -1. */
static int bind_socket(const char *control, const json_t *params, struct error *err)
{
	const char *path = json_string_value(json_object_get(params, "socket"));
	const char *group = json_string_value(json_object_get(params, "group"));
	const json_t *mode_json = json_object_get(params, "mode");
	long mode = -1;
	uid_t uid;
	gid_t gid;
	int fd;

	if (!find_owner(control, &uid, &gid, err))
		return -1;
	/* 660 is an octal number, whether it was read as a number or, as 0660, as text. */
	if (json_is_integer(mode_json)) {
		char text[32];

		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(mode_json));
		mode = strtol(text, NULL, 8);
	} else if (json_is_string(mode_json)) {
		mode = strtol(json_string_value(mode_json), NULL, 8);
	}
	fd = socket_file_bind(path, mode < 0 ? -1 : (int)(mode & 0777), group, err);
	if (fd < 0)
		return failed_here(err);
	if (geteuid() == 0 && lchown(path, uid, group ? (gid_t)-1 : gid) < 0) {
		error_set(err, -errno, "cannot give socket %s to sluiced's user: %s", path,
			  strerror(errno));
		unlink(path);
		close(fd);
		return failed_here(err);
	}
	return fd;
}

static int open_image(const json_t *params, struct image_file *out, struct error *err)
{
	const char *cache = json_string_value(json_object_get(params, "cache"));
	const char *lock = json_string_value(json_object_get(params, "lock"));
	bool read_only = json_is_true(json_object_get(params, "read_only"));
	const char *path = json_string_value(json_object_get(params, "file"));
	const struct image_wish wish = {
		.path = path ? path : "", /* not UTF-8: there is no such file */
		.read_only = read_only,
		.direct = !cache || strcmp(cache, "none") == 0,
		.exclusive = !read_only && (!lock || strcmp(lock, "open") == 0),
		.user = "the user that runs this command",
		.say_read_only = "say --read-only",
	};

	return image_file_open(&wish, out, err) < 0 ? failed_here(err) : 0;
}

/*
 * The socket file of a device that is not served. One that somebody listens on stays, and one that
 * a sluiced may still come to, which has been asked and has not answered in time.
 */
static void take_back(const char *path, struct error *err)
{
	struct error why = { 0 };

	if (err->code == -ETIMEDOUT)
		error_prefix(
			err,
			"socket file %s is left, since it may still be served (see sluice status)",
			path);
	else if (socket_file_clear(path, &why) < 0)
		complain("warning: socket file %s is left: %s", path, why.text);
}

/* @method with @params, taken over, in which @device is described: it may be the same. */
static json_t *add(const char *control, const char *method, json_t *device, json_t *params,
		   struct error *err)
{
	struct image_file image = { -1, -1 };
	int fds[3], n = 0, sock = -1;
	json_t *answer = NULL;
	const char *path;

	if (!make_absolute(device, "socket", err) || !make_absolute(device, "file", err))
		goto out;
	path = json_string_value(json_object_get(device, "socket"));
	if (json_is_string(json_object_get(device, "file")) && open_image(device, &image, err) < 0)
		goto out;
	if (path && !json_is_true(json_object_get(device, "connect"))) {
		sock = bind_socket(control, device, err);
		if (sock < 0)
			goto out;
		fds[n++] = sock;
	}
	if (image.fd >= 0)
		fds[n++] = image.fd;
	if (image.fd_buffered >= 0)
		fds[n++] = image.fd_buffered;
	answer = client_call_with_fds(control, method, json_incref(params), fds, n, err);
	if (!answer && sock >= 0)
		take_back(path, err);
out:
	image_file_close(&image);
	if (sock >= 0)
		close(sock);
	json_decref(params);
	return answer;
}

json_t *change_add_disk(const char *control, json_t *params, struct error *err)
{
	return add(control, "disk.add", params, params, err);
}

json_t *change_add_port(const char *control, const char *network, json_t *port, struct error *err)
{
	json_t *params = json_pack("{s:s, s:O}", "network", network, "port", port), *answer;

	if (!params) {
		error_set(err, -EPROTO, "the network's name is not valid UTF-8");
		answer = NULL;
	} else {
		answer = add(control, "port.add", port, params, err);
	}
	json_decref(port);
	return answer;
}

json_t *change_remove(const char *control, const char *method, json_t *params, struct error *err)
{
	json_t *answer = client_call_with(control, method, params, err);
	const char *path = json_string_value(json_object_get(answer, "socket"));
	struct error why = { 0 };

	/* Mostly sluiced has removed it; in a folder that it was not told of it must not. */
	if (path && socket_file_clear(path, &why) < 0)
		complain("warning: socket file %s is left: %s", path, why.text);
	return answer;
}

/* The disk's keys, of which some say how its image is opened. @return a new reference, or NULL. */
static json_t *find_disk(const char *control, const char *name, struct error *err)
{
	json_t *config = client_call(control, "config", err), *d, *found = NULL;
	const char *other;
	size_t i;

	json_array_foreach (json_object_get(config, "disks"), i, d) {
		other = json_string_value(json_object_get(d, "name"));
		if (other && strcmp(other, name) == 0)
			found = json_incref(d);
	}
	if (config && !found)
		error_set(err, -EPROTO, "sluiced: there is no disk called \"%s\"", name);
	json_decref(config);
	return found;
}

json_t *change_replace_disk(const char *control, const char *name, const char *file,
			    struct error *err)
{
	json_t *disk = find_disk(control, name, err), *answer = NULL;
	struct image_file image = { -1, -1 };
	int fds[2], n = 0;

	if (!disk)
		return NULL;
	if (json_object_set_new(disk, "file", json_string(file)) < 0)
		error_set(err, -EPROTO, "the file's path is not valid UTF-8");
	else if (make_absolute(disk, "file", err) && open_image(disk, &image, err) == 0) {
		fds[n++] = image.fd;
		if (image.fd_buffered >= 0)
			fds[n++] = image.fd_buffered;
		answer = client_call_with_fds(control, "disk.replace",
					      json_pack("{s:s, s:O}", "disk", name, "file",
							json_object_get(disk, "file")),
					      fds, n, err);
	}
	image_file_close(&image);
	json_decref(disk);
	return answer;
}
