# SPDX-License-Identifier: Apache-2.0
"""sluice-bench that is cut short by a signal tells what it has; and the keys of its JSON are those of its man page."""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from running import running
from test_bench import BENCH, bench, fixture_daemon, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

PAGE = Path(__file__).resolve().parents[2] / "docs/man/sluice-bench.1.scd"
LATENCY = {"min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"}
BOTH = pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
LOADS = [("blk", "d", ["--rw", "randwrite", "--verify"], "measuring"), ("blk", "d", ["--rate", 1000, "--sleep"], "measuring"),
         ("net", "ab", ["--sleep"], " 1 s "), ("net", "ab", ["--latency", "--rate", 1000], " 1 s "),
         ("net", "a", ["--send-only"], " 1 s ")]


@pytest.fixture(autouse=True, name="default")
def fixture_default():
    """A shell in whose background this runs may have it ignored, and what it starts would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(folder, command, sockets, options):
    return running([BENCH, command, *(folder / f"{s}.sock" for s in sockets), *options], stdout=subprocess.PIPE,
                   stderr=subprocess.PIPE, text=True)


def cut_short(folder, load, sent, *more, until="stderr"):
    """Its standard output and error, once a signal came after what it says of the measurement."""
    command, sockets, options, says = load
    with started(folder, command, sockets, [*options, *more]) as driver:
        told = ""
        while says not in told:
            line = getattr(driver, until).readline()
            assert line, told + driver.stderr.read()
            told += line
        driver.send_signal(sent)
        begun = time.monotonic()
        out, err = driver.communicate(timeout=30)
        assert time.monotonic() - begun < 10 and driver.returncode == 128 + sent, err
        assert f"{sent.name}: the figures are of what was done by then" in err
        return (told if until == "stdout" else "") + out, err


def documented(command):
    """Keys of the page's table, by their paths."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {command}\n\n")[1].split("\n\n")[0]
    keys = re.findall(r"^\|  \*([^*]+)\*$", section, re.M)
    assert len(keys) == len(set(keys)) > 5
    return set(keys)


def keys_of(data, prefix=""):
    """Paths, down to latencies."""
    found = set()
    for key, value in data.items():
        path = prefix + key
        if key.endswith(("_us", "_us_of")):
            assert value is None or set(value) == LATENCY or all(set(v) == LATENCY for v in value.values()), path
        elif isinstance(value, dict):
            found |= keys_of(value, path + ".")
            continue
        elif isinstance(value, list):
            for each in value:
                found |= keys_of(each, path + "[].")
            continue
        found.add(path)
    return found


def test_a_latency_has_the_fields_that_the_page_tells():
    assert documented("A latency") == LATENCY


@pytest.mark.parametrize("load, sent", zip(LOADS, [signal.SIGINT, signal.SIGTERM] * 3), ids=lambda x: str(x)[:40])
def test_what_was_measured_until_a_signal_came_is_told(daemon, folder, load, sent):
    out, _ = cut_short(folder, load, sent, "--time", 90, "--progress", "--json")
    got = json.loads(out)
    assert got["cut_short"] is True and 0.3 < got["seconds"] < 30
    optional = {"latency_us"} if "--send-only" in load[2] else set()
    keys = keys_of(got)
    assert not keys - documented(f"JSON of {load[0]}")
    missing = {k for k in documented(f"JSON of {load[0]}") - keys if not k.startswith(("search.", "round_trip"))}
    assert missing == optional
    done = got.get("requests", got.get("sent"))
    assert done > 100 and (load[0] == "blk" or got["lost"] == 0)
    assert daemon.poll() is None


def test_text_says_that_it_was_cut_short(daemon, folder):
    out, _ = cut_short(folder, ("net", "ab", [], " 1 s "), signal.SIGINT, "--time", 90, "--progress")
    assert "cut short      by SIGINT" in out and re.search(r"^rate  +\d+ a second", out, re.M)
    assert daemon.poll() is None


