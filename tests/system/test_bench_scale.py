# SPDX-License-Identifier: Apache-2.0
"""sluice-bench scale: what is told of many disks, and what is said when it cannot be."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from running import running

BUILD = Path(os.environ["SLUICE_BUILD"])
N = 5


def scale(*arguments):
    return subprocess.run([str(a) for a in (BUILD / "bench/sluice-bench", "scale", *arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=100, check=False)


def wait_for(path, process):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the back-end did not start"
        time.sleep(0.02)


@pytest.fixture(name="folder")
def fixture_folder():
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.fixture(name="daemon")
def fixture_daemon(folder):
    config = {"control": {"socket": f"{folder}/control.sock"},
              "disks": [{"name": f"d{i}", "socket": f"{folder}/d{i}.sock", "null": "64M", "queues": 2} for i in range(N)]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([BUILD / "daemon/sluiced", "--config", folder / "c.yaml", "--log-level", "error"]) as process:
        wait_for(folder / f"d{N - 1}.sock", process)
        yield process


def sockets(folder):
    return [folder / f"d{i}.sock" for i in range(N)]


@pytest.mark.parametrize("queues", [1, 2])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_each_figure_is_of_as_many_disks_and_queues_as_asked_for(daemon, folder, ring, queues):
    done = scale(*sockets(folder), "--ring", ring, "--queues", queues, "--wakes", 2 * N + 1, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["devices"], found["queues"], found["ring"]) == (N, queues, ring)
    assert 0 < found["first_request_us"]["min"] <= found["first_request_us"]["max"]
    assert 0 < found["wake_us"]["min"] <= found["wake_us"]["max"]
    assert found["one_busy"] > 0 and found["all_busy"] > 0 and 0 < found["least"] <= found["most"]
    assert 0 < found["anon_kib_one"] <= found["anon_kib_all"]
    # A worker that polled would take all of it.
    assert 0 <= found["idle_cpu_s"] < found["idle_s"] / 2
    assert daemon.poll() is None


def test_one_disk_is_told_as_text_and_has_no_others_to_compare_with(daemon, folder):
    done = scale(folder / "d0.sock", "--wakes", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 disk, 1 queue each, split\n") and "for each more" not in done.stdout
    assert re.search(r"^memory of the back-end +[1-9]\d* KiB with one attached$", done.stdout, re.M), done.stdout
    assert daemon.poll() is None


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_a_back_end_that_dies_or_stands_still_is_told(daemon, folder, what):
    timer = threading.Timer(0.7, lambda: os.kill(daemon.pid, what))
    timer.start()
    done = scale(*sockets(folder), "--time", 2, "--timeout", 700)
    timer.join()
    assert done.returncode == 1 and ".sock: " in done.stderr, done.stderr


def test_a_back_end_that_dies_while_all_are_silent_is_not_waited_for(daemon, folder):
    timer, since = threading.Timer(1, daemon.kill), time.monotonic()
    timer.start()
    done = scale(*sockets(folder), "--time", 20)
    timer.join()
    assert done.returncode == 1 and "hung up" in done.stderr, done.stderr
    assert time.monotonic() - since < 15


@pytest.fixture(name="other")
def fixture_other(folder):
    """A second back-end, with the disk o."""
    with running([BUILD / "daemon/sluiced", "blk", "--socket-path", folder / "o.sock", "--blk-file", "/dev/shm/" + folder.name,
                  "--log-level", "error"]) as process:
        wait_for(folder / "o.sock", process)
        yield process


@pytest.fixture(autouse=True, name="image")
def fixture_image(folder):
    image = Path("/dev/shm", folder.name)
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o666)
    yield image
    image.unlink()


# Of 4 s each: all silent, then wake-ups, one busy, all busy; or wake-ups for long.
@pytest.mark.parametrize("after, options", [(1, ["--time", 90]), (3, ["--time", 1, "--wakes", 1000000]),
                                            (6, ["--time", 4, "--wakes", 1]), (10, ["--time", 4, "--wakes", 1])], ids=str)
def test_of_several_back_ends_each_may_die_and_that_is_told_at_once(daemon, other, folder, after, options):
    timer = threading.Timer(after, other.kill)
    timer.start()
    done = scale(folder / "d0.sock", folder / "o.sock", *options, "--timeout", 300000)
    timer.join()
    assert done.returncode == 1 and "/o.sock: the back-end hung up" in done.stderr, done.stderr
    assert daemon.poll() is None


@pytest.mark.parametrize("after, options", [(3, ["--time", 1, "--wakes", 1000000]), (8, ["--time", 3, "--wakes", 1])], ids=str)
def test_of_several_back_ends_the_one_that_stands_still_is_named(daemon, other, folder, after, options):
    timer = threading.Timer(after, lambda: os.kill(other.pid, signal.SIGSTOP))
    timer.start()
    done = scale(folder / "d0.sock", folder / "o.sock", *options, "--timeout", 2000)
    timer.join()
    assert done.returncode == 1 and "/o.sock: " in done.stderr and " 2000 ms" in done.stderr, done.stderr
    assert daemon.poll() is None


def test_figures_are_of_all_back_ends_together(daemon, other, folder):
    done = scale(folder / "d0.sock", folder / "d1.sock", folder / "o.sock", "--wakes", 3, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 3 and found["processes"] == 2 and found["kib_each"] == -1 and found["least"] > 0
    assert daemon.poll() is None and other.poll() is None


def test_wrong_options_are_told(folder):
    for wrong, says in (([], "takes the sockets"), ([folder / "d", "--queue-size", 16], "say 32 or more"),
                        ([folder / "d", "--wakes", 0], "from 1 to"), ([folder / "d", "--depth", 1], "no such option")):
        done = scale(*wrong)
        assert done.returncode == 2 and says in done.stderr, done.stderr
    done = scale(folder / "nobody.sock")
    assert done.returncode == 1 and "is a back-end serving that socket" in done.stderr


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="qemu-storage-daemon is not installed")
def test_another_projects_disks_are_measured_too(folder):
    command = ["qemu-storage-daemon"]
    for i in range(N):
        command += ["--blockdev", f"driver=null-co,size=67108864,read-zeroes=on,node-name=n{i}", "--export",
                    f"type=vhost-user-blk,id=e{i},node-name=n{i},addr.type=unix,addr.path={folder}/d{i}.sock"]
    with running(command) as process:
        wait_for(folder / f"d{N - 1}.sock", process)
        done = scale(*sockets(folder), "--wakes", N, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["least"] > 0
