# SPDX-License-Identifier: Apache-2.0
"""
What people do with two Linux guests on one network: iperf3, a terminal and pings meanwhile, DHCP, and neighbours that
are asked for. Each guest checks the checksums of what it gets, and each frame that is lost is counted with its reason.
"""
import contextlib
import itertools
import json
import shutil

import pytest
from lab import agree, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Guest, Machine, Net
from test_guests import sluice

ADDRESSES = {"one": ("198.18.80.1", "fd80::1"), "two": ("198.18.80.2", "fd80::2")}
MACS = {"one": "52:54:00:5c:80:01", "two": "52:54:00:5c:80:02"}
# What comes in has to have all checksums, and no more than the MTU: they are sluiced's work.
PLAIN = "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
MIB = 16


@contextlib.contextmanager
def two_guests(folder):
    """A sluiced, and the guests "one", which takes no offloads of others, and "two", which takes all."""
    for program in ("iperf3", "ethtool"):
        if not shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin"):
            pytest.skip(f"{program} is not here")
    ports = ", ".join(f"{{ name: {name}, socket: {folder}/{name}.sock, mtu: 9000 }}" for name in ADDRESSES)
    files = qemu.guest_files("iperf3", "ethtool")

    def machine(name, more=""):
        v4, v6 = ADDRESSES[name]
        return Machine(net=Net(f"{folder}/{name}.sock", MACS[name], more=more), ip=f"{v4}/24", ip6=f"{v6}/64")

    with Daemon(folder, f"networks: [{{ name: lan, ports: [{ports}] }}]\n") as daemon, \
            Guest(machine("one", PLAIN), "one", files=files) as one, Guest(machine("two"), "two", files=files) as two:
        one.start()
        two.start()
        one.ready()
        two.ready()
        yield daemon, one, two
        for name in ADDRESSES:
            assert not daemon.port(name)["front_end"]["queues_broken"]
            assert daemon.port(name)["front_end"]["connects"] == 1
        one.poweroff()
        two.poweroff()
        assert daemon.stop() == 0


def wrong(guest):
    """What the guest's stack found wrong with checksums and headers; a socket's full buffer is its own fault."""
    stack = guest.job("stack")
    return {name: n for name, n in stack.items() if n != "0" and
            ("InCsumErrors" in name or "HdrErrors" in name or name in ("TcpInErrs", "IcmpInErrors"))}


def at_rest(daemon, guests):
    """The counts of both guests and their ports while nothing moves: they are those of one moment."""
    def counts():
        return [daemon.port(g.name)["counters"] for g in guests]
    while True:
        before = counts()
        snapshots = [agree.Snapshot(g, daemon, None, g.name) for g in guests]
        after = counts()
        if before == after:
            return snapshots, after


def check_report(report, udp):
    """Both ways something arrived; what did, in order."""
    sums = [name for name in report if name.startswith("sum")]
    assert any("bidir_reverse" in name for name in sums), sums
    for name in sums:
        assert report[name]["bytes"] > 0, f"{name}: {report[name]}"
    if udp:
        for stream in report["streams"]:
            assert stream["udp"]["out_of_order"] == 0 and stream["udp"]["packets"] > 0, stream["udp"]


def check_counts(before, after, udp):
    """Nothing is lost without a reason: between guest and port, and between the ports."""
    for first, last in zip(before[0], after[0]):
        assert not agree.differences(last.since(first))
    deltas = [{k: last[k] - first[k] for k in last} for first, last in zip(before[1], after[1])]
    for sender, receiver in (deltas, deltas[::-1]):
        lost = sender["rx_packets"] - receiver["tx_packets"]
        if udp:
            assert lost == receiver["tx_no_buffer"], (sender, receiver)
        else:
            assert lost <= receiver["tx_no_buffer"], (sender, receiver)
        assert sender["dropped"] == sender["tx_no_buffer"], sender


def limit(daemon, port, what):
    done = sluice(daemon, "port", "limit", port, what)
    assert done.returncode == 0, done.stderr


def test_iperf3_both_ways_at_once_over_everything(folder):
    with two_guests(folder) as (daemon, one, two):
        two.job("iperf_serve")
        for mtu, family, protocol, streams in itertools.product((1500, 9000), (0, 1), ("tcp", "udp"), (1, 8)):
            # With "off" two sees checksums that are complete; each beside each value of the others.
            tx = "off" if (mtu == 1500) == (family == 0) else "on"
            # Large frames are cut on the way to one, and then come in as many: where frames are counted there are none.
            tso = "on" if protocol == "tcp" else "off"
            one.job("card", mtu, "tx", tx, *(("tso", tso) if tx == "on" else ()))
            two.job("card", mtu, "tso", tso)
            before = at_rest(daemon, (one, two))
            options = ("-u", "-b", "50M") if protocol == "udp" else ()
            report = one.job("iperf", ADDRESSES["two"][family], "-t", 1, "--bidir", "-P", streams, *options)
            check_report(json.loads(report["json"])["end"], protocol == "udp")
            check_counts(before, at_rest(daemon, (one, two)), protocol == "udp")
            assert not wrong(one) and not wrong(two), (mtu, family, protocol, streams)


def test_a_terminal_and_pings_while_bulk_runs_then_neighbours_and_dhcp(folder):
    with two_guests(folder) as (_, one, two):
        two.job("iperf_serve")
        two.job("echo", 7)
        for address, way in zip(ADDRESSES["two"], (("-P", 4), ("-P", 4, "-R"))):
            done = one.job("busy", address, 20, 7, *way)
            print(f"{address} {way}: {done}")
            assert done["lines"] == "20"
            # A ping waits in the same queues as the bulk, and is dropped as that is where one is full.
            assert int(done["received"]) >= int(done["sent"]) // 2, done
        for address in ADDRESSES["two"]:
            assert one.job("neighbour", address)["lladdr"] == MACS["two"]
        two.job("dhcp_serve", "198.18.80.100", "198.18.80.110")
        got = one.job("dhcp")
        assert got["server"] == ADDRESSES["two"][0] and 100 <= int(got["ip"].split(".")[3]) <= 110, got
        two.job("ping", got["ip"], 3)
        assert not wrong(one) and not wrong(two)


def test_a_driver_leaves_its_card_in_the_middle_of_a_transfer_and_comes_back(folder):
    with two_guests(folder) as (daemon, one, two):
        made = two.job("make", "f", MIB)
        for leaver in (two, one):
            limit(daemon, "two", "tx.bits=2M")  # so that it is not over at once
            before = daemon.port("one")["counters"]["tx_bytes"]
            one.job("behind", "receive", "g", 5000)
            two.job("behind", "send", "f", ADDRESSES["one"][0], 5000)
            wait_for(lambda n=before: daemon.port("one")["counters"]["tx_bytes"] > n + 2**17, 60, "the file is on its way")
            leaver.job("rebind")
            assert daemon.port("one")["counters"]["tx_bytes"] - before < MIB * 2**20
            limit(daemon, "two", "none")
            two.job("behind_end")
            assert one.job("behind_end")["sum"] == made["sum"]
        assert not wrong(one) and not wrong(two)
