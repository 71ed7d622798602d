# SPDX-License-Identifier: Apache-2.0
"""
Linux's driver on our own control queue. QEMU's vhost-user-net keeps that queue to itself; its device for any kind of
vhost-user back-end, which QEMU 11.1 lets anybody use, hands it over. What ethtool and ip set there must have its effect.
"""
import contextlib
import shutil

import pytest
from between import hiding
from lab import LabError, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Guest, Machine, Net
from test_guests import sluice

PAIRS = 4
RING_PACKED = 34  # virtio 1.3 6
STREAM_MIB, FRAME_MAX = 2, 1460  # bytes of payload in a frame that is not a large one
MAC, NEW_MAC = "52:54:00:5c:81:01", "52:54:00:5c:81:11"
ONE, ONE6, TWO, TWO6 = "198.18.81.1", "fd81::1", "198.18.81.2", "fd81::2"
VLAN, ONE_VLAN, TWO_VLAN = 5, "198.18.82.1", "198.18.82.2"
CONFIG = """
networks:
  - name: lan
    ports:
      - {{ name: one, socket: {folder}/one.sock, queues: {pairs}, mac: '{mac}', mtu: 1500, speed: 25000 }}
      - {{ name: two, socket: {folder}/two.sock }}
"""


@pytest.fixture(name="lab", params=["packed", "split"])
def _lab(folder, request):
    generic = qemu.generic_qemu()
    if not generic or not shutil.which("ethtool", path="/usr/bin:/usr/sbin:/bin:/sbin"):
        pytest.skip("QEMU 11 or ethtool is not here; scripts/setup.sh --for test fetches what can be had")
    files = qemu.guest_files("ethtool")
    # It takes all that it is offered.
    split = request.param == "split"
    between = hiding(f"{folder}/split.sock", f"{folder}/one.sock", RING_PACKED) if split else contextlib.nullcontext()
    sock = f"{folder}/{'split' if split else 'one'}.sock"
    one = Machine(qemu=generic, cpus=2, net=Net(sock, queues=PAIRS, generic=True), ip=f"{ONE}/24", ip6=f"{ONE6}/64")
    two = Machine(net=Net(f"{folder}/two.sock", "52:54:00:5c:81:02"), ip=f"{TWO}/24", ip6=f"{TWO6}/64")
    with Daemon(folder, CONFIG.format(folder=folder, pairs=PAIRS, mac=MAC)) as daemon, between, \
            Guest(one, "one", files=files) as first, Guest(two, "two", files=files) as second:
        first.start()
        second.start()
        first.ready()
        second.ready()
        first.job("carrier", "up")
        second.job("neighbour", ONE6)  # which takes a while where IPv6 is just about to find the link
        assert {q["layout"] for q in daemon.port("one")["queues"] if q["state"] == "running"} == {request.param}
        yield daemon, first, second
        assert not first.job("complaints")
        port = daemon.port("one")
        assert not port["front_end"]["queues_broken"] and port["front_end"]["connects"] == 1
        first.poweroff()
        second.poweroff()
        assert daemon.stop() == 0


def per_queue(guest):
    """Frames that each receive queue got, by ethtool -S, which shows those in use."""
    counts = guest.job("ethtool", "-S", "eth0")
    return [int(counts.get(f"rx_queue_{i}_packets", 0)) for i in range(PAIRS)]


def queues_used_by(one, two):
    """Which receive queues get something when two talks to one by IP; the first one gets what has no IP, too (ARP)."""
    before = per_queue(one)
    two.job("ping", ONE, 3)
    two.job("ping", ONE6, 3)
    return {i for i, (b, a) in enumerate(zip(before, per_queue(one))) if a > b}


def check_queues_and_rss(one, two):
    assert one.job("ethtool", "-l", "eth0")["Combined"] == "2", "as many as it has CPUs"
    one.job("ethtool", "-L", "eth0", "combined", PAIRS)
    table = one.job("ethtool", "-x", "eth0")
    assert table["toeplitz"] == "on" and set(table["0"].split("_")) - {""} <= set("0123")
    one.job("ethtool", "-X", "eth0", "weight", 0, 0, 0, 1)
    assert queues_used_by(one, two) - {0} == {3}
    one.job("ethtool", "-X", "eth0", "weight", 0, 1, 0, 0)
    assert queues_used_by(one, two) - {0} == {1}
    one.job("ethtool", "-K", "eth0", "rxhash", "on")
    one.job("ethtool", "-N", "eth0", "rx-flow-hash", "tcp4", "sdfn")
    assert queues_used_by(one, two) - {0} == {1}
    one.job("ethtool", "-X", "eth0", "equal", 1)
    one.job("ethtool", "-L", "eth0", "combined", 1)
    assert queues_used_by(one, two) == {0}
    one.job("ethtool", "-L", "eth0", "combined", PAIRS)


def check_coalescing(one, two):
    """What the driver shows is what the card has taken. It is told at once of what comes alone, whatever it has set."""
    for usecs, frames in ((500, 64), (0, 1)):
        one.job("ethtool", "-C", "eth0", "rx-usecs", usecs, "rx-frames", frames, "tx-usecs", usecs, "tx-frames", 1)
        shown = one.job("ethtool", "-c", "eth0")
        assert (shown["rx-usecs"], shown["rx-frames"], shown["tx-usecs"]) == (str(usecs), str(frames), str(usecs))
        two.job("ping", ONE, 3)


