/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of a sluiced that is set up.
 *
 * Three answers. What serving needs is allowed. What only an intruder would try (execve, ptrace,
 * another io_uring …) ends the process at once, with a line in the kernel's log. Anything else
 * fails with ENOSYS, as if the kernel were older: libraries know what to do then, and a C library
 * that one day tries a new call first must not cost all guests their devices.
 */
#include "daemon/sandbox.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/fs.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#define CALLS(...)                     \
	(const int[])                  \
	{                              \
		__VA_ARGS__, CALLS_END \
	}
#define CALLS_END __NR_SCMP_ERROR

/* Serving: descriptors that we have or are given, memory, threads, time. No paths are opened. */
static const int *const allowed = CALLS(
	/* descriptors */
	SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(preadv), SCMP_SYS(preadv2),
	SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(pwrite64), SCMP_SYS(pwritev),
	SCMP_SYS(pwritev2), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3),
	SCMP_SYS(fcntl), SCMP_SYS(flock), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(fstatfs),
	SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate),
	SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(pipe2), SCMP_SYS(eventfd2),
	SCMP_SYS(memfd_create), SCMP_SYS(io_setup), SCMP_SYS(io_submit), SCMP_SYS(io_getevents),
	SCMP_SYS(io_destroy),
	/* waiting */
	SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
	SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime),
	SCMP_SYS(signalfd4), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
	/* sockets; socket() itself stands below */
	SCMP_SYS(accept4), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(connect), SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getsockname), SCMP_SYS(getpeername),
	SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
	/* Names of files, but none of them is opened: socket files come and go. */
	SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(readlink),
	SCMP_SYS(readlinkat), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
	SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(umask),
	/* memory */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mincore),
	SCMP_SYS(msync), SCMP_SYS(mlock), SCMP_SYS(mlock2), SCMP_SYS(munlock), SCMP_SYS(mbind),
	SCMP_SYS(get_mempolicy), SCMP_SYS(set_mempolicy), SCMP_SYS(membarrier),
	/* threads and signals */
	SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(get_robust_list),
	SCMP_SYS(set_tid_address), SCMP_SYS(rseq), SCMP_SYS(exit), SCMP_SYS(exit_group),
	SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity),
	SCMP_SYS(getcpu), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigpending), SCMP_SYS(rt_sigtimedwait), SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall), SCMP_SYS(alarm), SCMP_SYS(setitimer),
	/* only to a process whose descriptor we have: a pager */
	SCMP_SYS(pidfd_send_signal),
	/* time and self */
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getpid),
	SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
	SCMP_SYS(getrandom), SCMP_SYS(getrusage), SCMP_SYS(getrlimit), SCMP_SYS(sysinfo),
	SCMP_SYS(uname), SCMP_SYS(capget));

/* Forks, and what a child does until it is a pager; the filter of that comes on top. */
static const int *const allowed_stem = CALLS(
	SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(close), SCMP_SYS(clone), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(userfaultfd), SCMP_SYS(pidfd_open), SCMP_SYS(prctl),
	SCMP_SYS(seccomp), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(madvise), SCMP_SYS(futex),
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(getpid), SCMP_SYS(gettid),
	SCMP_SYS(getrandom), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn));

static const int *const allowed_pager = CALLS(SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(close),
					      SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn));

/* What DPDK's drivers use while their ports run and when they close. */
static const int *const allowed_dpdk = CALLS(
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(ioctl), SCMP_SYS(socket), SCMP_SYS(socketpair),
	SCMP_SYS(bpf), SCMP_SYS(getdents64), SCMP_SYS(mkdir), SCMP_SYS(mkdirat), SCMP_SYS(rmdir),
	SCMP_SYS(rename), SCMP_SYS(getcwd), SCMP_SYS(statfs), SCMP_SYS(sendmmsg),
	SCMP_SYS(recvmmsg), SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(epoll_create),
	SCMP_SYS(eventfd), SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(mlockall),
	SCMP_SYS(munlockall), SCMP_SYS(move_pages), SCMP_SYS(sched_getparam),
	SCMP_SYS(sched_getscheduler), SCMP_SYS(sched_setscheduler), SCMP_SYS(prctl),
	SCMP_SYS(prlimit64), SCMP_SYS(getppid), SCMP_SYS(getresuid), SCMP_SYS(getresgid));

/* Nothing of ours ever does these: whoever calls them is not us any more. */
static const int *const deadly = CALLS(
	SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(io_uring_setup),
	SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
	SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(mount), SCMP_SYS(umount2),
	SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(pivot_root),
	SCMP_SYS(chroot), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(open_by_handle_at),
	SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(perf_event_open),
	SCMP_SYS(setuid), SCMP_SYS(setgid), SCMP_SYS(setreuid), SCMP_SYS(setregid),
	SCMP_SYS(setresuid), SCMP_SYS(setresgid), SCMP_SYS(setgroups), SCMP_SYS(setfsuid),
	SCMP_SYS(setfsgid), SCMP_SYS(capset), SCMP_SYS(reboot), SCMP_SYS(swapon),
	SCMP_SYS(personality), SCMP_SYS(acct), SCMP_SYS(quotactl), SCMP_SYS(syslog));

