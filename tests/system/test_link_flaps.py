# SPDX-License-Identifier: Apache-2.0
"""
A port that goes down and up again and again while its guest, whose driver sees each change of its link, has a transfer
running: the transfer is whole, the link is in the end what the port is, each frame that was lost is counted with its
reason, and nothing is left of it all in sluiced.
"""
import os
import time

from lab import agree
from lab.daemon import wait_for
from test_control_queue import ONE, TWO, _lab  # noqa: F401
from test_guests import sluice
from test_hot_disk import ask, descriptors

FLAPS = 1000 if os.environ.get("SLUICE_TEST_ALL") else 50
DOWN_S = UP_S = 0.02
# A limit under which no transfer is over before the last flap.
RATE, MIB = "tx.bits=2M", 32 if os.environ.get("SLUICE_TEST_ALL") else 4
WARM_UP = 10


def flap(daemon, port, n):
    for _ in range(n):
        for word, seconds in (("down", DOWN_S), ("up", UP_S)):
            assert ask(daemon.control, {"method": f"port.{word}", "params": {"port": port}})["result"]["told"]
            time.sleep(seconds)


def by_command(daemon, *words):
    done = sluice(daemon, "port", *words)
    assert done.returncode == 0, done.stderr


def anonymous_kib(daemon):
    return int(daemon.proc_status()["RssAnon"].split()[0])


def at_rest(daemon, guests):
    """Snapshots of the guests' and the daemon's counts, and the daemon's alone, while nothing moves."""
    while True:
        before = [daemon.port(g.name)["counters"] for g in guests]
        snapshots = [agree.Snapshot(g, daemon, None, g.name) for g in guests]
        if before == [daemon.port(g.name)["counters"] for g in guests]:
            return snapshots, before


def check_counts(before, after):
    """Each frame that a guest has sent came to the other, or stands with the reason why not."""
    for first, last in zip(before[0], after[0]):
        assert not agree.differences(last.since(first))
    one, two = ({k: last[k] - first[k] for k in last} for first, last in zip(before[1], after[1]))
    print(f"one: {({k: n for k, n in one.items() if n})}\ntwo: {({k: n for k, n in two.items() if n})}")
    known = ("rx_port_down", "tx_port_down", "tx_no_buffer", "tx_not_for_it", "tx_not_its_vlan")
    for port in (one, two):
        assert port["dropped"] == sum(port[k] for k in known), port
    for sender, receiver in ((one, two), (two, one)):
        lost = sender["rx_port_down"] + receiver["dropped"] - receiver["rx_port_down"]
        # What had nowhere to go. A broadcast that a port did not take for being down is that, too, and stands there already.
        assert 0 <= sender["rx_packets"] - receiver["tx_packets"] - lost <= sender["filtered"], (one, two)
    assert two["rx_port_down"] == two["tx_port_down"] == 0, "that port stayed up"
    assert one["tx_port_down"] > 0, one


def check_link(daemon, guest):
    """The link is what the port is: as it was left, and the next time, too."""
    guest.job("carrier", "up")
    for word, carrier in (("down", "0"), ("up", "1")):
        by_command(daemon, word, "one")
        guest.job("carrier", word)
        assert guest.job("link_facts")["carrier"] == carrier


def check_transfer(daemon, source, target, address):
    """A file goes from @source to @target all the while that the port of one of them flaps."""
    made = source.job("make", "f", MIB)
    moved = "tx_bytes" if target.name == "one" else "rx_bytes"
    before = daemon.port("one")["counters"][moved]
    by_command(daemon, "limit", source.name, RATE)
    target.job("behind", "receive", "g", 5000)
    source.job("behind", "send", "f", address, 5000)
    wait_for(lambda: daemon.port("one")["counters"][moved] > before + 2**16, 60, "the file is on its way")
    flap(daemon, "one", FLAPS)
    assert daemon.port("one")["counters"][moved] - before < MIB * 2**20, "it was to run all the while"
    by_command(daemon, "limit", source.name, "none")
    source.job("behind_end", timeout_s=150)
    assert target.job("behind_end")["sum"] == made["sum"]


def test_transfers_outlive_flaps_of_a_port(lab):  # noqa: F811
    daemon, one, two = lab
    flap(daemon, "one", WARM_UP)
    check_link(daemon, one)
    files, memory, facts = descriptors(daemon), anonymous_kib(daemon), one.job("link_facts")
    before = at_rest(daemon, (one, two))
    check_transfer(daemon, two, one, ONE)
    check_transfer(daemon, one, two, TWO)
    check_counts(before, at_rest(daemon, (one, two)))
    check_link(daemon, one)
    last = one.job("link_facts")
    changes = int(last["changes"]) - int(facts["changes"])
    print(f"2 x {FLAPS} flaps: the link changed {changes} times; {files} descriptors, now {descriptors(daemon)}; "
          f"{memory} KiB, now {anonymous_kib(daemon)}")
    # One that is gone again by the time the driver looks is none to it.
    assert FLAPS / 10 < changes <= 4 * FLAPS + 2
    assert last["complaints"] == facts["complaints"], last["last"]
    assert descriptors(daemon) == files
    assert anonymous_kib(daemon) <= memory + 256
