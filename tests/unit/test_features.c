/* SPDX-License-Identifier: Apache-2.0 */
/* The names under which status shows feature bits. */
#include "daemon/features.h"

#include "base/compiler.h"

#include <criterion/criterion.h>

/* virtio 1.3 clauses 5.1.3, 5.2.3 and 6; vhost-user "Protocol features". */
Test(features, bits_have_the_names_of_the_specification)
{
	static const struct {
		enum feature_set set;
		unsigned bit;
		const char *name;
	} rows[] = {
		{ FEATURES_NET, 0, "csum" },
		{ FEATURES_NET, 23, "ctrl_mac_addr" },
		{ FEATURES_NET, 29, "event_idx" },
		{ FEATURES_NET, 34, "ring_packed" },
		{ FEATURES_NET, 51, "hash_tunnel" },
		{ FEATURES_NET, 52, "vq_notf_coal" },
		{ FEATURES_NET, 53, "notf_coal" },
		{ FEATURES_NET, 54, "guest_uso4" },
		{ FEATURES_NET, 57, "hash_report" },
		{ FEATURES_NET, 58, "bit_58" },
		{ FEATURES_NET, 63, "speed_duplex" },
		{ FEATURES_BLK, 11, "config_wce" },
		{ FEATURES_BLK, 16, "secure_erase" },
		{ FEATURES_PROTOCOL, 9, "config" },
		{ FEATURES_PROTOCOL, 19, "device_state" },
		{ FEATURES_PROTOCOL, 40, "bit_40" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		json_t *names = features_json(rows[i].set, UINT64_C(1) << rows[i].bit);

		cr_expect_eq(json_array_size(names), 1);
		cr_expect_str_eq(json_string_value(json_array_get(names, 0)), rows[i].name);
		json_decref(names);
	}
}
