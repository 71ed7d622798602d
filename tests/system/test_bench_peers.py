# SPDX-License-Identifier: Apache-2.0
"""sluice-bench and its recipes against other people's back-ends."""
import importlib.util
import json
import os
import shutil
import subprocess
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


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_a_back_end_that_connects_is_listened_for(tmp_path):
    command = [x.replace(".sock", ".sock,client=1") if "iface=" in x else x for x in peers.testpmd(str(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            sockets = [tmp_path / f"{n}.sock" for n in "ab"]
            done = subprocess.run([options.build / "bench/sluice-bench", "net", *sockets, "--listen", "--time", "1",
                                   "--timeout", "20000", "--json"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            got = json.loads(done.stdout)
            assert got["received"] > 1000 and got["backend_cpu_s"] > 0
        finally:
            process.kill()
