/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a disk's file: how large it is, who else has it, and what direct I/O to it asks for.
 * Whatever a user got wrong ends here, in a sentence.
 */
#include "base/error.h"
#include "base/image_file.h"
#include "base/log.h"
#include "blk/disk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define ALIGN_MAX 65536u
#define SECTOR 512u

/* Who gave them may hold on to them, and the lock would last as long. */
static void unlock_given(const struct file_disk *f)
{
	if (f->given && f->fd >= 0)
		disk_unlock(f->fd);
	if (f->given && f->fd_buffered >= 0)
		disk_unlock(f->fd_buffered);
}

void file_close(struct disk *d)
{
	struct file_disk *f = container_of(d, struct file_disk, disk);

	if (d->lost)
		log_info("disk %s: %s is closed, which had lost writes; flushes of what is opened "
			 "in its place succeed again",
			 f->name, f->path);
	unlock_given(f);
	if (f->fd >= 0)
		close(f->fd);
	if (f->fd_buffered >= 0)
		close(f->fd_buffered);
	free(f);
}

static int find_size(struct file_disk *f, const struct blk_config *cfg, struct error *err)
{
	uint64_t size, *out = &f->disk.info.size;
	int rc = file_size(f->fd, &size);

	if (rc)
		return error_set(err, rc, "disk image %s: %s", cfg->file, strerror(-rc));
	if (size < SECTOR)
		return error_set(err, -EINVAL,
				 "disk image %s has %llu bytes, less than a sector of 512; make it "
				 "larger, for example with: truncate -s 10G FILE",
				 cfg->file, (unsigned long long)size);
	*out = ALIGN_DOWN(size, SECTOR);
	/* Refusing would be worse for the owner: the guest could not use the rest anyway. */
	if (*out != size)
		log_warn("disk image %s: its size of %llu bytes is not a multiple of 512; the last "
			 "%u bytes are left out",
			 cfg->file, (unsigned long long)size, (unsigned)(size - *out));
	return 0;
}

/* Does a direct read of @len bytes to @buf work, or could it, were it aligned otherwise? */
static bool direct_read_works(int fd, void *buf, size_t len)
{
	ssize_t n;

	do {
		n = pread(fd, buf, len, 0);
	} while (n < 0 && errno == EINTR);
	/* Other errors (a bad sector) are not about alignment. */
	return n >= 0 || errno != EINVAL;
}

/* The kernel cannot tell: try. @return false when no alignment works. */
static bool probe_alignment(int fd, struct disk_info *info)
{
	uint32_t io, mem;
	bool found = false;
	char *buf;

	buf = aligned_alloc(ALIGN_MAX, 2 * ALIGN_MAX);
	if (!buf)
		return false;
	for (io = SECTOR; io <= ALIGN_MAX && !found; io *= 2)
		if (direct_read_works(fd, buf, io)) {
			found = true;
			info->align_io = io;
		}
	for (mem = SECTOR; found && mem < ALIGN_MAX; mem *= 2)
		if (direct_read_works(fd, buf + mem, info->align_io))
			break;
	info->align_mem = mem;
	free(buf);
	return found;
}

/*
 * What direct I/O asks of addresses, and of offsets and lengths. @return false: the file cannot do
 * direct I/O at all, or in a way that we could use.
 */
static bool find_alignment(int fd, struct disk_info *info)
{
#ifdef STATX_DIOALIGN /* Linux 6.1 */
	struct statx stx = { 0 };

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN)) {
		info->align_mem = stx.stx_dio_mem_align;
		info->align_io = MAX(stx.stx_dio_offset_align, SECTOR);
		return stx.stx_dio_offset_align && IS_POWER_OF_2(info->align_mem) &&
		       IS_POWER_OF_2(info->align_io) && info->align_mem <= ALIGN_MAX &&
		       info->align_io <= ALIGN_MAX;
	}
#endif
	return probe_alignment(fd, info);
}

/* What the guest is told, so that its file systems lay their blocks well. */
static void find_topology(struct file_disk *f)
{
	struct disk_info *info = &f->disk.info;
	unsigned physical = 0, optimal = 0;

	/*
	 * Always 512, also where the device has larger sectors: partition tables are written in
	 * units of it, so an image keeps its meaning wherever it is moved.
	 */
	info->block_size = SECTOR;
	info->physical_size = PAGE;
	if (ioctl(f->fd, BLKPBSZGET, &physical) == 0 && IS_POWER_OF_2(physical))
		info->physical_size = MIN(MAX(physical, SECTOR), ALIGN_MAX);
	if (f->direct)
		info->physical_size = MAX(info->physical_size, info->align_io);
	if (ioctl(f->fd, BLKIOOPT, &optimal) == 0)
		info->optimal_size = ALIGN_DOWN(optimal, SECTOR);
}

/*
 * Goes on through the page cache. By the first descriptor: of a block device it holds O_EXCL. Not
 * asked for O_DIRECT again, a file system without it cannot refuse.
 */
