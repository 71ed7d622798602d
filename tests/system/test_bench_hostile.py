# SPDX-License-Identifier: Apache-2.0
"""sluice-bench against back-ends that are out to crash it, to hold it up for ever or to have it tell what is not so."""
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import running
from test_bench import BENCH, BUILD, bench, fixture_daemon, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

HERE = Path(__file__).resolve().parent
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])


@contextlib.contextmanager
def lying(folder, lie, honest=300, of="net"):
    """@return the sockets."""
    sockets = [folder / f"{n}.sock" for n in ("ab" if of == "net" else "a")]
    with running([sys.executable, HERE / ("liar.py" if of == "blk" else "net_liar.py"), *sockets, lie, honest]) as process:
        wait_for(sockets[-1], process)
        time.sleep(0.05)  # it listens by then
        yield sockets


def net(folder, lie, *options, honest=300, timeout=40):
    with lying(folder, lie, honest) as sockets:
        return bench("net", *sockets, "--no-indirect", "--no-event-idx", *options, timeout=timeout)


def blk(folder, lie, *options, honest=300, timeout=40):
    with lying(folder, lie, honest, of="blk") as sockets:
        return bench("blk", *sockets, "--no-indirect", "--no-event-idx", "--depth", 4, "--size", "128K", "--timeout", 1500, *options,
                     timeout=timeout)


@RINGS
@pytest.mark.parametrize("load", [[], ["--both"], ["--latency"], ["--sleep"]], ids=str)
def test_a_slow_and_honest_network_passes(folder, ring, load):
    """So that the lies below are what is found."""
    done = net(folder, "none", "--ring", ring, "--verify", "--time", 1, "--json", *load)
    got = json.loads(done.stdout)
    assert done.returncode == 0 and got["received"] > 300 and got["foreign"] == got["lost"] == 0, done.stderr
    assert 0 < got["backend_cpu_s"] < 1.2


# Frame bits: addresses, IPv4's version and length, its checksum, ports, UDP's length and checksum, stamp, payload.
@pytest.mark.parametrize("bit", [3, 90, 100, 112, 130, 152, 176, 193, 210, 265, 290, 305, 312, 328, 336, 400, 480, 799])
def test_one_flipped_bit_of_a_frame_is_found(folder, bit):
    done = net(folder, f"flip {bit}", "--verify", "--size", 100, "--rate", 2000, "--time", 1, "--json")
    got = json.loads(done.stdout)
    assert done.returncode == 1 and got["corrupt"] + got["foreign"] == 1, done.stderr


@RINGS
@pytest.mark.parametrize("lie, field", [("lose", "lost"), ("twice", "duplicated"), ("swap", "reordered")])
def test_one_frame_that_is_missing_twice_or_out_of_order_is_found(folder, ring, lie, field):
    done = net(folder, lie, "--verify", "--rate", 2000, "--time", 1, "--ring", ring, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)[field] == 1, done.stderr


