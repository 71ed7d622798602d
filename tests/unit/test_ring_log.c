/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log at the ring: what is logged, where, and before what. vhost-user "Migration"; T11.
 */
#include "tests/unit/ring_pair.h"

#include <pthread.h>
#include <signal.h>

#define PAGE 4096
#define LOG_END (LATE_GPA + LATE_BYTES)
#define LOG_PAGES (LOG_END / PAGE)

/* A log that ends where a page ends, so that a step beyond it is a fault. */
struct log_bed {
	struct ring_log log;
	uint8_t *map; /* one page that is there, one that is not */
};

static void log_open(struct log_bed *l, struct pair *p, uint64_t n_pages)
{
	cr_assert_leq(n_pages, UINT64_C(8) * PAGE);
	l->map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(l->map, MAP_FAILED);
	cr_assert_eq(mprotect(l->map + PAGE, PAGE, PROT_NONE), 0);
	l->log = (struct ring_log) { .bits = l->map + PAGE - (n_pages + 7) / 8,
				     .n_pages = n_pages,
				     .data = true,
				     .device_area = true,
				     .call_fd = -1 };
	for (unsigned i = MAIN; i <= LATE; i++) {
		const struct mem_region *r = &p->map->region[i];
		uint8_t *area = driver_device_area(&p->d);

		if (area >= r->host && area < r->host + r->size)
			l->log.device_gpa = r->gpa + (uint64_t)(area - r->host);
	}
	p->r.log = &l->log;
}

static void log_close(struct log_bed *l)
{
	munmap(l->map, 2 * PAGE);
}

static bool has(const struct log_bed *l, uint64_t gpa)
{
	return l->log.bits[gpa / PAGE / 8] & 1u << gpa / PAGE % 8;
}

static unsigned bits_set(const struct log_bed *l)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < (l->log.n_pages + 7) / 8; i++)
		n += (unsigned)__builtin_popcount(l->log.bits[i]);
	return n;
}

/* What the device writes is found by comparing all memory with a copy of before. */
struct shadow {
	uint8_t *copy[N_REGIONS];
};

static void shadow_take(struct shadow *s, const struct pair *p)
{
	for (unsigned i = MAIN; i <= LATE; i++) {
		const struct mem_region *r = &p->map->region[i];

		if (!s->copy[i])
			s->copy[i] = malloc(r->size);
		memcpy(s->copy[i], r->host, r->size);
	}
}

/* @return pages that changed; each of them must have its bit. */
static unsigned shadow_check(const struct shadow *s, const struct pair *p, const struct log_bed *l)
{
	unsigned changed = 0;

	for (unsigned i = MAIN; i <= LATE; i++) {
		const struct mem_region *r = &p->map->region[i];

		for (uint64_t at = 0; at < r->size; at += PAGE) {
			if (memcmp(s->copy[i] + at, r->host + at, PAGE) == 0)
				continue;
			changed++;
			cr_assert(has(l, r->gpa + at), "the page at 0x%llx changed unlogged",
				  (unsigned long long)(r->gpa + at));
		}
	}
	return changed;
}

static void shadow_free(struct shadow *s)
{
	for (unsigned i = MAIN; i <= LATE; i++)
		free(s->copy[i]);
}

/* The device writes into what it was given, as far as @len, and logs it. */
static void dev_fill(struct pair *p, struct chain *c, uint32_t len, uint8_t value)
{
	uint32_t left = len;

	for (unsigned i = 0; i < c->n_in && left; i++) {
		struct iovec *v = &c->segs[c->n_out + i];
		uint32_t n = MIN(left, (uint32_t)v->iov_len);

		memset(v->iov_base, value, n);
		left -= n;
	}
	if (p->r.log)
		ring_log_iov(&p->r, c->segs + c->n_out, c->n_in, len);
}

/* A random buffer: anywhere, also across the border of MAIN and NEXT; also without any length. */
static struct driver_seg random_seg(const struct pair *p, unsigned *seed)
{
	uint32_t len = rand_r(seed) % 4 ? (uint32_t)rand_r(seed) % 20000 : 0;
	uint64_t from = ALIGN_UP(p->brk, PAGE), span = HOLE_GPA - from - 20000;

	if (rand_r(seed) % 8 == 0)
		return (struct driver_seg) { LATE_GPA + (uint32_t)rand_r(seed) % 40000, len };
	return (struct driver_seg) { from + (uint64_t)rand_r(seed) % span, len };
}

