/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/features.h"

#include "base/compiler.h"

#include <stdio.h>

/* virtio 1.3 clause 6, and the bits that vhost-user and older drivers put between them. */
static const char *const common[64] = {
	[24] = "notify_on_empty",   [26] = "log_all",		[27] = "any_layout",
	[28] = "indirect_desc",	    [29] = "event_idx",		[30] = "protocol_features",
	[32] = "version_1",	    [33] = "access_platform",	[34] = "ring_packed",
	[35] = "in_order",	    [36] = "order_platform",	[37] = "sr_iov",
	[38] = "notification_data", [39] = "notif_config_data", [40] = "ring_reset",
};

/* virtio 1.3 5.2.3 */
static const char *const blk[64] = {
	[0] = "barrier",       [1] = "size_max",  [2] = "seg_max",
	[4] = "geometry",      [5] = "ro",	  [6] = "blk_size",
	[7] = "scsi",	       [9] = "flush",	  [10] = "topology",
	[11] = "config_wce",   [12] = "mq",	  [13] = "discard",
	[14] = "write_zeroes", [15] = "lifetime", [16] = "secure_erase",
	[17] = "zoned",
};

/* virtio 1.3 5.1.3 */
static const char *const net[64] = {
	[0] = "csum",
	[1] = "guest_csum",
	[2] = "ctrl_guest_offloads",
	[3] = "mtu",
	[5] = "mac",
	[6] = "gso",
	[7] = "guest_tso4",
	[8] = "guest_tso6",
	[9] = "guest_ecn",
	[10] = "guest_ufo",
	[11] = "host_tso4",
	[12] = "host_tso6",
	[13] = "host_ecn",
	[14] = "host_ufo",
	[15] = "mrg_rxbuf",
	[16] = "status",
	[17] = "ctrl_vq",
	[18] = "ctrl_rx",
	[19] = "ctrl_vlan",
	[20] = "ctrl_rx_extra",
	[21] = "guest_announce",
	[22] = "mq",
	[23] = "ctrl_mac_addr",
	[51] = "hash_tunnel",
	[52] = "vq_notf_coal",
	[53] = "notf_coal",
	[54] = "guest_uso4",
	[55] = "guest_uso6",
	[56] = "host_uso",
	[57] = "hash_report",
	[59] = "guest_hdrlen",
	[60] = "rss",
	[61] = "rsc_ext",
	[62] = "standby",
	[63] = "speed_duplex",
};

/* vhost-user "Protocol features" */
static const char *const protocol[64] = {
	"mq",
	"log_shmfd",
	"rarp",
	"reply_ack",
	"mtu",
	"backend_req",
	"cross_endian",
	"crypto_session",
	"pagefault",
	"config",
	"backend_send_fd",
	"host_notifier",
	"inflight_shmfd",
	"reset_device",
	"inband_notifications",
	"configure_mem_slots",
	"status",
	"xen_mmap",
	"shared_object",
	"device_state",
	"get_vring_base_inflight",
};

json_t *features_json(enum feature_set set, uint64_t bits)
{
	static const char *const *const own[] = {
		[FEATURES_BLK] = blk, [FEATURES_NET] = net, [FEATURES_PROTOCOL] = protocol
	};
	json_t *names = json_array();

	for (unsigned i = 0; i < 64; i++) {
		const char *name = own[set][i];
		char unnamed[16];

		if (!(bits >> i & 1))
			continue;
		if (!name && set != FEATURES_PROTOCOL)
			name = common[i];
		snprintf(unnamed, sizeof(unnamed), "bit_%u", i);
		json_array_append_new(names, json_string(name ? name : unnamed));
	}
	return names;
}
