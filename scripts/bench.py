#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints what they say, and with --write puts it into docs/benchmarks.md.

    ring      the ring layer in cycles a descriptor, beside DPDK's rte_vhost
    iotlb     what an address costs behind an IOMMU, by the size of the table
    fairness  64 disks, and then 64 cards, on one worker; one of them a hostile guest's, or two
    idle      the CPU time of a daemon whose 64 guests are silent
    scale     what 1 to 1024 disks cost: start, memory, idling, wake-ups; also of qemu-storage-daemon
    workers   one disk with a queue for each worker, from 1 worker to as many as there are CPUs for
    disk      requests a second to a null disk, beside qemu-storage-daemon
    file      requests a second to a file, also beside fio without any back-end
    device    the same to a zram device, which is made for it (root)
    cards     frames a second from guest to guest, beside dpdk-testpmd and OVS-DPDK
    virtio-user  the same, driven by DPDK's virtio-user
    tso       frames of 64 KiB from guest to guest
    hop       how long a frame takes from guest to guest
    uplink    frames a second from a guest to a DPDK port
    cross     the same switch, driven by sluice-bench and by DPDK's virtio-user
"""
import argparse
import contextlib
import errno
import json
import os
import platform
import re
import shutil
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench/compare"))
import bench_cross  # pylint: disable=wrong-import-position
import bench_workers  # pylint: disable=wrong-import-position
import recipe  # pylint: disable=wrong-import-position
import report  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position

DOC = ROOT / "docs/benchmarks.md"
GUESTS = 64
ZRAM_BYTES = 256 << 20
# So that all benchmarks fit into 15 minutes.
ROUNDS = 3
FAIR_PAIRS = 7
FEW_ROUNDS = {"OVS-DPDK": 2}  # it takes ten seconds for each
COMMAND_TIMEOUT_S = 600


class Failure(Exception):
    """A benchmark could not be run: a sentence. The others go on."""


def tell(text):
    """What is going on, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def output(*command):
    """What it says. Of what it does not like it tells on standard error, which is ours."""
    name = Path(command[0]).name
    try:
        done = subprocess.run([str(c) for c in command], check=False, stdout=subprocess.PIPE, text=True,
                              timeout=COMMAND_TIMEOUT_S)
    except OSError as e:
        raise Failure(f"{command[0]}: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise Failure(f"{name} did not end within {COMMAND_TIMEOUT_S} s") from e
    if done.returncode:
        raise Failure(f"{name}: exit code {done.returncode}; what it said is above")
    return done.stdout


def version_of_dpdk():
    try:
        return output("pkg-config", "--modversion", "libdpdk").strip()
    except Failure:
        return "?"


def commit_of(tree):
    """With "-dirty" where the code is not the commit's; docs/ does not count, for it is what --write changes."""
    def git(*words):
        return subprocess.run(["git", "-C", tree, *words], check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True).stdout.strip()
    commit = git("describe", "--always")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs")
    return (commit or "?") + ("-dirty" if dirty else "")


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    commit = commit_of(ROOT)
    return (f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}; "
            f"Sluice {commit}, DPDK {version_of_dpdk()}; {time.strftime('%Y-%m-%d')}; "
            f"load average {os.getloadavg()[0]:.1f}")


