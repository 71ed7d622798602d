# SPDX-License-Identifier: Apache-2.0
"""What happens to real guests over a life: reboots, crashes, shutdowns, idling, unusual set-ups."""
import os
import shutil
import subprocess

import pytest
from lab import BUILD, LabError, agree, credentials, qemu
from lab.daemon import Daemon, wait_for
from lab.guest import Disk, Guest, Machine, Net

DISK_MIB = 32
SEED = 99
IPS = ["198.18.79.1", "198.18.79.2"]


def make_image(folder, name="disk.raw", mib=DISK_MIB):
    path = folder / name
    with open(path, "wb") as f:
        f.truncate(mib * 2**20)
    return path


def config(folder, n=1, disk_options="", port_options=""):
    """@n guests' worth: a disk and a port on one switch each."""
    lines = ["networks:", "  - name: lan", "    ports:"]
    for i in range(n):
        lines.append(f"      - {{ name: net{i}, socket: {folder}/net{i}.sock{port_options} }}")
    lines.append("disks:")
    for i in range(n):
        image = make_image(folder, f"disk{i}.raw")
        lines.append(f"  - {{ name: disk{i}, socket: {folder}/disk{i}.sock, file: {image}{disk_options} }}")
    return "\n".join(lines) + "\n"


def machine(folder, i=0, queues=1, **more):
    return Machine(disk=Disk(f"{folder}/disk{i}.sock", queues),
                   net=Net(f"{folder}/net{i}.sock", f"52:54:00:5c:02:0{i}", queues), ip=f"{IPS[i]}/24", **more)


def boot_two(one, two):
    one.start()
    two.start()
    one.ready()
    two.ready()


def pattern_on_host(command, image, *arguments):
    return subprocess.run([qemu.guest_files()["pattern"], command, image, *map(str, arguments)],
                          stdout=subprocess.PIPE, text=True, check=False)


def test_a_guest_reboots_again_and_again_and_keeps_its_files_and_its_network(folder):
    # Several queue pairs, as QEMU 7.2 tells of a memory that has changed once for each of them.
    with Daemon(folder, config(folder, 2, ", queues: 2", ", queues: 2")) as daemon, \
            Guest(machine(folder, queues=2, cpus=2)) as one, Guest(machine(folder, 1), "neighbour") as two:
        boot_two(one, two)
        written = one.job("fs_write")
        for boots in (2, 3):
            one.reboot()
            assert one.boots == boots
            assert one.job("fs_check")["digest"] == written["digest"]
            one.job("ping", IPS[1], 3)
        assert daemon.disk("disk0")["front_end"]["queues_broken"] == 0
        one.poweroff()
        two.poweroff()
        assert daemon.stop() == 0


def test_two_guests_on_two_layouts_talk_and_their_counts_agree(folder):
    with Daemon(folder, config(folder, 2)) as daemon, Guest(machine(folder, packed=True)) as one, \
            Guest(machine(folder, 1), "neighbour") as two:
        boot_two(one, two)
        first = [agree.Snapshot(g, daemon, f"disk{i}", f"net{i}") for i, g in enumerate((one, two))]
        made = one.job("make", "f", 8)
        two.begin("receive", "g", 5000)
        two.answer("listening")
        one.job("send", "f", IPS[1], 5000)
        assert two.end("receive")["sum"] == made["sum"]
        made = two.job("make", "f", 8)
        one.begin("receive", "g", 5000)
        one.answer("listening")
        two.job("send", "f", IPS[0], 5000)
        assert one.end("receive")["sum"] == made["sum"]
        one.job("pattern", "fill", SEED)
        for i, guest in enumerate((one, two)):
            rows = agree.Snapshot(guest, daemon, f"disk{i}", f"net{i}").since(first[i])
            assert not agree.differences(rows)
            assert dict((what, n) for what, n, _ in rows)["net_rx_packets"] > 100


