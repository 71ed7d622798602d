/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which message needs which feature: by a table of this file's own, from the protocol's text, so
 * that a wrong gate in vhost/messages.def does not go by. vhost-user "Front-end message types".
 */
#include "tests/guest/frontend_iommu.h"
#include "tests/unit/hear.h"
#include "tests/unit/session_bed.h"
#include "vhost/protocol.h"
#include "vhost/session.h"

#include <sys/eventfd.h>

/*
 * The protocol features that messages need: to be negotiated, or no more than offered, where the
 * text says "is present in VHOST_USER_GET_PROTOCOL_FEATURES". Messages that are not here need none.
 */
static const struct gate {
	uint32_t number;
	unsigned bit;
	bool offered_will_do;
} gates[] = {
	{ 6, 1, false },   /* SET_LOG_BASE: LOG_SHMFD */
	{ 17, 0, true },   /* GET_QUEUE_NUM: MQ */
	{ 19, 2, true },   /* SEND_RARP: RARP */
	{ 20, 4, true },   /* NET_SET_MTU: NET_MTU */
	{ 21, 5, true },   /* SET_BACKEND_REQ_FD: BACKEND_REQ */
	{ 23, 6, false },  /* SET_VRING_ENDIAN: CROSS_ENDIAN */
	{ 24, 9, false },  /* GET_CONFIG: CONFIG */
	{ 25, 9, false },  /* SET_CONFIG */
	{ 26, 7, false },  /* CREATE_CRYPTO_SESSION: CRYPTO_SESSION */
	{ 27, 7, false },  /* CLOSE_CRYPTO_SESSION */
	{ 28, 8, false },  /* POSTCOPY_ADVISE: PAGEFAULT */
	{ 29, 8, false },  /* POSTCOPY_LISTEN */
	{ 30, 8, false },  /* POSTCOPY_END */
	{ 31, 12, false }, /* GET_INFLIGHT_FD: INFLIGHT_SHMFD */
	{ 32, 12, false }, /* SET_INFLIGHT_FD */
	{ 34, 13, false }, /* RESET_DEVICE: RESET_DEVICE */
	{ 35, 14, false }, /* VRING_KICK: INBAND_NOTIFICATIONS */
	{ 36, 15, false }, /* GET_MAX_MEM_SLOTS: CONFIGURE_MEM_SLOTS */
	{ 37, 15, false }, /* ADD_MEM_REG */
	{ 38, 15, false }, /* REM_MEM_REG */
	{ 39, 16, false }, /* SET_STATUS: STATUS */
	{ 40, 16, false }, /* GET_STATUS */
	{ 41, 18, false }, /* GET_SHARED_OBJECT: SHARED_OBJECT */
	{ 42, 19, false }, /* SET_DEVICE_STATE_FD: DEVICE_STATE */
	{ 43, 19, false }, /* CHECK_DEVICE_STATE */
	{ 44, 22, false }, /* GET_SHMEM_CONFIG: SHMEM */
};

#define LAST_MESSAGE 44

static const struct gate *gate_of(uint32_t number)
{
	for (unsigned i = 0; i < ARRAY_SIZE(gates); i++)
		if (gates[i].number == number)
			return &gates[i];
	return NULL;
}

/* Some of which are always offered, so that the table alone can tell. */
Test(session_gates, each_message_has_the_gate_that_the_text_gives_it)
{
	for (uint32_t number = 0; number < 100; number++) {
		const struct message_row *row = message_row(number);
		const struct gate *g = gate_of(number);

		cr_assert_eq(row != NULL, number > 0 && number <= LAST_MESSAGE, "%u", number);
		if (!row)
			continue;
		cr_assert_eq(row->gate,
			     !g			  ? GATE_ANY
			     : g->offered_will_do ? GATE_OFFERED
						  : GATE_NEGOTIATED,
			     "%s", row->name);
		if (g)
			cr_assert_eq(row->gate_bit, g->bit, "%s", row->name);
	}
}

static void fresh_connection(uint64_t protocol)
{
	frontend_close(&b.f);
	cr_assert(EVENTUALLY(b.dev.disconnected == b.dev.connected));
	bed_connect(&b);
	OK(&b.f, frontend_hello(&b.f, protocol));
	cr_assert_eq(b.dev.vhost.protocol_features, protocol);
}