class Daemon:
    """sluiced with GUESTS disks in RAM, or cards of one network, on one worker, on the last CPU."""

    def __init__(self, build, folder, cards=False):
        self.sockets = [f"{folder}/d{i}.sock" for i in range(GUESTS)]
        config = {"workers": {"cpus": [os.cpu_count() - 1]},
                  "control": {"socket": f"{folder}/control.sock"}}
        if cards:
            config["networks"] = [{"name": "lan", "ports": [{"name": f"d{i}", "socket": s}
                                                            for i, s in enumerate(self.sockets)]}]
        else:
            config["disks"] = [{"name": f"d{i}", "socket": s, "ram": "4M"} for i, s in enumerate(self.sockets)]
        file = Path(folder) / "sluice.yaml"
        file.write_text(json.dumps(config))
        os.chmod(folder, 0o777)
        self.log = open(f"{folder}/log", "w+", encoding="utf-8")
        self.process = subprocess.Popen([build / "daemon/sluiced", "--config", file], stderr=self.log)
        deadline = time.monotonic() + 30
        while not all(Path(s).exists() for s in self.sockets):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise Failure(f"sluiced did not start: {run.last_lines(f'{folder}/log')}")
            time.sleep(0.05)

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ring_chart(rows):
    """Bars: cycles a descriptor of dequeue, ours over theirs."""
    left, height, scale = 300, 34, 2.2
    most = max(max(r["dequeue"], r["rte_dequeue"]) for r in rows)
    width, total = left + int(most * scale) + 60, len(rows) * height + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="8" y="18" font-size="14">Dequeue of 64-byte frames, TSC cycles a descriptor (less is better)'
           '</text>',
           '<rect x="8" y="28" width="12" height="10" fill="#1b7f79"/><text x="24" y="37">Sluice</text>',
           '<rect x="88" y="28" width="12" height="10" fill="#b9b9b9"/><text x="104" y="37">rte_vhost</text>']
    for i, row in enumerate(rows):
        y = 46 + i * height
        out.append(f'<text x="8" y="{y + 17}">{row["name"]}</text>')
        for k, (key, color) in enumerate((("dequeue", "#1b7f79"), ("rte_dequeue", "#b9b9b9"))):
            length = row[key] * scale
            out.append(f'<rect x="{left}" y="{y + k * 13}" width="{length:.0f}" height="12" fill="{color}"/>')
            out.append(f'<text x="{left + length + 4:.0f}" y="{y + k * 13 + 10}" font-size="10">{row[key]:.0f}</text>')
    return "\n".join(out + ["</svg>", ""])


