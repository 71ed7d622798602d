# SPDX-License-Identifier: Apache-2.0
"""
sluiced is killed under load, started again, and nothing is lost: with the project's own front-end
for speed, and with a guest's kernel and QEMU for truth.
"""
import contextlib
import os
import random
import re
import subprocess
import threading
import time

import pytest
from lab import BUILD, LabError, host, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine, Net
from lab.stream import Stream
from nbd_server import needs_qemu_nbd

ROUNDS = int(os.environ.get("SLUICE_CRASH_ROUNDS", "5"))
GUEST_KILLS = int(os.environ.get("SLUICE_CRASH_GUEST_KILLS", "5"))  # in each row, at least
GUEST_KILLS_MAX = GUEST_KILLS + 200  # and until requests were in flight in one of them, no more than this
DISK_MIB = 16
HANG_S = 60
EARLY_S = 0.4  # it has come to serving well within that
ECHO_PORT = 7007
BRIDGE = f"slc{os.getpid()}"
SUBNET = f"198.18.{100 + os.getpid() % 100}"

VARIANTS = [
    ["--size", "4", "--queues", "4"],
    ["--size", "64", "--in-order"],
    ["--size", "1024", "--queues", "1"],
    ["--size", "7", "--packed"],
    ["--size", "256", "--packed", "--in-order"],
    ["--size", "64", "--packed", "--buffered"],
]


@needs_qemu_nbd
@pytest.mark.parametrize("ring", [["--size", "64"], ["--size", "64", "--packed"]], ids=["split", "packed"])
def test_kill_under_load_of_an_nbd_disk_loses_nothing(ring, folder):
    test_kill_under_load_loses_nothing([*ring, "--nbd"], folder)


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


CARD_VARIANTS = [
    ["--size", "64"],
    ["--size", "16", "--mergeable", "--in-order"],
    ["--size", "64", "--packed"],
    ["--size", "256", "--packed", "--mergeable"],
    ["--size", "100", "--packed", "--mergeable", "--in-order", "--workers", "1"],
]