def test_a_frame_that_was_damaged_in_the_warm_up_is_told(folder):
    done = net(folder, "flip 600", "--verify", "--size", 100, "--rate", 1000, "--warmup", 1, "--time", 1, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["corrupt"] == 0, done.stderr
    assert "1 frames were corrupt" in done.stderr and "payload is wrong" in done.stderr


def test_a_frame_of_the_warm_up_that_comes_in_the_measurement_is_none_of_it(folder):
    # The last but a few of the first second, 0.8 s too late: after it was given up.
    done = net(folder, "late 800", "--rate", 200, "--warmup", 1, "--time", 1, "--json", honest=195)
    got = json.loads(done.stdout)
    assert got["reordered"] == 1 and got["received"] == got["sent"] > 150, done.stderr
    assert got["latency_us"]["max"] < 500000


@RINGS
@pytest.mark.parametrize("load", [[], ["--both"], ["--rate", 1000]], ids=str)
def test_others_frames_without_end_do_not_keep_it_from_ending(folder, ring, load):
    begun = time.monotonic()
    done = net(folder, "foreign", "--ring", ring, "--time", 1, "--json", *load)
    got = json.loads(done.stdout)
    # Where all of the window is under way, a frame of another takes the buffer of one of ours.
    assert done.returncode == 1 and 1 <= got["lost"] < 10 and got["foreign"] > 3, done.stderr
    assert time.monotonic() - begun < 10


@RINGS
def test_a_call_of_a_card_that_never_comes_is_told(folder, ring):
    done = net(folder, "nocall", "--sleep", "--ring", ring, "--time", 3, "--timeout", 700)
    assert done.returncode == 1 and "chains were used, but no call came" in done.stderr, done.stderr


# More often than each 10 ms there is something else to wake up for.
@RINGS
@pytest.mark.parametrize("of", ["net", "blk"])
def test_a_call_that_never_comes_is_told_to_who_is_woken_by_his_clock(folder, ring, of):
    options = ["--sleep", "--ring", ring, "--rate", 400, "--time", 3, "--timeout", 2000]
    done = net(folder, "nocall", *options) if of == "net" else blk(folder, "nocall", *options)
    assert done.returncode == 1 and ", but no call came" in done.stderr, done.stderr


@RINGS
def test_a_card_that_is_never_called_beside_one_that_is_is_told(folder, ring):
    done = net(folder, "half", "--both", "--sleep", "--ring", ring, "--time", 6, "--timeout", 2000)
    assert done.returncode == 1 and "b.sock: queue 0: chains were used, but no call came" in done.stderr, done.stderr


@RINGS
def test_others_frames_do_not_hide_that_a_card_takes_none_of_ours(folder, ring):
    done = net(folder, "keep", "--ring", ring, "--time", 1, "--timeout", 1500, timeout=20)
    assert done.returncode == 1 and "the back-end has done nothing for 1500 ms" in done.stderr, done.stderr


@RINGS
def test_calls_for_nothing_do_not_hide_that_nothing_is_done(folder, ring):
    with lying(folder, "ring", honest=20, of="blk") as sockets:
        done = bench("scale", *sockets, "--no-indirect", "--no-event-idx", "--ring", ring, "--timeout", 1500, timeout=20)
    assert done.returncode == 1 and "called, and nothing used within 1500 ms" in done.stderr, done.stderr


def test_bytes_out_of_band_are_no_answer(folder):
    done = blk(folder, "aside", "--time", 1, timeout=20)
    assert done.returncode == 1 and "no message within 1500 ms" in done.stderr, done.stderr


def test_an_error_that_a_card_signals_is_told(folder):
    done = net(folder, "err", "--time", 1)
    assert done.returncode == 1 and "b.sock: the back-end signalled an error of queue 1" in done.stderr, done.stderr


@RINGS
def test_what_lies_in_the_ring_was_not_taken(folder, ring):
    # It takes a frame each 20 ms; those that are in the ring at the end too.
    with lying(folder, "slow 20000", of="card") as sockets:
        done = bench("net", *sockets, "--no-indirect", "--no-event-idx", "--send-only", "--time", 1, "--queue-size", 64, "--ring", ring,
                     "--size", 1000, "--json")
    got = json.loads(done.stdout)
    assert done.returncode == 0 and got["sent"] > 90, done.stderr
    assert 30 < got["pps"] < 60 and abs(got["gbit_s"] - got["pps"] * 8e-6) < 0.001


@RINGS
def test_a_back_end_that_cuts_off_the_memory_crashes_nobody(folder, ring):
    done = blk(folder, "truncate", "--ring", ring, "--time", 1, "--rw", "randwrite", "--verify")
    assert done.returncode == 0 and "truncated" not in done.stderr, done.stderr


@RINGS
@pytest.mark.parametrize("load", [[], ["--sleep"]], ids=str)
def test_a_back_end_that_has_our_descriptors_block_holds_nobody_up(folder, ring, load):
    done = blk(folder, "blocking", "--ring", ring, "--time", 1, *load, timeout=20)
    assert done.returncode == 0, done.stderr


@RINGS
@pytest.mark.parametrize("load", [["blk"], ["blk", "--sleep"], ["scale"], ["net"]], ids=str)
def test_a_kick_that_a_back_end_makes_wait_for_ever_is_told(folder, ring, load):
    begun = time.monotonic()
    with lying(folder, "full", of="net" if load == ["net"] else "blk") as sockets:
        done = bench(load[0], *sockets, "--no-indirect", "--no-event-idx", "--ring", ring, "--time", 1, "--timeout", 1500, *load[1:],
                     timeout=20)
    assert done.returncode == 1 and re.search("made the kick eventfd of queue [01] blocking, and full", done.stderr), done.stderr
    assert time.monotonic() - begun < 10


def test_descriptors_that_nobody_asked_for_are_refused_from_the_first_message_on(folder):
    done = blk(folder, "descriptors", "--time", 1)
    assert done.returncode == 1 and "the first messages: descriptors that nobody asked for" in done.stderr, done.stderr


def test_who_says_something_and_then_dies_has_hung_up(folder):
    begun = time.monotonic()
    with lying(folder, "babble", of="blk") as sockets:
        done = bench("scale", *sockets, "--no-indirect", "--no-event-idx", "--time", 5)
    assert done.returncode == 1 and "hung up" in done.stderr and time.monotonic() - begun < 4, done.stderr


@pytest.mark.parametrize("command", ["blk", "net", "scale", "fair"])
def test_a_queue_of_connections_that_nobody_takes_is_told(folder, command):
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(folder / "full.sock"))
        listener.listen(0)
        waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(str(folder / "full.sock"))
        sockets = [folder / "full.sock"] * (4 if command == "fair" else 1)
        done = bench(command, *sockets, timeout=10)
    assert done.returncode == 1 and "full.sock: too many wait there to be taken" in done.stderr, done.stderr


