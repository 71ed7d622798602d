/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/guest/frontend_iommu.h"

#include <string.h>
#include <sys/socket.h>

static_assert(sizeof(struct vu_iotlb) == 32, "vhost-user IOTLB message, as QEMU sends it");

int frontend_iotlb(struct frontend *f, uint8_t type, uint64_t iova, uint64_t size, uint64_t uva,
		   uint8_t access)
{
	struct vu_iotlb m = {
		.iova = iova, .size = size, .uva = uva, .access = access, .type = type
	};

	return frontend_set(f, VU_IOTLB_MSG, &m, sizeof(m), NULL, 0);
}

int frontend_poll_miss(struct frontend *f, struct vu_iotlb *miss)
{
	struct __attribute__((packed)) {
		struct vu_header h;
		struct vu_iotlb iotlb;
	} m;
	ssize_t n = recv(f->backend_sock, &m, sizeof(m), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n != sizeof(m) || m.h.request != VU_BACKEND_IOTLB_MSG || m.h.flags != VU_VERSION ||
	    m.h.size != sizeof(m.iotlb) || m.iotlb.type != VU_IOTLB_MISS || !m.iotlb.access ||
	    m.iotlb.access > (VU_IOTLB_READ | VU_IOTLB_WRITE))
		return frontend_fail(f, -EPROTO, "back-end channel: %zd bytes, message %u, type %u",
				     n, m.h.request, m.iotlb.type);
	memcpy(miss, &m.iotlb, sizeof(*miss));
	return 1;
}

int frontend_map(struct frontend *f, uint64_t iova, uint64_t gpa, uint64_t size, uint8_t access)
{
	const void *p = guest_ptr(f->memory, gpa, size);

	if (!p)
		return frontend_fail(f, -EFAULT, "no guest memory at %#llx",
				     (unsigned long long)gpa);
	return frontend_iotlb(f, VU_IOTLB_UPDATE, iova, size, guest_uva(f->memory, p), access);
}
