/* SPDX-License-Identifier: Apache-2.0 */
/*
 *	xdp NIC		attaches a program to the card, in its driver, that passes every frame;
 *			until it is killed
 */
#include <err.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

int main(int argc, char **argv)
{
	const struct bpf_insn passes[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_XDP,
				.expected_attach_type = BPF_XDP,
				.insns = (uintptr_t)passes,
				.insn_cnt = 2,
				.license = (uintptr_t) "GPL" };
	union bpf_attr link = { 0 };
	int prog;

	if (argc != 2)
		errx(2, "Usage: xdp NIC");
	prog = bpf(BPF_PROG_LOAD, &load);
	if (prog < 0)
		err(1, "BPF_PROG_LOAD");
	link.link_create.prog_fd = (uint32_t)prog;
	link.link_create.target_ifindex = if_nametoindex(argv[1]);
	link.link_create.attach_type = BPF_XDP;
	link.link_create.flags = XDP_FLAGS_DRV_MODE;
	if (bpf(BPF_LINK_CREATE, &link) < 0)
		err(1, "BPF_LINK_CREATE %s", argv[1]);
	puts("attached");
	fflush(stdout);
	for (;;)
		pause();
}
