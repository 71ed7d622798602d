# SPDX-License-Identifier: Apache-2.0
"""scripts/bench.py: its page, benchmarks that fail, the zram device that it makes; and the cross-check with virtio-user."""
import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="no python3-yaml")
ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["SLUICE_BUILD"]).resolve()
sys.path.insert(0, str(ROOT / "scripts"))
import bench as page  # noqa: E402 pylint: disable=wrong-import-position
import bench_cross as cross  # noqa: E402 pylint: disable=wrong-import-position
import bench_workers as workers  # noqa: E402 pylint: disable=wrong-import-position
import virtio_user  # noqa: E402 pylint: disable=wrong-import-position

RINGS = pytest.mark.parametrize("ring", ["split", "packed"])
needs_zram = pytest.mark.skipif(os.geteuid() != 0 or not Path("/sys/class/zram-control").exists(), reason="no zram, or not root")
needs_testpmd = pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")


@pytest.fixture(name="doc")
def fixture_doc(tmp_path, monkeypatch):
    file = tmp_path / "page.md"
    file.write_text("# Page\n<!-- a: begin -->\nold a\n<!-- a: end -->\nbetween\n<!-- b: begin -->\nold b\n<!-- b: end -->\nend\n")
    monkeypatch.setattr(page, "DOC", file)
    monkeypatch.setattr(page, "machine", lambda: "machine")
    return file


def options_of(**more):
    return argparse.Namespace(**{"build": BUILD, "write": True, "quick": True, **more})


def test_each_benchmark_has_a_place_in_the_page():
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    places = re.findall(r"<!-- ([\w-]+): begin -->\n", text)
    assert sorted(places) == sorted(page.BENCHES)
    for name in places:
        assert text.index(f"<!-- {name}: begin -->\n") < text.index(f"<!-- {name}: end -->")


def test_the_page_names_the_commit_and_a_change_of_docs_does_not_make_it_dirty(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                       stdout=subprocess.DEVNULL)
    assert page.commit_of(tmp_path) == "?"
    git("init", "-q")
    (tmp_path / "docs").mkdir()
    for name in ("docs/page.md", "code.c"):
        (tmp_path / name).write_text("a")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = page.commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "docs/page.md").write_text("b")
    assert page.commit_of(tmp_path) == clean
    (tmp_path / "code.c").write_text("b")
    assert page.commit_of(tmp_path) == clean + "-dirty"


@pytest.mark.parametrize("name, quick, left", [
    ("cards", False, ["split, 60 bytes", "split, 1514 bytes", "packed, 60 bytes", "packed, 1514 bytes"]),
    ("cards", True, ["split, 60 bytes"]),
    ("file", False, ["randread, depth 1", "randread, depth 32", "randread, depth 128", "randwrite, depth 1", "randwrite, depth 128"]),
    ("file", True, ["randread, depth 1"]),
    ("tso", False, ["split", "packed"])])
def test_what_of_a_recipe_is_measured_for_the_page(name, quick, left):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one CPU, and they pin to two")
    assert list(page.chosen(name, page.recipe.load(page.recipe.find(name)).workloads, quick)) == left


def test_a_table_takes_the_place_of_the_old_one_and_of_nothing_else(doc):
    page.write("a", ["new a"])
    assert doc.read_text() == ("# Page\n<!-- a: begin -->\n\nmachine.\n\nnew a\n\n<!-- a: end -->\nbetween\n"
                               "<!-- b: begin -->\nold b\n<!-- b: end -->\nend\n")
    with pytest.raises(page.Failure, match="no place for c"):
        page.write("c", ["x"])


@pytest.mark.parametrize("why", [page.Failure("it did not"), OSError(errno.ENOSPC, "no space"), ValueError("not JSON")])
def test_a_benchmark_that_fails_keeps_its_old_table_and_the_others_go_on(doc, monkeypatch, capsys, why):
    def fails(_options):
        raise why
    monkeypatch.setattr(page, "BENCHES", {"a": fails, "b": lambda _options: ["new b"]})
    monkeypatch.setattr(sys, "argv", ["bench.py", "--write"])
    with pytest.raises(SystemExit) as end:
        page.main()
    assert end.value.code == "failed: a"
    assert "old a" in doc.read_text() and "new b" in doc.read_text() and "old b" not in doc.read_text()
    assert "a: FAILED: " in capsys.readouterr().err