def test_a_guest_gives_space_back(folder):
    image = folder / "disk0.raw"
    with Daemon(folder, config(folder, 1)) as daemon, Guest(machine(folder)) as guest:
        guest.boot()
        guest.job("pattern", "fill", SEED)
        full = image.stat().st_blocks * 512
        assert full >= image.stat().st_size
        guest.job("discard", 4 << 20, 8 << 20)
        assert image.stat().st_blocks * 512 <= full - (8 << 20) + (64 << 10)
        before = agree.Snapshot(guest, daemon, "disk0")
        guest.job("fs_write")  # mkfs discards all there was, and mount zeroes what it needs
        after = agree.Snapshot(guest, daemon, "disk0")
        assert not agree.differences(after.since(before))
        guest.reboot()
        guest.job("fs_check")
        guest.reboot()
        guest.job("discard")
        assert image.stat().st_blocks * 512 <= 1 << 20
        counters = daemon.disk("disk0")["counters"]
        assert counters["discards"] >= 3 and counters["discarded_bytes"] >= (8 << 20) + image.stat().st_size
        assert counters["errors"] == counters["unsupported"] == 0
        guest.poweroff()


def sluice(daemon, *words):
    return subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, *map(str, words)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)


def test_a_guest_that_turns_its_write_cache_off_has_it_off_over_kills(folder):
    m = Machine(disk=Disk(f"{folder}/disk0.sock", reconnect=True))
    with Daemon(folder, config(folder, 1)) as daemon, Guest(m) as guest:
        guest.boot()
        assert guest.job("cache_type")["cache_type"] == "write_back"
        assert daemon.disk("disk0")["write_cache"] == "writeback"
        for chosen in ("through", "back", "through"):
            assert guest.job("cache_type", chosen)["cache_type"] == f"write_{chosen}"
            assert daemon.disk("disk0")["write_cache"] == f"write{chosen}"
            daemon.kill()
            daemon.start()
            wait_for(lambda: daemon.disk("disk0")["state"] == "running", 60, "the disk runs again")
            assert daemon.disk("disk0")["write_cache"] == f"write{chosen}"
        guest.job("fs_write")
        counters = daemon.disk("disk0")["counters"]
        assert counters["writes"] > 0 and counters["errors"] == counters["flushes"] == 0
        guest.poweroff()


def test_a_disk_grows_under_its_guest(folder):
    with Daemon(folder, config(folder, 1)) as daemon, Guest(machine(folder)) as guest:
        guest.boot()
        size = int(guest.job("facts")["disk_bytes"])
        done = sluice(daemon, "disk", "resize", "disk0", 2 * size)
        assert (done.returncode, done.stdout) == (0, f"disk0 has {2 * size} bytes, {size} more\n"), done.stderr
        wait_for(lambda: int(guest.job("facts")["disk_bytes"]) == 2 * size, 60, "the guest sees the new size")
        guest.job("pattern", "fill", SEED)
        assert pattern_on_host("check", folder / "disk0.raw", SEED).returncode == 0
        os.truncate(folder / "disk0.raw", 3 * size)
        done = sluice(daemon, "disk", "resize", "disk0")
        assert (done.returncode, done.stdout) == (0, f"disk0 has {3 * size} bytes, {size} more\n"), done.stderr
        wait_for(lambda: int(guest.job("facts")["disk_bytes"]) == 3 * size, 60, "the guest sees that the file grew")
        for words, complaint in (
            (("disk0", size), "can only grow"),
            (("disk0", "20Q"), '"size" is a number of bytes, or text such as 20G'),
            (("disk9",), 'there is no open disk called "disk9"'),
        ):
            done = sluice(daemon, "disk", "resize", *words)
            assert (done.returncode, complaint in done.stderr) == (1, True), done.stderr
        assert sluice(daemon, "disk", "resize").returncode == 2
        guest.poweroff()


