# SPDX-License-Identifier: Apache-2.0
"""The sandbox of a running sluiced, as the kernel sees it. That guests live in it, all others show."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lab import BUILD
from lab.daemon import Daemon, wait_for
from running import running

DISK = "disks: [{{ name: d, socket: {folder}/d.sock, ram: 1M }}]\n"
SANITIZER = "this build has a sanitizer"


def threads(pid):
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except OSError:
            continue  # io_uring's own threads come and go
        yield dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


def hostile_connections(path, n):
    """Connects and talks nonsense, again and again: every path of errors and of hanging up."""
    for _ in range(n):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            s.sendall(b"\1\0\0\0\1\0\0\0\0\0\0\0" + b"\xff" * 40)
            s.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while s.recv(100):
                    pass


@pytest.fixture(name="serve")
def _serve(folder):
    daemons = []

    def start(config):
        daemons.append(Daemon(folder, config.format(folder=folder)).start())
        return daemons[-1]

    yield start
    for d in daemons:
        d.kill()


def skip_where_unfit(daemon):
    if SANITIZER in daemon.status()["sandbox"]["why"]:
        pytest.skip(SANITIZER)


def test_every_thread_is_under_the_filter_and_serving_goes_on(serve, folder):
    folder.chmod(0o777)  # root becomes nobody, who is to remove socket files here
    daemon = serve("workers: {{ count: 3 }}\n" + DISK)
    skip_where_unfit(daemon)
    assert daemon.status()["sandbox"]["seccomp"] == "tight"
    hostile_connections(folder / "d.sock", 20)
    all_threads = list(threads(daemon.pid))
    assert len(all_threads) >= 5  # control, three workers, watchdog
    for thread in all_threads:
        assert thread["Seccomp"] == "2", thread["Name"]
        assert thread["NoNewPrivs"] == "1", thread["Name"]
    wait_for(lambda: daemon.disk("d")["front_end"]["connects"] == 20, 60, "all are counted")
    assert daemon.stop() == 0
    assert not (folder / "d.sock").exists(), "the socket file could not be removed"
    assert not (folder / "control.sock").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_folder_out_of_reach_takes_nothing_from_the_sandbox(serve, folder):
    """root made the socket there; the user that it becomes does not even see it."""
    folder.chmod(0o777)
    (folder / "roots").mkdir(mode=0o700)
    (folder / "roots/inner").mkdir()
    daemon = serve(DISK + "networks: [{{ name: n, ports: [{{ name: p, socket: {folder}/roots/inner/p.sock }}] }}]\n")
    skip_where_unfit(daemon)
    sandbox = daemon.status()["sandbox"]
    if sandbox["why"] == "this kernel has no Landlock":
        pytest.skip(sandbox["why"])
    assert sandbox["landlock"] > 0 and sandbox["why"] == ""
    assert f"folder {folder}/roots/inner: Permission denied" in daemon.log.read_text()
    assert daemon.stop() == 0
    assert not (folder / "d.sock").exists()


def test_dpdk_ports_have_a_wider_filter(serve):
    daemon = serve("networks: [{{ name: n, ports: [{{ name: p, dpdk: net_null0 }}] }}]\n")
    skip_where_unfit(daemon)
    assert daemon.status()["sandbox"]["seccomp"] == "dpdk"
    assert {t["Seccomp"] for t in threads(daemon.pid)} == {"2"}
    assert daemon.stop() == 0


def test_it_can_be_switched_off_and_that_is_said(serve, folder):
    daemon = serve("sandbox: off\n" + DISK)
    assert daemon.status()["sandbox"] == {"seccomp": "off", "landlock": 0, "why": "switched off"}
    assert {t["Seccomp"] for t in threads(daemon.pid)} == {"0"}
    assert "sandbox: off: switched off" in daemon.log.read_text()
    text = subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, "status"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    assert "sandbox: seccomp off, Landlock off: switched off" in text
    assert daemon.stop() == 0


def test_a_single_device_takes_the_option(folder):
    with running([BUILD / "daemon/sluiced", "blk", "--ram", "1M", "--no-sandbox", "--socket-path",
                  folder / "s.sock"], stderr=subprocess.DEVNULL) as process:
        wait_for((folder / "s.sock").exists, 60, "it listens")
        time.sleep(0.1)
        assert {t["Seccomp"] for t in threads(process.pid)} == {"0"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def test_abort_still_ends_it_at_once(serve):
    """SIGABRT from outside, and its core if there are to be any: the filter is not in the way."""
    daemon = serve(DISK)
    os.kill(daemon.pid, signal.SIGABRT)
    wait_for(lambda: not daemon.alive(), 60, "it is gone")
