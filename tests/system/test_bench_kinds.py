# SPDX-License-Identifier: Apache-2.0
"""sluice-bench on what it is not for: a disk's driver on a card, a card's on a disk."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import running
from test_bench import bench, fixture_daemon, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

LIAR = Path(__file__).resolve().parent / "liar.py"
# Who waits for an answer is not done within bench()'s own time.
PATIENT = ["--timeout", 300000]
IS_DISK = r"/[de]\.sock: the back-end looks like a disk: .*; give a card's socket, or use sluice-bench blk"
IS_CARD = r"/[ab]\.sock: the back-end looks like a network card: .*; give a disk's socket, or use sluice-bench net"


@pytest.mark.parametrize("command, sockets, says", [
    (["net"], "d", IS_DISK), (["net", "--send-only"], "d", IS_DISK), (["net", "--latency"], "de", IS_DISK),
    (["net", "--ring", "packed"], "ad", IS_DISK), (["fair", "--net"], "dede", IS_DISK), (["fair", "--net"], "abxd", IS_DISK),
    (["blk"], "a", IS_CARD), (["blk", "--ring", "packed", "--rw", "flush"], "a", IS_CARD), (["scale"], "ab", IS_CARD),
    (["scale"], "da", IS_CARD), (["fair"], "ab", IS_CARD), (["fair"], "db", IS_CARD)], ids=str)
def test_the_wrong_kind_of_device_is_named_at_once(daemon, folder, command, sockets, says):
    done = bench(*command, *(folder / f"{s}.sock" for s in sockets), *PATIENT)
    assert done.returncode == 1 and re.search(says, done.stderr), done.stderr
    assert daemon.poll() is None


def test_a_back_end_that_tells_no_size_is_no_disk(folder):
    with running([sys.executable, LIAR, folder / "liar.sock", "no config"]) as process:
        wait_for(folder / "liar.sock", process)
        done = bench("blk", folder / "liar.sock", "--no-indirect", "--no-event-idx", *PATIENT)
    assert done.returncode == 1 and "does not offer VHOST_USER_PROTOCOL_F_CONFIG" in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="qemu-storage-daemon is not installed")
def test_another_projects_disk_is_known_for_one(folder):
    with running(["qemu-storage-daemon", "--blockdev", "driver=null-co,size=67108864,read-zeroes=on,node-name=n",
                  "--export", f"type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={folder}/d.sock"]) as process:
        wait_for(folder / "d.sock", process)
        done = bench("net", folder / "d.sock", *PATIENT)
    assert done.returncode == 1 and re.search(IS_DISK, done.stderr), done.stderr


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_another_projects_card_is_known_for_one(folder):
    cpu = min(os.sched_getaffinity(0))
    with running(["dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "--file-prefix=k", "--lcores",
                  f"0@{cpu},1@{cpu}", "--vdev", f"net_vhost0,iface={folder}/a.sock", "--", "--total-num-mbufs=8192", "-i"],
                 stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                 env={**os.environ, "RUNTIME_DIRECTORY": str(folder)}) as process:
        wait_for(folder / "a.sock", process)
        done = bench("blk", folder / "a.sock", *PATIENT)
        assert process.poll() is None
    assert done.returncode == 1 and re.search(IS_CARD, done.stderr), done.stderr