def check_filters(daemon, one, two):
    """Who asks for an address asks a group; who is in that group alone has to hear it."""
    def unheard(nobody):
        before = daemon.port("one")["counters"]["tx_not_for_it"]
        two.job("ask", nobody)
        return daemon.port("one")["counters"]["tx_not_for_it"] - before
    assert unheard("fd81::71") > 0
    one.job("link", "promisc", "on")
    assert unheard("fd81::72") == 0
    one.job("link", "promisc", "off")
    assert unheard("fd81::73") > 0
    one.job("link", "address", NEW_MAC)
    assert two.job("neighbour", ONE)["lladdr"] == NEW_MAC
    assert two.job("neighbour", ONE6)["lladdr"] == NEW_MAC


def frames_of_a_stream(daemon, one, two):
    """In how many frames a file comes to one that two sends by TCP."""
    made = two.job("make", "f", STREAM_MIB)
    before = daemon.port("one")["counters"]["tx_packets"]
    one.begin("receive", "g", 5000)
    one.answer("listening")
    two.job("send", "f", ONE, 5000)
    assert one.end("receive")["sum"] == made["sum"]
    return daemon.port("one")["counters"]["tx_packets"] - before


def check_offloads(daemon, one, two):
    """By what ethtool says, and by what a driver does that has an XDP program."""
    all_small = STREAM_MIB * 2**20 // FRAME_MAX
    one.job("ethtool", "-L", "eth0", "combined", 2)  # XDP takes as many as there are CPUs besides
    assert one.job("ethtool", "-k", "eth0")["rx-gro-hw"] == "on"
    assert frames_of_a_stream(daemon, one, two) < all_small
    for off, on in ((("ethtool", "-K", "eth0", "rx-gro-hw", "off"), ("ethtool", "-K", "eth0", "rx-gro-hw", "on")),
                    (("xdp", "on"), ("xdp", "off"))):
        one.job(*off)
        assert frames_of_a_stream(daemon, one, two) >= all_small, off
        one.job(*on)
        assert frames_of_a_stream(daemon, one, two) < all_small, on
    one.job("ethtool", "-L", "eth0", "combined", PAIRS)


def check_vlans(daemon, one, two):
    def unheard():
        before = daemon.port("one")["counters"]["tx_not_its_vlan"]
        two.job("ask", ONE_VLAN)
        return daemon.port("one")["counters"]["tx_not_its_vlan"] - before
    two.job("vlan", VLAN, f"{TWO_VLAN}/24")
    assert unheard() > 0
    one.job("vlan", VLAN, f"{ONE_VLAN}/24")
    two.job("ping", ONE_VLAN, 3)
    assert unheard() == 0
    one.job("vlan", VLAN, "off")
    assert unheard() > 0
    two.job("vlan", VLAN, "off")


def check_ring_sizes(daemon, two):
    """QEMU would tell us nothing of a queue that is reset. Who cannot have it keeps its queues, and frames go on."""
    assert "ring_reset" not in daemon.port("two")["front_end"]["features"]
    assert two.job("ethtool", "-g", "eth0")["RX"] == "256"
    for which in "rx", "tx":
        with pytest.raises(LabError, match="ethtool failed"):
            two.job("ethtool", "-G", "eth0", which, 64)
    assert {q["size"] for q in daemon.port("two")["queues"] if q["state"] == "running"} == {256}
    two.job("ping", ONE, 3)


def check_link(daemon, one, two):
    for word in ("down", "up"):
        done = sluice(daemon, "port", word, "one")
        assert done.returncode == 0, done.stderr
        one.job("carrier", word)
    two.job("ping", ONE, 3)


def test_what_ethtool_and_ip_set_has_its_effect(lab):
    daemon, one, two = lab
    features = daemon.port("one")["front_end"]["features"]
    for name in ("ctrl_vq", "ctrl_rx", "ctrl_mac_addr", "ctrl_vlan", "ctrl_guest_offloads", "mq", "rss", "hash_report", "notf_coal", "status",
                 "speed_duplex", "mtu", "mac"):
        assert name in features, name
    facts = one.job("facts")
    assert (facts["mac"], facts["mtu"], facts["net_queues"]) == (MAC, "1500", "2")
    told = one.job("ethtool", "eth0")
    assert (told["Speed"], told["Duplex"], told["Link_detected"]) == ("25000Mb/s", "Full", "yes")
    able = one.job("ethtool", "-k", "eth0")
    for name in ("rx-checksumming", "tx-checksumming", "scatter-gather", "tcp-segmentation-offload", "rx-vlan-filter"):
        assert able[name].startswith("on"), name
    check_queues_and_rss(one, two)
    check_coalescing(one, two)
    check_filters(daemon, one, two)
    check_vlans(daemon, one, two)
    check_offloads(daemon, one, two)
    check_ring_sizes(daemon, two)
    check_link(daemon, one, two)
    wait_for(lambda: sum(per_queue(one)) == daemon.port("one")["counters"]["tx_packets"], 60,
             "what ethtool -S counts is what sluiced has delivered")
