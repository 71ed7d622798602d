# SPDX-License-Identifier: Apache-2.0
"""Back-ends beside ours: how each is started, and sluice-bench's figures of them in turn."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER_CPU, LOAD_CPU = 0, 1
START_TIMEOUT_S = 20


def sluiced(options, folder, **what):
    file = Path(folder) / "sluice.yaml"
    file.write_text(json.dumps({"control": {"socket": f"{folder}/control.sock"},
                                "workers": {"cpus": [SERVER_CPU]}, **what}))
    return [options.build / "daemon/sluiced", "--config", file]


def storage_daemon(folder, blockdev, iothread):
    export = f"type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=unix,addr.path={folder}/a.sock"
    return (["qemu-storage-daemon", "--blockdev", f"{blockdev},node-name=d"]
            + (["--object", "iothread,id=io", "--export", export + ",iothread=io"] if iothread
               else ["--export", export]))


def testpmd(folder):
    ports = [x for i, name in enumerate("ab") for x in ("--vdev", f"net_vhost{i},iface={folder}/{name}.sock")]
    return ["dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "--file-prefix", "sluice-bench",
            "--lcores", f"0@{SERVER_CPU},1@{SERVER_CPU}", *ports, "--", "--forward-mode=io", "--auto-start",
            "--total-num-mbufs=16384", "--no-flush-rx"]


class Backend:
    """@command, pinned, until it serves @sockets."""

    def __init__(self, folder, command, sockets):
        self.log = open(f"{folder}/log", "w+", encoding="utf-8")
        # testpmd ends with its standard input, and listens a moment before it is ready.
        self.process = subprocess.Popen(["taskset", "-c", str(SERVER_CPU), *map(str, command)],
                                        stdin=subprocess.PIPE, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(Path(s).exists() for s in sockets):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"{command[0]} does not serve:\n{Path(self.log.name).read_text()}")
            time.sleep(0.02)
        time.sleep(0.5 if command[0] == "dpdk-testpmd" else 0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()


def measure(options, command, sockets, arguments):
    """One run of sluice-bench against a back-end that is started for it. @command: of a folder."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        os.chmod(folder, 0o777)
        paths = [f"{folder}/{s}.sock" for s in sockets]
        with Backend(folder, command(folder), paths):
            kind, *rest = arguments
            done = subprocess.run([str(x) for x in (options.build / "bench/sluice-bench", kind, *paths, *rest,
                                                    "--time", 1, "--cpu", LOAD_CPU, "--json")],
                                  check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"sluice-bench {' '.join(map(str, arguments))} failed against {command(folder)[0]}")
    return json.loads(done.stdout)


class Figures:
    """What in_turn() found: of each name the rates and the CPU seconds a million, round by round."""

    def __init__(self):
        self.rates, self.cpus = {}, {}

    def add(self, name, found):
        self.rates.setdefault(name, []).append(found["pps" if "pps" in found else "iops"])
        self.cpus.setdefault(name, []).append(found["backend_cpu_s_per_million"])

    def rate(self, name):
        return statistics.median(self.rates[name])

    def cpu(self, name):
        return statistics.median(self.cpus[name])

    def ratio(self, name, to):
        """The median of the rounds' own: a machine that changes its speed does so between rounds."""
        return statistics.median(a / b for a, b in zip(self.rates[name], self.rates[to]))


def in_turn(options, runs):
    """@runs: {name: (command, sockets, arguments)}, one after the other, and that again and again."""
    figures = Figures()
    for _ in range(1 if options.quick else 5):
        for name, run in runs.items():
            figures.add(name, measure(options, *run))
    return figures


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}; scripts/setup.sh --for all installs them")


