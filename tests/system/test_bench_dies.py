# SPDX-License-Identifier: Apache-2.0
"""Back-ends that die, stand still or lie under fair, scale, compare and a loop: a sentence and an exit code, and no hang."""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import command_lines_with, running
from test_bench import BUILD, bench, fixture_daemon, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

yaml = pytest.importorskip("yaml", reason="no python3-yaml")
LIAR = Path(__file__).resolve().parent / "liar.py"
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
SIGNALS = pytest.mark.parametrize("signal_, says", [(signal.SIGKILL, "hung up"), (signal.SIGSTOP, " 700 ms")])


@contextlib.contextmanager
def started(*arguments, stream):
    """sluice-bench, once it has written a line to stdout or stderr: fair has attached all but the hostile guest by then.
    {} to be filled with what it ends with."""
    with running([BUILD / "bench/sluice-bench", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True) as process:
        assert getattr(process, stream).readline(), process.stderr.read()
        done = {}
        yield done
        done["code"] = process.wait(100)  # neither pipe takes more than some lines
        done["stderr"] = process.stderr.read()


@SIGNALS
@pytest.mark.parametrize("seconds", [0, 0.2, 0.9])
@pytest.mark.parametrize("kind, sockets", [("disks", "de"), ("cards", "abxy")])
def test_a_back_end_that_dies_or_stands_still_ends_a_contest(daemon, folder, kind, sockets, seconds, signal_, says):
    with started("fair", *(folder / f"{s}.sock" for s in sockets), *["--net"] * (kind == "cards"), "--timeout", 700,
                 "--pairs", 1000, stream="stdout") as done:
        time.sleep(seconds)
        os.kill(daemon.pid, signal_)
    # The hostile guest connects anew for each window. Who dies between two of them has hung up on nobody yet that is looked at.
    gone = signal_ == signal.SIGKILL and "Connection refused; is a back-end serving that socket?" in done["stderr"]
    assert done["code"] == 1 and ".sock: " in done["stderr"] and (says in done["stderr"] or gone), done


@pytest.mark.parametrize("kind, sockets", [("disks", "de"), ("cards", "abxy")])
def test_who_dies_in_the_last_window_is_no_ratio(daemon, folder, kind, sockets):
    # Calm for 2 s, then 2.5 s under attack.
    with started("fair", *(folder / f"{s}.sock" for s in sockets), *["--net"] * (kind == "cards"), "--pairs", 1,
                 "--window", 2000, "--attack", "regions", stream="stdout") as done:
        time.sleep(3.5)
        daemon.kill()
    assert done["code"] == 1 and "hung up in the middle" in done["stderr"], done


@pytest.fixture(name="testpmd")
def fixture_testpmd(folder):
    """With one card, a.sock, whose frames it sends back."""
    cpu, log = min(os.sched_getaffinity(0)), folder / "log"
    with open(log, "wb") as out, running(
            ["dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "--file-prefix=loop", "--lcores",
             f"0@{cpu},1@{cpu}", "--vdev", f"net_vhost0,iface={folder}/a.sock", "--", "--total-num-mbufs=8192",
             "--auto-start", "--forward-mode=io", "--port-topology=loop", "--no-flush-rx", "-i"], stdin=subprocess.PIPE,
            stdout=out, stderr=out, env={**os.environ, "RUNTIME_DIRECTORY": str(folder)}) as process:
        deadline = time.monotonic() + 30
        while b"testpmd> " not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
@RINGS
@pytest.mark.parametrize("load, way", [([], "sent back"), (["--latency"], "sent back, one at a time"),
                                       (["--latency", "--rate", 1000, "--no-mergeable"], "sent back")], ids=str)
def test_testpmd_with_one_card_sends_back(testpmd, folder, ring, load, way):
    done = bench("net", folder / "a.sock", "--ring", ring, "--verify", "--time", 1, "--json", *load)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["received"] > 0 and got["lost"] == got["corrupt"] == 0 and got["way"] == way
    # DPDK 22.11 leaves the number of buffers out where it takes four frames at a time. What is told of that is a warning as any.
    assert all(x.startswith("sluice-bench: ") for x in done.stderr.splitlines()), done.stderr
    assert testpmd.poll() is None


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
@RINGS
@SIGNALS
@pytest.mark.parametrize("load", [[], ["--latency"]], ids=str)
def test_testpmd_is_given_up_when_it_dies_or_stands_still(testpmd, folder, ring, load, signal_, says):
    # It answers messages on the CPU that it polls on.
    with started("net", folder / "a.sock", "--ring", ring, "--time", 300, "--timeout", 4000, "--progress", *load,
                 stream="stderr") as done:
        os.kill(testpmd.pid, signal_)
    assert done["code"] == 1 and "a.sock: " in done["stderr"] and says.replace("700", "4000") in done["stderr"], done


@RINGS
@pytest.mark.parametrize("lie, says", [
    ("id", "used id"), ("range", "used id 65520 is not outstanding"), ("long", "length 8193 of 4097"), ("err", "err"),
    ("short", "used length 0"), ("status", "no status was written"), ("twice", ": queue 0: |no status was written"), ("strange", "status 9"),
    ("silent", "700 ms"), ("lost", "700 ms"), ("hangup", "hung up"), ("nocall", "but no call came")])
@pytest.mark.parametrize("wakes", [1, 2000], ids=["busy", "asleep"])
def test_a_lie_among_many_disks_is_found(folder, ring, lie, says, wakes):
    if lie == "nocall" and wakes == 1:
        pytest.skip("who is busy waits for no call")
    # Those who sleep take 3 ms for each before the lie; with three descriptors a request the ring goes round a few times.
    with running([sys.executable, LIAR, folder / "liar.sock", lie, 800 if wakes == 1 else 300]) as process:
        wait_for(folder / "liar.sock", process)
        # --time is also how long all are silent first. Who is busy has it twice for the lie; wake-ups take as long as they take.
        done = bench("scale", folder / "liar.sock", "--no-indirect", "--no-event-idx", "--ring", ring, "--wakes", wakes,
                     "--time", 1, "--timeout", 700)
    # What was used twice may have been asked for again meanwhile: then it has no status.
    assert done.returncode == 1 and "liar.sock: " in done.stderr and re.search(says, done.stderr), done.stderr


def test_a_remedy_is_one_that_the_command_has(folder):
    with running([sys.executable, LIAR, folder / "liar.sock", "none"]) as process:
        wait_for(folder / "liar.sock", process)
        done = bench("fair", folder / "liar.sock", folder / "liar.sock")
    assert done.returncode == 1 and "INDIRECT_DESC; this command drives no back-end without it" in done.stderr, done.stderr


OURS = {"command": ["sluiced", "--config", "{folder}/c.yaml"], "sockets": ["a"], "files": {
    "c.yaml": 'control: { socket: "{folder}/control.sock" }\ndisks: [{ name: a, socket: "{socket.a}", "null": 1G }]\n'}}


def test_in_a_comparison_who_stands_still_or_lies_is_told_and_ended_and_the_others_go_on(tmp_path, folder):
    stops = {**OURS, "command": ["sh", "-c", "sluiced --config c.yaml & sleep 1; kill -STOP $!; wait"]}
    liars = {f"liar, {lie}": {"command": ["/usr/bin/python3", str(LIAR), "{socket.a}", lie], "sockets": ["a"],
                              "arguments": ["--no-indirect", "--no-event-idx"]} for lie in ("twice", "silent", "hangup")}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({
        "rounds": 2, "pin": {}, "time": 20, "back-ends": {"stops": stops, **liars}, "base": "stops",
        "workloads": {"reads": ["blk", "--depth", 8, "--timeout", 700]}}, sort_keys=False))
    done = subprocess.run([BUILD / "bench/sluice-bench", "compare", tmp_path / "r.yaml", "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120, check=False,
                          env={**os.environ, "TMPDIR": str(folder)})
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["workloads"]["reads"]
    assert not found["back-ends"] and list(found["failed"]) == ["stops", *liars]
    assert "no answer for 700 ms" in found["failed"]["stops"] and "no answer for 700 ms" in found["failed"]["liar, silent"]
    assert "broke a rule" in found["failed"]["liar, twice"] and "hung up" in found["failed"]["liar, hangup"]
    assert not command_lines_with(folder) and list(folder.iterdir()) == []
