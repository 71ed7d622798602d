# SPDX-License-Identifier: Apache-2.0
"""Containers and a real guest on one network: by a tap, by a veth pair, and by a bridge with many of them."""
import contextlib
import hashlib
import os
import secrets
import shutil

import pytest
from containers import Lxc, Namespace
from lab import LabError, host
from lab.daemon import Daemon
from lab.guest import Guest, Machine, Net

MIB = 3
# Of this process alone, so that two test runs on one machine do not meet.
NAMES = {way: f"slc{os.getpid()}{way[0]}" for way in ("tap", "veth", "bridge")}
SUBNET, SUBNET6 = f"198.18.{os.getpid() % 256}", f"fd51:{os.getpid() % 65536:x}:"
ADDRESSES = {who: (f"{SUBNET}.{i}", f"{SUBNET6}:{i}") for i, who in enumerate(("guest", "tap", "veth", "bridge"), 1)}
HOST_IP = f"{SUBNET}.254"


def prefixed(addresses):
    return [f"{addresses[0]}/24", f"{addresses[1]}/64"]


@contextlib.contextmanager
def veth_pair(port, eth0):
    """What README tells people to do: without it, frames come from eth0 with checksums that are not finished."""
    host.run("ip", "link", "add", port, "type", "veth", "peer", "name", eth0)
    try:
        host.run("ethtool", "-K", eth0, "tx", "off")
        host.run("ip", "link", "set", port, "up")
        yield
    finally:
        with contextlib.suppress(LabError):  # gone with a namespace that had the other end
            host.run("ip", "link", "del", port)


@contextlib.contextmanager
def network(folder, runtime):
    """A sluiced with a guest's port and those of three containers; and these containers, by how they are attached."""
    if os.geteuid() != 0:
        pytest.skip("containers that are attached to interfaces of the host need root")
    if not shutil.which("ethtool"):
        pytest.skip("ethtool is not here")
    tap, bridge, veth = (NAMES[way] for way in ("tap", "bridge", "veth"))
    ports = "".join(f'      - {{ name: {name}, dpdk: "{device}" }}\n' for name, device in (
        ("tap", f"net_tap0,iface={tap}"), ("bridge", f"net_tap1,iface={bridge}t"),
        ("veth", f"net_af_packet0,iface={veth}")))
    config = (f"networks:\n  - name: lan\n    ports:\n"
              f"      - {{ name: guest, socket: {folder}/guest.sock }}\n{ports}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(host.bridge(bridge, f"{HOST_IP}/24"))
        stack.enter_context(veth_pair(veth, f"{veth}c"))
        daemon = stack.enter_context(Daemon(folder, config))
        host.plug(bridge, f"{bridge}t")
        attached = {"tap": {"interface": tap}, "veth": {"interface": f"{veth}c"}, "bridge": {"bridge": bridge}}
        yield daemon, {way: stack.enter_context(runtime(folder, f"{NAMES[way]}c", prefixed(ADDRESSES[way]), **how))
                       for way, how in attached.items()}


def exchange_files(guest, box, way):
    """A file each way between the guest and a container, by TCP, over IPv4 and over IPv6."""
    data = secrets.token_bytes(MIB * 2**20)
    (box.root / "tmp/data").write_bytes(data)
    made = guest.job("make", "up", MIB)
    for port, (mine, its) in enumerate(zip(ADDRESSES["guest"], ADDRESSES[way]), 5001):
        with box.receiving(port) as received:
            guest.job("send", "up", its, port)
            assert received().split()[0] == made["sum"], f"{way}, {its}"
        guest.begin("receive", "down", port)
        guest.answer("listening")
        box.send("data", mine, port)
        assert guest.end("receive")["sum"] == hashlib.sha256(data).hexdigest(), f"{way}, {mine}"


def ping_both_ways(guest, box, way):
    for mine, its, largest in zip(ADDRESSES["guest"], ADDRESSES[way], (1472, 1452)):
        for size in (56, largest):
            guest.job("ping", its, 3, size)
            box.ping(mine, size)


@pytest.mark.parametrize("runtime", [Lxc, Namespace], ids=["lxc", "namespace"])
def test_containers_and_a_guest_exchange_packets_and_files(runtime, folder):
    v4, v6 = prefixed(ADDRESSES["guest"])
    with network(folder, runtime) as (daemon, boxes), \
            Guest(Machine(net=Net(f"{folder}/guest.sock", "52:54:00:5c:0c:01"), ip=v4, ip6=v6)) as guest:
        guest.boot()
        for way, box in boxes.items():
            box.wait_for_addresses()
            assert box.sh("cat /sys/class/net/eth0/mtu") == "1500"
            ping_both_ways(guest, box, way)
            exchange_files(guest, box, way)
        for there in ADDRESSES["tap"]:
            boxes["bridge"].ping(there)
            boxes["veth"].ping(there)
        host.ping(ADDRESSES["guest"][0])
        assert {way: box.bad_checksums() for way, box in boxes.items()} == dict.fromkeys(boxes, 0)
        assert all(daemon.port(way)["counters"]["rx_bytes"] > 2 * MIB * 2**20 for way in boxes)
        if runtime is Lxc:
            for way, box in boxes.items():
                box.stop()
                box.start()
            for way, box in boxes.items():
                box.wait_for_addresses()
                ping_both_ways(guest, box, way)
        guest.poweroff()
        log = daemon.log.read_text()
        assert daemon.alive() and "error" not in log
        assert [line.split()[3] for line in log.splitlines() if "tx off" in line] == ["veth:"]
