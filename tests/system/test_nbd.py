# SPDX-License-Identifier: Apache-2.0
"""Images in formats of their own, served by qemu-nbd, under a real guest; and a server that is killed."""
import os
import random
import subprocess
import time

import pytest
from lab import BUILD, host, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine
from nbd_server import Server, needs_qemu_nbd

DISK_MIB = 16
KILLS = int(os.environ.get("SLUICE_NBD_KILLS", "4"))
HANG_S = 90
# Each format and each ring layout; all of both with SLUICE_TEST_ALL.
ROWS = [("qcow2", False), ("vmdk", True)]
if os.environ.get("SLUICE_TEST_ALL"):
    ROWS += [("qcow2", True), ("vmdk", False)]

pytestmark = needs_qemu_nbd


def least(guest, since):
    """What the guest's slowest process has done, by each of its reports since then."""
    words = [word for line in guest.console[since:] for word in line.split() if word.startswith("least=")]
    return [int(word[6:]) for word in words if word[6:].isdigit()]


def progress(guest, kills):
    since = len(guest.console)
    wait_for(lambda: len(least(guest, since)) >= 2, HANG_S, f"the guest reports after {kills} kills")
    before = least(guest, since)[1]
    wait_for(lambda: least(guest, since)[-1] >= before + 2, HANG_S, f"no request hangs after {kills} kills")
    wrong = [line for line in guest.console if "SLUICE error=" in line]
    assert not wrong and guest.alive(), wrong


@pytest.mark.parametrize("form, packed", ROWS, ids=lambda v: v if isinstance(v, str) else "packed" if v else "split")
def test_a_guest_does_not_notice_that_its_nbd_server_is_killed(form, packed, folder):
    image, raw, seed = folder / f"disk.{form}", folder / "disk.raw", random.randrange(2**32)
    host.run("qemu-img", "create", "-q", "-f", form, image, f"{DISK_MIB}M")
    config = (f"disks: [{{ name: disk, socket: {folder}/disk.sock, queues: 2, connections: 2, reconnect: {HANG_S}, "
              f"nbd: 'nbd+unix:///?socket={folder}/nbd.sock' }}]\n")
    machine = Machine(cpus=2, packed=packed, disk=Disk(f"{folder}/disk.sock", queues=2))
    print(f"seed {seed}")
    rng = random.Random(seed)
    with Server(folder, image, form) as server, Daemon(folder, config) as daemon, Guest(machine) as guest:
        guest.boot()
        guest.begin("pattern", "churn", seed)
        progress(guest, 0)
        for kills in range(1, KILLS + 1):
            time.sleep(rng.uniform(0, 0.5))
            server.kill()
            server.start()
            progress(guest, kills)
        guest.type("enough")
        found = guest.end("pattern")
        disk = daemon.disk("disk")
        guest.poweroff()
        assert daemon.stop() == 0
        log = daemon.log.read_text()
        server.stop()
    assert disk["counters"]["errors"] == 0
    assert log.count("the connection is lost") >= KILLS
    print(f"{form}: {found['writes']} writes, {found['flushes']} flushes, {found['reads']} reads compared")
    host.run("qemu-img", "convert", "-f", form, "-O", "raw", image, raw)
    assert host.run(qemu.guest_files()["pattern"], "churn-check", raw, seed).strip().endswith(found["digest"])


def add(daemon, folder):
    return subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, "disk", "add", "late", "--socket",
                           folder / "late.sock", "--nbd", f"nbd+unix:///?socket={folder}/nbd.sock"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=30, check=False)


def has_libnbd(daemon):
    with open(f"/proc/{daemon.pid}/maps", encoding="utf-8") as maps:
        return "libnbd" in maps.read()


@pytest.mark.parametrize("first", ["ram", "nbd"])
def test_libnbd_is_loaded_for_the_first_disk_that_needs_it_and_not_from_within_the_sandbox(first, folder):
    image = folder / "disk.raw"
    host.run("truncate", "-s", f"{DISK_MIB}M", image)
    source = {"ram": "ram: 4M", "nbd": f"nbd: 'nbd+unix:///?socket={folder}/nbd.sock'"}[first]
    config = f"disks: [{{ name: first, socket: {folder}/first.sock, {source} }}]\n"
    with Server(folder, image, "raw"), Daemon(folder, config) as daemon:
        if daemon.status()["sandbox"]["seccomp"] == "off":
            pytest.skip("no sandbox in this build")
        assert has_libnbd(daemon) == (first == "nbd")
        done = add(daemon, folder)
        if first == "nbd":
            assert done.returncode == 0, done.stderr + daemon.log_tail()
            assert daemon.disk("late")["capacity"] == DISK_MIB << 20
        else:
            assert done.returncode == 1
            assert "started without a disk on an NBD server" in done.stderr, done.stderr
            assert "restart it with this disk" in done.stderr, done.stderr
            assert [d["name"] for d in daemon.status()["disks"]] == ["first"]
        assert daemon.stop() == 0
