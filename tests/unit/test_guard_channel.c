/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back-end's channel is a socket that the front-end has open, too (T13): what it sends there,
 * and how it holds the socket's lock, keeps nobody waiting but its own device. A neighbour is
 * served all the time by the same control thread, the test's own: were that held up, the test would
 * run out of time.
 */
#include "tests/unit/fuse_silent.h"
#include "tests/unit/lingering.h"
#include "tests/unit/session_util.h"
#include "tests/unit/stuck.h"

static struct bed b, other; /* two devices on one worker */
static int channel[2];	    /* [1]: ours */

static void open_both(void)
{
	bed_init(&b, &echo_blk_ops);
	bed_pair(&b);
	bed_negotiate(&b, VU_PF_USUAL | VU_PF_BACKEND_REQ | VU_PF_INBAND_NOTIFICATIONS, 0);
	bed_beside(&other, &b, 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
}

static void close_both(void)
{
	bed_beside_fini(&other);
	bed_fini(&b);
}

static void hand_over(void)
{
	OK(&b.f, frontend_set(&b.f, VU_SET_BACKEND_REQ_FD, NULL, 0, &channel[1], 1));
}

static void others_are_served(void)
{
	for (unsigned i = 0; i < 20; i++)
		bed_echo(&other, 0);
}

/* @flags: how the answer is sent, with a descriptor that takes long to close. */
static void answer_with_a_descriptor(int flags, bool before)
{
	const struct {
		struct vu_header h;
		uint64_t value;
	} __attribute__((packed)) ack = { { VU_BACKEND_VRING_CALL, VU_VERSION | VU_REPLY, 8 }, 0 };
	struct lingering l;
	int rc;

	lingering_open(&l);
	open_both();
	if (!before)
		hand_over();
	rc = send_fd(channel[0], &ack, sizeof(ack), flags, l.fd);
	if (rc == -EOPNOTSUPP)
		cr_skip_test("unix sockets send nothing out of band here");
	cr_assert_eq(rc, 0);
	close(l.fd);
	if (before)
		hand_over();
	others_are_served();
	if (!before)
		close(channel[0]);
	others_are_served();
	frontend_close(&b.f);
	others_are_served();
	lingering_close(&l);
	close_both();
	if (before)
		close(channel[0]);
	close(channel[1]);
}

Test(guard_channel, an_answer_with_a_descriptor_holds_nobody_up, .timeout = 30)
{
	answer_with_a_descriptor(0, false);
}

Test(guard_channel, nor_does_one_out_of_band, .timeout = 30)
{
	answer_with_a_descriptor(MSG_OOB, false);
}

Test(guard_channel, nor_does_one_that_came_before_the_channel, .timeout = 30)
{
	answer_with_a_descriptor(0, true);
}

Test(guard_channel, nor_does_one_that_is_never_read, .timeout = 30)
{
	struct lingering l;

	lingering_open(&l);
	open_both();
	hand_over();
	/* What is no answer: it is hung up on. */
	cr_assert_eq(send(channel[0], "no answer to any", 16, 0), 16);
	cr_assert_eq(send_fd(channel[0], "x", 1, 0, l.fd), 0);
	close(l.fd);
	close(channel[1]);
	close(channel[0]);
	others_are_served();
	lingering_close(&l);
	close_both();
}

/* The front-end reads from our end, into memory that does not come. */
Test(guard_channel, a_channel_that_is_locked_holds_up_its_own_device, .timeout = 60)
{
	struct fuse_silent fuse;
	struct stuck stuck;

	if (fuse_silent_open(&fuse) < 0)
		cr_skip_test("no FUSE here");
	open_both();
	cr_assert_eq(send(channel[0], "half", 4, 0), 4);
	stuck_open(&stuck, fuse.fd, channel[1], STUCK_READING);
	hand_over();
	others_are_served();
	/* Another one in its place, then none. */
	OK(&b.f, frontend_open_backend_channel(&b.f));
	others_are_served();
	frontend_close(&b.f);
	others_are_served();
	cr_assert(EVENTUALLY(b.dev.disconnected == 1));
	fuse_silent_close(&fuse);
	stuck_close(&stuck);
	close(channel[0]);
	close(channel[1]);
	close_both();
}