def test_a_killed_front_end_leaves_the_others_alone_and_a_new_guest_takes_its_place(folder):
    with Daemon(folder, config(folder, 2)) as daemon, Guest(machine(folder), "victim") as one, \
            Guest(machine(folder, 1), "neighbour") as two:
        boot_two(one, two)
        one.begin("pattern", "fill", SEED)
        wait_for(lambda: daemon.disk("disk0")["counters"]["writes"] > 20, 60, "the victim writes")
        one.kill()
        wait_for(lambda: daemon.disk("disk0")["state"] == "waiting", 60, "sluiced sees that the front-end is gone")
        assert daemon.port("net0")["state"] == "waiting"
        assert daemon.disk("disk0")["counters"]["in_flight"] == 0
        two.job("pattern", "fill", SEED)
        with Guest(machine(folder), "successor") as three:
            three.boot()
            three.job("pattern", "fill", SEED)
            three.job("pattern", "check", SEED)
            three.job("ping", IPS[1], 3)
            assert daemon.disk("disk0")["front_end"]["connects"] == 2
        two.job("pattern", "check", SEED)
        two.poweroff()
        assert daemon.stop() == 0


def test_guest_memory_as_a_file(folder):
    with Daemon(folder, config(folder)) as daemon, \
            Guest(machine(folder, backing=f"file:{folder}/memory")) as guest:
        guest.boot()
        guest.job("pattern", "fill", SEED)
        guest.job("pattern", "check", SEED)
        guest.poweroff()
        assert daemon.stop() == 0
    assert pattern_on_host("check", folder / "disk0.raw", SEED).returncode == 0


def test_sluiced_connects_to_a_front_end_that_listens_and_again_when_it_is_back(folder):
    with Daemon(folder, config(folder, 1, ", connect: true", ", connect: true")) as daemon:
        for connects in (1, 2):
            hardware = machine(folder)
            hardware.disk.server = hardware.net.server = True
            with Guest(hardware) as guest:
                guest.boot()
                guest.job("pattern", "fill", SEED + connects)
                guest.job("pattern", "check", SEED + connects)
                assert daemon.disk("disk0")["front_end"]["connects"] == connects
                assert daemon.port("net0")["state"] == "running"
                guest.poweroff()
        assert daemon.stop() == 0


def test_a_read_only_disk_is_read_and_refuses_writes(folder):
    with Daemon(folder, config(folder, 1, ", read_only: true")) as daemon:
        subprocess.run([qemu.guest_files()["pattern"], "fill", folder / "disk0.raw", str(SEED)], check=True)
        before = (folder / "disk0.raw").stat().st_mtime_ns
        with Guest(machine(folder)) as guest:
            guest.boot()
            assert guest.job("facts")["disk_ro"] == "1"
            guest.job("pattern", "check", SEED)
            guest.job("try_write")
            guest.poweroff()
        assert daemon.disk("disk0")["counters"]["writes"] == 0
        assert daemon.stop() == 0
    assert (folder / "disk0.raw").stat().st_mtime_ns == before


def test_idle_guests_cost_less_than_one_percent_of_a_core(folder):
    with Daemon(folder, config(folder, 2)) as daemon, Guest(machine(folder)) as one, \
            Guest(machine(folder, 1), "neighbour") as two:
        boot_two(one, two)
        one.job("pattern", "fill", SEED)
        one.job("ping", IPS[1], 3)
        percent = daemon.cpu_percent(10)
        print(f"sluiced with two idle guests: {percent:.2f} % of one core")
        assert percent < 1.0
        one.job("pattern", "check", SEED)  # and it is not dead


def test_sigterm_under_load_exits_0_and_all_that_was_flushed_is_on_the_disk(folder):
    with Daemon(folder, config(folder)) as daemon, Guest(machine(folder)) as guest:
        guest.boot()
        guest.begin("pattern", "journal", SEED)
        guest.answer("flushed")
        wait_for(lambda: daemon.disk("disk0")["counters"]["flushes"] > 100, 30, "the guest writes its journal")
        assert daemon.stop() == 0
        guest.kill()
        flushed = [int(line.rpartition("=")[2]) for line in guest.console if "SLUICE flushed=" in line]
    assert flushed[-1] > 50
    assert flushed == list(range(1, len(flushed) + 1))
    done = pattern_on_host("journal-check", folder / "disk0.raw", SEED, flushed[-1])
    assert done.returncode == 0, done.stdout


