# SPDX-License-Identifier: Apache-2.0
"""
sluiced is killed under load, started again, and nothing is lost: with the project's own front-end
for speed, and with a guest's kernel and QEMU for truth.
"""
import os
import re
import subprocess

import pytest
from lab import BUILD, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine

ROUNDS = int(os.environ.get("SLUICE_CRASH_ROUNDS", "5"))
DISK_MIB = 24

VARIANTS = [
    ["--size", "4", "--queues", "4"],
    ["--size", "64", "--in-order"],
    ["--size", "1024", "--queues", "1"],
    ["--size", "7", "--packed"],
    ["--size", "256", "--packed", "--in-order"],
    ["--size", "64", "--packed", "--buffered"],
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: " ".join(o).replace("--", ""))
def test_kill_under_load_loses_nothing(options, folder):
    done = subprocess.run(
        [BUILD / "tests/crash/crash", "--rounds", str(ROUNDS), "--folder", folder, *options,
         BUILD / "daemon/sluiced"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=60 + 3 * ROUNDS, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) kills, (\d+) orderly ends, (\d+) writes", done.stdout)
    assert int(found[1]) + int(found[2]) == ROUNDS + 1  # and the end of the last daemon
    assert int(found[3]) > 0


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_guest_does_not_notice_that_sluiced_is_killed(version, packed, folder):
    found = [q for q in qemu.qemus() if q.name == version]
    if not found:
        pytest.skip(f"QEMU {version} is not here; scripts/setup.sh --for test fetches what can be had")
    (folder / "disk.raw").write_bytes(b"")
    os.truncate(folder / "disk.raw", DISK_MIB * 2**20)
    config = f"disks: [{{ name: disk, socket: {folder}/disk.sock, file: {folder}/disk.raw, queues: 2 }}]\n"
    machine = Machine(qemu=found[0], cpus=2, packed=packed,
                      disk=Disk(f"{folder}/disk.sock", queues=2, reconnect=True))
    with Daemon(folder, config) as daemon, Guest(machine) as guest:
        guest.boot()
        guest.begin("pattern", "fill", 4711)
        for _ in range(3):
            wait_for(lambda: busy(daemon) > 10, 30, "the guest writes")
            daemon.kill()
            daemon.start()
        guest.end("pattern")
        guest.job("pattern", "check", 4711)
        assert "contradicts" not in daemon.log.read_text()
        guest.poweroff()
        assert daemon.stop() == 0


def busy(daemon):
    """How many chains it has popped."""
    return sum(q["popped"] for q in daemon.disk("disk")["queues"])
