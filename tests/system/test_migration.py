# SPDX-License-Identifier: Apache-2.0
"""
Live migration of a real guest from one sluiced to another, with its disk on shared storage and its card on
a bridge that both reach. While it migrates the guest writes its disk, fills its page cache from the disk, and
echoes a TCP stream. Afterwards all must be there: the stream without a gap, the disk as it was written, and
the page cache too, which only the dirty log could bring over. By postcopy it runs at the destination before
most of its memory is there.
"""
import contextlib
import hashlib
import os
import re
import socket
import time

import pytest
from lab import host, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine, Net
from lab.qmp import Monitor
from lab.stream import Stream

DISK_MIB = 32
SEED = 17
JOURNAL_BLOCKS_AFTER = 20  # of 4 KiB, at the destination
MAC = "52:54:00:5c:0a:01"
NAME = f"slm{os.getpid()}"
SUBNET = f"198.18.{100 + os.getpid() % 100}"
HOST_IP, GUEST_IP = f"{SUBNET}.254", f"{SUBNET}.1"
ECHO_PORT = 7007
ETHERTYPE_ARP, ETHERTYPE_RARP = 0x0806, 0x8035

ROWS = [
    {"qemu": "7.2", "packed": False, "announce": True, "cache": "none"},
    {"qemu": "10.0", "packed": True, "announce": False, "cache": "writeback"},
]


def row_name(row):
    return "-".join([f"qemu{row['qemu']}", "packed" if row["packed"] else "split",
                     "guest announces" if row["announce"] else "sluiced announces", row["cache"]])


class Announcements:
    """What the guest's address says to everybody when it has moved: RARP, or a gratuitous ARP."""

    def __init__(self):
        # One for each kind: all that the stream sends would fill a socket for everything.
        self._sockets = {}
        for kind in (ETHERTYPE_ARP, ETHERTYPE_RARP):
            self._sockets[kind] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
            self._sockets[kind].bind((NAME, kind))
            self._sockets[kind].setblocking(False)

    def close(self):
        for s in self._sockets.values():
            s.close()

    def seen(self):
        return {kind for kind, s in self._sockets.items() if self._broadcast(s)}

    @staticmethod
    def _broadcast(s):
        while True:
            try:
                frame = s.recv(2048)
            except BlockingIOError:
                return False
            if frame[:6] == b"\xff" * 6 and frame[6:12] == bytes.fromhex(MAC.replace(":", "")):
                return True


def configuration(folder, image, tap, lock, cache):
    return f"""
networks:
  - name: lan
    ports:
      - {{ name: guest, socket: {folder}/net.sock }}
      - {{ name: up, dpdk: "net_tap0,iface={tap}" }}
disks:
  - {{ name: disk, socket: {folder}/disk.sock, file: {image}, lock: {lock}, cache: {cache} }}
"""


def machine(row, folder, *more):
    found = [q for q in qemu.qemus() if q.name == row["qemu"]]
    if not found:
        pytest.skip(f"QEMU {row['qemu']} is not here; scripts/setup.sh --for test fetches what can be had")
    announce = "on" if row["announce"] else "off"
    # Without KVM, QEMU before 9.0 loses stores of the guest's CPU where it fetches its dirty bits 64 pages at a time: in memory
    # of whole 256 KiB ("physmem: Fix migration dirty bitmap coherency with TCG memory access", qemu-devel,
    # 20240219061731.232570-1-npiggin@gmail.com). The guest then runs on with an old stack, and panics: one move of ten.
    return Machine(qemu=found[0], packed=row["packed"], memory_kib=8, disk=Disk(f"{folder}/disk.sock"),
                   net=Net(f"{folder}/net.sock", MAC), ip=f"{GUEST_IP}/24",
                   options=["-global", f"virtio-net-pci.guest_announce={announce}",
                            *Monitor.options(folder / "qmp"), *more])


