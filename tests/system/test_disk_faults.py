# SPDX-License-Identifier: Apache-2.0
"""Disks whose storage fills up or stands still under a real guest, or a driver that asks all the time."""
import contextlib
import os
import subprocess

import pytest
from lab import BUILD, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine
from running import running

SEED = 41

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def mounted(folder, *arguments):
    place = folder / "storage"
    place.mkdir()
    run("mount", *arguments, place)
    place.chmod(0o777)
    try:
        yield place
    finally:
        subprocess.run(["fsfreeze", "-u", place], check=False, stderr=subprocess.DEVNULL)
        run("umount", "-l", place)


def image(place, name="disk.raw", mib=32):
    path = place / name
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    path.chmod(0o666)
    return path


def said(daemon):
    return subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, "status"], check=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout


def test_a_guest_waits_for_space_and_goes_on_when_there_is_some(folder):
    with mounted(folder, "-t", "tmpfs", "-o", "size=8M", "tmpfs") as place:
        path = image(place)
        config = f"disks: [{{ name: disk, socket: {folder}/disk.sock, file: {path}, on_error: stop }}]\n"
        with Daemon(folder, config) as daemon, Guest(Machine(disk=Disk(f"{folder}/disk.sock"))) as guest:
            guest.boot()
            guest.begin("pattern", "fill", SEED)
            wait_for(lambda: "stopped" in daemon.disk("disk"), 30, "the guest's requests wait")
            disk = daemon.disk("disk")
            assert (disk["last_fault"]["errno"], disk["last_fault"]["operation"]) == (28, "write")
            assert disk["stopped"]["requests"] > 0
            assert "No space left on device" in said(daemon) and "sluice disk retry disk" in said(daemon)
            run("mount", "-o", "remount,size=64M", place)
            guest.end("pattern")
            disk = daemon.disk("disk")
            assert "stopped" not in disk and disk["counters"]["errors"] == 0
            guest.poweroff()
        assert subprocess.run([qemu.guest_files()["pattern"], "check", path, str(SEED)], check=False).returncode == 0


@contextlib.contextmanager
def frozen(place):
    """Whatever happens in the block: a process that waits for a frozen file system is deaf to SIGKILL."""
    run("fsfreeze", "-f", place)
    try:
        yield
    finally:
        run("fsfreeze", "-u", place)


def test_storage_that_stands_still_is_told_of_and_keeps_no_other_disk_waiting(folder):
    run("truncate", "-s", "64M", folder / "ext4.raw")
    run("mkfs.ext4", "-q", folder / "ext4.raw")
    with mounted(folder, "-o", "loop", folder / "ext4.raw") as place:
        path = image(place, mib=16)
        config = f"""disks:
  - {{ name: slow, socket: {folder}/slow.sock, file: {path} }}
  - {{ name: other, socket: {folder}/other.sock, ram: 16M }}
"""
        with Daemon(folder, config) as daemon:
            command = [BUILD / "bench/sluice-bench", "blk", folder / "slow.sock", "--rw", "randwrite", "--sleep",
                       "--time", "3", "--timeout", "60000"]
            with running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as bench:
                wait_for(lambda: daemon.disk("slow")["counters"]["writes"] > 0, 60, "writes are done")
                with frozen(place):
                    hang = wait_for(lambda: daemon.disk("slow").get("no_answer"), 60, "sluiced sees that they hang")
                    assert hang["operation"] == "write" and hang["since_s"] >= 5 and hang["requests"] > 0
                    assert "no answer from the disk to a write at sector" in said(daemon)
                    run(BUILD / "bench/sluice-bench", "blk", folder / "other.sock", "--time", "1")
                    assert "no_answer" not in daemon.disk("other")
                assert bench.wait(60) == 0
            assert daemon.disk("slow")["counters"]["errors"] == 0
            assert "no_answer" not in daemon.disk("slow")
