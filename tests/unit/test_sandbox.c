/* SPDX-License-Identifier: Apache-2.0 */
/* The sandbox bites: each attempt runs in a process of its own, which has entered it. */
#include "base/error.h"
#include "daemon/sandbox.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LET_THROUGH 0

/* What @attempt did in a sandbox of @profile: its errno, 0, or minus the signal that ended it. */
static int outcome(enum sandbox_profile profile, int (*attempt)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err = { 0 };

		if (sandbox_seccomp(profile, &err) < 0) {
			fprintf(stderr, "%s\n", err.text);
			_exit(99);
		}
		_exit(attempt());
	}
	cr_assert_gt(pid, 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int result(long rc)
{
	return rc < 0 ? errno : LET_THROUGH;
}

static void sandboxes_are_there(void)
{
	if (sandbox_unfit())
		cr_skip_test("%s", sandbox_unfit());
}

TestSuite(sandbox, .init = sandboxes_are_there);

static int do_exec(void)
{
	char *const argv[] = { "true", NULL };

	execv("/bin/true", argv);
	return errno;
}

static int do_fork(void)
{
	return result(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static int do_ptrace(void)
{
	return result(ptrace(PTRACE_TRACEME, 0, 0, 0));
}

static int do_io_uring(void)
{
	char params[120] = { 0 };

	return result(syscall(SYS_io_uring_setup, 8, params));
}

static int do_setuid(void)
{
	return result(setuid(0));
}

static int do_inet(void)
{
	return result(socket(AF_INET, SOCK_STREAM, 0));
}

static int do_open(void)
{
	return result(open("/etc/passwd", O_RDONLY));
}

static int do_exec_memory(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
			       MAP_FAILED
		       ? errno
		       : LET_THROUGH;
}

static int do_make_executable(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? 98 : result(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}

static int do_kill_parent(void)
{
	return result(kill(getppid(), 0));
}

static int do_tgkill_parent(void)
{
	pid_t parent = getppid();

	return result(syscall(SYS_tgkill, parent, parent, 0));
}

static int do_rlimit(void)
{
	return result(syscall(SYS_prlimit64, 0, 7, (const uint64_t[]) { 10, 10 }, NULL));
}

Test(sandbox, what_only_an_intruder_would_try_is_deadly)
{
	for (int p = SANDBOX_TIGHT; p <= SANDBOX_DPDK; p++) {
		cr_assert_eq(outcome(p, do_exec), -SIGSYS, "profile %d", p);
		cr_assert_eq(outcome(p, do_ptrace), -SIGSYS, "profile %d", p);
		cr_assert_eq(outcome(p, do_io_uring), -SIGSYS, "profile %d", p);
		cr_assert_eq(outcome(p, do_setuid), -SIGSYS, "profile %d", p);
	}
}

Test(sandbox, what_is_not_needed_fails)
{
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_inet), ENOSYS);
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_open), EACCES);
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_exec_memory), ENOSYS);
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_make_executable), ENOSYS);
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_rlimit), ENOSYS);
	for (int p = SANDBOX_TIGHT; p <= SANDBOX_DPDK; p++) {
		cr_assert_eq(outcome(p, do_fork), ENOSYS, "profile %d", p);
		cr_assert_eq(outcome(p, do_kill_parent), ENOSYS, "profile %d", p);
	}
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_tgkill_parent), ENOSYS);
	/* What only drivers need, they have. */
	cr_assert_eq(outcome(SANDBOX_DPDK, do_inet), LET_THROUGH);
	cr_assert_eq(outcome(SANDBOX_DPDK, do_open), LET_THROUGH);
}

static void *add_one(void *arg)
{
	++*(int *)arg;
	return NULL;
}

static int do_serve(void)
{
	int n = 0, fd = eventfd(0, EFD_NONBLOCK), s = socket(AF_UNIX, SOCK_STREAM, 0);
	pthread_t t;
	char *p;

	/* Threads, with the memory and stacks that they bring. */
	if (pthread_create(&t, NULL, add_one, &n) || pthread_join(t, NULL) || n != 1)
		return 1;
	p = malloc(64 << 20);
	if (!p || eventfd_write(fd, 1) || s < 0)
		return 2;
	memset(p, 1, 64 << 20);
	free(p);
	return LET_THROUGH;
}

static int do_abort(void)
{
	abort();
}

