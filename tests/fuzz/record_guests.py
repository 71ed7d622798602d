#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Records what QEMU says for real Linux guests, and makes seeds of it: seeds/session/guests.hex.

Each QEMU of this machine (scripts/setup.sh --for test), split and packed rings, a disk and a card of two
queue pairs. The guest works, reboots, works again, and is migrated away, into nothing. SLUICE_BUILD is
the build folder, as for the system tests.
"""
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/fuzz")]
sys.dont_write_bytecode = True

from lab import qemu  # pylint: disable=wrong-import-position
from lab.daemon import Daemon, wait_for  # pylint: disable=wrong-import-position
from lab.guest import Disk, Guest, Machine, Net  # pylint: disable=wrong-import-position
from lab.qmp import Monitor  # pylint: disable=wrong-import-position
from record import record, seed  # pylint: disable=wrong-import-position

DISK_MIB = 8


def config(folder):
    image = folder / "disk.raw"
    with open(image, "wb") as f:
        f.truncate(DISK_MIB << 20)
    return (f"networks:\n  - name: lan\n    ports: [{{ name: net, socket: {folder}/back-net, queues: 2 }}]\n"
            f"disks:\n  - {{ name: disk, socket: {folder}/back-blk, file: {image}, queues: 2 }}\n")


def life(guest, monitor):
    guest.ready()
    guest.job("pattern", "fill", 1)
    guest.reboot()
    guest.job("pattern", "check", 1)
    monitor.do("migrate", uri="exec:cat >/dev/null")
    wait_for(lambda: monitor.do("query-migrate").get("status") in ("completed", "failed"), 60, "the guest has gone")
    monitor.do("quit")
    guest.wait()


def start(guest, folder):
    guest.start()
    return Monitor(folder / "qmp")


def record_guest(version, packed):
    """@return the paths of the two recordings."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-record-"))
    name = f"qemu{version.name}-{'packed' if packed else 'split'}"
    paths = {kind: folder / f"{name}-{kind}" for kind in ("blk", "net")}
    hardware = Machine(qemu=version, packed=packed, cpus=2, memory_mib=192, disk=Disk(f"{folder}/front-blk", 2),
                       net=Net(f"{folder}/front-net", "52:54:00:5c:02:00", 2), ip="198.18.80.1/24",
                       options=Monitor.options(folder / "qmp"))
    with Daemon(folder, config(folder)):
        threads = [threading.Thread(target=record, args=(f"{folder}/front-{k}", f"{folder}/back-{k}", p))
                   for k, p in paths.items()]
        for thread in threads:
            thread.start()
        while not all((folder / f"front-{k}").exists() for k in paths):
            time.sleep(0.01)
        with Guest(hardware) as guest, start(guest, folder) as monitor:
            life(guest, monitor)
        for thread in threads:
            thread.join(10)
    return list(paths.values())


def main():
    recordings = [path for version in qemu.qemus() for packed in (False, True)
                  for path in record_guest(version, packed)]
    lines = ["# Real Linux guests, made by record_guests.py: boot, work, reboot, work, migration."]
    for path in recordings:
        lines += [f"# {path.name}: {len(path.read_text().splitlines())} messages", seed(path)]
    (ROOT / "tests/fuzz/seeds/session/guests.hex").write_text("\n".join(lines) + "\n")
    print("\n".join(line for line in lines if line[0] == "#"))


main()