RING_TEST(ring_log, each_page_that_the_device_writes_has_its_bit)
{
	struct shadow s = { 0 };
	struct log_bed l;
	unsigned seed = 1, changed = 0;

	log_open(&l, p, LOG_PAGES);
	for (unsigned round = 0; round < 200; round++) {
		unsigned n = 1 + (unsigned)rand_r(&seed) % 3, got;
		struct driver_used u;

		memset(l.log.bits, 0, (LOG_PAGES + 7) / 8);
		for (unsigned i = 0; i < n; i++) {
			struct driver_seg segs[5];

			for (unsigned k = 0; k < ARRAY_SIZE(segs); k++)
				segs[k] = random_seg(p, &seed);
			cr_assert_eq(drv_add(p, segs, 2, 3, i), 0);
		}
		drv_publish(p);
		/* Only now: what the driver wrote is not our business. */
		shadow_take(&s, p);
		got = dev_pop(p, 256);
		cr_assert_eq(got, n);
		for (unsigned i = 0; i < got; i++) {
			struct chain *c = &p->chains[got - 1 - i];
			uint32_t len = c->in_len ? (uint32_t)rand_r(&seed) % (c->in_len + 1) : 0;

			dev_fill(p, c, len, (uint8_t)(round * 7 + i + 1));
			dev_push(p, c, len);
		}
		dev_publish(p);
		if (dev_kicks_on(p))
			dev_kicks_off(p);
		changed += shadow_check(&s, p, &l);
		while (drv_poll(p, &u))
			;
	}
	cr_assert_gt(changed, 400);
	cr_assert_eq(counter_read(&l.log.missed), 0);
	shadow_free(&s);
	log_close(&l);
}

/* Surplus is what a destination receives for nothing: no page that was not written is named. */
RING_TEST(ring_log, no_other_page_has_a_bit)
{
	struct driver_seg seg = { MAIN_GPA + 64 * PAGE + 4090, 6 };
	struct log_bed l;

	log_open(&l, p, LOG_PAGES);
	l.log.device_area = false;
	cr_assert_eq(drv_add(p, &seg, 0, 1, 0), 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 1), 1);
	dev_fill(p, &p->chains[0], 6, 1);
	cr_assert_eq(bits_set(&l), 1u);
	cr_assert(has(&l, seg.gpa));
	/* The packed ring's descriptor is device-written data too; the split ring's is not. */
	dev_push(p, &p->chains[0], 6);
	dev_publish(p);
	cr_assert_eq(bits_set(&l), PAIR_SPLIT(p) ? 1u : 2u);
	log_close(&l);
}

/* CVE-2019-14835: descriptors without a length made an entry in the log each, of which there was no
 * end. */
RING_TEST(ring_log, zero_length_descriptors_are_not_logged)
{
	struct driver_seg segs[8];
	struct log_bed l;

	log_open(&l, p, LOG_PAGES);
	l.log.device_area = false;
	for (unsigned i = 0; i < ARRAY_SIZE(segs); i++)
		segs[i] = (struct driver_seg) { MAIN_GPA + (64 + i) * PAGE, 0 };
	cr_assert_eq(drv_add(p, segs, 0, ARRAY_SIZE(segs), 0), 0);
	drv_publish(p);
	cr_assert_eq(dev_pop(p, 1), 1);
	ring_log_iov(&p->r, p->chains[0].segs, p->chains[0].n_in, UINT64_MAX);
	ring_log_write(&p->r, pair_host(p, segs[0].gpa), 0);
	cr_assert_eq(bits_set(&l), 0u);
	dev_push(p, &p->chains[0], 0);
	dev_publish(p);
	log_close(&l);
}