@contextlib.contextmanager
def two_hosts(row, folder):
    """A running guest at the source, an empty one at the destination, each with a sluiced of its own."""
    if os.geteuid() != 0:
        pytest.skip("a bridge and tap interfaces, the guest's way to the host, need root")
    image = folder / "disk.raw"
    image.touch()
    os.truncate(image, DISK_MIB * 2**20)
    with contextlib.ExitStack() as stack:
        stack.enter_context(host.bridge(NAME, f"{HOST_IP}/24"))
        daemons, guests = [], []
        for name, lock, more in (("a", "open", []), ("b", "run", ["-incoming", "defer"])):
            place = folder / name
            place.mkdir()
            hardware = machine(row, place, *more)
            tap = f"{NAME}{name}"
            daemons.append(stack.enter_context(
                Daemon(place, configuration(place, image, tap, lock, row["cache"]))))
            host.plug(NAME, tap)
            guests.append(stack.enter_context(Guest(hardware, name)).start())
        guests[0].ready()
        monitors = [stack.enter_context(Monitor(folder / name / "qmp")) for name in "ab"]
        yield image, daemons, guests, monitors


@pytest.mark.parametrize("way", ["precopy", "postcopy"])
@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_a_guest_migrates_under_load_and_misses_nothing(row, way, folder):
    with two_hosts(row, folder) as (image, (source, destination), (one, two), (leaving, arriving)):
        one.job("pattern", "fill", SEED)
        one.job("echo", ECHO_PORT)
        stream, announcements = Stream(GUEST_IP, ECHO_PORT), Announcements()

        # Slow at first: what the guest reads into its page cache meanwhile is written by sluiced.
        uri = f"unix:{folder}/migration.sock"
        if way == "postcopy":
            arriving.may_postcopy()
            leaving.may_postcopy()
        arriving.do("migrate-incoming", uri=uri)
        leaving.do("migrate-set-parameters", max_bandwidth=2 << 20)
        leaving.begin(uri)
        wait_for(lambda: "log_all" in source.disk("disk")["front_end"]["features"], 60, "the disk is logged")
        one.job("cache")
        assert leaving.migration()["status"] == "active"
        one.begin("pattern", "journal", SEED + 1)  # without end, until we say so
        one.answer("flushed")
        if way == "postcopy":
            leaving.do("migrate-set-parameters", max_postcopy_bandwidth=32 << 20)  # so that it takes a while
            leaving.do("migrate-start-postcopy")
        else:
            leaving.do("migrate-set-parameters", max_bandwidth=1 << 30)
        report = leaving.end()
        written_before = len(flushed(one))
        wait_for(lambda: len(flushed(two)) >= JOURNAL_BLOCKS_AFTER, 60, "the guest goes on writing its journal")
        two.type("enough")
        two.end("pattern")
        # One line may have been cut in two by the move: part of it on each console.
        reported, whole = flushed(one) + flushed(two), list(range(1, flushed(two)[-1] + 1))
        assert reported in (whole, [n for n in whole if n != written_before + 1])

        # From the page cache, all but the journal.
        read_before = destination.disk("disk")["counters"]["read_bytes"]
        digest = two.job("sum")["sum"]
        read = destination.disk("disk")["counters"]["read_bytes"] - read_before
        assert read <= 2 * len(whole) * 4096
        before_stop = stream.bytes
        wait_for(lambda: stream.error or stream.bytes > before_stop + (1 << 20), 30, "the stream goes on")
        stream.stop()
        seen = announcements.seen()
        announcements.close()
        print(f"QEMU {row['qemu']}, {way}: downtime {report['downtime']} ms, {report['total-time']} ms in all, "
              f"{report['ram']['dirty-sync-count']} rounds; the longest echo took {1000 * stream.worst_gap_s:.0f} ms, "
              f"of {stream.bytes >> 10} KiB; {written_before} of {len(whole)} blocks written at the source")
        if way == "postcopy":
            check_postcopy(destination)
        assert (ETHERTYPE_ARP if row["announce"] else ETHERTYPE_RARP) in seen
        assert "let go of" in source.log.read_text()
        two.poweroff()
        assert destination.stop() == source.stop() == 0
        assert hashlib.sha256(image.read_bytes()).hexdigest() == digest
        host.run(qemu.guest_files()["pattern"], "journal-check", image, SEED + 1, len(whole))


def check_postcopy(destination):
    """Disk and card began without their memory, and had all of it in the end."""
    log = destination.log.read_text()
    for device in ("disk", "guest"):
        assert f"{device}: postcopy: its guest runs here before all of its memory has arrived" in log
        awaited = re.search(rf"{device}: postcopy: all of its memory is here; (\d+) pages were waited for", log)
        assert awaited, log
        print(f"{device}: waited for {awaited.group(1)} pages")


def flushed(guest):
    """What the guest said at this place of its journal."""
    return [int(line.rpartition("=")[2]) for line in guest.console if "SLUICE flushed=" in line]