/* Of files and devices that we are given or serve. */
static const unsigned long ioctls[] = {
	FIONREAD, FIONBIO,	TCGETS,	    BLKSSZGET,	BLKPBSZGET,
	BLKIOOPT, BLKGETSIZE64, BLKDISCARD, BLKZEROOUT, BLKSECDISCARD,
};

static int add_all(scmp_filter_ctx ctx, uint32_t action, const int *calls)
{
	int rc = 0;

	for (; rc == 0 && *calls != CALLS_END; calls++)
		rc = seccomp_rule_add(ctx, action, *calls, 0);
	return rc;
}

/* Without SOCK_NONBLOCK and SOCK_CLOEXEC. */
#define SOCK_TYPE_MASK 0xf
static const int tcp_families[] = { AF_INET, AF_INET6 };

/* Which files those are is Landlock's to say. */
static int add_reading(scmp_filter_ctx ctx)
{
	static const unsigned writes[] = { O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND };
	unsigned all = 0;
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
		all |= writes[i];
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 1,
				       SCMP_A2(SCMP_CMP_MASKED_EQ, writes[i], writes[i]));
	}
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, all, 0));
	return rc;
}

/* Calls that are allowed for some arguments alone. */
static int add_checked(scmp_filter_ctx ctx, enum sandbox_profile profile)
{
	const uint64_t thread = CLONE_VM | CLONE_THREAD;
	const uint32_t allow = SCMP_ACT_ALLOW;
	bool tcp = profile == SANDBOX_TCP || profile == SANDBOX_TLS;
	int rc = 0;

	/* Neither memory that is executed, nor any other kind of process than a thread of ours. */
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(mmap), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(mprotect), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	/* clone3 keeps its flags in memory, where a filter cannot look; ENOSYS makes it this. */
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(tgkill), 1,
			       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(socketpair), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	for (unsigned i = 0; tcp && i < ARRAY_SIZE(tcp_families); i++)
		rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(socket), 2,
				       SCMP_A0(SCMP_CMP_EQ, tcp_families[i]),
				       SCMP_A1(SCMP_CMP_MASKED_EQ, SOCK_TYPE_MASK, SOCK_STREAM));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_VMA));
	/* Asking for a limit, not setting one. */
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0));
	for (unsigned i = 0; i < ARRAY_SIZE(ioctls); i++)
		rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_EQ, ioctls[i]));
	/* An answer that callers expect of a file that they may not have. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(open), 0);
	rc |= profile == SANDBOX_TLS
		      ? add_reading(ctx)
		      : seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	return rc ? -EINVAL : 0;
}

/* The processes of vhost/pager.h. */
static int add_pager(scmp_filter_ctx ctx, enum sandbox_profile profile)
{
	const uint32_t allow = SCMP_ACT_ALLOW;
	int rc = add_all(ctx, allow, profile == SANDBOX_STEM ? allowed_stem : allowed_pager);

	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(mmap), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (profile == SANDBOX_STEM) {
		rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(mprotect), 1,
				       SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
		rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_EQ, UFFDIO_API));
	}
	rc |= seccomp_rule_add(ctx, allow, SCMP_SYS(ioctl), 1,
			       SCMP_A1(SCMP_CMP_EQ, UFFDIO_REGISTER));
	return rc ? -EINVAL : 0;
}

static int build(scmp_filter_ctx ctx, enum sandbox_profile profile)
{
	bool pager = profile == SANDBOX_STEM || profile == SANDBOX_PAGER;
	int rc;

	rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (rc == 0)
		rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (rc < 0)
		return rc;
	/* Optional: the kernel's log names what was refused, and a tree is quicker than a list. */
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	rc = pager ? add_pager(ctx, profile) : add_all(ctx, SCMP_ACT_ALLOW, allowed);
	if (rc == 0)
		rc = add_all(ctx, SCMP_ACT_KILL_PROCESS, deadly);
	if (rc == 0 && profile == SANDBOX_DPDK) {
		rc = add_all(ctx, SCMP_ACT_ALLOW, allowed_dpdk);
		if (rc == 0)
			rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
					      SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_VM | CLONE_THREAD,
						      CLONE_VM | CLONE_THREAD));
		if (rc == 0)
			rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
					      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	} else if (rc == 0 && !pager) {
		rc = add_checked(ctx, profile);
	}
	return rc;
}

int sandbox_seccomp(enum sandbox_profile profile, struct error *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int rc;

	if (!ctx)
		return error_set(err, -ENOMEM, "seccomp: out of memory");
	rc = build(ctx, profile);
	if (rc == 0)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	if (rc < 0)
		return error_set(err, rc, "seccomp: the kernel takes no filter: %s", strerror(-rc));
	return 0;
}

const char *sandbox_unfit(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
	__has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
	/* They start processes of their own, trace them and read /proc when they report. */
	return "this build has a sanitizer, which needs more system calls";
#else
	return NULL;
#endif
}