@pytest.mark.parametrize("command, says", [
    (["no-such-program"], "no-such-program: No such file"), (["false"], "false: exit code 1"),
    (["sleep", "30"], "sleep did not end within 0.1 s")])
def test_a_program_that_cannot_be_run_or_fails_or_hangs_is_a_failure_with_a_sentence(monkeypatch, command, says):
    monkeypatch.setattr(page, "COMMAND_TIMEOUT_S", 0.1)
    with pytest.raises(page.Failure, match=says):
        page.output(*command)


def test_a_daemon_that_does_not_start_is_told_with_what_it_said(tmp_path):
    (tmp_path / "daemon").mkdir()
    (tmp_path / "daemon/sluiced").write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    (tmp_path / "daemon/sluiced").chmod(0o755)
    with pytest.raises(page.Failure, match="sluiced did not start: no such luck"):
        page.Daemon(tmp_path, str(tmp_path))


def test_a_peer_that_is_not_installed_is_named_in_the_table_of_scale(monkeypatch):
    row = {"start_ms": 1, "first_request_us": {"p50": 1, "p99": 1}, "anon_kib_none": 1, "anon_kib_all": 2, "devices": 1,
           "idle_cpu_s": 0, "idle_s": 1, "wake_us": {"p50": 1, "p99": 1}, "one_busy": 1, "all_busy": 1, "least": 1, "most": 1}
    monkeypatch.setattr(page, "scale", lambda *_, **__: row)
    for there in (None, "/usr/bin/qemu-storage-daemon"):
        monkeypatch.setattr(page.shutil, "which", lambda _, there=there: there)
        lines = page.bench_scale(options_of(write=False))
        assert any("qemu-storage-daemon (not installed)" in x for x in lines) == (there is None)


@needs_zram
@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_a_zram_device_is_full_of_what_half_compresses_and_is_gone_afterwards(monkeypatch, fails):
    monkeypatch.setattr(page, "ZRAM_BYTES", 8 << 20)
    node = None
    try:
        with page.zram() as node:
            data = node.read_bytes()
            if fails:
                raise KeyError("the benchmark")
    except KeyError:
        assert fails
    assert len(data) == 8 << 20 and data[2048:4096] == bytes(2048) and len(set(data[:2048])) > 100
    assert not node.exists() and not Path("/sys/block", node.name).exists()


@needs_zram
def test_a_zram_device_that_is_still_open_is_waited_for(monkeypatch):
    monkeypatch.setattr(page, "ZRAM_BYTES", 1 << 20)
    with page.zram() as node:
        held = os.open(node, os.O_RDONLY)
        late = threading.Timer(0.5, os.close, [held])
        late.start()
        since = time.monotonic()
    assert time.monotonic() - since > 0.4 and not Path("/sys/block", node.name).exists()
    late.join()


