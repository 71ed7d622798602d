# SPDX-License-Identifier: Apache-2.0
"""sluice-bench compare: recipes and what is wrong with them, back-ends that fail, order and ratios; real peers."""
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

yaml = pytest.importorskip("yaml", reason="no python3-yaml")
ROOT = Path(__file__).resolve().parents[2]
BENCH = Path(os.environ["SLUICE_BUILD"]) / "bench/sluice-bench"
sys.path.insert(0, str(ROOT / "bench/compare"))
import recipe  # noqa: E402 pylint: disable=wrong-import-position
import report  # noqa: E402 pylint: disable=wrong-import-position
import run  # noqa: E402 pylint: disable=wrong-import-position

OURS = {"command": ["sluiced", "--config", "{folder}/c.yaml"], "sockets": ["a"], "files": {
    "c.yaml": 'control: { socket: "{folder}/control.sock" }\ndisks: [{ name: a, socket: "{socket.a}", "null": 1G }]\n'}}


def a_recipe(**changes):
    return {"rounds": 1, "pin": {"back-end": None, "driver": None}, "back-ends": {"ours": OURS},
            "workloads": {"reads": ["blk", "--depth", 8]}, **changes}


def written(tmp_path, data):
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def compare(file, *arguments, env=None):
    return subprocess.run([str(x) for x in (BENCH, "compare", file, *arguments)], env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120, check=False)


@pytest.mark.parametrize("change, words", [
    ({"round": 3}, ["round: 3: unknown", "rounds"]),
    ({"rounds": 0}, ["rounds: 0", "from 1 to 1000"]),
    ({"pin": {"driver": 4096}}, ["pin.driver: 4096", "null not to pin"]),
    ({"image": "/nowhere/x"}, ["image: '/nowhere/x'", "256M"]),
    ({"base": "theirs"}, ["base: 'theirs'", "there are ours"]),
    ({"figure": "latency"}, ["figure: 'latency'", "latency_us.p50"]),
    ({"workloads": {}}, ["workloads: {}", "arguments of sluice-bench"]),
    ({"workloads": {False: ["blk"]}}, ["workloads: a name is read as False; put it into quotes"]),
    ({"workloads": {"w": ["disk"]}}, ["workloads.w", "blk, net or virtio-user"]),
    ({"workloads": {"w": ["virtio-user", "--depth", 8]}}, ["workloads.w", "--depth: virtio-user knows --ring, --size"]),
    ({"workloads": {"w": ["virtio-user", "--size", 9000]}}, ["workloads.w", "--size 9000: say 60 to 1514"]),
    ({"workloads": {"w": ["virtio-user", "--ring"]}}, ["workloads.w", "--ring : say split or packed"]),
    ({"back-ends": {"b": {"sockets": ["a"]}}}, ["back-ends.b.command", "missing"]),
    ({"back-ends": {"b": {"command": ["x"]}}}, ["back-ends.b.sockets", "missing"]),
    ({"back-ends": {"b": {"command": ["x"], "sockets": ["a"], "ready": "("}}}, ["back-ends.b.ready: '('", "expression"]),
    ({"back-ends": {"b": {"command": ["x"], "sockets": ["a"], "workloads": ["writes"]}}},
     ["back-ends.b.workloads", "writes: no such workload; there are reads"]),
    ({"back-ends": {"b": {"command": ["x", "{image}"], "sockets": ["a"]}}}, ["command: {image}", "say image:"]),
    ({"back-ends": {"b": {"command": ["x", "{socket.b}"], "sockets": ["a"]}}}, ["{socket.b}", "socket.a"]),
    ({"back-ends": {"b": {"command": ["x"], "sockets": ["a"], "files": {"../f": "x"}}}}, ["files", "../f", "slash"]),
])
def test_what_is_wrong_with_a_recipe_is_told_by_file_key_value_and_remedy(tmp_path, change, words):
    file = written(tmp_path, a_recipe(**change))
    with pytest.raises(recipe.RecipeError) as e:
        recipe.load(file)
    for word in [str(file), *words]:
        assert word in str(e.value)


@pytest.mark.parametrize("text, says", [
    ("", "r.yaml: nothing is in it; say a mapping"), ("3", "r.yaml: 3 is not a mapping"),
    ("a: &x\n  b: 1\nc: {<<: *x, b: 2}\nd: {<<: *x, b: 3}\nrounds: 1\ntitle: x\nrounds: 2\n", "r.yaml: line 7: rounds: said twice")])
