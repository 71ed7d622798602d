/* SPDX-License-Identifier: Apache-2.0 */
/* Opening disks: what is refused, in which words, and what is found out about the rest. */
#include "blk/disk_file.h"
#include "tests/unit/disk_util.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* Opens @path and expects @code and a sentence with @word and the path in it. */
static void refused(const char *path, bool read_only, int code, const char *word)
{
	struct blk_config cfg = { .name = "d", .file = path, .read_only = read_only };
	struct error err = { 0 };
	struct disk *d = NULL;

	cr_assert_eq(disk_file.open(&cfg, &d, &err), code, "%s: %s", path, err.text);
	cr_assert(strstr(err.text, path), "names no file: %s", err.text);
	cr_assert(strstr(err.text, word), "no \"%s\": %s", word, err.text);
}

static struct disk *opened(const struct blk_config *cfg)
{
	struct error err = { 0 };
	struct disk *d = NULL;

	cr_assert_eq(disk_kinds[cfg->kind]->open(cfg, &d, &err), 0, "%s", err.text);
	return d;
}

Test(disk_open, a_missing_image_is_refused_with_a_way_to_make_one)
{
	refused("no-such-image.raw", false, -ENOENT, "truncate");
}

Test(disk_open, a_directory_is_refused)
{
	refused("/tmp", false, -EISDIR, "directory");
}

Test(disk_open, a_pipe_is_refused_without_waiting_for_its_other_end)
{
	char path[64];

	snprintf(path, sizeof(path), "test-pipe-%d", getpid());
	cr_assert_eq(mkfifo(path, 0600), 0);
	refused(path, false, -EINVAL, "pipe");
	unlink(path);
}

Test(disk_open, a_character_device_is_refused)
{
	refused("/dev/zero", false, -EINVAL, "character device");
}

Test(disk_open, an_image_below_one_sector_is_refused)
{
	char path[64];

	image_create(path, 0);
	refused(path, false, -EINVAL, "0 bytes");
	cr_assert_eq(truncate(path, 511), 0);
	refused(path, false, -EINVAL, "511 bytes");
	unlink(path);
}

Test(disk_open, an_image_that_we_may_not_write_is_refused_and_read_only_offered)
{
	char path[64];
	int rc;

	image_create(path, 4096);
	cr_assert_eq(chmod(path, 0444), 0);
	rc = geteuid() == 0 ? seteuid(65534) : 0;
	cr_assert_eq(rc, 0);
	if (access(path, R_OK))
		cr_skip_test("an ordinary user cannot reach the build folder");
	refused(path, false, -EACCES, "read_only: true");
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	unlink(path);
}

Test(disk_open, the_tail_of_an_image_that_is_no_whole_sector_is_left_out)
{
	struct blk_config cfg = { .name = "d" };
	struct disk *d;
	char path[64];

	image_create(path, 4096 + 700);
	cfg.file = path;
	d = opened(&cfg);
	cr_assert_eq(d->info.size, 4096 + 512);
	d->ops->close(d);
	unlink(path);
}

Test(disk_open, the_facts_tell_how_it_is_done)
{
	struct blk_config cfg = { .name = "d" };
	struct disk *d;
	char path[64];

	image_create(path, 1 * MIB);
	cfg.file = path;
	d = opened(&cfg);
	cr_assert_eq(d->info.block_size, 512);
	cr_assert_geq(d->info.physical_size, 512);
	cr_assert(d->info.volatile_cache);
	if (container_of(d, struct file_disk, disk)->direct)
		cr_assert(strstr(d->info.how, "O_DIRECT, alignment"), "%s", d->info.how);
	d->ops->close(d);

	cfg.cache = DISK_CACHE_WRITEBACK;
	d = opened(&cfg);
	cr_assert_str_eq(d->info.how, "io_uring, buffered");
	d->ops->close(d);

	cfg.read_only = true;
	d = opened(&cfg);
	cr_assert_not(d->info.volatile_cache);
	d->ops->close(d);
	unlink(path);
}

Test(disk_open, two_writers_of_one_image_exclude_each_other_also_in_one_process)
{
	struct blk_config cfg = { .name = "d" };
	struct disk *d;
	char path[64];

	image_create(path, 4096);
	cfg.file = path;
	d = opened(&cfg);
	refused(path, false, -EBUSY, "another process or device");
	refused(path, true, -EBUSY, "writes to it");
	d->ops->close(d);

	/* And its end is the lock's end. */
	d = opened(&cfg);
	d->ops->close(d);
	unlink(path);
}