@RINGS
def test_a_rate_is_of_what_was_done_in_the_time(folder, ring):
    # Some 300 a second, of which at this depth all are sent: they are back long after the end.
    with lying(folder, "slow", 0, of="blk") as sockets:
        done = bench("blk", *sockets, "--no-indirect", "--no-event-idx", "--size", "128K", "--bs", "512", "--queue-size", 4096,
                     "--depth", 1024, "--rate", 900, "--time", 1, "--timeout", 20000, "--ring", ring, "--json", "--size", "1M")
    got = json.loads(done.stdout)
    assert got["requests"] > 800 and 100 < got["iops"] < 450, done.stderr
    assert abs(got["mib_s"] - got["iops"] * 512 / (1 << 20)) < 0.1


def test_more_than_a_thousand_million_that_were_not_sent_are_told_at_once(folder):
    begun = time.monotonic()
    done = blk(folder, "none", "--rate", "1000m", "--time", 3, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["unsent"] > 2.5e9, done.stderr
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("config, options, says", [
    ("config: endless", [], "has 36028797018963969 sectors, which is more than 64 bits of bytes; no disk has"),
    ("config: empty", [], "of 0 bytes"),
    ("one queue", ["--queues", 2], "the back-end has 1 queue, and 2 were asked for: use fewer --queues"),
    ("no blk mq", ["--queues", 2], "does not offer VIRTIO_BLK_F_MQ, and so has one queue; 2 were asked for: use --queues 1"),
    ("no slots", [], "it takes no memory region")])
def test_a_disk_that_cannot_be_is_refused(folder, config, options, says):
    done = blk(folder, config, "--size", "1M", *options) if options else bench_plain(folder, config)
    assert done.returncode == 1 and says in done.stderr, done.stderr


def bench_plain(folder, lie):
    with lying(folder, lie, of="blk") as sockets:
        return bench("blk", *sockets, "--no-indirect", "--no-event-idx", "--time", 1)


def test_more_memory_than_the_machine_has_is_refused(daemon, folder):
    done = bench("blk", folder / "d.sock", "--queues", 2, "--depth", 32768, "--queue-size", 32768, "--bs", "16M")
    assert done.returncode == 1 and "this machine has" in done.stderr and "use a smaller --depth" in done.stderr, done.stderr
    assert daemon.poll() is None


def test_cpu_time_is_of_the_process_that_answers(folder):
    """And not of its parent, which made the socket, and does nothing."""
    code = ("import os, socket, sys\nsys.path.insert(0, sys.argv[1])\nimport liar\n"
            "s = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[2])\ns.listen()\n"
            "child = os.fork()\n"
            "if child:\n    os.wait()\nelse:\n    liar.Device(s.accept()[0], 'none', 0).run()\n")
    with running([sys.executable, "-c", code, HERE, folder / "a.sock"]) as process:
        wait_for(folder / "a.sock", process)
        time.sleep(0.05)
        done = bench("blk", folder / "a.sock", "--no-indirect", "--no-event-idx", "--depth", 4, "--size", "128K", "--time", 1, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["backend_cpu_s"] > 0.05, done.stderr


@pytest.mark.parametrize("command", [["blk", "{}", "--time", "1", "--json"], ["--version"], ["--help"], ["blk", "--help"]], ids=str)
def test_output_that_goes_nowhere_is_no_success(daemon, folder, command):
    words = [str(BENCH), *(w.format(folder / "d.sock") for w in command)]
    for closed in "exec 1>&-", "exec 1>/dev/full", "exec 0>&- 1>&- 2>&-":
        done = subprocess.run(["sh", "-c", f'{closed}; exec "$@"', "sh", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=30, check=False)
        assert done.returncode == 1, closed
        assert "2>&-" in closed or "cannot write all of the " in done.stderr
    assert daemon.poll() is None


@pytest.mark.parametrize("text, says", [
    ("18446744073709551616 read 0 512\n", "a number that is too large: 18446744073709551616"),
    ("0 read 0 512\n9000000000000000000 read 0 512\n", "line 2: its time is more than 50 years from 0"),
    ("fio version 3 iolog\n18446744073709551000 x read 0 512\n", "a number that is too large"),
    ("8,0 1 1 0.000000000 697 D WS 36028797018963976 + 8 [dd]\n", "a number that is too large: 36028797018963976"),
    ("\033]0;owned\a read 0 512\n", "no time in microseconds: ?]0;owned?"),
    ("0 \033[31mscan 0 512\n", "discard or writezeroes: ?[31mscan")])
def test_a_number_that_no_trace_has_is_refused_and_no_terminal_obeys_it(folder, text, says):
    (folder / "trace").write_text(text)
    done = bench("blk", folder / "nobody.sock", "--trace", folder / "trace")
    assert done.returncode == 2 and says in done.stderr and "\033" not in done.stderr, done.stderr
