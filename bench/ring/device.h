/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two devices that are compared, each with its pair of queues, and what is timed of them. Each
 * function works off a ring that lane_fill() has filled, and returns the cycles that took.
 */
#ifndef SLUICE_BENCH_RING_DEVICE_H
#define SLUICE_BENCH_RING_DEVICE_H

#include "bench/ring/lane.h"

enum { QUEUE_IN, QUEUE_OUT, N_QUEUES };

/* Our ring, without a session: vhost/ring.h on a map of the guest's memory. */
struct sluice_device;
struct sluice_device *sluice_open(const struct row *row, struct rte_mempool *pool);
void sluice_close(struct sluice_device *d);
struct lane *sluice_lane(struct sluice_device *d, unsigned queue);
/*
 * Nothing but the ring: all chains popped, then all pushed, published and (not) called, in batches.
 * No byte of a buffer is touched.
 */
void sluice_pop_push(struct sluice_device *d, uint64_t *pop, uint64_t *push);
/*
 * What rte_vhost_dequeue_burst() does: mbufs from the pool, the frame behind the header copied into
 * them, the chains pushed, published and (not) called.
 */
uint64_t sluice_dequeue(struct sluice_device *d, struct rte_mbuf **mbufs);
/* What rte_vhost_enqueue_burst() does: header written, frame copied, pushed, published, called. */
uint64_t sluice_enqueue(struct sluice_device *d, struct rte_mbuf **mbufs);

/* DPDK's vhost library, with our front-end on its socket. */
struct dpdk_device;
/* Ends the program if EAL cannot start. */
struct rte_mempool *dpdk_start(unsigned cpu);
struct dpdk_device *dpdk_open(const struct row *row, struct rte_mempool *pool);
void dpdk_close(struct dpdk_device *d);
struct lane *dpdk_lane(struct dpdk_device *d, unsigned queue);
uint64_t dpdk_dequeue(struct dpdk_device *d, struct rte_mbuf **mbufs);
uint64_t dpdk_enqueue(struct dpdk_device *d, struct rte_mbuf **mbufs);

/* @n mbufs with a frame each; and back. */
void mbufs_make(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned n);
/* Frees them, having checked what a dequeue has to leave in them. */
void mbufs_free(struct rte_mbuf **mbufs, unsigned n);

#endif
