# SPDX-License-Identifier: Apache-2.0
"""sluice-bench's figures against those that sluiced counts for itself, and against a delay that is known."""
import json
import subprocess

import pytest
from running import running
from test_bench import BUILD, bench, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
IOPS, PPS = 50, 1000  # of the disk and the card that are limited


@pytest.fixture(name="daemon")
def fixture_daemon(folder):
    """Disks r (RAM) and l, limited; cards a, b, and i and o, of which one may receive and one send so much."""
    ports = [{"name": n} for n in "ab"] + [{"name": "i", "limit": {"rx": {"packets": PPS}}},
                                          {"name": "o", "limit": {"tx": {"packets": PPS}}}]
    config = {"control": {"socket": f"{folder}/control.sock"},
              "networks": [{"name": "lan", "ports": [{**p, "socket": f"{folder}/{p['name']}.sock"} for p in ports]}],
              "disks": [{"name": "r", "socket": f"{folder}/r.sock", "ram": "16M", "queues": 2},
                        {"name": "l", "socket": f"{folder}/l.sock", "ram": "16M", "limit": {"iops": IOPS}}]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([BUILD / "daemon/sluiced", "--config", folder / "c.yaml", "--log-level", "error"]) as process:
        wait_for(folder / "l.sock", process)
        yield process
        assert process.poll() is None


def measured(command, *arguments, code=0):
    done = bench(command, *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def counted(folder):
    """Counters by the name of the disk or port."""
    done = subprocess.run([BUILD / "cli/sluice", "--socket", folder / "control.sock", "status", "--json"],
                          stdout=subprocess.PIPE, timeout=20, check=True)
    status = json.loads(done.stdout)
    return {x["name"]: x["counters"] for x in status["disks"] + status["networks"][0]["ports"]}


@RINGS
@pytest.mark.parametrize("options", [["--rw", "randread"], ["--rw", "write", "--bs", "16K"], ["--rw", "randrw", "--mix", 30],
                                     ["--rw", "randwrite", "--fsync", 4, "--queues", 2, "--threads", 2]], ids=str)
def test_each_request_of_an_open_loop_is_counted_by_both(daemon, folder, ring, options):
    """Of an open loop all count that are due in the time, and no other is sent."""
    got = measured("blk", folder / "r.sock", "--ring", ring, "--rate", 2000, "--time", 1, *options)
    theirs = counted(folder)["r"]
    assert got["requests"] > 0 and got["errors"] == theirs["errors"] == 0
    assert [got[n] for n in ("reads", "writes", "flushes")] == [theirs[n] for n in ("reads", "writes", "flushes")]
    data = got["reads"] + got["writes"]
    assert theirs["read_bytes"] + theirs["write_bytes"] == data * got["bs"]
    # Rates are of what was back within the time: some may not be, of 32 and as many for each queue. And they are told as MiB a
    # second, to a tenth of one, in seconds to a thousandth.
    late = 32 * got["queues"]
    lacks = data * got["bs"] / 2**20 - got["mib_s"] * got["seconds"]
    slack = 0.06 * got["seconds"] + 0.001 * got["mib_s"]
    assert -slack < lacks < late * got["bs"] / 2**20 + slack
    slack = 0.6 * got["seconds"] + 0.001 * got["iops"]
    assert -slack < got["requests"] - got["iops"] * got["seconds"] < late + slack


@RINGS
@pytest.mark.parametrize("options", [["--rw", "randread"], ["--rw", "randdiscard"], ["--rw", "writezeroes"]], ids=str)
def test_of_a_closed_loop_only_those_under_way_at_its_end_are_the_others_alone(daemon, folder, ring, options):
    got = measured("blk", folder / "r.sock", "--ring", ring, "--depth", 16, "--time", 1, *options)
    theirs = counted(folder)["r"]
    more = theirs["reads"] + theirs["discards"] + theirs["write_zeroes"] - got["requests"]
    assert got["requests"] > 1000 and 0 <= more <= 16
    nbytes = theirs["read_bytes"] + theirs["discarded_bytes"] + theirs["zeroed_bytes"]
    assert nbytes == (got["requests"] + more) * got["bs"]


@RINGS
@pytest.mark.parametrize("options", [[], ["--size", 1514], ["--size", 9014], ["--imix", "--flows", 20], ["--tso"],
                                     ["--rate", 5000]], ids=str)
def test_each_frame_is_counted_by_both(daemon, folder, ring, options):
    got = measured("net", folder / "a.sock", folder / "b.sock", "--ring", ring, "--time", 1, *options)
    theirs = counted(folder)
    assert got["lost"] == got["foreign"] == 0 and got["received"] > 0
    assert theirs["a"]["rx_packets"] == got["sent"] and theirs["b"]["tx_packets"] == got["received"] == got["sent"]
    assert theirs["b"]["tx_bytes"] == theirs["a"]["rx_bytes"]
    if "--imix" not in options:
        assert theirs["b"]["tx_bytes"] == got["received"] * got["size"]
    else:  # 7 : 4 : 1
        assert abs(theirs["b"]["tx_bytes"] - got["received"] / 12 * (7 * 60 + 4 * 590 + 1514)) < 12 * 1514
    # Each flow's receiver says first where it is.
    assert theirs["b"]["rx_packets"] == (20 if "--flows" in options else 1)
    assert theirs["a"]["dropped"] == theirs["b"]["dropped"] == 0


@RINGS
def test_frames_both_ways_are_counted_by_both(daemon, folder, ring):
    got = measured("net", folder / "a.sock", folder / "b.sock", "--ring", ring, "--both", "--time", 1)
    theirs = counted(folder)
    assert sum(theirs[n]["rx_packets"] for n in "ab") == got["sent"] + 2
    assert sum(theirs[n]["tx_packets"] for n in "ab") == got["received"] + 2


@RINGS
def test_frames_that_the_switch_dropped_are_as_many_as_were_lost(daemon, folder, ring):
    got = measured("net", folder / "a.sock", folder / "i.sock", "--ring", ring, "--rate", 10 * PPS, "--time", 2, code=1)
    theirs = counted(folder)
    assert theirs["a"]["rx_packets"] == got["sent"] and theirs["i"]["tx_packets"] == got["received"]
    assert theirs["i"]["dropped"] == got["lost"] - got["unsent"] == got["sent"] - got["received"]
    assert theirs["i"]["tx_limited"] > PPS and theirs["a"]["dropped"] == 0


@RINGS
@pytest.mark.parametrize("depth", [1, 8])
def test_a_disk_of_so_many_requests_a_second_takes_as_long_for_each(daemon, folder, ring, depth):
    """Once the burst is used up, a request at depth 1 takes 1 / IOPS. As many are under way all the time as the rate times
    the mean latency says (Little)."""
    measured("blk", folder / "l.sock", "--ring", ring, "--depth", 32, "--time", 2)  # uses up what was saved
    got = measured("blk", folder / "l.sock", "--ring", ring, "--depth", depth, "--time", 3)
    us, each = got["latency_us"], 1e6 / IOPS
    assert 0.8 * depth * each < us["p50"] < 2 * depth * each and us["p90"] > 0.8 * depth * each, us
    assert 0.85 < got["requests"] / got["seconds"] * us["mean"] / 1e6 / depth < 1.15
    assert got["requests"] / got["seconds"] < 1.3 * IOPS


@RINGS
def test_an_open_loop_beyond_what_a_disk_does_grows_its_queue(daemon, folder, ring):
    """At twice the rate half of all are still waiting at the end, the last of them for half of the time; at half of it
    none does."""
    measured("blk", folder / "l.sock", "--ring", ring, "--depth", 32, "--time", 2)
    got = measured("blk", folder / "l.sock", "--ring", ring, "--rate", 2 * IOPS, "--time", 4, code=1)
    assert got["latency_us"]["max"] > 1e6 and got["latency_us"]["p50"] > 3e5
    assert got["requests"] + got["unsent"] > 1.7 * IOPS * got["seconds"]


@RINGS
def test_a_card_that_may_send_so_many_frames_a_second_takes_as_long_for_each(daemon, folder, ring):
    got = measured("net", folder / "o.sock", folder / "b.sock", "--ring", ring, "--window", 1, "--warmup", 1, "--time", 2)
    us = got["latency_us"]
    assert 0.5e6 / PPS < us["mean"] < 4e6 / PPS, us
    assert got["lost"] == 0 and 0.7 < got["pps"] * us["mean"] / 1e6 < 1.1 and got["pps"] < 1.3 * PPS