/* T11: each range against the log's size, wherever it begins and ends. */
RING_TEST(ring_log, nothing_is_written_beyond_the_log)
{
	static const uint64_t ends[] = { 0, 1, 7, 8, 9, MAIN_GPA / PAGE + 70 };

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
		uint64_t n_pages = ends[i], at = MAIN_GPA + 64 * PAGE;
		struct log_bed l;

		log_open(&l, p, n_pages);
		ring_log_write(&p->r, pair_host(p, at), 20 * PAGE);
		ring_log_write(&p->r, pair_host(p, LATE_GPA), LATE_BYTES);
		ring_log_write(&p->r, pair_host(p, LAST_GPA), LAST_BYTES);
		cr_assert_eq(bits_set(&l), i == ARRAY_SIZE(ends) - 1 ? 6u : 0u);
		/* What LAST has are two pages, for it begins where none does. */
		cr_assert_eq(counter_read(&l.log.missed),
			     (i == ARRAY_SIZE(ends) - 1 ? 14u : 20u) + LATE_BYTES / PAGE + 2);
		/* SET_VRING_ADDR's log address is any number. */
		l.log.device_gpa = UINT64_MAX - 1;
		if (dev_kicks_on(p))
			dev_kicks_off(p);
		l.log.device_gpa = UINT64_MAX - 3;
		pair_cycle(p, 3);
		log_close(&l);
		p->r.log = NULL;
	}
}

/*
 * The bit is set before the driver sees the chain, and after the data is there: a fault at the
 * first touch of the log shows what is there at that time.
 */
static struct {
	struct pair *p;
	uint8_t *log_page;
	unsigned faults;
	uint16_t used_idx;
	uint16_t flags;
} witness;

static void on_fault(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	(void)context;
	if ((uint8_t *)info->si_addr < witness.log_page ||
	    (uint8_t *)info->si_addr >= witness.log_page + PAGE)
		_exit(99);
	mprotect(witness.log_page, PAGE, PROT_READ | PROT_WRITE);
	witness.faults++;
	if (PAIR_SPLIT(witness.p))
		witness.used_idx = witness.p->d.split.used->idx;
	else
		witness.flags = witness.p->d.packed.desc[0].flags;
}

RING_TEST(ring_log, what_is_staged_is_logged_before_it_is_published)
{
	struct sigaction act = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	struct sigaction before;
	uint16_t available;
	struct log_bed l;

	log_open(&l, p, LOG_PAGES);
	witness.p = p;
	witness.log_page = l.map;
	drv_send_one(p, 1);
	cr_assert_eq(dev_pop(p, 1), 1);
	dev_push(p, &p->chains[0], 0);
	available = PAIR_SPLIT(p) ? 0 : p->d.packed.desc[0].flags;
	cr_assert_eq(sigaction(SIGSEGV, &act, &before), 0);
	cr_assert_eq(mprotect(l.map, PAGE, PROT_NONE), 0);
	dev_publish(p);
	cr_assert_eq(witness.faults, 1u, "nothing was logged");
	if (PAIR_SPLIT(p)) {
		cr_assert_eq(witness.used_idx, 0, "published before it was logged");
		cr_assert_eq(p->d.split.used->idx, 1);
	} else {
		cr_assert_eq(witness.flags, available, "published before it was logged");
		cr_assert_neq(p->d.packed.desc[0].flags, available);
	}
	cr_assert_eq(sigaction(SIGSEGV, &before, NULL), 0);
	log_close(&l);
}

/* SET_LOG_FD: one signal for each publish that set bits, none for nothing. */
RING_TEST(ring_log, the_log_descriptor_is_signalled)
{
	int fd = eventfd(0, EFD_NONBLOCK);
	struct log_bed l;
	eventfd_t count;

	log_open(&l, p, LOG_PAGES);
	l.log.call_fd = fd;
	pair_cycle(p, 5);
	cr_assert_eq(eventfd_read(fd, &count), 0);
	cr_assert_eq(count, 5);
	l.log.n_pages = 0; /* all of it lies beyond its end */
	pair_cycle(p, 5);
	cr_assert_eq(eventfd_read(fd, &count), -1);
	p->r.log = NULL;
	pair_cycle(p, 5);
	cr_assert_eq(eventfd_read(fd, &count), -1);
	close(fd);
	log_close(&l);
}

/* The used ring is logged where the front-end says that it is, and only if it asks for that. */
RING_TEST(ring_log, the_device_area_has_a_flag_and_an_address_of_its_own)
{
	struct log_bed l;
	unsigned descs;

	log_open(&l, p, LOG_PAGES);
	l.log.device_gpa = LATE_GPA + 4096; /* not where it is */
	l.log.device_area = false;
	pair_cycle(p, 3);
	if (dev_kicks_on(p))
		dev_kicks_off(p);
	descs = bits_set(&l); /* the packed ring's, which have no flag of their own */
	cr_assert_eq(descs, PAIR_SPLIT(p) ? 0u : 1u);
	l.log.device_area = true;
	pair_cycle(p, 3);
	if (dev_kicks_on(p))
		dev_kicks_off(p);
	cr_assert_eq(bits_set(&l), descs + 1);
	cr_assert(has(&l, LATE_GPA + 4096));
	log_close(&l);
}

