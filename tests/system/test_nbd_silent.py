# SPDX-License-Identifier: Apache-2.0
"""A disk whose NBD server stands still or dies under load: the disk next to it goes on, nothing is lost, and all ends."""
import contextlib
import json
import subprocess

import pytest
from lab import BUILD
from lab.daemon import Daemon, wait_for
from nbd_server import Server, needs_qemu_nbd

pytestmark = needs_qemu_nbd


@pytest.fixture(name="server")
def _server(folder):
    image = folder / "disk.raw"
    with open(image, "wb") as f:
        f.truncate(16 << 20)
    folder.chmod(0o777)  # root becomes nobody, who makes socket files here
    with Server(folder, image, "raw") as server:
        yield server


def config(folder, nbd, names=("away",)):
    """One worker for all: whatever stood still on it would be seen by the other disk."""
    disks = [f"  - {{ name: {name}, socket: {folder}/{name}.sock, nbd: 'nbd+unix:///?socket={folder}/nbd.sock', {nbd} }}\n"
             for name in names]
    return f"disks:\n{''.join(disks)}  - {{ name: other, socket: {folder}/other.sock, ram: 16M }}\n"


@contextlib.contextmanager
def load(path, *options):
    command = [BUILD / "bench/sluice-bench", "blk", path, "--sleep", "--timeout", "120000", "--json", *options]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sluice(daemon, *words):
    done = subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, *words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + daemon.log_tail()
    return done.stdout


def done_by(daemon, name):
    counters = daemon.disk(name)["counters"]
    return counters["reads"] + counters["writes"]


def goes_on(daemon, name):
    before = done_by(daemon, name)
    wait_for(lambda: done_by(daemon, name) > before + 100, 60, f"{name}'s requests go on")


def is_away(daemon, why):
    server = wait_for(lambda: daemon.disk("away").get("server"), 60, "the server is away")
    wait_for(lambda: why in daemon.disk("away")["server"]["reason"], 60, f"the reason is: {why}")
    assert server["state"] == "away" and server["since_s"] >= 0
    line = next(line for line in sluice(daemon, "status").splitlines() if "its server" in line)
    assert line.startswith("  away: its server has been away for ") and why in line


def is_back(daemon):
    wait_for(lambda: "server" not in daemon.disk("away"), 60, "the server is back")
    assert "its server" not in sluice(daemon, "status")


def finished(process):
    out, err = process.communicate(timeout=150)
    # After a silence at its end an open loop is behind its schedule, which is an error of its own.
    assert process.returncode == 0 or (process.returncode == 1 and "due and not sent" in err), err
    figures = json.loads(out)
    assert figures["errors"] == 0 and figures["verified"] > 0
    return figures


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_a_server_that_stands_still_or_dies_holds_up_its_own_disk_alone(server, ring, folder):
    with Daemon(folder, config(folder, "timeout: 1, connections: 2, queues: 2")) as daemon, \
         load(folder / "other.sock", "--rw", "randrw", "--rate", "2000", "--time", "600"):
        with load(folder / "away.sock", "--rw", "randrw", "--verify", "--fsync", "64", "--queues", "2", "--rate", "2000",
                  "--ring", ring, "--time", "15") as busy:
            goes_on(daemon, "away")
            server.pause()
            is_away(daemon, "the NBD server has not answered for ")
            goes_on(daemon, "other")
            assert "server" not in daemon.disk("other")
            server.go_on()
            is_back(daemon)
            goes_on(daemon, "away")
            server.kill()
            is_away(daemon, "NBD server ")
            goes_on(daemon, "other")
            server.start()
            is_back(daemon)
            goes_on(daemon, "away")
            finished(busy)
        assert daemon.disk("away")["counters"]["errors"] == 0
        assert daemon.stop() == 0


def test_a_disk_is_removed_and_the_daemon_ends_though_their_server_is_silent_for_ever(server, folder):
    both = config(folder, "timeout: 0, reconnect: 100000", ("away", "away2"))
    with Daemon(folder, both) as daemon, load(folder / "away.sock", "--rw", "randwrite", "--time", "600"), \
         load(folder / "away2.sock", "--rw", "randwrite", "--time", "600"), \
         load(folder / "other.sock", "--rate", "2000", "--time", "600"):
        for name in ("away", "away2", "other"):
            goes_on(daemon, name)
        server.pause()
        remove = [BUILD / "cli/sluice", "--socket", daemon.control, "disk", "remove", "away", "--force"]
        with subprocess.Popen(remove, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            wait_for(lambda: "disk away: the last flush failed" in daemon.log.read_text(), 60, "the disk is closed")
        assert [disk["name"] for disk in daemon.status()["disks"]] == ["away2", "other"]
        goes_on(daemon, "other")
        assert daemon.stop(60) == 0
        assert "disk away2: the last flush failed" in daemon.log.read_text()


def test_with_on_error_stop_a_guest_waits_for_longer_than_reconnect(server, folder):
    with Daemon(folder, config(folder, "timeout: 1, reconnect: 1, on_error: stop")) as daemon, \
         load(folder / "away.sock", "--rw", "randrw", "--verify", "--rate", "2000", "--time", "10") as busy:
        goes_on(daemon, "away")
        server.pause()
        wait_for(lambda: "stopped" in daemon.disk("away"), 60, "requests wait for the disk to work")
        is_away(daemon, "the NBD server has not answered for ")
        said = sluice(daemon, "status")
        assert "requests that wait for the disk to work" in said and "sluice disk retry away" in said
        server.go_on()
        is_back(daemon)
        wait_for(lambda: "stopped" not in daemon.disk("away"), 60, "none waits any more")
        finished(busy)
        assert daemon.disk("away")["counters"]["errors"] == 0
        assert daemon.stop() == 0
