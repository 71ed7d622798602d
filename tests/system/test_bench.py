# SPDX-License-Identifier: Apache-2.0
"""sluice-bench against back-ends that work, that are not there, and that die."""
import contextlib
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
BENCH = BUILD / "bench/sluice-bench"


def bench(*arguments, timeout=40):
    return subprocess.run([str(a) for a in (BENCH, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout, check=False)


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
              "networks": [{"name": "lan", "ports": [{"name": n, "socket": f"{folder}/{n}.sock"} for n in "abxy"] +
                                         [{"name": n, "socket": f"{folder}/{n}.sock", "queues": 4} for n in "mn"]},
                           {"name": "other", "ports": [{"name": "z", "socket": f"{folder}/z.sock"}]}],
              "disks": [{"name": n, "socket": f"{folder}/{n}.sock", "ram": "16M", "queues": 2} for n in "ed"]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([BUILD / "daemon/sluiced", "--config", folder / "c.yaml", "--log-level", "error"]) as process:
        wait_for(folder / "d.sock", process)
        yield process


@pytest.mark.parametrize("ring", [["--ring", "split"], ["--ring", "packed", "--in-order"],
                                  ["--no-indirect", "--no-event-idx"]])
def test_each_write_is_read_back_through_two_queues(daemon, folder, ring):
    done = bench("blk", folder / "d.sock", "--rw", "randwrite", "--verify", "--queues", 2, "--depth", 16, "--time", 1,
                 "--json", *ring)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["requests"] >= 32 and data["verified"] >= data["requests"] and data["errors"] == 0
    assert data["latency_us"]["p50"] <= data["latency_us"]["p99"] <= data["latency_us"]["max"]
    assert data["backend_cpu_s"] >= 0
    assert daemon.poll() is None


@pytest.mark.alone
@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("rw, mix, least, most", [("readwrite", 70, 0.68, 0.72), ("randrw", 10, 0.08, 0.12),
                                                  ("randrw", 0, 0, 0), ("randrw", 100, 1, 1)])
def test_a_mix_has_as_many_reads_as_asked_for(daemon, folder, ring, rw, mix, least, most):
    done = bench("blk", folder / "d.sock", "--rw", rw, "--mix", mix, "--time", 1, "--json", "--ring", ring)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["requests"] > 10000 and least <= data["reads"] / data["requests"] <= most
    assert daemon.poll() is None


def test_a_sleeping_driver_is_called(daemon, folder):
    done = bench("blk", folder / "d.sock", "--sleep", "--depth", 1, "--time", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["requests"] > 0
    assert daemon.poll() is None


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_frames_cross_in_order_and_whole(daemon, folder, ring):
    done = bench("net", folder / "a.sock", folder / "b.sock", "--ring", ring, "--size", 1514, "--verify", "--time", 1,
                 "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["received"] > 0 and data["reordered"] == 0
    assert daemon.poll() is None


# Flows come by the pairs that their guest sends them by: here those of one pair by all four.
@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("load", [["--both", "--flows", "64"], ["--flows", "5", "--sleep"], ["--latency", "--flows", "9"],
                                  ["--both", "--imix", "--flows", "300", "--rate", "20000", "--loss", "20"]])
def test_frames_of_cards_with_several_pairs_cross_in_order(daemon, folder, ring, load):
    done = bench("net", folder / "m.sock", folder / "n.sock", "--ring", ring, "--queues", 4, "--verify", "--time", 1,
                 "--json", *load)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["queues"] == 4 and data["received"] > 0 and data["reordered"] == data["corrupt"] == 0
    assert daemon.poll() is None


NET = [["--size", "9014"], ["--size", "9014", "--no-mergeable"], ["--imix", "--flows", "300"], ["--tso"],
       ["--tso", "--no-mergeable", "--no-indirect"], ["--both", "--flows", "3", "--segments", "3"],
       ["--latency", "--sleep", "--no-event-idx"], ["--rate", "20000", "--loss", "20", "--in-order"],
       ["--queue-size", "16", "--rx-buffer", "256", "--size", "1514"]]


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("options", NET, ids=lambda o: " ".join(o))
def test_each_kind_of_load_arrives_whole_with_the_ring_that_was_asked_for(daemon, folder, ring, options):
    done = bench("net", folder / "a.sock", folder / "b.sock", "--ring", ring, "--verify", "--time", 1, "--json",
                 *options)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["received"] > 0 and data["reordered"] == data["duplicated"] == data["corrupt"] == 0
    features = int(data["features"], 0)
    for bit, on in ((15, "--no-mergeable" not in options), (28, "--no-indirect" not in options),
                    (29, "--no-event-idx" not in options), (34, ring == "packed"), (35, "--in-order" in options),
                    (11, "--tso" in options)):
        assert bool(features >> bit & 1) == on, bit
    if "--sleep" in options:
        assert data["calls"] > 0
        assert 0 < data["latency_us"]["p50"] <= data["round_trip_us"]["p50"]
    else:
        assert data["calls"] == 0
    assert daemon.poll() is None


def test_the_highest_rate_is_searched_for(daemon, folder):
    done = bench("net", folder / "a.sock", folder / "b.sock", "--search", "--rate", 20000, "--trial", 100, "--loss", 50,
                 "--resolution", 20, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["search"]
    assert 0 < found["rate"] <= found["upper"] == 20000 and found["trials"] >= 1
    assert done.stderr.count("frames a second") >= found["trials"]
    assert daemon.poll() is None


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_rate_is_too_high_once_all_of_its_attempts_failed(daemon, folder, attempts):
    # Cards of other networks: every trial fails. By halves from 1000, 500 and 250 remain above the resolution.
    done = bench("net", folder / "a.sock", folder / "z.sock", "--search", "--rate", 1000, "--trial", 20, "--resolution", 20,
                 "--attempts", attempts, "--json")
    assert done.returncode == 1 and "no rate was found" in done.stderr
    rates = [int(x) for x in re.findall(r"^ *(\d+) frames a second:", done.stderr, re.M)]
    for rate in (1000, 500, 250):
        assert attempts <= rates.count(rate) <= attempts + 2
    assert daemon.poll() is None


def test_frames_that_nobody_takes_are_lost_and_told(daemon, folder):
    # Cards of other networks: what is sent does not arrive.
    done = bench("net", folder / "a.sock", folder / "z.sock", "--time", 1)
    assert done.returncode == 1
    assert "no frame came through; are both cards on one network?" in done.stderr and "were lost" in done.stderr
    # One card of a switch: nobody sends back what comes from it.
    done = bench("net", folder / "z.sock", "--time", 1)
    assert done.returncode == 1 and "no frame came back; " in done.stderr and "--send-only" in done.stderr, done.stderr
    done = bench("net", folder / "z.sock", "--send-only", "--time", 1, "--json")
    # As many as it takes: not a ring full, and then nothing until they are given up.
    assert done.returncode == 0 and json.loads(done.stdout)["sent"] > 50 * 256
    assert daemon.poll() is None


@pytest.mark.parametrize("signal_, says", [(signal.SIGKILL, "hung up in the middle of the run"),
                                           (signal.SIGSTOP, "has done nothing for 700 ms")])
@pytest.mark.parametrize("load", [[], ["--sleep"], ["--latency"], ["--search", "--trial", "2000"]], ids=str)
def test_a_network_that_dies_or_stands_still_ends_the_run(daemon, folder, signal_, says, load):
    timer = threading.Timer(0.7, lambda: os.kill(daemon.pid, signal_))
    timer.start()
    done = bench("net", folder / "a.sock", folder / "b.sock", "--time", 30, "--timeout", 700, *load)
    timer.join()
    assert done.returncode == 1 and says in done.stderr


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("load", [[], ["--both"], ["--latency"]], ids=str)
def test_nothing_is_lost_of_a_closed_loop_whose_back_end_pauses(daemon, folder, ring, load):
    over = threading.Event()

    def pauses():
        while not over.wait(0.02):
            os.kill(daemon.pid, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(daemon.pid, signal.SIGCONT)

    thread = threading.Thread(target=pauses)
    thread.start()
    try:
        done = bench("net", folder / "a.sock", folder / "b.sock", "--ring", ring, "--time", 1, "--json", *load)
    finally:
        over.set()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lost"] == 0 and daemon.poll() is None


@pytest.mark.parametrize("wrong, says", [
    (["--size", "59"], "from 60"), (["--size", "9015"], "takes --tso"), (["--imix", "--size", "64"], "leave --size"),
    (["--tso", "--size", "60"], "72 bytes or more"), (["--mss", "100"], "use --tso"), (["--loss", "x"], "not a percentage"),
    (["--search", "--open"], "leave --open"), (["--resolution", "1"], "use --search"), (["--attempts", "1"], "use --search"),
    (["--flows", "0"], "from 1 to"),
    (["--both", "--latency"], "--both takes"), (["--send-only"], "takes one socket"), (["--rate", "0"], "from 1 to"),
    (["--open", "--rate", "1"], "--open knows no"), (["--segments", "9", "--queue-size", "8"], "has 8 descriptors"),
    (["--queue-size", "100"], "a power of 2"), (["--backlog", "10"], "use --rate or --search"),
    (["--cpu", "1023"], "may not run there"),
    (["--no-mergeable", "--rx-buffer", "512"], "leave --no-mergeable"), (["third.sock"], "one or two sockets")])
def test_wrong_options_of_net_are_told(folder, wrong, says):
    done = bench("net", folder / "nobody.sock", folder / "nobody.sock", *wrong)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_the_same_socket_twice_is_told(daemon, folder):
    (folder / "link").symlink_to(folder / "a.sock")
    for command, second in ("net", "a.sock"), ("net", "link"), ("scale", "d.sock"), ("fair", "d.sock"):
        first = "a.sock" if command == "net" else "d.sock"
        done = bench(command, folder / first, folder / second, "--timeout", 700)
        assert done.returncode == 1 and "this socket was given 2 times" in done.stderr, done.stderr
    done = bench("net", folder / "a.sock", folder / "b.sock", "--time", 1)
    assert done.returncode == 0 and daemon.poll() is None


@pytest.mark.parametrize("rate, options", [(20000, ["--backlog", 1, "--size", 9014, "--verify"]),
                                           (1000000000, ["--backlog", 10]), (1000000000, ["--both"])], ids=str)
@pytest.mark.alone
def test_each_frame_that_was_due_is_accounted_for_once(daemon, folder, rate, options):
    done = bench("net", folder / "a.sock", folder / "b.sock", "--rate", rate, *options, "--time", 1, "--json")
    got = json.loads(done.stdout)
    assert got["offered"] == got["sent"] + got["unsent"] + got["driver_late"]
    assert got["lost"] == got["sent"] + got["unsent"] - got["received"]
    if rate == 20000:  # the ring had room for 256 at any time, and a gap of 1 ms holds 20
        assert got["driver_late"] == 0
    else:
        assert got["offered"] > 500000000 and got["driver_late"] + got["unsent"] > 100000000 and done.returncode == 1
        assert ("not fast enough for" in done.stderr) == (got["driver_late"] > 0)
        assert ("frames were lost" in done.stderr) == (got["lost"] > 0)
    assert daemon.poll() is None


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("sockets, options", [("de", ["--attack", "full,loops,reconnect"]),
                                              ("abxy", ["--net", "--attack", "segments,tiny,regions"])])
def test_attacks_leave_the_others_at_work(daemon, folder, ring, sockets, options):
    done = bench("fair", *(folder / f"{s}.sock" for s in sockets), *options, "--ring", ring, "--pairs", 1, "--window",
                 50, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [r["attack"] for r in rows] == options[-1].split(",")
    assert all(r["calm"] > 0 and r["attacked"] > 0 and r["low"] == r["ratio"] == r["high"] for r in rows)
    assert daemon.poll() is None


@pytest.mark.parametrize("precision", [100, 1])
def test_a_ratio_is_measured_until_it_is_known_that_well(daemon, folder, precision):
    done = bench("fair", folder / "d.sock", folder / "e.sock", "--attack", "kicks", "--pairs", 8, "--window", 10, "--precision",
                 precision, "--json")
    row = json.loads(done.stdout)["rows"][0]
    assert row["low"] <= row["ratio"] <= row["high"] and 8 <= row["pairs"] <= 40
    assert row["pairs"] == 40 or (row["high"] - row["low"]) / 2 <= precision / 100 + 0.001


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("regions", [1, 3, 8])
def test_memory_comes_in_as_many_regions_as_asked_for(daemon, folder, ring, regions):
    done = bench("blk", folder / "d.sock", "--rw", "randwrite", "--verify", "--time", 1, "--regions", regions, "--ring",
                 ring, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] > 0
    assert daemon.poll() is None


def test_more_regions_and_queues_than_the_back_end_has_are_told(daemon, folder):
    done = bench("blk", folder / "d.sock", "--regions", 512)
    assert done.returncode == 1
    assert re.search(r"takes (\d+) memory regions; use --regions \1", done.stderr), done.stderr
    done = bench("blk", folder / "d.sock", "--queues", 3)
    assert done.returncode == 1 and "has 2 queues, and 3 were asked for" in done.stderr
    assert daemon.poll() is None


def test_a_listener_waits_for_so_long_and_takes_no_socket_that_is_there(daemon, folder):
    start = time.monotonic()
    done = bench("blk", folder / "mine.sock", "--listen", "--timeout", 300)
    assert done.returncode == 1 and "no back-end connected within 300 ms" in done.stderr
    assert 0.3 <= time.monotonic() - start < 10 and not (folder / "mine.sock").exists()
    done = bench("blk", folder / "d.sock", "--listen")
    assert done.returncode == 1 and "Address already in use; remove it" in done.stderr
    assert (folder / "d.sock").exists() and daemon.poll() is None


def test_a_back_end_that_dies_ends_the_run_with_a_sentence(daemon, folder):
    timer = threading.Timer(1, lambda: os.kill(daemon.pid, signal.SIGKILL))
    timer.start()
    done = bench("blk", folder / "d.sock", "--time", 30)
    timer.join()
    assert done.returncode == 1
    assert "hung up in the middle of the run" in done.stderr


def test_a_back_end_that_stands_still_is_given_up(daemon, folder):
    timer = threading.Timer(1, lambda: os.kill(daemon.pid, signal.SIGSTOP))
    timer.start()
    done = bench("blk", folder / "d.sock", "--time", 30, "--timeout", 700)
    timer.join()
    assert done.returncode == 1
    assert "no answer for 700 ms" in done.stderr


def test_nobody_at_the_socket_and_wrong_options_are_told(folder):
    done = bench("blk", folder / "nobody.sock")
    assert done.returncode == 1 and "is a back-end serving that socket" in done.stderr
    for wrong, says in ((["--bs", "1000"], "multiple of 512"), (["--rw", "scan"], "say read, write"),
                        (["--depth", "500"], "holds 256 requests"), (["--verify"], "use --rw write"),
                        (["--verify", "--rw", "flush"], "use --rw write"), (["--mix", "101"], "from 0 to 100"),
                        (["--rate", "0"], "from 1 to"), (["--arrival", "poisson"], "needs --rate"),
                        (["--arrival", "often", "--rate", "1"], "say constant or poisson"),
                        (["--fsync", "3"], "has no writes"), (["--trace-fast"], "needs --trace"),
                        (["--cpus", "0,x"], "say CPUs as 0,2-3"), (["--cpus", "1-0"], "say CPUs as 0,2-3"),
                        (["--cpus", "0", "--cpu", "0"], "say one of them"),
                        (["--threads", "2", "--cpus", "0"], "say as many"),
                        (["--threads", "4", "--queues", "2"], "queue of its own"),
                        (["--queue-size", "100"], "a power of 2"), (["--trace", "/nowhere"], "No such file"),
                        (["--regions", "0"], "from 1 to 512"), (["--cpu", "x"], "not a number"),
                        (["--rw", "randread", "--mix", "10"], "--mix 10: --rw randread is no mix"),
                        (["--rw", "flush", "--bs", "4K"], "--bs 4096: a flush has no bytes"),
                        (["--trace", "/nowhere", "--bs", "4K"], "leave --rw, --bs, --mix"),
                        (["--time"], "--time needs a value; see sluice-bench blk --help"),
                        (["--json=3"], "--json takes no value"), (["-x"], "-x: blk has no such option"),
                        (["--rate", "2000001k"], "from 1 to 1000000000"),
                        (["--dept=3"], "--dept: blk has no such option")):
        done = bench("blk", folder / "nobody.sock", *wrong)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("sluice-bench: ")
    for wrong, says in ((["--attack", "nonsense"], "no such attack"), (["--net"], "takes 4 sockets or more of cards"),
                        (["--queues", "2"], "--queues: fair has no such option"),
                        (["--time", "60"], "--time: fair has no such option")):
        done = bench("fair", folder / "nobody.sock", folder / "nobody.sock", *wrong)
        assert done.returncode == 2 and says in done.stderr


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="qemu-storage-daemon is not installed")
def test_another_projects_back_end_is_driven_too(folder):
    socket = folder / "qsd.sock"
    (folder / "image").write_bytes(bytes(16 << 20))
    with running(["qemu-storage-daemon", "--blockdev", f"driver=file,filename={folder}/image,node-name=d",
                  "--export", f"type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=unix,"
                              f"addr.path={socket}"]) as process:
        wait_for(socket, process)
        done = bench("blk", socket, "--rw", "randwrite", "--verify", "--time", 1, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verified"] > 0
        done = bench("blk", socket, "--ring", "packed")
        assert done.returncode == 1 and "does not offer VIRTIO_F_RING_PACKED; use --ring split" in done.stderr


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("size", [60, 1514])
def test_the_floor_copies_every_byte_both_ways(folder, ring, size):
    sockets = [folder / "a", folder / "b"]
    with running([BUILD / "bench/ring/net-floor", *sockets]) as process:
        wait_for(sockets[1], process)
        done = bench("net", *sockets, "--ring", ring, "--size", size, "--both", "--verify", "--time", 1, "--no-indirect",
                     "--no-event-idx", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["received"] > 0
        assert process.wait(20) == 0  # it ends with its front-ends


def on_blk_floor(folder, *options, drive):
    """What sluice-bench blk says of the floor of the disks."""
    with running([BUILD / "bench/ring/blk-floor", *options, folder / "f.sock"]) as process:
        wait_for(folder / "f.sock", process)
        done = bench("blk", folder / "f.sock", "--no-event-idx", "--time", 1, "--json", *drive)
        assert process.wait(20) == 0  # it ends with its front-end
        return done


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("more", [[], ["--queues", 4, "--bs", "64K"]], ids=["one queue", "queues"])
def test_the_floor_of_disks_keeps_each_write_in_ram(folder, ring, more):
    done = on_blk_floor(folder, "--size", 64, drive=["--rw", "randrw", "--verify", "--ring", ring, *more])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verified"] > 0 and found["writes"] > 0


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_the_floor_of_null_disks_keeps_nothing_and_reads_give_zeros(folder, ring):
    done = on_blk_floor(folder, "--null", drive=["--rw", "randread", "--ring", ring])
    assert done.returncode == 0 and json.loads(done.stdout)["requests"] > 0, done.stderr
    (folder / "f.sock").unlink()
    done = on_blk_floor(folder, "--null", drive=["--rw", "randwrite", "--verify", "--size", "1M", "--ring", ring])
    assert done.returncode == 1 and "is zeroed, though write" in done.stderr


def test_the_floor_of_disks_has_the_size_that_is_said(folder):
    done = on_blk_floor(folder, "--size", 1, drive=["--size", "2M"])
    assert done.returncode == 1 and "but the disk has 1048576 bytes" in done.stderr


def test_the_ring_benchmark_runs_every_row():
    done = subprocess.run([BUILD / "bench/ring/ring-bench", "--runs", "1", "--rounds", "2", "--json"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len({r["name"] for r in rows}) == len(rows) > 20 and "row " not in done.stderr


def test_the_ring_benchmark_tells_its_progress_when_asked():
    done = subprocess.run([BUILD / "bench/ring/ring-bench", "--runs", "1", "--rounds", "2", "--only", "log", "--progress"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    assert done.returncode == 0 and "row " not in done.stdout
    assert re.findall(r"^row \d+ of \d+: (\w+), batch 32, chain 1, log$", done.stderr, re.M) == ["split", "packed"]


def test_the_iotlb_benchmark_runs_every_row_and_tells_its_progress_when_asked():
    command, start = [BUILD / "bench/ring/iotlb-bench", "--runs", "1", "--rounds", "2", "--json"], time.monotonic()
    done = subprocess.run([*command, "--progress"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100,
                          check=False)
    assert done.returncode == 0, done.stderr
    rows = [r["table"] for r in json.loads(done.stdout)["rows"]]
    assert len(rows) >= 5
    assert done.stderr.splitlines() == [f"row {i + 1} of {len(rows)}: {r}" for i, r in enumerate(rows)]
    # Without, for long enough for some of the rows.
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait((time.monotonic() - start) / 3)
        process.kill()
        assert process.stderr.read() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("verify", [[], ["--verify"]], ids=["write", "verify"])
def test_requests_that_fail_are_no_work_done_and_nothing_to_compare(folder, verify):
    place = folder / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=777", "tmpfs", place], check=True)
    try:
        with open(place / "disk", "wb") as f:
            f.truncate(64 << 20)
        (place / "disk").chmod(0o666)
        with running([BUILD / "daemon/sluiced", "blk", "--socket-path", folder / "f.sock", "--blk-file",
                      place / "disk", "--log-level", "error"]) as process:
            wait_for(folder / "f.sock", process)
            done = bench("blk", folder / "f.sock", "--rw", "write", "--bs", "64K", "--time", 1, "--json", *verify)
        data = json.loads(done.stdout)
        assert done.returncode == 1 and "the first request that failed" in done.stderr
        # 1 of 64 MiB has room.
        assert 0 < data["requests"] < data["errors"] / 10
        assert data["verified"] >= data["requests"] if verify else data["verified"] == 0
    finally:
        subprocess.run(["umount", "-l", place], check=True)