static int fall_back(struct file_disk *f, const struct blk_config *cfg, const char *why,
		     struct error *err)
{
	log_warn("disk image %s: %s; going through the page cache (cache: writeback says so "
		 "without this warning)",
		 cfg->file, why);
	f->direct = false;
	if (f->fd_buffered >= 0)
		close(f->fd_buffered);
	f->fd_buffered = -1;
	if (fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_DIRECT) < 0)
		return error_set(err, -errno, "disk image %s: %s", cfg->file, strerror(errno));
	return 0;
}

/* Direct or buffered, as was asked for and can be had with the descriptors that there are. */
static int choose_way(struct file_disk *f, const struct blk_config *cfg, struct error *err)
{
	struct disk_info *info = &f->disk.info;

	info->align_mem = info->align_io = 1;
	if (cfg->cache != DISK_CACHE_NONE)
		return 0;
	if (!(fcntl(f->fd, F_GETFL) & O_DIRECT))
		return fall_back(f, cfg, "its file system has no O_DIRECT", err);
	f->direct = true;
	if (!find_alignment(f->fd, info)) {
		info->align_mem = info->align_io = 1;
		return fall_back(f, cfg, "direct I/O to it does not work", err);
	}
	/* See file_fd(): direct requests must cover whole pages if others go through the cache. */
	if (info->align_io > SECTOR && info->align_io < PAGE) {
		info->align_mem = info->align_io = 1;
		return fall_back(f, cfg,
				 "direct I/O to it takes more than a sector, but less than a page",
				 err);
	}
	if (info->align_io == SECTOR && f->fd_buffered >= 0) {
		close(f->fd_buffered);
		f->fd_buffered = -1;
	}
	return 0;
}

static void describe(struct file_disk *f, const struct blk_config *cfg)
{
	struct disk_info *info = &f->disk.info;
	size_t room = sizeof(info->how);

	if (!f->direct)
		snprintf(info->how, room, "io_uring, buffered%s",
			 cfg->cache == DISK_CACHE_NONE ? " (O_DIRECT is not to be had)" : "");
	else
		snprintf(info->how, room, "%s, O_DIRECT, alignment %u%s",
			 f->aio ? "Linux AIO (done in place)" : "io_uring", info->align_io,
			 f->fd_buffered >= 0 ? " (smaller: buffered)" : "");
}

static int open_path(const struct blk_config *cfg, struct image_file *out, struct error *err)
{
	const struct image_wish wish = {
		.path = cfg->file,
		.read_only = cfg->read_only,
		.direct = cfg->cache == DISK_CACHE_NONE,
		.exclusive = !cfg->read_only && cfg->lock == DISK_LOCK_OPEN,
		.user = "the user that sluiced runs as",
		.say_read_only = "set read_only: true",
	};

	return image_file_open(&wish, out, err);
}

/* Of a half-built disk with its descriptors. */
static int examine(struct file_disk *f, const struct blk_config *cfg, struct error *err)
{
	struct stat st;
	int rc = choose_way(f, cfg, err);

	if (rc)
		return rc;
	rc = find_size(f, cfg, err);
	if (rc)
		return rc;
	/* Else it is taken when a queue starts, and until then another may have the image. */
	if (cfg->lock == DISK_LOCK_OPEN) {
		rc = file_use(&f->disk, err);
		if (rc)
			return rc;
	}
	if (fstat(f->fd, &st))
		return error_set(err, -errno, "disk image %s: %s", cfg->file, strerror(errno));
	f->is_device = S_ISBLK(st.st_mode);
	find_topology(f);
	range_probe(f, cfg);
	f->disk.info.volatile_cache = !cfg->read_only;
	f->aio = f->direct && f->is_device && aio_suits(f->fd, MAX(f->disk.info.align_io, PAGE));
	f->disk.info.burst = f->aio ? FILE_BURST_AIO : FILE_BURST;
	describe(f, cfg);
	return 0;
}

int file_open(const struct blk_config *cfg, struct disk **out, struct error *err)
{
	struct file_disk *f = calloc(1, sizeof(*f));
	struct image_file image = { -1, -1 };
	int rc;

	if (!f)
		return error_set(err, -ENOMEM, "disk image %s: out of memory", cfg->file);
	f->disk.ops = &disk_file;
	f->fd = f->fd_buffered = -1;
	f->name = cfg->name;
	f->path = cfg->file;
	f->lost_call.fn = file_log_loss;
	f->read_only = cfg->read_only;
	f->given = cfg->image != NULL;
	rc = f->given ? file_take_given(cfg, &image, err) : open_path(cfg, &image, err);
	f->fd = image.fd;
	f->fd_buffered = image.fd_buffered;
	if (rc == 0)
		rc = examine(f, cfg, err);
	if (rc && f->given) {
		struct image_file unused = { f->fd, f->fd_buffered };

		unlock_given(f);
		image_drop(&unused);
		f->fd = f->fd_buffered = -1;
	}
	if (rc) {
		file_close(&f->disk);
		return rc;
	}
	*out = &f->disk;
	return 0;
}
