# SPDX-License-Identifier: Apache-2.0
"""sluice-bench and its recipes against other people's back-ends."""
import importlib.util
import os
import shutil
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("bench_peers", ROOT / "scripts/bench_peers.py")
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
options = types.SimpleNamespace(build=Path(os.environ["SLUICE_BUILD"]), quick=True, write=False)

NULL = "driver=null-co,size=1073741824,read-zeroes=on"


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="no qemu-storage-daemon")
@pytest.mark.parametrize("iothread", [False, True], ids=["main loop", "iothread"])
def test_requests_are_served_by_qemu_storage_daemon(iothread):
    got = peers.measure(options, lambda folder: peers.storage_daemon(folder, NULL, iothread), "a",
                        ["blk", "--rw", "randwrite", "--depth", 8])
    assert got["requests"] > 1000 and got["errors"] == 0


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_frames_are_forwarded_by_testpmd(ring):
    # Such a back-end touches no ring before the driver says that it is ready.
    got = peers.measure(options, peers.testpmd, "ab", ["net", "--ring", ring, "--verify"])
    assert got["received"] > 1000 and got["reordered"] == 0
