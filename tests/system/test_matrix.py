# SPDX-License-Identifier: Apache-2.0
"""
Real guests over the matrix of QEMUs, machines, ring layouts, notification, queues, ring sizes and
kinds of memory: not the full product, but rows that hold every pair. In each row the guest has a
disk and a network card on one sluiced, writes a pattern over the whole disk and reads it back,
exchanges files with the host through the switch and a DPDK tap; and both sides must say that they
negotiated what the row is about, and used each queue.
"""
import contextlib
import hashlib
import os
import secrets
from pathlib import Path

import pytest
from lab import agree, host, qemu
from lab.daemon import Daemon
from lab.guest import Disk, Guest, Machine, Net
from pairs import covering_rows, pairs_of, possible_pairs

DISK_MIB = 32
FILE_BYTES = 3 * 2**20 + 1
SEED = 4711
# Of this process alone, so that two test runs on one machine do not meet.
TAP = f"slt{os.getpid()}"
SUBNET = f"198.19.{os.getpid() % 256}"
HOST_IP, GUEST_IP = f"{SUBNET}.254", f"{SUBNET}.1"
FEATURE_BITS = {"event_idx": 29, "ring_packed": 34}
HUGE_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")

FACTORS = {
    "qemu": ["7.2", "10.0"],
    "machine": ["q35", "pc", "microvm"],
    "packed": [False, True],
    "event_idx": [True, False],
    "queues": [1, 4],
    "ring": [128, 1024],
    # "regions": more than 3 GiB, which lies in several pieces in the guest's address space.
    "memory": ["4k", "hugepages", "regions"],
}


def possible(row):
    """QEMU's virtio-mmio, which is all that microvm has, tells every guest that rings have 1024 entries."""
    return row["machine"] != "microvm" or row["ring"] == 1024


ROWS = covering_rows(FACTORS, possible)
MEMORY_MIB = {"4k": 256, "hugepages": 256, "regions": 3584}


def row_name(row):
    return "-".join([f"qemu{row['qemu']}", row["machine"], "packed" if row["packed"] else "split",
                     "event_idx" if row["event_idx"] else "flags", f"{row['queues']}q", str(row["ring"]),
                     row["memory"]])


def test_the_rows_hold_every_pair_of_the_matrix():
    covered = set().union(*(pairs_of(row, list(FACTORS)) for row in ROWS))
    assert covered == possible_pairs(FACTORS, possible)
    assert len(ROWS) <= 14


@contextlib.contextmanager
def hugepages(mib):
    """As many free 2 MiB pages as @mib need, given back afterwards; skips where there are none."""
    if not HUGE_POOL.exists():
        pytest.skip("this kernel has no 2 MiB pages")
    total, free = HUGE_POOL / "nr_hugepages", HUGE_POOL / "free_hugepages"
    before, needed = int(total.read_text()), mib // 2 - int(free.read_text())
    if needed > 0:
        if not os.access(total, os.W_OK):
            pytest.skip(f"{mib} MiB of free hugepages are needed, and only root can reserve them")
        total.write_text(str(before + needed))
    try:
        if int(free.read_text()) < mib // 2:
            pytest.skip(f"the kernel has no {mib} MiB of hugepages to give")
        yield
    finally:
        if needed > 0:
            total.write_text(str(before))


def find_qemu(version):
    for q in qemu.qemus():
        if q.name == version:
            return q
    return pytest.skip(f"QEMU {version} is not here; scripts/setup.sh --for test fetches what can be had")


def check_feature(name, wanted, device, guest_bits):
    """Both sides say that this feature was negotiated, or was not."""
    assert (guest_bits[FEATURE_BITS[name]] == "1") == wanted, f"the guest's {name}"
    assert (name in device["front_end"]["features"]) == wanted, f"sluice status: {name}"


def check_queues(device, n, size, layout):
    """Exactly the first @n queues run, of that size and layout, and none broke."""
    running = [q for q in device["queues"] if q["state"] == "running"]
    assert [q["index"] for q in running] == list(range(n))
    assert {q["layout"] for q in running} == {layout}
    assert {q["size"] for q in running if q["index"] < n} == {size}
    assert not device["front_end"]["queues_broken"]