Test(disk_open, two_readers_of_one_image_get_along_but_no_writer_joins_them)
{
	struct blk_config cfg = { .name = "d", .read_only = true };
	struct disk *a, *b;
	char path[64];

	image_create(path, 4096);
	cfg.file = path;
	a = opened(&cfg);
	b = opened(&cfg);
	refused(path, false, -EBUSY, "read-only");
	a->ops->close(a);
	refused(path, false, -EBUSY, "read-only");
	b->ops->close(b);
	cfg.read_only = false;
	a = opened(&cfg);
	a->ops->close(a);
	unlink(path);
}

/*
 * What a killed daemon left in the kernel holds its description of the image, and the lock with it.
 * Here a process that has not ended yet stands for that.
 */
Test(disk_open, a_lock_that_outlives_its_daemon_for_a_moment_is_waited_for)
{
	struct blk_config cfg = { .name = "d" };
	int ready[2], status;
	char path[64], byte;
	struct disk *d;
	pid_t pid;

	image_create(path, 4096);
	cfg.file = path;
	cr_assert_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		d = opened(&cfg);
		cr_assert_eq(write(ready[1], "", 1), 1);
		usleep(100000);
		_exit(0);
	}
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	d = opened(&cfg);
	/* So it had ended, or was about to. */
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	d->ops->close(d);
	close(ready[0]);
	close(ready[1]);
	unlink(path);
}

Test(disk_open, a_symbolic_link_or_second_name_does_not_fool_the_lock)
{
	struct blk_config cfg = { .name = "d" };
	char path[64], other[80];
	struct disk *d;

	image_create(path, 4096);
	cfg.file = path;
	d = opened(&cfg);
	snprintf(other, sizeof(other), "%s-second", path);
	cr_assert_eq(link(path, other), 0);
	refused(other, false, -EBUSY, "another process or device");
	d->ops->close(d);
	unlink(path);
	unlink(other);
}

Test(disk_open, null_and_ram_need_a_size_of_whole_sectors)
{
	struct blk_config cfg = { .name = "scratch" };
	struct error err = { 0 };
	struct disk *d;

	for (cfg.kind = DISK_NULL; cfg.kind <= DISK_RAM; cfg.kind++) {
		cfg.size = 0;
		cr_assert_eq(disk_kinds[cfg.kind]->open(&cfg, &d, &err), -EINVAL);
		cr_assert(strstr(err.text, "disk scratch: size 0"), "%s", err.text);
		cfg.size = 1000;
		cr_assert_eq(disk_kinds[cfg.kind]->open(&cfg, &d, &err), -EINVAL);
		cr_assert(strstr(err.text, "size 1000"), "%s", err.text);
		cfg.size = 1024;
		d = opened(&cfg);
		cr_assert_eq(d->info.size, 1024);
		d->ops->close(d);
	}
}

Test(disk_open, a_ram_disk_too_large_for_the_address_space_is_refused)
{
	struct blk_config cfg = { .name = "huge", .kind = DISK_RAM, .size = UINT64_C(1) << 60 };
	struct error err = { 0 };
	struct disk *d;

	cr_assert_eq(disk_ram.open(&cfg, &d, &err), -ENOMEM);
	cr_assert(strstr(err.text, "disk huge"), "%s", err.text);
}

/*
 * T23, CVE-2026-27211: what a guest writes into a raw image must not make another format of it,
 * least of all one that names files of the host's.
 */