Test(sandbox, what_serving_takes_still_works)
{
	for (int p = SANDBOX_TIGHT; p <= SANDBOX_DPDK; p++) {
		cr_assert_eq(outcome(p, do_serve), LET_THROUGH, "profile %d", p);
		cr_assert_eq(outcome(p, do_abort), -SIGABRT, "profile %d", p);
	}
}

static pthread_barrier_t gate;
static int thread_errno;

static void *open_later(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&gate);
	pthread_barrier_wait(&gate);
	thread_errno = open("/etc/passwd", O_RDONLY) < 0 ? errno : 0;
	return NULL;
}

/* Threads that ran before it are in it too. */
Test(sandbox, holds_threads_that_were_there_before)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err = { 0 };
		pthread_t t;

		pthread_barrier_init(&gate, NULL, 2);
		pthread_create(&t, NULL, open_later, NULL);
		pthread_barrier_wait(&gate);
		if (sandbox_seccomp(SANDBOX_TIGHT, &err) < 0)
			_exit(99);
		pthread_barrier_wait(&gate);
		pthread_join(t, NULL);
		_exit(thread_errno);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), EACCES);
}

/* Landlock: in a folder of ours socket files come and go, and nothing else is possible anywhere. */
static int touch_files(const char *ours, const char *theirs)
{
	char *folders[] = { (char *)ours, NULL, "/nowhere/at/all", "/dev/null" };
	const struct sandbox_paths paths = { .folder = folders, .n_folders = 4 };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	char file[200], other[200];
	struct error err = { 0 };
	int s = socket(AF_UNIX, SOCK_STREAM, 0), version;

	snprintf(file, sizeof(file), "%s/file", theirs);
	snprintf(other, sizeof(other), "%s/file", ours);
	close(creat(file, 0600));
	version = sandbox_landlock(&paths, &err);
	if (version <= 0)
		return version == 0 ? 77 : 1;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/socket", ours);
	if (bind(s, (struct sockaddr *)&sun, sizeof(sun)) < 0 || unlink(sun.sun_path) < 0)
		return 2;
	if (open(other, O_CREAT | O_WRONLY, 0600) >= 0 || errno != EACCES)
		return 3;
	if (open(file, O_RDONLY) >= 0 || errno != EACCES)
		return 4;
	if (unlink(file) == 0 || errno != EACCES)
		return 5;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/socket", theirs);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(s, (struct sockaddr *)&sun, sizeof(sun)) == 0 || errno != EACCES)
		return 6;
	return 0;
}

Test(sandbox, landlock_leaves_the_folders_of_sockets_alone)
{
	char ours[] = "/tmp/sluice-test-XXXXXX", theirs[] = "/tmp/sluice-test-XXXXXX";
	char path[100];
	int status;
	pid_t pid;

	cr_assert_not_null(mkdtemp(ours));
	cr_assert_not_null(mkdtemp(theirs));
	pid = fork();
	if (pid == 0)
		_exit(touch_files(ours, theirs));
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	snprintf(path, sizeof(path), "%s/file", theirs);
	unlink(path);
	rmdir(ours);
	rmdir(theirs);
	cr_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		cr_skip_test("this kernel has no Landlock");
	cr_assert_eq(WEXITSTATUS(status), 0);
}

static int do_userfaultfd(void)
{
	return result(syscall(SYS_userfaultfd, O_CLOEXEC | 1)); /* of user mode only */
}

/* The processes of vhost/pager.h: the second kind is in a front-end's hands. */
Test(sandbox, what_waits_for_pages_can_do_no_more_than_that)
{
	static const enum sandbox_profile both[] = { SANDBOX_STEM, SANDBOX_PAGER };

	for (unsigned i = 0; i < ARRAY_SIZE(both); i++) {
		cr_assert_eq(outcome(both[i], do_open), ENOSYS);
		cr_assert_eq(outcome(both[i], do_inet), ENOSYS);
		cr_assert_eq(outcome(both[i], do_exec), -SIGSYS);
		cr_assert_eq(outcome(both[i], do_ptrace), -SIGSYS);
		cr_assert_neq(outcome(both[i], do_exec_memory), LET_THROUGH);
	}
	cr_assert_eq(outcome(SANDBOX_PAGER, do_fork), ENOSYS);
	cr_assert_eq(outcome(SANDBOX_PAGER, do_userfaultfd), ENOSYS);
	cr_assert_eq(outcome(SANDBOX_TIGHT, do_userfaultfd), ENOSYS);
}
