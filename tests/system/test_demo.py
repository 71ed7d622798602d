# SPDX-License-Identifier: Apache-2.0
"""make demo, as a test: it is the first thing that a new user runs."""
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from lab import ROOT
from lab.daemon import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the demo's tap interface needs root")


def leftovers():
    """What a demo would leave behind: its folder, its interface, processes that know its folder."""
    found = [str(p) for p in Path("/tmp").glob("sluice-demo-*")]
    found += [str(p) for p in Path("/sys/class/net").glob("sluice0")]
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"sluice-demo-" in p.read_bytes():
                found.append(str(p))
        except OSError:
            pass  # it has just ended
    return found


@pytest.fixture(autouse=True)
def nothing_is_left():
    if leftovers():
        pytest.skip(f"another demo is running here: {leftovers()[0]}")
    yield
    assert not leftovers()


def start():
    return subprocess.Popen([ROOT / "scripts/demo.py"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def test_the_demo_passes_all_its_checks():
    with start() as demo:
        out, _ = demo.communicate(timeout=300)
    print(out)
    assert demo.returncode == 0, out[-1500:]
    assert "FAIL" not in out
    assert re.search(r"^(\d+) of \1 checks passed", out, re.MULTILINE)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up_and_exits_non_zero(sig):
    with start() as demo:
        wait_for(lambda: any("qemu" in path_of(p) for p in children(demo.pid)), 30, "the demo boots its guests")
        time.sleep(1)
        demo.send_signal(sig)
        out, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, out


def test_a_daemon_that_cannot_start_makes_the_demo_fail_with_a_sentence(tmp_path):
    """Here: there is none at all."""
    done = subprocess.run([ROOT / "scripts/demo.py"], env={**os.environ, "SLUICE_BUILD": str(tmp_path)},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1
    assert "FAILED: the demo runs to its end" in done.stdout and "sluiced" in done.stdout
    assert "Traceback" not in done.stdout


def children(pid):
    """Of all its threads."""
    return [int(c) for f in Path(f"/proc/{pid}/task").glob("*/children") for c in f.read_text().split()]


def path_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