def test_where_no_zram_device_can_be_made_its_benchmark_is_skipped_with_the_reason(monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "/sys/class/zram-control/hot_add")
    monkeypatch.setattr(page, "zram", refused)
    assert page.bench_device(options_of()) == [
        "Skipped: no zram device could be made: /sys/class/zram-control/hot_add: Permission denied."]

    def other(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere")
    monkeypatch.setattr(page, "zram", other)
    with pytest.raises(OSError):
        page.bench_device(options_of())


STOPPED = """
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 5              RX-dropped: 0             RX-total: 5
  TX-packets: 5              TX-dropped: 0             TX-total: 5
  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 120            RX-dropped: 0             RX-total: 120
  TX-packets: 117            TX-dropped: 3             TX-total: 120
"""


def test_the_total_of_both_ports_is_taken_from_what_testpmd_says():
    assert virtio_user.received(STOPPED) == 120
    with pytest.raises(virtio_user.VirtioUserFailure, match="dpdk-testpmd: a / EAL: no"):
        virtio_user.received("a\nEAL: no\n")


@needs_testpmd
@RINGS
def test_virtio_user_drives_the_switch_and_leaves_nothing(ring, monkeypatch, tmp_path):
    monkeypatch.setattr(cross.tempfile, "tempdir", str(tmp_path))
    runtime = Path("/var/run/dpdk/u")
    assert cross.one(BUILD, "theirs", ring, 60, 0.5) > 100
    assert list(tmp_path.iterdir()) == [] and not runtime.exists()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [c for c in children if Path(f"/proc/{c}/comm").read_text().startswith(("dpdk-testpmd", "sluiced"))]


@RINGS
def test_a_testpmd_that_gives_up_is_told_with_what_it_said(ring, monkeypatch, tmp_path):
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "dpdk-testpmd").write_text("#!/bin/sh\necho EAL: no memory today\nexit 1\n")
    (fake / "dpdk-testpmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    with pytest.raises(cross.CrossFailure, match="EAL: no memory today"):
        cross.one(BUILD, "theirs", ring, 60, 0.5)


def test_without_testpmd_the_cross_check_is_skipped_by_name(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert cross.bench(options_of(), lambda text: None) == ["Skipped: not installed: dpdk-testpmd, stdbuf."]


def test_ratios_of_the_cross_check_are_of_the_rounds(monkeypatch):
    rates = iter([1e6, 1e6, 2e6, 1e6, 4e6, 1e6] * 4)
    monkeypatch.setattr(virtio_user, "missing", lambda: [])
    monkeypatch.setattr(cross, "one", lambda *_: next(rates))
    lines = cross.bench(options_of(quick=False), lambda text: None)
    assert lines[2] == "| split, 60 bytes | 2.00 | 1.00 | 2.00 | 1.00 | 4.00 |" and len(lines) == 6


def test_a_cross_check_that_fails_and_workers_that_cannot_be_measured_keep_their_old_tables(doc, monkeypatch, capsys):
    def fails(*_):
        raise why("sluiced did not start")
    monkeypatch.setattr(virtio_user, "missing", lambda: [])
    monkeypatch.setattr(cross, "one", fails)
    monkeypatch.setattr(workers, "measure", fails)
    before = doc.read_text()
    for why, bench in ((cross.CrossFailure, "cross"), (workers.WorkersFailure, "workers")):
        with monkeypatch.context() as patched:
            patched.setattr(page, "BENCHES", {"a": page.BENCHES[bench]})
            assert list(page.run_all(["a"], options_of())) == ["a"] and doc.read_text() == before
    said = capsys.readouterr().err
    assert "a: FAILED: split, 60 bytes: sluiced did not start" in said and "a: FAILED: 1 workers: sluiced did not start" in said


def test_the_table_of_what_this_machine_cannot_run_stays(monkeypatch, tmp_path):
    doc = tmp_path / "page.md"
    before = "<!-- cross: begin -->\nold\n<!-- cross: end -->\n"
    doc.write_text(before)
    monkeypatch.setattr(page, "DOC", doc)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(page, "machine", lambda: "a machine")
    assert not page.run_all(["cross"], options_of()) and doc.read_text() == before


def test_the_script_tells_its_options_and_what_it_does_not_know():
    script = [sys.executable, str(ROOT / "scripts/bench.py")]
    done = subprocess.run([*script, "--help"], stdout=subprocess.PIPE, text=True, check=True)
    assert all(name in done.stdout for name in page.BENCHES)
    done = subprocess.run([*script, "rings"], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "no such benchmark: rings" in done.stderr


@pytest.mark.parametrize("cpus, rows", [(1, [1]), (2, [1]), (4, [1, 2]), (6, [1, 2, 3]), (64, [1, 2, 4, 8, 16, 32])])
def test_each_worker_and_each_thread_of_the_driver_has_a_cpu(cpus, rows):
    assert workers.numbers(cpus) == rows


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_two_workers_serve_a_queue_each():
    cpus = sorted(os.sched_getaffinity(0))[:2]
    got = workers.measure(BUILD, 2, cpus, cpus, 1)
    assert got["threads"] == got["queues"] == 2 and got["requests"] > 100