@BOTH
def test_a_search_tells_the_highest_rate_that_passed_by_then(daemon, folder, sent):
    load = ("net", "ab", ["--search", "--rate", 1000, "--trial", 200, "--loss", 100, "--resolution", 0.01], "frames a second:")
    # All trials pass: one is all that there are. So the rate is one that only the third passes.
    load[2][load[2].index(100)] = 0
    load[2][load[2].index(1000)] = 1000000000
    out, _ = cut_short(folder, load, sent, "--json")
    got = json.loads(out)
    assert got["cut_short"] is True and got["search"]["limit"] == "the signal" and 0 <= got["search"]["rate"] < 1e9
    assert not keys_of(got) - documented("JSON of net")
    assert daemon.poll() is None


def test_all_that_the_page_tells_of_a_search_and_a_round_trip_is_there(daemon, folder):
    sockets = folder / "a.sock", folder / "b.sock"
    done = bench("net", *sockets, "--search", "--rate", 1000, "--trial", 20, "--loss", 100, "--time", 7, "--json")
    assert done.returncode == 0 and "--time 7: a search takes as long as its trials do" in done.stderr, done.stderr
    searched = json.loads(done.stdout)
    done = bench("net", *sockets, "--latency", "--rate", "1k", "--time", 1, "--imix", "--loss", 50, "--json")
    answered = json.loads(done.stdout)
    assert keys_of(searched) | keys_of(answered) == documented("JSON of net")
    assert answered["rate"] == 1000 and answered["loop"] == "open" and answered["size"] is None
    assert answered["loss_percent"] == 50 and answered["cut_short"] is False and done.returncode == 0
    # Requests and answers are not added up.
    assert answered["offered"] == answered["sent"] + answered["unsent"] + answered["driver_late"] < 1500
    assert answered["lost"] == answered["sent"] + answered["unsent"] - answered["received"]
    assert daemon.poll() is None


@BOTH
def test_scale_tells_what_it_measured_and_its_steps(daemon, folder, sent):
    out, err = cut_short(folder, ("scale", "de", [], "waking one: 1 of"), sent, "--wakes", 1000000, "--progress", "--json")
    got = json.loads(out)
    assert keys_of(got) == documented("JSON of scale") and got["cut_short"] is True
    assert got["devices"] == 2 and got["idle_s"] >= 1 and got["wake_us"]["min"] > 0
    assert got["one_busy"] == got["all_busy"] == got["least"] == got["most"] == -1 and "busy" not in err
    assert daemon.poll() is None


@BOTH
def test_fair_tells_the_attacks_that_it_measured(daemon, folder, sent):
    load = ("fair", "de", ["--pairs", 1, "--window", 100], '"attack": "kicks"')
    out, _ = cut_short(folder, load, sent, "--json", until="stdout")
    got = json.loads(out)
    assert keys_of(got) == documented("JSON of fair") and got["cut_short"] is True
    assert 1 <= len(got["rows"]) < 5 and got["rows"][0]["pairs"] == 1
    assert daemon.poll() is None


@BOTH
def test_a_listener_that_is_ended_takes_its_socket_away(folder, sent):
    with started(folder, "blk", ["mine"], ["--listen", "--timeout", 60000]) as driver:
        wait_for(folder / "mine.sock", driver)
        driver.send_signal(sent)
        assert driver.communicate(timeout=20)[0] == "" and driver.returncode == 128 + sent
    assert not (folder / "mine.sock").exists()


def test_a_second_signal_ends_it_at_once(daemon, folder):
    with started(folder, "blk", "d", ["--time", 90, "--progress"]) as driver:
        assert "measuring" in driver.stderr.readline()
        daemon.send_signal(signal.SIGSTOP)  # so that what is under way does not come back
        time.sleep(0.1)
        driver.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert driver.poll() is None
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=20)
        assert driver.returncode == -signal.SIGTERM
        daemon.send_signal(signal.SIGCONT)