def exchange_files(guest):
    """A file each way between guest and host, by TCP."""
    made = guest.job("make", "up", 3)
    receiver = host.Receiver(HOST_IP)
    guest.job("send", "up", HOST_IP, receiver.port)
    assert receiver.digest() == made["sum"]
    data = secrets.token_bytes(FILE_BYTES)
    guest.begin("receive", "down", 5002)
    guest.answer("listening")
    host.send_when_listening(GUEST_IP, 5002, data)
    received = guest.end("receive")
    assert received["bytes"] == str(FILE_BYTES)
    assert received["sum"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_guest(row, folder):
    if os.geteuid() != 0:
        pytest.skip("a tap interface, the guest's way to the host, needs root")
    n = row["queues"]
    net_ring = max(row["ring"], 256)  # QEMU's smallest
    (folder / "disk.raw").write_bytes(b"")
    os.truncate(folder / "disk.raw", DISK_MIB * 2**20)
    config = f"""
networks:
  - name: lan
    ports:
      - {{ name: guest, socket: {folder}/net.sock, queues: {n} }}
      - {{ name: up, dpdk: "net_tap0,iface={TAP}" }}
disks:
  - {{ name: disk, socket: {folder}/disk.sock, file: {folder}/disk.raw, queues: {n} }}
"""
    machine = Machine(qemu=find_qemu(row["qemu"]), type=row["machine"], cpus=n, packed=row["packed"],
                      event_idx=row["event_idx"], memory_mib=MEMORY_MIB[row["memory"]],
                      backing="hugepages" if row["memory"] == "hugepages" else "memfd",
                      disk=Disk(f"{folder}/disk.sock", n, row["ring"]),
                      net=Net(f"{folder}/net.sock", "52:54:00:5c:01:01", n, net_ring), ip=f"{GUEST_IP}/24")
    with contextlib.ExitStack() as stack:
        if row["memory"] == "hugepages":
            stack.enter_context(hugepages(machine.memory_mib + 256))  # DPDK helps itself, too
        daemon = stack.enter_context(Daemon(folder, config))
        host.interface_up(TAP, f"{HOST_IP}/24")
        guest = stack.enter_context(Guest(machine)).boot()
        first = agree.Snapshot(guest, daemon, "disk", "guest")

        guest.job("pattern", "fill", SEED)
        guest.job("pattern", "check", SEED)
        guest.job("ping_from_all", HOST_IP, 3)
        host.ping(GUEST_IP)
        exchange_files(guest)

        facts = guest.job("facts")
        assert facts["disk_queues"] == facts["net_queues"] == str(n)
        disk, port = daemon.disk("disk"), daemon.port("guest")
        layout = "packed" if row["packed"] else "split"
        for feature, wanted in (("ring_packed", row["packed"]), ("event_idx", row["event_idx"])):
            check_feature(feature, wanted, disk, facts["disk_features"])
            check_feature(feature, wanted, port, facts["net_features"])
        check_queues(disk, n, row["ring"], layout)
        check_net_queues(port, n, net_ring, layout)
        assert all(q["popped"] for q in disk["queues"][:n]), "a disk queue was not used"
        assert all(q["popped"] for q in port["queues"][1:2 * n:2]), "a transmit queue was not used"
        check_memory(disk, row["memory"])
        assert not agree.differences(agree.Snapshot(guest, daemon, "disk", "guest").since(first))

        guest.poweroff()
        assert daemon.stop() == 0


def check_net_queues(port, n, size, layout):
    """The pairs in use, and the control queue after the last pair of the device, which has a size of its own."""
    queues = port["queues"]
    for q in queues[:2 * n]:
        assert (q["state"], q["layout"], q["size"]) == ("running", layout, size), f"queue {q['index']}"
    assert not port["front_end"]["queues_broken"]


def check_memory(device, kind):
    """The front-end shared all of the guest's memory, less at most what the firmware keeps."""
    shared_mib = device["front_end"]["memory_bytes"] / 2**20
    assert shared_mib > MEMORY_MIB[kind] - 2
    if kind == "regions":
        assert device["front_end"]["memory_regions"] >= 2