/* A ring of several pages, and a batch that goes over its end. */
RING_TEST(ring_log, a_batch_that_wraps_around_is_logged_at_both_ends)
{
	const uint32_t size = 1024, at = size - 3;
	struct driver_seg seg = { NEXT_GPA, 64 };
	struct shadow s = { 0 };
	struct log_bed l;

	pair_ring(p, size, PAIR_SPLIT(p) ? at : at | 1u << 15 | at << 16 | 1u << 31);
	log_open(&l, p, LOG_PAGES);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(drv_add(p, &seg, 1, 0, i), 0);
	drv_publish(p);
	shadow_take(&s, p);
	cr_assert_eq(dev_pop(p, 6), 6);
	for (unsigned i = 0; i < 6; i++)
		dev_push(p, &p->chains[i], 0);
	dev_publish(p);
	cr_assert_geq(shadow_check(&s, p, &l), 2);
	/* And where the device says when it wants to be kicked, which is behind the entries. */
	memset(l.log.bits, 0, (LOG_PAGES + 7) / 8);
	shadow_take(&s, p);
	cr_assert(dev_kicks_on(p));
	cr_assert_eq(shadow_check(&s, p, &l), 1);
	shadow_free(&s);
	log_close(&l);
}

/* LOG_ALL is about buffers; without it the device area alone is logged. */
RING_TEST(ring_log, buffers_are_logged_with_log_all_only)
{
	struct iovec v = { pair_host(p, NEXT_GPA), PAGE };
	struct log_bed l;

	log_open(&l, p, LOG_PAGES);
	l.log.data = false;
	ring_log_write(&p->r, v.iov_base, v.iov_len);
	ring_log_iov(&p->r, &v, 1, PAGE);
	cr_assert_eq(bits_set(&l), 0u);
	l.log.data = true;
	ring_log_iov(&p->r, &v, 1, PAGE);
	cr_assert_eq(bits_set(&l), 1u);
	log_close(&l);
}

/* A ring of its own, one page, and what stands for the front-end: it alone takes that page's bit.
 */
struct logger {
	pthread_t thread;
	struct ring r;
	struct ring_log log;
	void *host;
	uint8_t *byte, bit;
	unsigned *begun; /* atomic: loggers that are there */
	unsigned lost;
};

static void *log_again_and_again(void *arg)
{
	struct logger *l = arg;

	__atomic_add_fetch(l->begun, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(l->begun, __ATOMIC_ACQUIRE) < 2)
		sched_yield();
	for (unsigned i = 0; i < 200000; i++) {
		ring_log_write(&l->r, l->host, 1);
		/* Only this thread clears it. */
		l->lost += !(__atomic_load_n(l->byte, __ATOMIC_ACQUIRE) & l->bit);
		__atomic_fetch_and(l->byte, (uint8_t)~l->bit, __ATOMIC_ACQ_REL);
		l->lost += (__atomic_load_n(l->byte, __ATOMIC_ACQUIRE) & l->bit) != 0;
	}
	return NULL;
}

/* vhost-user "Migration": "atomically", for rings on several workers and the front-end share it. */
RING_TEST(ring_log, bits_of_one_byte_are_set_by_two_at_once)
{
	const uint64_t page = ALIGN_UP(NEXT_GPA / PAGE, UINT64_C(8));
	static struct logger two[2];
	unsigned begun = 0;
	struct log_bed l;

	log_open(&l, p, LOG_PAGES);
	for (unsigned i = 0; i < 2; i++) {
		two[i] = (struct logger) { .r = p->r,
					   .log = l.log,
					   .host = pair_host(p, (page + i) * PAGE),
					   .byte = &l.log.bits[page / 8],
					   .bit = (uint8_t)(1u << i),
					   .begun = &begun };
		two[i].r.log = &two[i].log;
		cr_assert_eq(pthread_create(&two[i].thread, NULL, log_again_and_again, &two[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(two[i].thread, NULL);
	}
	cr_assert_eq(two[0].lost + two[1].lost, 0u, "%u and %u bits were lost", two[0].lost,
		     two[1].lost);
	log_close(&l);
}
