/* SPDX-License-Identifier: Apache-2.0 */
/* Feature bits by the names that the specifications give them. */
#ifndef SLUICE_DAEMON_FEATURES_H
#define SLUICE_DAEMON_FEATURES_H

#include <jansson.h>
#include <stdint.h>

enum feature_set { FEATURES_BLK, FEATURES_NET, FEATURES_PROTOCOL };

/* An array of names in lower case, without prefix; "bit_N" for one that has none here. */
json_t *features_json(enum feature_set set, uint64_t bits);

#endif