def test_what_yaml_would_let_pass_is_told(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(recipe.RecipeError, match=re.escape(says)):
        recipe.load(tmp_path / "r.yaml")
    with pytest.raises(recipe.RecipeError, match="is a folder; say a recipe in it"):
        recipe.find(str(tmp_path))


def test_pins_are_of_the_cpus_that_there_are_and_of_those_said(tmp_path, monkeypatch):
    file = written(tmp_path, a_recipe(pin={"back-end": 6}))
    monkeypatch.setattr(recipe, "cpus", lambda: [4, 6])
    with pytest.raises(recipe.RecipeError, match="pin.driver: 1: this process may run on CPUs 4, 6; .*--pin BACKEND,DRIVER"):
        recipe.load(file)
    assert recipe.load(file, pin=recipe.pin_said("4,none")).pins == {"back-end": 4, "driver": None}
    monkeypatch.setattr(recipe, "cpus", lambda: [0, 1, 6])
    assert recipe.load(file).pins == {"back-end": 6, "driver": 1}
    with pytest.raises(recipe.RecipeError, match="--pin 4: say two CPUs"):
        recipe.pin_said("4")


def test_the_cpus_that_there_are_are_asked_for_and_ours_stay():
    before = os.sched_getaffinity(0)
    assert before <= set(recipe.cpus()) and os.sched_getaffinity(0) == before


def test_back_ends_that_are_dpdks_do_not_share_a_runtime_folder():
    for file in (ROOT / "bench/compare").glob("*.yaml"):
        for backend in yaml.safe_load(file.read_text())["back-ends"].values():
            if backend["command"][0] == "dpdk-testpmd":
                assert backend["environment"]["RUNTIME_DIRECTORY"] == "{folder}", file


def test_help_needs_no_yaml(tmp_path):
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError('no yaml', name='yaml')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert "--workload" in compare("--help", env=env).stdout
    done = compare("disk", env=env)
    assert done.returncode == 1 and "install python3-yaml" in done.stderr


def test_a_tree_that_was_moved_is_whole(tmp_path):
    """As DESTDIR makes it: the program finds its recipes, and those the floors and sluiced, before an installed one."""
    for folder in ("bin", "sbin", "share/sluice", "libexec/sluice"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(BENCH, tmp_path / "bin")
    shutil.copytree(ROOT / "bench/compare", tmp_path / "share/sluice/bench")
    (tmp_path / "libexec/sluice/blk-floor").symlink_to(BENCH.parent / "ring/blk-floor")
    done = said_by([tmp_path / "bin/sluice-bench", "compare", "disk", "--only", "floor, split", "--workload", "*128", "--check"])
    assert done.stdout.endswith("randread, depth 128; randwrite, depth 128\n10 runs of 1 s\n"), done.stdout + done.stderr
    (tmp_path / "sbin/sluiced").write_text("#!/bin/sh\necho from sbin; exit 5\n")
    (tmp_path / "sbin/sluiced").chmod(0o755)
    done = said_by([tmp_path / "bin/sluice-bench", "compare", written(tmp_path, a_recipe()), "--json"])
    assert "from sbin" in json.loads(done.stdout)["workloads"]["reads"]["failed"]["ours"], done.stdout + done.stderr


def test_what_is_no_yaml_and_what_is_not_there_end_with_2(tmp_path):
    (tmp_path / "r.yaml").write_text("a: [")
    done = compare(tmp_path / "r.yaml")
    assert done.returncode == 2 and "not YAML" in done.stderr
    done = compare("nope")
    assert done.returncode == 2 and "came with the program: cards, device, disk, file, hop, tso, uplink, virtio-user" in done.stderr


@pytest.mark.parametrize("arguments, says", [
    (["--folder", "/nowhere/at/all"], "--folder /nowhere/at/all: is no folder that can be written to"),
    (["--folder", "/proc/self/status"], "--folder /proc/self/status: is no folder"),
    (["--svg", "/nowhere/chart.svg"], "--svg /nowhere/chart.svg: /nowhere is no folder that can be written to"),
    (["--svg", "/tmp"], "--svg /tmp: is a folder; say a file"),
    (["--workload", "writes*"], "--workload writes*: no such workload; there are reads"),
    (["--only", ""], "--only : no such back-end"),
    (["--only", "QEMU"], "--only QEMU: no such back-end; there are Sluice, here; QEMU, main loop (separated by ;)"),
    (["--only", "QEMU, main loop,Sluice, here"], "there are Sluice, here; QEMU, main loop (separated by ;)")], ids=str)
def test_wrong_options_end_with_2_before_anything_runs(tmp_path, arguments, says):
    file = written(tmp_path, a_recipe(image="1M", **{"back-ends": {"Sluice, here": OURS, "QEMU, main loop": OURS}}))
    done = compare(file, *arguments)
    assert done.returncode == 2 and says in done.stderr and "round" not in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_an_image_that_finds_no_room_is_told_with_its_remedy(tmp_path):
    file = written(tmp_path, a_recipe(image="4M"))
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=777", "tmpfs", place], check=True)
    try:
        done = compare(file, "--folder", place)
        assert done.returncode == 1, done.stderr
        assert f"{place}: No space left on device, for an image of 4 MiB; say another --folder" in done.stderr
        assert not list(place.iterdir())
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_python_of_the_users_own_lends_it_no_modules(tmp_path):
    """A virtual environment without yaml, whose python3 comes first in PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to("/usr/bin/python3")
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    done = compare("nope", env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert done.returncode == 2 and "came with the program: cards" in done.stderr


@pytest.mark.parametrize("name", ["cards", "device", "disk", "file", "hop", "tso", "uplink", "virtio-user"])
def test_recipes_that_ship_are_right(name):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one CPU, and they pin to two")
    image = "1M" if name == "device" else None
    assert recipe.load(recipe.find(name), image=image).rounds == 5


def test_a_block_device_is_overwritten_only_where_it_is_named():
    with pytest.raises(recipe.RecipeError, match="{image}: nothing is known by that name; say image: at the top, or --image"):
        recipe.load(recipe.find("device"))


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="not root, or no loop devices")
def test_a_block_device_that_somebody_holds_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    device = subprocess.run(["losetup", "--show", "-f", tmp_path / "disk"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        file = written(tmp_path, a_recipe())
        held = os.open(device, os.O_RDONLY | os.O_EXCL)
        done = compare(file, "--image", device)
        os.close(held)
        assert done.returncode == 2 and f"{device}: in use: " in done.stderr and "round" not in done.stderr, done.stderr
        assert compare(file, "--image", device).returncode == 0
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_who_fails_is_told_with_its_reason_and_the_others_go_on(tmp_path):
    dies = {**OURS, "command": ["sh", "-c", "sluiced --config c.yaml & sleep 0.6; kill -9 $!; echo had enough; exit 3"]}
    file = written(tmp_path, a_recipe(rounds=2, **{"back-ends": {
        "absent": {"command": ["no-such-program"], "sockets": ["a"]},
        "silent": {"command": ["sh", "-c", "echo no disk today; exit 4"], "sockets": ["a"]},
        "dies": dies,
        "refused": {**OURS, "arguments": ["--queues", 9]},
        "ours": OURS}}, base="ours"))
    done = compare(file, "--json", "--svg", tmp_path / "c.svg")
    assert done.returncode == 1, done.stderr
    assert compare(file, "--only", "ours;absent").returncode == 0, "who is not installed has not failed"
    got = json.loads(done.stdout)["workloads"]["reads"]
    assert list(got["back-ends"]) == ["ours"] and len(got["back-ends"]["ours"]["rounds"]) == 2
    assert got["back-ends"]["ours"]["rate"] > 1000 and got["back-ends"]["ours"]["ratio_of_base"] == 1
    assert got["failed"]["absent"] == "not installed: no-such-program"
    assert "exit code 4" in got["failed"]["silent"] and "no disk today" in got["failed"]["silent"]
    assert "hung up in the middle" in got["failed"]["dies"] or "exit code 3" in got["failed"]["dies"]
    assert "use fewer --queues" in got["failed"]["refused"]
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_a_program_that_cannot_be_run_or_hangs_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    """Not what a back-end needs but its command itself is missing; and a fio that never ends."""
    read = recipe.load(written(tmp_path, a_recipe(image="1M", base="ours", **{"back-ends": {
        "gone": {"command": ["no-such-program"], "needs": ["sh"], "sockets": ["a"]},
        "gone fio": {"command": ["no-such-program"], "needs": ["sh"], "kind": "fio"},
        "slow fio": {"command": ["sleep", "60"], "kind": "fio"},
        "ours": OURS}})))
    monkeypatch.setattr(run, "FIO_TIMEOUT_S", 0)
    with run.Bench(read, BENCH, tmp_path) as bench:
        figures = run.in_turn(bench)["reads"]
    assert list(figures.found) == ["ours"]
    assert figures.failed == {"gone": "no-such-program: No such file or directory", "gone fio": "no-such-program: No such file or directory",
                              "slow fio": "sleep did not end within 1 s"}


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_who_ends_it_ends_the_back_end_too(tmp_path, folder, number, code):
    file = written(tmp_path, a_recipe(time=300))
    with running([BENCH, "compare", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                 env={**os.environ, "TMPDIR": str(folder)}) as process:
        deadline = time.monotonic() + 30
        while not list(folder.glob("*/a.sock")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == code
    assert not command_lines_with(folder) and list(folder.iterdir()) == []


@pytest.mark.parametrize("workload, sockets, says", [
    (["blk", "--dept", 8], ["a"], "workloads.w, with b: --dept: blk has no such option"),
    (["blk"], ["a", "c"], "workloads.w, with b: "), (["virtio-user"], ["a"], "with b: virtio-user wants a back-end of two sockets")])
def test_what_sluice_bench_would_refuse_is_told_before_anything_starts(tmp_path, workload, sockets, says):
    file = written(tmp_path, a_recipe(workloads={"w": workload}, **{"back-ends": {"b": {"command": ["no-such"], "sockets": sockets}}}))
    done = compare(file, "--check")
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_who_is_not_installed_is_not_counted_among_what_would_run(tmp_path):
    file = written(tmp_path, a_recipe(rounds=3, **{"back-ends": {"b": {"command": ["no-such"], "sockets": ["a"]}, "ours": OURS}}))
    assert compare(file, "--check").stdout.endswith(": ours\nreads\n3 runs of 1 s\nb: skipped, not installed: no-such\n")


def test_workloads_are_chosen_by_name_or_pattern(tmp_path):
    loads = {"reads [1]": ["blk"], "reads 1": ["blk"], "writes": ["blk"]}
    file = written(tmp_path, a_recipe(workloads=loads, **{
        "back-ends": {"some": {**OURS, "workloads": ["writes"]}, "all": OURS}}))
    for patterns, left in ((["reads [1]"], ["reads [1]"]), (["reads*"], ["reads [1]", "reads 1"]), (["writes", "r*1"], ["reads 1", "writes"])):
        read = recipe.load(file)
        recipe.workloads_said(read, patterns)
        assert list(read.workloads) == left and list(read.backends) == ["some", "all"][0 if "writes" in left else 1:]
        assert read.base in read.backends


def test_nothing_to_compare_is_a_failure(tmp_path):
    done = compare(written(tmp_path, a_recipe(**{"back-ends": {"b": {"command": ["no-such-program"], "sockets": ["a"]}}})))
    assert done.returncode == 1 and "not installed: no-such-program" in done.stdout


def test_of_a_time_less_is_better(tmp_path):
    read, _, results = scripted(tmp_path, {"a": [2, 4, 8], "b": [3, 8, 8]}, figure="latency_us.p50")
    assert results["reads"].ratio("a", "b") == 1.5
    assert "| reads | 4.00 (150 %) | 8.00 (62 %) |" in report.markdown(read, results)


@pytest.mark.parametrize("found", [{"latency_us": None}, {"latency_us": 1.0}, {}], ids=str)
def test_a_time_of_nothing_is_a_failure_and_no_traceback(tmp_path, found):
    measures = run.Bench(recipe.load(written(tmp_path, a_recipe(figure="latency_us.p50"))), "sluice-bench")
    assert measures.figure_of({"latency_us": {"p50": 3}}) == 3
    with pytest.raises(run.Failure, match="told no latency_us.p50"):
        measures.figure_of(found)


def test_a_time_that_sluice_bench_does_not_tell_is_a_failure(tmp_path):
    file = written(tmp_path, a_recipe(figure="round_trip_us.p50"))
    failed = json.loads(compare(file, "--json").stdout)["workloads"]["reads"]["failed"]
    assert failed["ours"] == "sluice-bench told no round_trip_us.p50"
    file = written(tmp_path, a_recipe(figure="latency_us.p99"))
    assert 0.1 < json.loads(compare(file, "--json").stdout)["workloads"]["reads"]["back-ends"]["ours"]["rate"] < 1e6


class Scripted:
    """In place of run.Bench: rates that are known beforehand, and None for a failure."""

    def __init__(self, read, rates):
        self.recipe, self.rates, self.order = read, {n: list(r) for n, r in rates.items()}, []

    def missing(self, backend):
        return []

    def measure(self, backend, arguments):
        self.order.append(backend.name)
        rate = self.rates[backend.name].pop(0)
        if rate is None:
            raise run.Failure("gave up")
        return {"rate": rate, "cpu": 1.0}


def scripted(tmp_path, rates, **more):
    read = recipe.load(written(tmp_path, a_recipe(rounds=3, **more, **{"back-ends": {n: OURS for n in rates}})))
    bench = Scripted(read, rates)
    return read, bench, run.in_turn(bench)


def test_back_ends_take_turns(tmp_path):
    _, bench, _ = scripted(tmp_path, {"a": [1, 1, 1], "b": [1, 1, 1]})
    assert bench.order == ["a", "b"] * 3


def test_one_that_starts_slowly_may_have_fewer_rounds(tmp_path):
    read = recipe.load(written(tmp_path, a_recipe(rounds=3, **{"back-ends": {"a": OURS, "b": {**OURS, "rounds": 2}, "c": OURS}})))
    bench = Scripted(read, {"a": [10, 20, 80], "b": [20, 60], "c": [1, 1, 1]})
    text = "\n".join(report.markdown(read, run.in_turn(bench)))
    assert bench.order == ["a", "b", "c", "a", "b", "c", "a", "c"] and report.planned(read) == 8
    assert "; 2 rounds only" in text and "0.42" in text  # 10 / 20 and 20 / 60


def test_the_base_may_have_fewer_rounds_too(tmp_path):
    """Ratios are of the rounds that it has."""
    read = recipe.load(written(tmp_path, a_recipe(rounds=3, **{"back-ends": {"a": {**OURS, "rounds": 1}, "b": OURS}})))
    bench = Scripted(read, {"a": [10], "b": [20, 1, 1]})
    figures = run.in_turn(bench)["reads"]
    assert bench.order == ["a", "b", "b", "b"] and figures.ratio("a", "b") == 0.5 and report.planned(read) == 4


def test_a_back_end_takes_part_in_its_workloads_alone(tmp_path):
    loads = {"reads": ["blk"], "writes": ["blk", "--rw", "write"]}
    read = recipe.load(written(tmp_path, a_recipe(workloads=loads, **{
        "back-ends": {"all": OURS, "some": {**OURS, "workloads": ["writes"]}}})))
    bench = Scripted(read, {"all": [2, 2], "some": [1]})
    results = run.in_turn(bench)
    assert bench.order == ["all", "all", "some"] and not results["reads"].failed
    text = report.markdown(read, results)
    assert "| reads | 2.00 | - |" in text and "| writes | 2.00 | 1.00 |" in text


def test_in_a_chart_a_bar_of_some_workloads_alone_is_cut_and_leaves_the_others_theirs(tmp_path):
    read = recipe.load(written(tmp_path, a_recipe(**{"back-ends": {"disk": OURS, "limit": {**OURS, "workloads": ["reads"]}}})))
    chart = report.svg(read, run.in_turn(Scripted(read, {"disk": [20000], "limit": [900000]})))
    assert re.findall(r'width="(\d+)" height="12".*>(.+)</text>', chart) == [("470", "20.0 k"), ("490", "(cut) 900 k")]


def test_workloads_that_none_of_those_asked_for_takes_are_left_out(tmp_path):
    file = written(tmp_path, a_recipe(workloads={"reads": ["blk"], "writes": ["blk", "--rw", "write"]}, **{
        "back-ends": {"all": OURS, "some": {**OURS, "workloads": ["writes"]}}}))
    assert "\n3 runs of" in compare(file, "--check").stdout
    done = compare(file, "--only", "some", "--json")
    assert done.returncode == 0 and list(json.loads(done.stdout)["workloads"]) == ["writes"], done.stderr


def test_ratios_are_of_the_rounds_and_not_of_the_medians(tmp_path):
    # Medians 20 and 20 would say 1; the rounds say 2, 2 and 0.5.
    read, _, results = scripted(tmp_path, {"a": [20, 80, 10], "b": [10, 40, 20]})
    figures = results["reads"]
    assert (figures.rate("a"), figures.rate("b"), figures.ratio("a", "b")) == (20, 20, 2)
    assert figures.spread("a") == 3.5
    assert "| reads | 20.0 (350 %) | 20.0 (150 %) |" in report.markdown(read, results)


def test_a_round_that_one_of_them_lacks_is_in_no_ratio(tmp_path):
    read, bench, results = scripted(tmp_path, {"a": [20, 100, 100], "b": [10, None]})
    assert results["reads"].ratio("a", "b") == 2 and bench.order == ["a", "b", "a", "b", "a"]
    text = report.markdown(read, results)
    assert "- **b**: gave up" in text and "| reads | 100 (80 %) | 10.0 (1 round only) |" in text


FAKE = """#!/bin/sh
[ "$2" = --help ] || [ -e "$2" ] || exit 1
n=$(cat {0}/n 2>/dev/null || echo 0); echo $((n + 1)) > {0}/n
[ $n -lt {1} ] || {{ touch {0}/waits; exec sleep 60; }}
echo "sluice-bench: $2: driven without EVENT_IDX" >&2
echo '   1 s  progress' >&2
echo '{{ "iops": 1000, "backend_cpu_s_per_million": 1, "steal_s": 0.0'$n' }}'
"""


def faked(tmp_path, data, calls, *arguments):
    """compare with a sluice-bench that answers at once, so many times, and then waits; back-ends are a socket's name alone."""
    fake = tmp_path / "sluice-bench"
    fake.write_text(FAKE.format(tmp_path, calls))
    fake.chmod(0o755)
    nobody = {"command": ["sh", "-c", "touch a.sock; exec sleep 60"], "sockets": ["a"], "settle": 0}
    file = written(tmp_path, {**a_recipe(rounds=3), "back-ends": {"one": nobody, "two": nobody}, **data})
    return [sys.executable, BENCH.parent / "compare/compare.py", file, "--sluice-bench", fake, *arguments]


def said_by(command):
    return subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


def test_steal_and_what_sluice_bench_warns_of_are_told(tmp_path):
    text = said_by(faked(tmp_path, {}, 6)).stdout
    assert "\n4 of 6 rounds with more than 1 % of the time stolen" in text, text
    assert text.count("- **one**: driven without EVENT_IDX\n") == text.count("- **two**: driven") == 1 and "progress" not in text
    (tmp_path / "n").unlink()
    got = json.loads(said_by(faked(tmp_path, {"unit": "rounds"}, 6, "--json")).stdout)
    one = got["workloads"]["reads"]["back-ends"]["one"]
    assert [r["steal_s"] for r in one["rounds"]] == [0, 0.02, 0.04] and one["said"] == ["driven without EVENT_IDX"]
    assert (got["rounds_stolen"], got["rounds_done"], got["cut_short"]) == (4, 6, False)
    assert (got["unit"], got["figure"], got["time_s"], got["machine"]["cpus"]) == ("rounds", "rate", 1, os.cpu_count())


def paths_of(data, names=0):
    """Of JSON. @names: 1, its keys are names, for which the page has <>; 2, those in its back-ends and failed are."""
    if isinstance(data, list):
        return {"[]." + p for x in data for p in paths_of(x) if p} or {""}
    if not isinstance(data, dict):
        return {""}
    found = set()
    for key, value in data.items():
        below = 1 if key == "workloads" and not names or key in ("back-ends", "failed") and names == 2 else 2 * (names == 1)
        shown = "<>" if names == 1 else key
        if names == 1 and not isinstance(value, dict):
            found.add(shown)
            continue
        found |= {shown + p if p.startswith("[]") else f"{shown}.{p}" if p else shown for p in paths_of(value, below)}
    return found


def test_the_keys_of_its_json_are_those_of_the_man_page(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs/man/sluice-bench.1.scd").read_text(encoding="utf-8")
    told = set(re.findall(r"^\|  \*([^*]+)\*$", page.split("\n## JSON of compare\n")[1].split("\n## ")[0], re.M))
    absent = {"command": ["x"], "needs": ["no-such-program"], "sockets": ["a"]}
    command = faked(tmp_path, {}, 6, "--json")
    data = yaml.safe_load(Path(command[2]).read_text(encoding="utf-8"))
    data["back-ends"]["three"] = absent
    Path(command[2]).write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    assert paths_of(json.loads(said_by(command).stdout)) == told


@pytest.mark.parametrize("number, arguments", [(signal.SIGINT, []), (signal.SIGTERM, ["--json"])])
def test_what_was_measured_when_a_signal_ends_it_is_told(tmp_path, number, arguments):
    command = faked(tmp_path, {"workloads": {"reads": ["blk"], "writes": ["blk"]}}, 3, *arguments)
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "waits").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        text = process.communicate(timeout=30)[0]
        assert process.returncode == 128 + number
    if arguments:
        got = json.loads(text)
        assert got["cut_short"] is True and got["rounds_done"] == 3 and list(got["workloads"]) == ["reads"]
    else:
        assert "**Cut short** by SIGINT: 3 of 12 runs were done." in text and "| reads | 1000 (0 %; 2 rounds only) | 1000 (1 round only) |" in text


def measured(tmp_path, name, workloads, only, *arguments):
    """Those workloads of a recipe that ships."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one CPU, and they pin to two")
    ships = yaml.safe_load((ROOT / f"bench/compare/{name}.yaml").read_text())
    ships["workloads"] = {w: ships["workloads"][w] for w in workloads}
    for backend in ships["back-ends"].values():
        backend.pop("workloads", None)
    done = compare(written(tmp_path, ships), "--rounds", 1, "--json", "--only", only, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["workloads"]
    assert all(not f["failed"] and sorted(f["back-ends"]) == sorted(only.split(";")) for f in found.values()), found
    return [b["rate"] for f in found.values() for b in f["back-ends"].values()]


@pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="no qemu-storage-daemon")
def test_requests_are_served_by_qemu_storage_daemon(tmp_path):
    assert min(measured(tmp_path, "disk", ["randwrite, depth 32"], "QEMU, main loop;QEMU, iothread")) > 1000


def test_requests_are_served_by_the_floors(tmp_path):
    assert min(measured(tmp_path, "disk", ["randread, depth 1", "randwrite, depth 128"], "floor, split;floor, packed")) > 1000
    assert min(measured(tmp_path, "file", ["randread, depth 128"], "floor (RAM, no checks)", "--image", "4M")) > 1000


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_frames_are_forwarded_by_testpmd_over_both_layouts(tmp_path):
    # Such a back-end touches no ring before the driver says that it is ready.
    assert min(measured(tmp_path, "cards", ["split, 60 bytes", "packed, 512 bytes"], "testpmd")) > 1000


@pytest.mark.skipif(not shutil.which("dpdk-testpmd") or os.cpu_count() < 2, reason="no dpdk-testpmd, or one CPU")
def test_in_order_a_batch_that_testpmd_gives_back_at_once_is_taken(tmp_path):
    cards = yaml.safe_load((ROOT / "bench/compare/cards.yaml").read_text())
    cards["workloads"] = {ring: ["net", "--ring", ring, "--in-order", "--verify"] for ring in ("split", "packed")}
    done = compare(written(tmp_path, cards), "--rounds", 1, "--only", "testpmd", "--json")
    found = json.loads(done.stdout)["workloads"]
    assert all(not f["failed"] and f["back-ends"]["testpmd"]["rate"] > 1000 for f in found.values()), found


@pytest.mark.skipif(not os.path.exists("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"), reason="no OVS-DPDK")
def test_frames_are_switched_by_ovs_dpdk_over_both_layouts_and_none_of_it_is_left(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder))
    assert min(measured(tmp_path, "cards", ["split, 60 bytes", "packed, 1514 bytes"], "OVS-DPDK")) > 1000
    assert not command_lines_with(folder) and list(folder.iterdir()) == []


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_cards_are_driven_by_virtio_user_over_both_layouts(tmp_path):
    rates = measured(tmp_path, "virtio-user", ["split, 60 bytes", "packed, 1514 bytes"], "Sluice;testpmd")
    assert min(rates) > 1000


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_hops_large_frames_and_an_uplink_are_measured(tmp_path):
    assert max(measured(tmp_path, "hop", ["packed, 1000 a second"], "Sluice;testpmd")) < 1e5
    assert min(measured(tmp_path, "tso", ["packed"], "Sluice;testpmd")) > 100
    assert min(measured(tmp_path, "uplink", ["packed, 60 bytes"], "Sluice;testpmd")) > 1000


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_virtio_user_tells_why_it_could_not_drive(tmp_path):
    file = written(tmp_path, a_recipe(pin={"back-end": None, "driver": 0}, workloads={"frames": ["virtio-user"]}, **{"back-ends": {
        "disks": {**OURS, "sockets": ["a", "b"], "command": ["sh", "-c", "sluiced --config c.yaml & touch b.sock; wait"]}}}))
    failed = json.loads(compare(file, "--json").stdout)["workloads"]["frames"]["failed"]
    assert failed["disks"] == "no frame came through"


@pytest.mark.skipif(not shutil.which("fio"), reason="no fio")
def test_a_device_without_a_back_end_is_measured_by_fio(tmp_path):
    assert min(measured(tmp_path, "file", ["randread, depth 32"], "bare metal (fio)", "--image", "4M")) > 1


def test_fio_may_have_a_busy_cpu_beside_it(tmp_path):
    file = tmp_path / "seen"
    look = f"ps -eo args= | grep -c '[i]mport select' > {file}; exit 1"
    for busy, seen in ((True, "1"), (False, "0")):
        with_fio = a_recipe(pin={"back-end": None, "driver": 0}, image="1M", workloads={"reads": ["blk"]}, **{"back-ends": {"alone": {
            "kind": "fio", "command": ["sh", "-c", look], "busy": busy}}})
        compare(written(tmp_path, with_fio), "--json")
        assert file.read_text().strip() == seen
        assert not command_lines_with("import select")


def test_a_back_end_is_not_kept_busy_beside(tmp_path):
    done = compare(written(tmp_path, a_recipe(**{"back-ends": {"disks": {**OURS, "busy": True}}})))
    assert done.returncode == 2 and "busy: True: fio alone" in done.stderr


@pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="no dpdk-testpmd")
def test_a_back_end_that_connects_is_listened_for(tmp_path):
    cards = yaml.safe_load((ROOT / "bench/compare/cards.yaml").read_text())
    testpmd = cards["back-ends"]["testpmd"]
    testpmd["command"] = [f"{x},client=1" if "iface=" in str(x) else x for x in testpmd["command"]]
    testpmd["connects"] = True
    file = written(tmp_path, {**cards, "back-ends": {"testpmd": testpmd}, "base": "testpmd",
                              "workloads": {"split": ["net", "--verify"]}})
    got = json.loads(compare(file, "--rounds", 1, "--json").stdout)["workloads"]["split"]
    assert not got["failed"] and got["back-ends"]["testpmd"]["rate"] > 1000


@pytest.mark.parametrize("text, says", [
    ("title: 2024-02-30\n", "a value in it cannot be read (day is out of range"), ("rounds: " + "9" * 5000, "cannot be read"),
    ("rounds: 0x" + "f" * 5000, "rounds: a very large number"), ("a: " + "[" * 5000, "nested too deeply"),
    ("rounds: !!timestamp x\n", "cannot be read"), ("rounds: .nan\n", "rounds: nan: say a number"),
    ("workloads: {\"\\e[31mred\": [blk]}\n", "a control character is in a name"), ("\"\\e[31mx\": 1\n", "'\\x1b[31mx': 1: unknown"),
    ("title: \"\\e]0;owned\\a\"\n", "title: '\\x1b]0;owned\\x07': a control character is in it")])
def test_what_yaml_chokes_on_or_a_terminal_would_obey_is_told_with_a_sentence(tmp_path, text, says):
    ok = yaml.safe_dump({k: v for k, v in a_recipe().items() if f"{k}:" not in text})
    (tmp_path / "r.yaml").write_text(text + "\n" + ok)
    done = compare(tmp_path / "r.yaml", "--check")
    assert done.returncode == 2 and says in done.stderr and len(done.stderr) < 1000 and "\033" not in done.stderr, done.stderr[-2000:]


def test_aliases_that_hold_more_than_memory_does_are_told_shortly(tmp_path):
    lines = ["x0: &x0 [" + "lol, " * 9 + "lol]"] + [f"x{i}: &x{i} [" + f"*x{i - 1}, " * 9 + f"*x{i - 1}]" for i in range(1, 12)]
    (tmp_path / "r.yaml").write_text("\n".join(lines) + "\n")
    for command, says in (("r.yaml", "x0: ['lol'"), ("s.yaml", "rounds: [[[")):
        if command == "s.yaml":
            (tmp_path / command).write_text("\n".join(["rounds: 1", *lines]).replace("rounds: 1", "title: x") + "\nrounds: *x11\n")
        done = subprocess.run(["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", BENCH, "compare", tmp_path / command],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.returncode == 2 and len(done.stderr) < 1000 and (says in done.stderr or "x0" in done.stderr), done.stderr[-2000:]


@pytest.mark.parametrize("change, says", [
    ({"command": ["x\0y"]}, "a control character is in it"), ({"environment": {"A=B": "x"}}, "'A=B' is no name of a variable"),
    ({"setup": [["a\0"]]}, "a control character is in it"), ({"files": {"f\n": "x\0"}}, "a control character is in it")])
def test_what_no_program_can_be_given_is_told(tmp_path, change, says):
    with pytest.raises(recipe.RecipeError, match=re.escape(says)):
        recipe.load(written(tmp_path, a_recipe(**{"back-ends": {"b": {**OURS, **change}}})))


def test_what_a_back_end_says_is_short_and_no_terminal_obeys_it(tmp_path):
    noise = 'head -c 3000000 /dev/zero | tr "\\0" "\\001"; printf "\\033]0;owned\\007 \\377\\n"; exit 3'
    file = written(tmp_path, a_recipe(pin={"back-end": None, "driver": None}, base="ours", **{"back-ends": {
        "loud": {**OURS, "command": ["sh", "-c", noise]}, "setup": {**OURS, "setup": [["sh", "-c", noise]]},
        "folder": {**OURS, "command": ["/"], "needs": ["sh"]}, "gone": {**OURS, "command": ["no-such"], "needs": ["sh"]},
        "fio": {"kind": "fio", "command": ["/"], "needs": ["sh"]}, "ours": OURS}}))
    done = compare(file)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "\033" not in done.stdout + done.stderr and len(done.stdout + done.stderr) < 10000
    assert "exit code 3" in done.stdout and "?]0;owned? " in done.stdout
    assert "- **folder**: /: Permission denied" in done.stdout and "- **gone**: no-such: No such file" in done.stdout


@pytest.mark.parametrize("closed", ["exec 1>/dev/full", "exec 1>&-"])
@pytest.mark.parametrize("arguments", [["--check"], ["--json"], []], ids=str)
def test_a_comparison_that_cannot_be_written_is_no_success(tmp_path, closed, arguments):
    file = written(tmp_path, a_recipe())
    done = subprocess.run(["sh", "-c", f'{closed}; exec "$@"', "sh", BENCH, "compare", file, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