Test(disk_open, an_image_that_looks_like_qcow2_is_served_as_it_is_T23)
{
	/* Magic, version 3, a backing file's name of 11 bytes at 104, clusters of 64 KiB, 1 GiB. */
	static const uint8_t header[] = { 'Q', 'F', 'I', 0xfb, 0,   0, 0,  3, 0,  0, 0,
					  0,   0,   0,	 0,    104, 0, 0,  0, 11, 0, 0,
					  0,   16,  0,	 0,    0,   0, 64, 0, 0,  0 };
	struct rig rig;
	struct blk_config cfg = { .name = "d" };
	char path[64], name[] = "/etc/passwd";
	uint8_t bytes[512] = { 0 };
	int fd;

	image_create(path, 64 * KIB);
	fd = open(path, O_RDWR);
	cr_assert_eq(pwrite(fd, header, sizeof(header), 0), (ssize_t)sizeof(header));
	cr_assert_eq(pwrite(fd, name, sizeof(name), 104), (ssize_t)sizeof(name));
	close(fd);
	cfg.file = path;
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.size, 64 * KIB);
	cr_assert_eq(rig_rw(&rig, DISK_READ, 0, bytes, sizeof(bytes)), 0);
	cr_assert_eq(memcmp(bytes, header, sizeof(header)), 0);
	cr_assert_str_eq((char *)bytes + 104, name);
	rig_close(&rig);
	unlink(path);
}

/* A file system that has no O_DIRECT. */
Test(disk_open, where_there_is_no_o_direct_it_goes_through_the_page_cache)
{
	struct blk_config cfg = { .name = "d", .file = "image.raw" };
	char folder[] = "test-ramfs-XXXXXX", data[4096], back[4096];
	struct rig rig;
	int fd;

	cr_assert(mkdtemp(folder));
	if (mount("ramfs", folder, "ramfs", 0, NULL)) {
		rmdir(folder);
		cr_skip_test("no right to mount a ramfs");
	}
	cr_assert_eq(chdir(folder), 0);
	fd = open(cfg.file, O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(fd, MIB), 0);
	cr_assert_lt(open(cfg.file, O_RDWR | O_DIRECT), 0, "ramfs has learnt it: take another");
	rig_open(&rig, &cfg, 0);
	cr_assert(strstr(rig.disk->info.how, "buffered"), "%s", rig.disk->info.how);
	fill(data, sizeof(data), 4);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, MIB - 4096, data, sizeof(data)), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, MIB - 4096, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	cr_assert_eq(rig_rw(&rig, DISK_FLUSH, 0, NULL, 0), 0);
	rig_close(&rig);
	close(fd);
	cr_assert_eq(chdir(".."), 0);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
}

/* Nothing wraps at the end of the largest file there can be, which is mostly a hole. */
Test(disk_open, a_sparse_image_of_8_eib_is_served_to_its_last_sector)
{
	struct blk_config cfg = { .name = "d", .file = "image.raw" };
	char folder[] = "test-tmpfs-XXXXXX", data[512], back[512];
	const uint64_t size = INT64_MAX / 512 * 512;
	struct rig rig;
	int fd;

	cr_assert(mkdtemp(folder));
	if (mount("tmpfs", folder, "tmpfs", 0, "size=4M")) {
		rmdir(folder);
		cr_skip_test("no right to mount a tmpfs");
	}
	cr_assert_eq(chdir(folder), 0);
	fd = open(cfg.file, O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(fd, INT64_MAX), 0);
	rig_open(&rig, &cfg, 0);
	cr_assert_eq(rig.disk->info.size, size);
	fill(data, sizeof(data), 4);
	cr_assert_eq(rig_rw(&rig, DISK_WRITE, size - 512, data, sizeof(data)), 0);
	cr_assert_eq(rig_rw(&rig, DISK_READ, size - 512, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	memset(data, 0, sizeof(data));
	cr_assert_eq(rig_rw(&rig, DISK_READ, size / 2 / 512 * 512, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	rig_close(&rig);
	close(fd);
	cr_assert_eq(chdir(".."), 0);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
}

Test(disk_open, an_image_on_a_read_only_file_system_is_refused_and_read_only_offered)
{
	struct blk_config cfg = { .name = "d", .read_only = true };
	char folder[] = "test-tmpfs-XXXXXX", path[64];
	struct disk *d;
	int fd;

	cr_assert(mkdtemp(folder));
	if (mount("tmpfs", folder, "tmpfs", 0, "size=4M")) {
		rmdir(folder);
		cr_skip_test("no right to mount a tmpfs");
	}
	snprintf(path, sizeof(path), "%s/image.raw", folder);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	cr_assert_eq(ftruncate(fd, MIB), 0);
	close(fd);
	cr_assert_eq(mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
	refused(path, false, -EROFS, "read_only: true");
	cfg.file = path;
	d = opened(&cfg);
	cr_assert_eq(d->info.size, MIB);
	d->ops->close(d);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
}
