/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front-end of a guest behind an IOMMU (vhost-user "IOMMU support"): it is asked for I/O
 * virtual addresses through the back-end channel, and answers with IOTLB messages.
 */
#ifndef SLUICE_TESTS_GUEST_FRONTEND_IOMMU_H
#define SLUICE_TESTS_GUEST_FRONTEND_IOMMU_H

#include "tests/guest/frontend.h"

enum { VU_IOTLB_MISS = 1, VU_IOTLB_UPDATE = 2, VU_IOTLB_INVALIDATE = 3, VU_IOTLB_FAIL = 4 };
enum { VU_IOTLB_READ = 1, VU_IOTLB_WRITE = 2 };

struct vu_iotlb {
	uint64_t iova, size, uva;
	uint8_t access, type;
	uint8_t padding[6];
};

int frontend_iotlb(struct frontend *f, uint8_t type, uint64_t iova, uint64_t size, uint64_t uva,
		   uint8_t access);

/* The next miss that the back-end has sent. @return 1; 0: none for now; -errno. Never waits. */
int frontend_poll_miss(struct frontend *f, struct vu_iotlb *miss);

/* Maps [@iova, @iova + @size) to guest memory at @gpa. */
int frontend_map(struct frontend *f, uint64_t iova, uint64_t gpa, uint64_t size, uint8_t access);

#endif