def test_a_signal_in_the_warm_up_has_nothing_to_tell(daemon, folder):
    for command, sockets in ("blk", "d"), ("net", "ab"):
        with started(folder, command, sockets, ["--warmup", 90, "--json"]) as driver:
            time.sleep(0.5)
            driver.send_signal(signal.SIGTERM)
            out, err = driver.communicate(timeout=20)
            assert driver.returncode == 128 + signal.SIGTERM and out == "", err
    assert daemon.poll() is None


def test_latencies_of_no_frame_are_none(daemon, folder):
    done = bench("net", folder / "a.sock", folder / "z.sock", "--time", 1, "--rate", 100, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["latency_us"] is None
    done = bench("net", folder / "a.sock", folder / "z.sock", "--time", 1, "--rate", 100)
    assert re.search(r"^latency, us +-$", done.stdout, re.M) and daemon.poll() is None


def test_hellos_of_our_own_cards_are_nobody_elses(daemon, folder):
    done = bench("net", folder / "a.sock", folder / "b.sock", "--both", "--flows", 8, "--rate", 5, "--time", 1, "--json")
    got = json.loads(done.stdout)
    assert got["foreign"] == 0 and got["received"] > 0 and daemon.poll() is None


def test_more_requests_than_the_back_end_does_are_told_and_an_error(daemon, folder):
    done = bench("blk", folder / "d.sock", "--rate", "100m", "--time", 1, "--json")
    got = json.loads(done.stdout)
    assert got["rate"] == 100000000 and got["unsent"] > 10000000 and done.returncode == 1
    assert "due and not sent when the time was up: this is more than the back-end does" in done.stderr
    assert daemon.poll() is None


def test_a_socket_that_another_front_end_has_is_told_so(daemon, folder):
    with started(folder, "blk", "d", ["--time", 90, "--progress"]) as first:
        assert "measuring" in first.stderr.readline()
        done = bench("blk", folder / "d.sock", "--timeout", 700)
        assert done.returncode == 1 and "another front-end may be attached" in done.stderr, done.stderr
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=20)
    assert daemon.poll() is None


def test_a_thread_of_the_back_ends_on_the_drivers_own_cpu_is_told(daemon, folder):
    done = bench("blk", folder / "d.sock", "--time", 1)
    assert "is pinned to CPU" not in done.stderr
    subprocess.run(["taskset", "--all-tasks", "--pid", "-c", "0", str(daemon.pid)], check=True, stdout=subprocess.DEVNULL)
    done = bench("blk", folder / "d.sock", "--time", 1, "--cpu", 0)
    assert done.returncode == 0 and done.stderr.count("is pinned to CPU 0, as this driver is") == 1, done.stderr
    assert daemon.poll() is None


@pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(1), reason="no two CPUs")
def test_a_main_thread_that_waits_is_no_neighbour_of_the_drivers(daemon, folder):
    """sluiced's is left the driver's CPU where workers have all others."""
    for thread in os.listdir(f"/proc/{daemon.pid}/task"):
        subprocess.run(["taskset", "--pid", "-c", str(int(int(thread) != daemon.pid)), thread], check=True, stdout=subprocess.DEVNULL)
    assert "is pinned to CPU" not in bench("blk", folder / "d.sock", "--time", 1, "--cpu", 0).stderr
    assert "is pinned to CPU 1, as this" in bench("blk", folder / "d.sock", "--time", 1, "--cpu", 1).stderr
    # Where it is not known to be the one that waits, it may be the one that works.
    for thread in os.listdir(f"/proc/{daemon.pid}/task"):
        cpus = "0" if int(thread) == daemon.pid else "0,1"
        subprocess.run(["taskset", "--pid", "-c", cpus, thread], check=True, stdout=subprocess.DEVNULL)
    assert "is pinned to CPU 0, as this" in bench("blk", folder / "d.sock", "--time", 1, "--cpu", 0).stderr
    assert daemon.poll() is None


def test_the_time_of_scale_is_what_its_help_says():
    assert re.search(r"--time SECONDS +to measure \(1\)", bench("scale", "--help").stdout)
    assert re.search(r"--time SECONDS +to measure \(5\)", bench("blk", "--help").stdout)
