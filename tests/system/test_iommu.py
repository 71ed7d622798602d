# SPDX-License-Identifier: Apache-2.0
"""
Real guests whose disk and network card are behind an (Intel) IOMMU. Linux with iommu.strict=1 maps each
buffer for one use, and takes the translation back at once: so QEMU sends an invalidation for each frame and
each page of a request, and is asked for the next ones.
"""
import os

import pytest
from lab import agree, host
from lab.daemon import Daemon
from lab.guest import Disk, Guest, Machine, Net
from test_matrix import GUEST_IP, HOST_IP, SEED, TAP, exchange_files, find_qemu

DISK_MIB = 8
PINGS = 20
# Linux's default is "lazy": all translations are taken back together, each 10 ms under load, those of the
# rings too. Frames that come then are lost, which a test of few frames may or may not see. QEMU 7.2 does not
# pass that on, so that its guests cannot be used so (docs/protocol.md).
ROWS = [("7.2", False, "strict"), ("10.0", True, "strict")]
if os.environ.get("SLUICE_TEST_ALL"):
    ROWS += [("7.2", True, "strict"), ("10.0", False, "strict"), ("10.0", True, "lazy"), ("10.0", False, "passthrough")]


def row_name(row):
    return f"qemu{row[0]}-{'packed' if row[1] else 'split'}-{row[2]}"


def few_found_no_buffer(counters):
    """A guest that gets little CPU may run out of buffers for a moment; a frame that needs a translation is no reason."""
    return counters["tx_no_buffer"] <= counters["tx_packets"] / 50


def once_more(guest, daemon):
    """What the files' way counts when they go again: others may have had the CPU before, but not each time."""
    before = daemon.port("guest")["counters"]
    exchange_files(guest)
    return {name: n - before[name] for name, n in daemon.port("guest")["counters"].items()}


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_a_guest_behind_an_iommu(row, folder):
    version, packed, mode = row
    if os.geteuid() != 0:
        pytest.skip("a tap interface, the guest's way to the host, needs root")
    (folder / "disk.raw").write_bytes(b"")
    os.truncate(folder / "disk.raw", DISK_MIB * 2**20)
    config = f"""
networks:
  - name: lan
    ports:
      - {{ name: guest, socket: {folder}/net.sock }}
      - {{ name: up, dpdk: "net_tap0,iface={TAP}" }}
disks:
  - {{ name: disk, socket: {folder}/disk.sock, file: {folder}/disk.raw }}
"""
    machine = Machine(qemu=find_qemu(version), packed=packed, iommu=mode, disk=Disk(f"{folder}/disk.sock"),
                      net=Net(f"{folder}/net.sock", "52:54:00:5c:01:01"), ip=f"{GUEST_IP}/24")
    with Daemon(folder, config) as daemon:
        host.interface_up(TAP, f"{HOST_IP}/24")
        with Guest(machine) as guest:
            guest.boot()
            first, before = agree.Snapshot(guest, daemon, "disk", "guest"), daemon.port("guest")["counters"]
            guest.job("pattern", "fill", SEED)
            guest.job("pattern", "check", SEED)
            guest.job("ping", HOST_IP, PINGS)
            host.ping(GUEST_IP, PINGS)
            exchange_files(guest)

            disk, port = daemon.disk("disk"), daemon.port("guest")
            for device in (disk, port):
                assert "access_platform" in device["front_end"]["features"]
                assert not device["front_end"]["queues_broken"]
                assert device["front_end"]["iotlb_misses"] > 0
            if mode == "strict":
                # A page of each request was asked for, and a buffer of each frame.
                assert disk["front_end"]["iotlb_misses"] > 2 * DISK_MIB * 2**20 / 4096
                assert port["front_end"]["iotlb_misses"] > port["counters"]["tx_packets"]
            if mode != "lazy":
                # From here on: the host's IPv6 greets a new interface, when there is no guest yet, until interface_up() turns it off.
                counters = {name: n - before[name] for name, n in port["counters"].items()}
                assert few_found_no_buffer(counters) or any(few_found_no_buffer(once_more(guest, daemon)) for _ in range(3)), counters
                assert not counters["tx_down"]
                assert not agree.differences(agree.Snapshot(guest, daemon, "disk", "guest").since(first))
            guest.poweroff()
            assert daemon.stop() == 0