/* What is said of a message of the right size with the right descriptors; "" if it may pass. */
static struct error checked(uint32_t number)
{
	const struct message_row *row = message_row(number);
	struct message m = { .hdr = { number, VHOST_USER_VERSION, row->size_min },
			     .n_fds = row->fds_min };
	struct error err = { 0 };

	(void)message_check(b.dev.vhost.session, &m, &err);
	return err;
}

static void check_gate(uint32_t number, uint64_t protocol)
{
	static uint8_t payload[VHOST_USER_PAYLOAD_MAX];
	const struct message_row *row = message_row(number);
	const struct gate *g = gate_of(number);
	uint64_t has = g && g->offered_will_do ? b.f.protocol_offered : protocol;
	bool closed = g && !(has & UINT64_C(1) << g->bit);
	int fd = eventfd(0, 0), rc;
	char expected[100] = "";
	struct error err;

	memset(payload, 0, sizeof(payload));
	if (number == VU_SET_PROTOCOL_FEATURES)
		memcpy(payload, &protocol, 8); /* acks go on */
	if (closed)
		snprintf(expected, sizeof(expected), "its protocol feature (bit %u) is not %s",
			 g->bit, g->offered_will_do ? "offered" : "negotiated");
	fresh_connection(protocol);
	err = checked(number);
	if (row->handle || closed)
		cr_assert_str_eq(err.text, expected, "%s with 0x%llx: %s", row->name,
				 (unsigned long long)protocol, err.text);
	rc = outcome(number, payload, row->size_min, &fd, row->fds_min);
	if (closed)
		cr_assert_eq(rc, row->reply == REPLY ? -ECONNRESET : 1, "%s: %d", row->name, rc);
	/* And where no ack is asked for, it is as if it had not come. */
	if (closed && row->reply != REPLY) {
		OK(&b.f, frontend_send(&b.f, number, VU_VERSION, payload, row->size_min, &fd,
				       row->fds_min));
		check_alive();
	}
	close(fd);
}

/* T10. With nothing else negotiated, with all but what it needs, and with all that is offered. */
Test(session_gates, messages_of_features_that_were_not_negotiated_are_refused)
{
	static const struct vhost_device_ops *const kinds[] = { &echo_blk_ops, &echo_net_ops };

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		open_listening(kinds[i]);
		for (uint32_t number = 1; number <= LAST_MESSAGE; number++) {
			const struct gate *g = gate_of(number);
			uint64_t all = b.f.protocol_offered, but = all;

			if (g)
				but &= ~(UINT64_C(1) << g->bit);
			/* What is left is left in the in-flight buffer. */
			if (!(but & VU_PF_INFLIGHT_SHMFD))
				but &= ~VU_PF_GET_VRING_BASE_INFLIGHT;
			/* "without the other two" the connection would end. */
			if (!(but & VU_PF_BACKEND_REQ))
				but &= ~VU_PF_INBAND_NOTIFICATIONS;
			check_gate(number, VU_PF_REPLY_ACK);
			check_gate(number, but);
			check_gate(number, all);
		}
		bed_fini(&b);
	}
}

static struct heard heard;

/* Of a feature of the guest's, which the table of messages does not know of. */
Test(session_gates, translations_are_refused_without_access_platform)
{
	const struct vu_iotlb all = { .size = UINT64_MAX, .type = VHOST_USER_IOTLB_INVALIDATE };
	const uint64_t protocol = VU_PF_USUAL | VU_PF_BACKEND_REQ;

	hear(&heard);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t iommu = i ? VU_F_ACCESS_PLATFORM : 0;

		bed_init(&b, &echo_blk_ops);
		bed_pair(&b);
		bed_negotiate(&b, protocol, iommu);
		log_set_level(LOG_LEVEL_INFO);
		cr_assert_eq(outcome(VU_IOTLB_MSG, &all, sizeof(all), NULL, 0), i ? 0 : 1);
		cr_assert_eq(heard_times(&heard, "IOTLB_MSG (22) refused: ACCESS_PLATFORM is not "
						 "negotiated"),
			     1u);
		bed_fini(&b);
	}
}