def bars(title, unit, rows, names):
    """An SVG: for each of @rows (a name, and a figure for each of @names) a group of bars."""
    colors = ("#1b7f79", "#7fb8b4", "#8c8c8c", "#c4c4c4")
    left, bar, most = 220, 13, max(max(f) for _, f in rows)
    group = bar * len(names) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{70 + group * len(rows)}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>',
           f'<text x="8" y="18" font-size="14">{title}</text>']
    for k, name in enumerate(names):
        out.append(f'<rect x="{8 + k * 185}" y="28" width="12" height="10" fill="{colors[k]}"/>'
                   f'<text x="{24 + k * 185}" y="37">{name}</text>')
    for i, (row, figures) in enumerate(rows):
        y = 52 + i * group
        out.append(f'<text x="8" y="{y + group // 2}">{row}</text>')
        for k, figure in enumerate(figures):
            length = 460 * figure / most
            out.append(f'<rect x="{left}" y="{y + k * bar}" width="{length:.0f}" height="{bar - 1}" '
                       f'fill="{colors[k]}"/><text x="{left + length + 4:.0f}" y="{y + k * bar + 10}" '
                       f'font-size="10">{figure:.{2 if most < 100 else 0}f} {unit}</text>')
    return "\n".join(out + ["</svg>", ""])


def bench_disk(options):
    """Requests of 4 KiB to a disk that does nothing, one queue: ours beside qemu-storage-daemon's."""
    need("qemu-storage-daemon")
    null = "driver=null-co,size=1073741824,read-zeroes=on"
    names = ("Sluice, split", "Sluice, packed", "QEMU, main loop", "QEMU, iothread")
    lines = ["| requests | " + " | ".join(names) + " | ratio, split | packed | CPU s a million: Sluice, split "
             "| QEMU, its faster |", "| --- |" + " ---: |" * 8]
    rows = []
    for rw in ("randread", "randwrite"):
        for depth in (1, 32, 128):
            load = ["blk", "--rw", rw, "--bs", "4K", "--depth", depth]
            runs = {}
            for name, ring in zip(names, ("split", "packed")):
                runs[name] = (lambda folder: sluiced(options, folder, disks=[
                    {"name": "a", "socket": f"{folder}/a.sock", "null": "1G"}]), "a", [*load, "--ring", ring])
            for name, iothread in zip(names[2:], (False, True)):
                runs[name] = (lambda folder, iothread=iothread: storage_daemon(folder, null, iothread), "a", load)
            got = in_turn(options, runs)
            rates = [got.rate(n) / 1000 for n in names]
            peer = max(names[2:], key=got.rate)
            row = f"{rw}, depth {depth}"
            rows.append((row, rates))
            lines.append(f"| {row} | " + " | ".join(f"{r:.0f}" for r in rates)
                         + f" | {got.ratio(names[0], peer):.2f} | {got.ratio(names[1], peer):.2f} | "
                           f"{got.cpu(names[0]):.3f} | {got.cpu(peer):.3f} |")
    if options.write:
        (Path(__file__).resolve().parent.parent / "docs/bench-disk.svg").write_text(
            bars("4 KiB requests a second to a null disk, thousands", "k", rows, names))
        lines += ["", "![Requests a second](bench-disk.svg)"]
    return lines


def bench_cards(options):
    """Frames from one guest's card to another's: ours, which learns addresses, beside testpmd, which doesn't look."""
    need("dpdk-testpmd")
    names = ("Sluice", "testpmd")
    lines = ["| frames | Sluice | testpmd | ratio | CPU s a million: Sluice | testpmd |", "| --- |" + " ---: |" * 5]
    rows = []
    for ring in ("split", "packed"):
        for size in (60, 512, 1514):
            load = ["net", "--ring", ring, "--size", size]
            got = in_turn(options, {
                "Sluice": (lambda folder: sluiced(options, folder, networks=[{"name": "lan", "ports": [
                    {"name": n, "socket": f"{folder}/{n}.sock"} for n in "ab"]}]), "ab", load),
                "testpmd": (testpmd, "ab", load)})
            rates = [got.rate(n) / 1e6 for n in names]
            row = f"{ring}, {size} bytes"
            rows.append((row, rates))
            lines.append(f"| {row} | {rates[0]:.2f} | {rates[1]:.2f} | {got.ratio(*names):.2f} | "
                         f"{got.cpu('Sluice'):.3f} | {got.cpu('testpmd'):.3f} |")
    if options.write:
        (Path(__file__).resolve().parent.parent / "docs/bench-cards.svg").write_text(
            bars("Frames a second from guest to guest, millions", "M", rows, names))
        lines += ["", "![Frames a second](bench-cards.svg)"]
    return lines