def bench_ring(options):
    quick = ["--runs", "1", "--rounds", "20", "--only", "in_order"] if options.quick else []
    data = json.loads(output(options.build / "bench/ring/ring-bench", "--json", "--progress", "--cpu", 0, *quick))
    lines = ["| row | pop | push | dequeue | rte_vhost | ratio | enqueue | rte_vhost | ratio |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    behind = []
    compared = [r for r in data["rows"] if "dequeue" in r]
    for r in data["rows"]:
        if "dequeue" not in r:
            lines.append(f"| {r['name']} | {r['pop']:.1f} | {r['push']:.1f} | | | | | | |")
            continue
        ratios = (r["rte_dequeue"] / r["dequeue"], r["rte_enqueue"] / r["enqueue"])
        lines.append(f"| {r['name']} | {r['pop']:.1f} | {r['push']:.1f} | {r['dequeue']:.1f} | "
                     f"{r['rte_dequeue']:.1f} | {ratios[0]:.2f} | {r['enqueue']:.1f} | "
                     f"{r['rte_enqueue']:.1f} | {ratios[1]:.2f} |")
        if min(ratios) < 1:
            behind.append(r['name'])
    lines.append("")
    lines.append("rte_vhost needs fewer cycles in: " + "; ".join(behind) + "." if behind
                 else "Sluice needs fewer cycles in every row.")
    if options.write:
        (ROOT / "docs/bench-ring.svg").write_text(ring_chart(compared))
        lines += ["", "![Cycles a descriptor](bench-ring.svg)"]
    return lines


def bench_iotlb(options):
    data = json.loads(output(options.build / "bench/ring/iotlb-bench", "--json"))
    lines = ["| table | split | packed | split, one guess | packed, one guess |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for r in data["rows"]:
        lines.append(f"| {r['table']} | {r['split']:.1f} | {r['packed']:.1f} | {r['split_one_guess']:.1f} | "
                     f"{r['packed_one_guess']:.1f} |")
    return lines


def fairness_chart(tables):
    """Bars: what the others keep, of each kind and layout, and a line at the target."""
    left, height, scale = 240, 30, 300
    rows = [(title, name, ratios) for title, data in tables for name, ratios in data]
    titles = len(tables)
    width, total = left + int(1.3 * scale) + 50, len(rows) * height + titles * 26 + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="8" y="18" font-size="14">What 62 or 63 guests keep of their throughput while one attacks</text>',
           '<rect x="8" y="28" width="12" height="10" fill="#1b7f79"/><text x="24" y="37">split</text>',
           '<rect x="88" y="28" width="12" height="10" fill="#7fb8b4"/><text x="104" y="37">packed</text>',
           '<text x="168" y="37">line: 0.95</text>']
    y, last = 46, None
    for title, name, ratios in rows:
        if title != last:
            out.append(f'<text x="8" y="{y + 18}" font-weight="bold">{title}</text>')
            y, last = y + 26, title
        out.append(f'<text x="24" y="{y + 16}">{name}</text>')
        for k, (ratio, color) in enumerate(zip(ratios, ("#1b7f79", "#7fb8b4"))):
            length = min(ratio, 1.3) * scale
            out.append(f'<rect x="{left}" y="{y + k * 12}" width="{length:.0f}" height="11" fill="{color}"/>')
            out.append(f'<text x="{left + length + 4:.0f}" y="{y + k * 12 + 10}" font-size="10">{ratio:.2f}</text>')
        y += height
    x = left + 0.95 * scale
    out.append(f'<line x1="{x}" y1="44" x2="{x}" y2="{total - 6}" stroke="#b00" stroke-dasharray="3 3"/>')
    return "\n".join(out + ["</svg>", ""])


def fair(options, cards, ring):
    """The rows of sluice-bench fair: as many pairs for each, whatever comes out. On a machine that changes its speed a few times a second
    the median of few says little, and so rows tell between what it lies; --precision takes too long for all of them."""
    quick = ["--pairs", FAIR_PAIRS, "--window", 100]
    if options.quick:
        quick = ["--pairs", 1, "--window", 50, "--attack", "long,loops,reconnect"]
    tell(f"fairness: {GUESTS} {'cards' if cards else 'disks'}, {ring}, {quick[1]} pairs")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, \
            Daemon(options.build, folder, cards) as daemon:
        return json.loads(output(options.build / "bench/sluice-bench", "fair", *daemon.sockets, "--json", "--cpu", 0,
                                 "--ring", ring, *(["--net"] if cards else []), *quick))["rows"]


def bench_fairness(options):
    lines, tables, behind = [], [], []
    for cards, title, unit in ((False, "disks", "requests"), (True, "cards", "frames")):
        split, packed = fair(options, cards, "split"), fair(options, cards, "packed")
        lines += [f"**{GUESTS} {title}**; {unit} a second of the well-behaved guests, in thousands", "",
                  "| attack | split: calm | attacked | ratio | between | packed: calm | attacked | ratio | between "
                  "| attacker's driver |", "| --- | ---: | ---: | ---: | :---: | ---: | ---: | ---: | :---: | ---: |"]
        for s, p in zip(split, packed):
            lines.append(f"| {s['attack']}: {s['what']} | {s['calm'] / 1000:.0f} | {s['attacked'] / 1000:.0f} | "
                         f"{s['ratio']:.3f} | {s['low']:.2f}, {s['high']:.2f} | "
                         f"{p['calm'] / 1000:.0f} | {p['attacked'] / 1000:.0f} | "
                         f"{p['ratio']:.3f} | {p['low']:.2f}, {p['high']:.2f} | {100 * max(s['hostile_share'], p['hostile_share']):.0f} % |")
            behind += [f"{title}, {ring}: {r['attack']} ({r['ratio']:.3f})"
                       for ring, r in (("split", s), ("packed", p)) if r["ratio"] < 0.95]
        lines.append("")
        tables.append((title, [(s["attack"], (s["ratio"], p["ratio"])) for s, p in zip(split, packed)]))
    lines.append("Under 0.95: " + "; ".join(behind) + "." if behind else "Every ratio is 0.95 or more.")
    if options.write:
        (ROOT / "docs/bench-fairness.svg").write_text(fairness_chart(tables))
        lines += ["", "![What the others keep](bench-fairness.svg)"]
    return lines


def bench_idle(options):
    seconds = 1 if options.quick else 5
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Daemon(options.build, folder) as daemon:
        with subprocess.Popen([options.build / "bench/sluice-bench", "fair", *daemon.sockets, "--silent",
                               str(seconds + 2)], stdout=subprocess.PIPE, text=True) as attach:
            attach.stdout.readline()  # all are attached
            time.sleep(0.5)
            before = daemon.cpu_seconds()
            time.sleep(seconds)
            used = daemon.cpu_seconds() - before
        if attach.returncode:
            raise Failure("the guests could not be attached")
    return [f"{GUESTS} attached guests without requests: {used:.2f} s of CPU time in {seconds} s "
            f"({100 * used / seconds:.1f} % of one CPU)."]


# For the time's sake, of frames the least and the most bytes, and of a disk's writes the least and the most at a time.
LEFT_OUT = {"cards": " 512 bytes", "virtio-user": " 512 bytes", "file": "randwrite, depth 32", "device": "randwrite, depth 32"}


def chosen(name, workloads, quick):
    """Those of a recipe's workloads that are measured here; for a look every fifth."""
    if name in LEFT_OUT:
        workloads = {w: a for w, a in workloads.items() if not w.endswith(LEFT_OUT[name])}
    return dict(list(workloads.items())[::5]) if quick else workloads


def compare(options, name, image=None):
    """What `sluice-bench compare NAME` finds, as lines; the charts beside the page."""
    read = recipe.load(recipe.find(name), rounds=1 if options.quick else ROUNDS, image=image)
    read.workloads = chosen(name, read.workloads, options.quick)
    for peer, rounds in FEW_ROUNDS.items():
        if peer in read.backends:
            read.backends[peer].rounds = rounds
    with run.Bench(read, options.build / "bench/sluice-bench") as bench:
        results = run.in_turn(bench, lambda text: tell(f"{name}: {text}"))
    lines = report.markdown(read, results)
    empty = [w for w, f in results.items() if not f.found]
    if empty:
        raise Failure("\n".join([f"nothing was measured of {', '.join(empty)}", *lines]))
    if options.write:
        chart = ROOT / f"docs/bench-{name}.svg"
        chart.write_text(report.svg(read, results))
        if report.can_png():
            report.write_png(chart, chart.with_suffix(".png"))
        lines += ["", f"![{read.title}]({chart.name})"]
    return lines


def start_seconds(command, sockets):
    """A back-end, and how long it took until it answered at each of them."""
    since = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        for path in sockets:
            with socket.socket(socket.AF_UNIX) as s:
                while s.connect_ex(path):
                    if process.poll() is not None or time.monotonic() - since > 60:
                        raise Failure(f"{command[0]} did not start")
                    time.sleep(0.0005)
        return process, time.monotonic() - since
    except BaseException:
        process.kill()
        process.wait()
        raise


def sluiced_with(options, folder, sockets, queues):
    file = Path(folder) / "sluice.yaml"
    file.write_text(json.dumps({
        "workers": {"cpus": [os.cpu_count() - 1]}, "control": {"socket": f"{folder}/control.sock"},
        "disks": [{"name": f"d{i}", "socket": s, "null": "1G", "queues": queues} for i, s in enumerate(sockets)]}))
    return [options.build / "daemon/sluiced", "--config", file, "--log-level", "error"]


def qemu_with(_options, _folder, sockets, queues):
    """In one iothread, as that is the nearest to one worker."""
    words = ["taskset", "-c", os.cpu_count() - 1, "qemu-storage-daemon", "--object", "iothread,id=io"]
    for i, s in enumerate(sockets):
        words += ["--blockdev", f"driver=null-co,size=1073741824,read-zeroes=on,node-name=n{i}", "--export",
                  f"type=vhost-user-blk,id=e{i},node-name=n{i},addr.type=unix,addr.path={s},iothread=io,"
                  f"writable=on,num-queues={queues}"]
    return words


def scale(options, command_of, devices, ring="split", queues=1):
    """One row: a new back-end with so many disks, and what sluice-bench scale finds. The median start of three."""
    tell(f"scale: {command_of.__name__.split('_')[0]}, {devices} disks, {ring}, {queues} queues")
    starts = []
    for _ in range(1 if options.quick else 3):
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
            os.chmod(folder, 0o777)
            sockets = [f"{folder}/d{i}.sock" for i in range(devices)]
            process, seconds = start_seconds(command_of(options, folder, sockets, queues), sockets)
            starts.append(seconds)
            try:
                if len(starts) < (1 if options.quick else 3):
                    continue
                own = re.search(r"^RssAnon:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.M)
                row = json.loads(output(options.build / "bench/sluice-bench", "scale", *sockets, "--ring", ring, "--queues",
                                        queues, "--cpu", 0, "--wakes", 50 if options.quick else 500, "--json"))
                row["anon_kib_none"] = int(own.group(1))
            finally:
                process.kill()
                process.wait()
    row["start_ms"] = statistics.median(starts) * 1000
    return row


def scale_chart(rows):
    """Bars: the wake-up and the rate of one busy disk, by how many others are attached."""
    left, height = 260, 34
    kinds = (("wake-up, median, us", lambda r: r["wake_us"]["p50"], "#1b7f79"),
             ("one busy, 10 000 requests/s", lambda r: r["one_busy"] / 1e4, "#7fb8b4"))
    longest = [max(of(r) for _, r in rows) or 1 for _, of, _ in kinds]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{len(rows) * height + 50}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="8" y="18" font-size="14">With so many disks on one worker</text>']
    for k, (name, _, color) in enumerate(kinds):
        out.append(f'<rect x="{8 + 200 * k}" y="28" width="12" height="10" fill="{color}"/>'
                   f'<text x="{24 + 200 * k}" y="37">{name}</text>')
    for i, (name, row) in enumerate(rows):
        y = 46 + i * height
        out.append(f'<text x="8" y="{y + 17}">{name}</text>')
        for k, (_, of, color) in enumerate(kinds):
            length = of(row) / longest[k] * 380
            out.append(f'<rect x="{left}" y="{y + k * 13}" width="{length:.0f}" height="12" fill="{color}"/>'
                       f'<text x="{left + length + 4:.0f}" y="{y + k * 13 + 10}" font-size="10">{of(row):.1f}</text>')
    return "\n".join(out + ["</svg>", ""])


def bench_scale(options):
    numbers = (1, 64) if options.quick else (1, 16, 64, 256, 1024)
    rows = [(f"Sluice, {n}", scale(options, sluiced_with, n)) for n in numbers]
    if not options.quick:
        rows.append(("Sluice, 1024, packed", scale(options, sluiced_with, 1024, "packed")))
    rows.append(("Sluice, 64 of 8 queues", scale(options, sluiced_with, 64, queues=8)))
    if shutil.which("qemu-storage-daemon"):
        rows += [(f"QEMU, {n}", scale(options, qemu_with, n)) for n in ((1,) if options.quick else (1, 64))]
    else:
        tell("scale: qemu-storage-daemon: skipped, not installed")
    lines = ["| disks | start to listening, ms | connect to first request, ms: median | p99 | KiB before any guest "
             "| KiB a guest | idle, % of a CPU | wake-up, us: median | p99 | one busy, k/s | all busy, k/s | least : most |",
             "| --- |" + " ---: |" * 11]
    for name, r in rows:
        each = (r["anon_kib_all"] - r["anon_kib_none"]) / r["devices"]
        lines.append(f"| {name} | {r['start_ms']:.1f} | {r['first_request_us']['p50'] / 1000:.2f} | "
                     f"{r['first_request_us']['p99'] / 1000:.2f} | {r['anon_kib_none']} | {each:.0f} | "
                     f"{100 * r['idle_cpu_s'] / r['idle_s']:.2f} | {r['wake_us']['p50']:.1f} | {r['wake_us']['p99']:.1f} | "
                     f"{r['one_busy'] / 1000:.0f} | {r['all_busy'] / 1000:.0f} | {r['least'] / max(r['most'], 1):.2f} |")
    if not any(name.startswith("QEMU") for name, _ in rows):
        lines += ["", "Not measured: qemu-storage-daemon (not installed)."]
    if options.write:
        (ROOT / "docs/bench-scale.svg").write_text(scale_chart(rows))
        lines += ["", "![With so many disks on one worker](bench-scale.svg)"]
    return lines


def half_compressible(size):
    """Pages of which half is random: what is all zeros or one byte, zram keeps no page for."""
    for _ in range(0, size, 1 << 20):
        yield b"".join(os.urandom(2048) + bytes(2048) for _ in range(256))


def retire_zram(number):
    """What io_uring of a back-end that was killed still holds is let go a moment after its end."""
    deadline = time.monotonic() + 20
    while True:
        try:
            Path(f"/sys/block/zram{number}/reset").write_text("1")
            Path("/sys/class/zram-control/hot_remove").write_text(str(number))
            return
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def zram():
    """A zram device of our own, full of data. Raises OSError where none can be made."""
    number = int(Path("/sys/class/zram-control/hot_add").read_text())
    node, made = Path(f"/dev/zram{number}"), False
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(ZRAM_BYTES))
        if not node.exists():  # where no udev makes it
            major, minor = (int(x) for x in Path(f"/sys/block/zram{number}/dev").read_text().split(":"))
            os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
            made = True
        with open(node, "wb") as device:
            for piece in half_compressible(ZRAM_BYTES):
                device.write(piece)
        yield node
    finally:
        if made:
            node.unlink()
        retire_zram(number)


def bench_device(options):
    try:
        with zram() as node:
            return compare(options, "device", str(node))
    except OSError as e:
        if str(e.filename).startswith(("/sys", "/dev/zram")):
            return [f"Skipped: no zram device could be made: {e.filename}: {e.strerror}."]
        raise


BENCHES = {"ring": bench_ring, "iotlb": bench_iotlb, "fairness": bench_fairness, "idle": bench_idle,
           "scale": bench_scale, "workers": lambda options: bench_workers.bench(options, tell),
           "disk": lambda options: compare(options, "disk"), "file": lambda options: compare(options, "file"),
           "device": bench_device, "cards": lambda options: compare(options, "cards"),
           **{name: lambda options, name=name: compare(options, name) for name in ("virtio-user", "tso", "hop", "uplink")},
           "cross": lambda options: bench_cross.bench(options, tell)}


def write(name, lines):
    """Between the markers of @name in the page."""
    text = DOC.read_text()
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise Failure(f"{DOC}: no place for {name}")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    DOC.write_text(head + begin + f"\n{machine()}.\n\n" + "\n".join(lines) + "\n\n" + end + tail)


def run_all(names, options):
    """Each in turn. @return why each of those that failed did; its table in the page stays what it was, as that of one
    that this machine cannot run does."""
    failed, begin = {}, time.monotonic()
    for i, name in enumerate(names):
        since = time.monotonic()
        print(f"{name} ({i + 1} of {len(names)}): {machine()}", flush=True)
        try:
            lines = BENCHES[name](options)
            print("\n".join(lines) + "\n", flush=True)
            if options.write and not lines[0].startswith("Skipped:"):
                write(name, lines)
        except (Failure, bench_cross.CrossFailure, bench_workers.WorkersFailure, recipe.RecipeError, OSError, ValueError, LookupError) as e:
            failed[name] = f"{type(e).__name__}: {e}" if isinstance(e, (ValueError, LookupError)) else str(e)
            tell(f"{name}: FAILED: {failed[name]}")
        now = time.monotonic()
        tell(f"{name}: {now - since:.0f} s; {now - begin:.0f} s since the beginning")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; default: all")
    parser.add_argument("--build", default=ROOT / "build", type=Path, help="meson's build folder (default: build)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="short, to see that it works; figures mean little")
    options = parser.parse_args()
    options.build = options.build.resolve()
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    # What was started and made is ended and removed on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    failed = run_all(options.names or list(BENCHES), options)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