def test_an_ordinary_user_starts_sluiced_and_attaches_a_guest_of_their_own(folder):
    """No root, no hugepages, no EAL: where the tests run as root, all of this runs as nobody."""
    user, files, accelerator = None, None, ""
    text = config(folder)
    if os.geteuid() == 0:
        user, accelerator = "nobody", "tcg"  # who may not open /dev/kvm
        files = {k: shutil.copy(qemu.guest_files()[k], folder) for k in ("kernel", "initramfs")}
        for path in (folder, folder / "disk0.raw"):
            os.chown(path, credentials(user)["user"], credentials(user)["group"])
        if subprocess.run(["/bin/sh", "-c", f"test -x {BUILD}/daemon/sluiced"], check=False,
                          **credentials(user)).returncode:
            pytest.skip(f"user nobody cannot enter {BUILD}")
    with Daemon(folder, text, user=user) as daemon, \
            Guest(machine(folder, accelerator=accelerator), user=user, files=files) as guest:
        proc = daemon.proc_status()
        assert int(proc["CapPrm"], 16) == 0 and "0" not in proc["Uid"].split()
        guest.boot()
        guest.job("pattern", "fill", SEED)
        guest.job("pattern", "check", SEED)
        with open(f"/proc/{daemon.pid}/maps", encoding="ascii") as maps:
            assert "huge" not in maps.read()
        guest.poweroff()
        assert daemon.stop() == 0


def test_a_disk_in_memory_and_one_that_is_nothing(folder):
    text = (f"disks:\n  - {{ name: ram, socket: {folder}/ram.sock, ram: 32M }}\n"
            f"  - {{ name: nothing, socket: {folder}/null.sock, 'null': 32M }}\n")
    with Daemon(folder, text) as daemon:
        with Guest(Machine(disk=Disk(f"{folder}/ram.sock"))) as guest:
            guest.boot()
            guest.job("pattern", "fill", SEED)
            guest.job("pattern", "check", SEED)
            guest.poweroff()
        with Guest(Machine(disk=Disk(f"{folder}/null.sock"))) as guest:
            guest.boot()
            guest.job("pattern", "fill", SEED)
            with pytest.raises(LabError, match="holds something else, beginning with 0000000000000000"):
                guest.job("pattern", "check", SEED)
        assert daemon.stop() == 0


def test_a_guest_boots_from_a_disk_that_was_added_while_another_ran(folder):
    with Daemon(folder, config(folder, 1)) as daemon, Guest(machine(folder), "neighbour") as one, \
            Guest(machine(folder, 1), "added") as two:
        one.boot()
        written = one.job("fs_write")
        image = make_image(folder, "added.raw")
        for words in (("disk", "add", "added", "--socket", folder / "disk1.sock", "--file", image),
                      ("port", "add", "lan", "net1", "--socket", folder / "net1.sock")):
            done = sluice(daemon, *words)
            assert done.returncode == 0, done.stderr
        two.boot()
        two.job("pattern", "fill", SEED)
        two.job("ping", IPS[0], 3)
        assert pattern_on_host("check", image, SEED).returncode == 0
        done = sluice(daemon, "disk", "remove", "added")
        assert (done.returncode, "disk added is in use" in done.stderr) == (1, True), done.stderr
        two.poweroff()
        wait_for(lambda: daemon.disk("added")["state"] == "waiting", 60, "its VMM has gone")
        for words in (("disk", "remove", "added"), ("port", "remove", "net1")):
            done = sluice(daemon, *words)
            assert done.returncode == 0, done.stderr
        one.reboot()
        assert one.job("fs_check")["digest"] == written["digest"]
        one.poweroff()
        assert daemon.stop() == 0
