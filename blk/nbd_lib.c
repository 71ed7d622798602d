/* SPDX-License-Identifier: Apache-2.0 */
#include "blk/nbd_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

/* The ABI that it promises to keep. */
#define NBD_LIB "libnbd.so.0"

struct nbd_lib libnbd;

static const struct {
	const char *name;
	size_t at; /* in struct nbd_lib */
} calls[] = {
#define X(call) { "nbd_" #call, offsetof(struct nbd_lib, call) },
	NBD_LIB_CALLS(X)
#undef X
};

/* See daemon/sandbox.c. The loader does not tell why it found nothing. */
static bool code_is_refused(void)
{
	void *p = mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p != MAP_FAILED)
		munmap(p, 1);
	return p == MAP_FAILED && errno == ENOSYS;
}

static int failed(struct error *err)
{
	const char *why = dlerror();

	if (code_is_refused())
		return error_set(err, -EPERM,
				 "a daemon that was started without a disk on an NBD server cannot "
				 "load libnbd any more; restart it with this disk");
	return error_set(err, -ELIBACC, "%s; install it (libnbd0)", why ? why : NBD_LIB);
}

int nbd_lib_load(struct error *err)
{
	struct nbd_lib found;
	void *lib;

	if (libnbd.create)
		return 0;
	lib = dlopen(NBD_LIB, RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return failed(err);
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
		void *call = dlsym(lib, calls[i].name);

		if (!call) {
			failed(err);
			dlclose(lib);
			return err->code;
		}
		memcpy((char *)&found + calls[i].at, &call, sizeof(call));
	}
	libnbd = found;
	return 0;
}
