# SPDX-License-Identifier: Apache-2.0
"""sluice-bench blk: workloads, open loops, traces, threads, and back-ends that lie."""
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import running
from test_bench import BENCH, BUILD, bench, fixture_folder, wait_for  # noqa: F401 pylint: disable=unused-import

DAEMON = BUILD / "daemon/sluiced"
LIAR = Path(__file__).resolve().parent / "liar.py"
RINGS = pytest.mark.parametrize("ring", ["split", "packed"])


@pytest.fixture(name="disks")
def fixture_disks(folder):
    """n: null, r: RAM, f: a file on the disk, t: a file in memory; four queues each."""
    for path in (folder / "image", Path("/dev/shm") / folder.name):
        path.write_bytes(b"\xff" * (16 << 20))
        path.chmod(0o666)
    what = {"n": {"null": "1G"}, "r": {"ram": "16M"}, "f": {"file": f"{folder}/image"},
            "t": {"file": f"/dev/shm/{folder.name}"}}
    config = {"control": {"socket": f"{folder}/control.sock"},
              "disks": [{"name": n, "socket": f"{folder}/{n}.sock", "queues": 4, **w} for n, w in what.items()]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([DAEMON, "--config", folder / "c.yaml", "--log-level", "error"]) as process:
        wait_for(folder / "t.sock", process)
        yield {n: folder / f"{n}.sock" for n in what}
        assert process.poll() is None
    (Path("/dev/shm") / folder.name).unlink()


def measured(*arguments):
    done = bench("blk", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("ring, disk, rw, counts", [
    ("split", "f", "flush", "flushes"), ("packed", "t", "flush", "flushes"), ("split", "t", "discard", "discards"),
    ("packed", "f", "randdiscard", "discards"), ("split", "r", "writezeroes", "writezeroes"),
    ("packed", "f", "randwritezeroes", "writezeroes")])
def test_requests_other_than_reads_and_writes_are_served(disks, ring, disk, rw, counts):
    got = measured(disks[disk], "--rw", rw, "--ring", ring, "--time", 1)
    assert got["requests"] == got[counts] > 100 and got["errors"] == 0
    assert set(got["latency_us_of"]) == {"flush" if rw == "flush" else rw.replace("rand", "")}
    assert got["bs"] == (0 if rw == "flush" else 4096)


@pytest.mark.parametrize("options, first, second", [
    ([], "randread, 4096 bytes, depth 32, 1 queue, 1 thread, closed loop", "split, 256 descriptors, indirect, event_idx, driver polls"),
    (["--rw", "flush", "--rate", 1000, "--ring", "packed", "--no-indirect", "--queue-size", 100, "--sleep", "--in-order"],
     "flush, depth 32, 1 queue, 1 thread, open loop", "packed, 100 descriptors, event_idx, in_order, driver sleeps")], ids=str)
def test_what_was_driven_and_by_which_ring_is_told(disks, options, first, second):
    done = bench("blk", disks["n"], "--time", 1, *options)
    assert done.stdout.startswith(f"{first}\nring           {second}\nrequests "), done.stdout + done.stderr


@pytest.mark.parametrize("ring, rw, every", [("split", "randwrite", 1), ("packed", "write", 7),
                                             ("split", "randrw", 16)])
def test_a_flush_follows_so_many_writes(disks, ring, rw, every):
    got = measured(disks["r"], "--rw", rw, "--fsync", every, "--ring", ring, "--time", 1)
    assert got["flushes"] > 100
    # Exact but for those in flight at either end.
    assert abs(got["writes"] - got["flushes"] * every) <= 32 * (every + 1)


@pytest.mark.parametrize("ring, disk, rw", [
    ("split", "r", "randrw"), ("packed", "r", "write"), ("packed", "f", "randrw"), ("split", "f", "write"),
    ("packed", "t", "randwritezeroes"), ("split", "t", "randrw")])
def test_what_is_read_is_what_was_written_last(disks, ring, disk, rw):
    got = measured(disks[disk], "--rw", rw, "--verify", "--ring", ring, "--threads", 2, "--queues", 3, "--regions", 5,
                   "--fsync" if rw != "randwritezeroes" else "--depth", 16, "--size", "8M", "--time", 1)
    assert got["errors"] == 0 and got["verified"] > got["requests"] / 2 > 50


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_have_queues_of_their_own(disks, threads):
    got = measured(disks["n"], "--threads", threads, "--queues", 4, "--time", 1, "--cpus", ",".join("0" * threads))
    assert got["threads"] == threads and got["queues"] == 4 and got["requests"] > 1000
    assert measured(disks["n"], "--threads", threads, "--time", 1)["queues"] == threads


@pytest.mark.parametrize("options", [[], ["--arrival", "poisson"], ["--sleep"], ["--threads", 2]], ids=str)
def test_an_open_loop_keeps_its_rate(disks, options):
    got = measured(disks["n"], "--rate", 2000, "--time", 1, *options)
    assert got["loop"] == "open"
    # Poisson: 2000 +- 45. What is unsent was due when the machine had taken the driver's CPU away at the end.
    assert 1700 < (got["requests"] + got["unsent"]) / got["seconds"] < 2300
    assert got["requests"] > 0


@RINGS
@pytest.mark.parametrize("rate", [[], ["--rate", 1000]], ids=["closed", "open"])
def test_a_stall_counts_for_each_request_that_it_made_late(folder, ring, rate):
    """The back-end stands still for 0.5 of 3 s. A closed loop of depth 1 sees one slow request; of an open loop's a sixth was
    due meanwhile."""
    config = {"control": {"socket": f"{folder}/control.sock"},
              "disks": [{"name": "n", "socket": f"{folder}/n.sock", "null": "1G"}]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([DAEMON, "--config", folder / "c.yaml", "--log-level", "error"]) as daemon:
        wait_for(folder / "n.sock", daemon)
        arguments = [str(a) for a in (BUILD / "bench/sluice-bench", "blk", folder / "n.sock", "--depth", 1, "--time", 3,
                                      "--ring", ring, *rate, "--json", "--progress")]
        with running(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            assert "measuring" in driver.stderr.readline()
            daemon.send_signal(19)
            time.sleep(0.5)
            daemon.send_signal(18)
            got = json.loads(driver.communicate(timeout=30)[0])
    assert got["latency_us"]["max"] > 400000
    if rate:
        # Those due in the first 0.4 s of it waited for 0.1 s or more.
        assert got["latency_us"]["p90"] > 100000 and got["latency_us"]["mean"] > 20000
    else:
        assert got["latency_us"]["p90"] < 100000


def test_a_warm_up_is_not_measured(disks):
    start = time.monotonic()
    got = measured(disks["n"], "--rate", 1000, "--warmup", 2, "--time", 1)
    assert 0.9 < got["seconds"] < time.monotonic() - start - 1.9
    assert 0 < got["requests"] < 1000 * (got["seconds"] + 1)


def test_progress_is_told_on_standard_error_and_only_when_asked_for(disks):
    done = bench("blk", disks["n"], "--time", 2, "--warmup", 2, "--progress", "--json")
    lines = done.stderr.splitlines()
    assert json.loads(done.stdout)["requests"] > 0
    assert any("warming up" in x for x in lines) and any("measuring" in x for x in lines)
    assert all("requests/s, steal" in x for x in lines)
    assert bench("blk", disks["n"], "--time", 1, "--json").stderr == ""


@RINGS
def test_percentiles_go_to_five_nines(disks, ring):
    got = measured(disks["n"], "--ring", ring, "--time", 1)["latency_us"]
    names = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "p99.999", "max"]
    assert [got[n] for n in names] == sorted(got[n] for n in names) and set(got) == {*names, "mean"}
    assert got["min"] <= got["mean"] <= got["max"]


OWN = """# microseconds, what, byte, bytes
0 write 0 4096
1000 read 0 4096   # at once
1000 flush
300000 discard 8192 65536
500000 writezeroes 1048576 1048576
"""
FIO2 = """fio version 2 iolog
/dev/x add
/dev/x open
/dev/x write 0 4096
/dev/x wait 400000
/dev/x read 0 4096
/dev/x sync 0 0
/dev/x wait 100000
/dev/x trim 8192 65536
/dev/x close
"""
FIO3 = """fio version 3 iolog
0 /dev/x add
1 /dev/x open
2 /dev/x write 0 4096
302 /dev/x read 0 4096
302 /dev/x datasync 0 0
502 /dev/x trim 8192 65536
503 /dev/x close
"""
BLKPARSE = """  8,0    1        1     0.000000000   697  Q  WS 8 + 8 [dd]
  8,0    1        2     0.000001000   697  D  WS 8 + 8 [dd]
  8,0    1        3     0.200001000   697  D   R 8 + 8 [dd]
  8,0    1        4     0.200001000   697  D  FN [dd]
  8,0    1        5     0.500001000   697  D  DS 16 + 128 [dd]
  8,0    1        6     0.500101000     0  C  DS 16 + 128 [0]
CPU1 (8,0):
 Reads Queued:           1,        4KiB  Writes Queued:           1,        4KiB
"""


@RINGS
@pytest.mark.parametrize("text, zeroes", [(OWN, 1), (FIO2, 0), (FIO3, 0), (BLKPARSE, 0)],
                         ids=["own", "fio 2", "fio 3", "blkparse"])
def test_a_trace_is_replayed_at_its_times_or_at_once(disks, folder, ring, text, zeroes):
    (folder / "trace").write_text(text)
    for fast in False, True:
        got = measured(disks["r"], "--trace", folder / "trace", "--ring", ring, *["--trace-fast"] * fast)
        assert [got[n] for n in ("reads", "writes", "flushes", "discards", "writezeroes")] == [1, 1, 1, 1, zeroes]
        assert got["requests"] == 4 + zeroes and got["errors"] == got["unsent"] == 0
        assert got["loop"] == ("closed" if fast else "open")
        if fast:  # unless the machine stood still
            again = (measured(disks["r"], "--trace", folder / "trace", "--ring", ring, "--trace-fast") for _ in range(5))
            assert got["seconds"] < 0.4 or any(a["seconds"] < 0.4 for a in again)
        else:
            assert got["seconds"] > 0.49


def test_a_trace_is_shared_by_threads_and_cut_off_by_time(disks, folder):
    (folder / "trace").write_text("".join(f"{i * 1000} read {i * 4096} 4096\n" for i in range(1500)))
    got = measured(disks["r"], "--trace", folder / "trace", "--threads", 3)
    assert got["reads"] == 1500
    got = measured(disks["r"], "--trace", folder / "trace", "--time", 1)
    assert 800 < got["reads"] + got["unsent"] < 1400


@pytest.mark.skipif(not shutil.which("fio"), reason="no fio")
def test_a_log_that_fio_wrote_is_replayed(disks, folder):
    subprocess.run(["fio", "--name=x", f"--filename={folder}/fio", "--size=1M", "--rw=randrw", "--bs=4k", "--fsync=8",
                    f"--write_iolog={folder}/log"], check=True, stdout=subprocess.DEVNULL)
    written = [x.split() for x in (folder / "log").read_text().splitlines()]
    got = measured(disks["r"], "--trace", folder / "log", "--trace-fast")
    assert got["reads"] == sum("read" in x for x in written) > 10
    assert got["writes"] == sum("write" in x for x in written) > 10
    assert got["flushes"] == sum("sync" in x or "datasync" in x for x in written)


@pytest.mark.parametrize("text, says", [
    ("", "no requests in it"), ("# nothing\n", "no requests in it"), ("0 read 0\n", "line 1: no length"),
    ("0 scan 0 512\n", "line 1: not read, write"), ("x read 0 512\n", "line 1: no time"),
    ("0 read 0 512\n0 read 1 512\n", "line 2: offset and length"), ("0 read 0 0\n", "and no length 0"),
    ("0 read 0 33554432\n", "more than 16 MiB"), ("5 read 0 512\n4 read 0 512\n", "line 2: its time is before"),
    ("0 read -512 512\n", "no offset"), ("0 read 18446744073709551104 512\n", "beyond all disks"),
    ("fio version 1 iolog\n", "version 2 and 3"),
    ("fio version 2 iolog\nx read 0 512\ny read 0 512\n", "a second file"),
    ("0 read 16777216 4096\n", "but the disk has 16777216"), ("y" * 9000, "is this a trace")])
def test_a_bad_trace_is_told_with_its_line(disks, folder, text, says):
    (folder / "trace").write_text(text)
    done = bench("blk", disks["r"], "--trace", folder / "trace")
    assert done.returncode in (1, 2) and says in done.stderr, done.stderr


@RINGS
def test_a_back_end_that_connects_is_listened_for(folder, ring):
    config = {"control": {"socket": f"{folder}/control.sock"},
              "disks": [{"name": "r", "socket": f"{folder}/mine.sock", "connect": True, "ram": "16M"}]}
    (folder / "c.yaml").write_text(json.dumps(config))
    with running([BENCH, "blk", folder / "mine.sock", "--listen", "--timeout", 20000, "--ring", ring, "--rw", "randrw",
                  "--verify", "--time", 1, "--json"], stdout=subprocess.PIPE, text=True) as driver:
        wait_for(folder / "mine.sock", driver)
        with running([DAEMON, "--config", folder / "c.yaml", "--log-level", "error"]):
            got = json.loads(driver.communicate(timeout=30)[0])
    assert got["verified"] > 100 and got["backend_cpu_s"] > 0


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="qemu-storage-daemon is not installed")
def test_qemu_storage_daemon_is_driven_with_all_of_it(folder):
    (folder / "image").write_bytes(bytes(16 << 20))
    socket = folder / "q.sock"
    with running(["qemu-storage-daemon", "--blockdev",
                  f"driver=file,filename={folder}/image,node-name=d,discard=unmap", "--export",
                  "type=vhost-user-blk,id=e,node-name=d,writable=on,num-queues=2,addr.type=unix,"
                  f"addr.path={socket}"]) as process:
        wait_for(socket, process)
        got = measured(socket, "--rw", "randrw", "--verify", "--threads", 2, "--fsync", 16, "--regions", 4,
                       "--warmup", 1, "--time", 1)
        assert got["verified"] > 50 and got["flushes"] > 0 and got["backend_cpu_s"] > 0
        assert measured(socket, "--rw", "randwritezeroes", "--verify", "--time", 1)["verified"] > 50
        assert measured(socket, "--rw", "discard", "--time", 1)["discards"] > 50
        got = measured(socket, "--rate", 500, "--arrival", "poisson", "--queues", 2, "--sleep", "--time", 1)
        assert 300 < got["requests"] + got["unsent"] < 700
        for wrong, says in ((["--regions", 60], "takes 32 memory regions"), (["--queues", 3], "has 2 queues")):
            done = bench("blk", socket, *wrong)
            assert done.returncode == 1 and says in done.stderr


@pytest.fixture(name="liar")
def fixture_liar(folder):
    processes = []

    def start(lie):
        processes.append(subprocess.Popen([sys.executable, LIAR, folder / "liar.sock", lie]))
        wait_for(folder / "liar.sock", processes[0])
        return folder / "liar.sock"
    yield start
    for process in processes:
        process.kill()
        process.wait()


def against(socket, ring, *options, timeout=40):
    """The liar's disk, of which 128 KiB are used so that all of it is written again and again."""
    return bench("blk", socket, "--ring", ring, "--no-indirect", "--no-event-idx", "--depth", 4, "--size", "128K",
                 "--timeout", 1500, *options, timeout=timeout)


@RINGS
def test_an_honest_back_end_passes(liar, ring):
    """So that the lies below are what is found. Its segments are at most 1536 bytes, so each block takes three."""
    done = against(liar("none"), ring, "--rw", "randrw", "--verify", "--time", 1, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["verified"] > 300 and got["requests"] > 300


def plainly(socket, ring, depth):
    return bench("blk", socket, "--ring", ring, "--depth", depth, "--size", "128K", "--rw", "randwrite", "--verify",
                 "--timeout", 1500, "--time", 1, "--json")


@RINGS
def test_what_a_back_end_does_not_offer_is_left_out_as_a_guest_would_and_told(liar, ring):
    done = plainly(liar("none"), ring, 4)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["verified"] > 50 and int(got["features"], 0) >> 28 & 3 == 0
    for name, option in (("INDIRECT_DESC", "no-indirect"), ("EVENT_IDX", "no-event-idx")):
        assert f"does not offer VIRTIO_F_{name}: driven without it, as with --{option}" in done.stderr


def test_a_back_end_that_knows_nothing_of_several_queues_has_one(liar):
    done = against(liar("none"), "split", "--queues", 2, "--time", 1)
    assert done.returncode == 1 and "the back-end has 1 queue, and 2 were asked for: use fewer --queues" in done.stderr, done.stderr


@RINGS
def test_requests_that_a_ring_without_tables_does_not_hold_are_told(liar, ring):
    done = plainly(liar("none"), ring, 128)
    assert done.returncode == 1 and "a ring of 256 holds 85 requests of three descriptors" in done.stderr, done.stderr


@pytest.mark.parametrize("config", ["no offset", "brief", "whole 36", "whole 60", "whole 72", "whole 96",
                                    "no size_max"])
def test_the_configuration_is_read_of_back_ends_that_know_no_offset_or_one_size_alone(liar, config):
    """libvhost-user and SPDK ignore the offset; rust-vmm's answer their own size alone; and some have less to tell."""
    done = against(liar(f"config: {config}"), "split", "--rw", "randwrite", "--verify", "--time", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] > 50


@pytest.mark.parametrize("config, says", [
    ("no offset", "a discard of the back-end's is at most 32768 bytes"),
    ("whole 60", "a discard of the back-end's is at most 32768 bytes"),
    ("brief", "ends after 36 bytes, before max_discard_sectors"), ("tiny", "ends after 4 bytes, before capacity"),
    ("none", "refused to read its configuration")])
def test_what_the_configuration_does_not_tell_is_not_guessed(liar, config, says):
    done = against(liar(f"config: {config}"), "split", "--rw", "discard", "--bs", "64K", "--time", 1)
    assert done.returncode == 1 and says in done.stderr, done.stderr


@RINGS
@pytest.mark.parametrize("lie, says", [
    ("id", "used id"), ("range", "used id 65520 is not outstanding"), ("long", "of 1 writable bytes"),
    ("short", "used length 0"), ("status", "no status was written"), ("twice", "broke a rule"),
    ("silent", "no answer for 1500 ms"), ("lost", "no answer for 1500 ms"), ("err", "signalled an error of queue 0"),
    ("hangup", "hung up in the middle of the run")])
def test_a_back_end_that_breaks_a_rule_ends_the_run_with_a_sentence(liar, ring, lie, says):
    done = against(liar(lie), ring, "--rw", "randwrite", "--time", 300, timeout=120)  # it does not wait for the end
    assert done.returncode == 1 and says in done.stderr, done.stderr


@RINGS
def test_a_call_that_never_comes_is_told_from_a_slow_request(liar, ring):
    done = against(liar("nocall"), ring, "--sleep", "--time", 300, timeout=120)
    assert done.returncode == 1 and "chains were used, but no call came" in done.stderr, done.stderr


@RINGS
def test_a_status_that_virtio_does_not_know_is_a_failed_request(liar, ring):
    done = against(liar("strange"), ring, "--time", 1)
    assert done.returncode == 1 and "status 9 (not one that virtio knows)" in done.stderr, done.stderr


@RINGS
@pytest.mark.parametrize("rw, lie, says", [
    ("randwrite", "stale", "stale: the sector at byte"), ("randwrite", "torn", "torn: the sector at byte"),
    ("randwrite", "damaged", "fails its CRC"), ("randwrite", "misread", "misplaced: the sector at byte"),
    ("randrw", "clobber", "misplaced: the sector at byte"), ("randwrite", "clobber", "misplaced: the sector at byte")])
def test_data_that_is_wrong_is_found_and_named(liar, ring, rw, lie, says):
    done = against(liar(lie), ring, "--rw", rw, "--verify", "--time", 1)
    assert done.returncode == 1 and says in done.stderr, done.stderr
