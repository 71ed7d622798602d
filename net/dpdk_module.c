/* SPDX-License-Identifier: Apache-2.0 */
/* All that sluice-dpdk.so shows. */
#include "net/dpdk_calls.h"

extern const struct dpdk_calls sluice_dpdk_calls;
__attribute__((visibility("default")))
const struct dpdk_calls sluice_dpdk_calls = { .version = SLUICE_VERSION,
#define X(call) .call = dpdk_##call,
					      DPDK_CALLS(X)
#undef X
};