@pytest.mark.parametrize("options", CARD_VARIANTS, ids=lambda o: " ".join(o).replace("--", ""))
def test_kill_under_traffic_loses_no_buffer(options, folder):
    done = subprocess.run(
        [BUILD / "tests/crash/crash-net", "--rounds", str(ROUNDS), "--folder", folder, *options,
         BUILD / "daemon/sluiced"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=60 + 3 * ROUNDS, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) kills, (\d+) orderly ends, (\d+) frames received", done.stdout)
    assert int(found[1]) + int(found[2]) == ROUNDS + 1  # and the end of the last daemon
    assert int(found[3]) > 0


GUEST_ROWS = [
    {"qemu": "7.2", "packed": False, "cache": "none", "qemu_listens": True},
    {"qemu": "7.2", "packed": True, "cache": "writeback", "qemu_listens": False},
    {"qemu": "10.0", "packed": False, "cache": "writeback", "qemu_listens": True},
    {"qemu": "10.0", "packed": True, "cache": "none", "qemu_listens": False},
]


def guest_row_name(row):
    return "-".join([f"qemu{row['qemu']}", "packed" if row["packed"] else "split", row["cache"],
                     "qemu listens" if row["qemu_listens"] else "sluiced listens"])


class Victim:
    """A sluiced that is killed at random moments, while a guest churns its disk and echoes a stream."""

    def __init__(self, daemon, guest, rng):
        self.daemon, self.guest, self.rng = daemon, guest, rng
        # QEMU before 9.1 may never connect again when it was just connecting ("vhost-user: fix lost reconnect again").
        self.spare_handshake = guest.machine.qemu.version < (9, 1)
        self.kills = self.early = 0
        self.reported = self.logged = 0  # lines of the console, bytes of the log, before this life

    def progress(self):
        """Each of the guest's processes has had an answer more than it can have had from a dead sluiced."""
        # The first report may have been under way, or be of just before the kill.
        wait_for(lambda: len(self._least()) >= 2, HANG_S, "the guest reports")
        before = self._least()[1]
        try:
            wait_for(lambda: self._least()[-1] >= before + 2, HANG_S, "no request of the guest's hangs")
        except LabError as e:
            raise LabError(f"after {self.kills} kills: {e}{self.daemon.log_tail(20)}{self.guest.tail()}") from None

    def _least(self):
        """What its slowest process had done, in each report since the last kill."""
        lines = self.guest.console[self.reported:]
        wrong = [line for line in lines if "SLUICE error=" in line or "SLUICE end=" in line]
        if wrong or not self.guest.alive():
            raise LabError(f"after {self.kills} kills: {wrong or 'QEMU has ended'}{self.guest.tail()}")
        return [int(n) for n in re.findall(r"least=(\d+)\n", "\n".join(lines) + "\n")]

    def round(self):
        time.sleep(self.rng.uniform(0, 0.3))
        self._kill()
        while self.rng.random() < 0.25:  # and again while it starts, takes over or does again
            self.daemon.launch()
            if self.spare_handshake:
                wait_for(self._runs, HANG_S, "sluiced is connected again", 0.002)
                time.sleep(self.rng.uniform(0, 0.02))
            else:
                time.sleep(self.rng.uniform(0, EARLY_S))
            self._kill()
            self.early += 1
        self.daemon.launch()
        self.progress()

    def _runs(self):
        with open(self.daemon.log, encoding="utf-8") as log:
            log.seek(self.logged)
            text = log.read()
        return "disk: running" in text and "guest: running" in text

    def _kill(self):
        if not self.daemon.alive():
            raise LabError(f"sluiced has ended by itself{self.daemon.log_tail()}")
        self.daemon.kill()
        self.kills += 1
        self.reported = len(self.guest.console)
        self.logged = self.daemon.log.stat().st_size


class Plug(threading.Thread):
    """Puts the tap on the bridge again whenever a new sluiced has made one."""

    def __init__(self, bridge, tap):
        super().__init__(daemon=True)
        self._bridge, self._tap, self._end = bridge, tap, threading.Event()
        self.start()

    def run(self):
        while not self._end.wait(0.02):
            with contextlib.suppress(LabError):  # it may be gone again
                if host.interface_exists(self._tap) and not host.is_plugged(self._bridge, self._tap):
                    host.plug(self._bridge, self._tap)

    def stop(self):
        self._end.set()
        self.join()


@contextlib.contextmanager
def network(folder, row):
    """A switch with the guest's port and a tap to a bridge of the host's: its configuration."""
    with host.bridge(BRIDGE, f"{SUBNET}.254/24"):
        plug = Plug(BRIDGE, f"{BRIDGE}t")
        connect = ", connect: true" if row["qemu_listens"] else ""
        try:
            yield (f"networks:\n  - name: lan\n    ports:\n"
                   f"      - {{ name: guest, socket: {folder}/net.sock{connect} }}\n"
                   f"      - {{ name: up, dpdk: 'net_tap0,iface={BRIDGE}t' }}\n")
        finally:
            plug.stop()


def in_flight(daemon):
    """How many requests each start of sluiced found in flight, where there were any."""
    return [int(n) for n in re.findall(r"(\d+) requests were in flight", daemon.log.read_text())]


def guest_machine(folder, row):
    found = [q for q in qemu.qemus() if q.name == row["qemu"]]
    if not found:
        pytest.skip(f"QEMU {row['qemu']} is not here; scripts/setup.sh --for test fetches what can be had")
    how = {"server": row["qemu_listens"], "reconnect": not row["qemu_listens"]}
    return Machine(qemu=found[0], cpus=2, packed=row["packed"], ip=f"{SUBNET}.1/24",
                   disk=Disk(f"{folder}/disk.sock", queues=2, **how),
                   # QEMU keeps no in-flight buffer for cards, and without one only a split ring shows how far it is.
                   net=Net(f"{folder}/net.sock", "52:54:00:5c:0b:01", packed=False, **how))


@pytest.mark.parametrize("row", GUEST_ROWS, ids=guest_row_name)
def test_a_guest_does_not_notice_that_sluiced_is_killed(row, folder):
    if os.geteuid() != 0:
        pytest.skip("a bridge and a tap interface, the guest's way to the host, need root")
    machine, seed = guest_machine(folder, row), random.randrange(2**32)
    image = folder / "disk.raw"
    image.touch()
    os.truncate(image, DISK_MIB * 2**20)
    connect = ", connect: true" if row["qemu_listens"] else ""
    disks = (f"disks: [{{ name: disk, socket: {folder}/disk.sock, file: {image}, queues: 2, "
             f"cache: {row['cache']}{connect} }}]\n")
    print(f"seed {seed}")
    with network(folder, row) as networks, Daemon(folder, networks + disks) as daemon, Guest(machine) as guest:
        guest.boot()
        guest.job("echo", ECHO_PORT)
        stream = Stream(f"{SUBNET}.1", ECHO_PORT, HANG_S)
        guest.begin("pattern", "churn", seed)
        victim = Victim(daemon, guest, random.Random(seed))
        victim.reported = len(guest.console)
        victim.progress()
        start = time.monotonic()
        # A disk quicker than its guest is idle at most moments: kill until it was not.
        while victim.kills < GUEST_KILLS or (not in_flight(daemon) and victim.kills < GUEST_KILLS_MAX):
            victim.round()
            if victim.kills % 5 == 0:
                stream.goes_on(16, HANG_S)  # seldom, as TCP waits twice as long each time
        seconds = time.monotonic() - start
        stream.goes_on(256, HANG_S)
        stream.stop()
        guest.type("enough")
        found = guest.end("pattern")
        log = daemon.log.read_text()
        guest.poweroff()
        assert daemon.stop() == 0
    again = in_flight(daemon)
    print(f"{guest_row_name(row)}: {victim.kills} kills in {seconds:.0f} s, {victim.early} of them early; "
          f"{len(again)} times there were requests to be done again, {sum(again)} in all; the guest: "
          f"{found['writes']} writes, {found['flushes']} flushes, {found['reads']} reads compared; "
          f"{stream.bytes >> 10} KiB echoed, the longest echo took {stream.worst_gap_s:.1f} s")
    assert sum(again) > 0
    assert "contradicts" not in log
    assert host.run(qemu.guest_files()["pattern"], "churn-check", image, seed).strip().endswith(found["digest"])
