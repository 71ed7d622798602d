#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints what they say, and with --write puts it into docs/benchmarks.md.

    ring      the ring layer in cycles a descriptor, beside DPDK's rte_vhost
    fairness  64 disks on one worker, one of them a hostile guest's
    idle      the CPU time of a daemon whose 64 guests are silent
"""
import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/benchmarks.md"
GUESTS = 64


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=False,
                            stdout=subprocess.PIPE, text=True).stdout.strip()
    dpdk = output("pkg-config", "--modversion", "libdpdk").strip()
    return (f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}; "
            f"Sluice {commit or '?'}, DPDK {dpdk}; {time.strftime('%Y-%m-%d')}; "
            f"load average {os.getloadavg()[0]:.1f}")


class Daemon:
    """sluiced with GUESTS disks in RAM on one worker, on the last CPU."""

    def __init__(self, build, folder):
        self.sockets = [f"{folder}/d{i}.sock" for i in range(GUESTS)]
        config = {"workers": {"cpus": [os.cpu_count() - 1]},
                  "control": {"socket": f"{folder}/control.sock"},
                  "disks": [{"name": f"d{i}", "socket": s, "ram": "4M"} for i, s in enumerate(self.sockets)]}
        file = Path(folder) / "sluice.yaml"
        file.write_text(json.dumps(config))
        os.chmod(folder, 0o777)
        self.log = open(f"{folder}/log", "w+", encoding="utf-8")
        self.process = subprocess.Popen([build / "daemon/sluiced", "--config", file], stderr=self.log)
        deadline = time.monotonic() + 30
        while not all(Path(s).exists() for s in self.sockets):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                sys.exit(f"sluiced did not start:\n{Path(self.log.name).read_text()}")
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
        out.append(f'<text x="8" y="{y + 17}">{row['name']}</text>')
        for k, (key, color) in enumerate((("dequeue", "#1b7f79"), ("rte_dequeue", "#b9b9b9"))):
            length = row[key] * scale
            out.append(f'<rect x="{left}" y="{y + k * 13}" width="{length:.0f}" height="12" fill="{color}"/>')
            out.append(f'<text x="{left + length + 4:.0f}" y="{y + k * 13 + 10}" font-size="10">{row[key]:.0f}</text>')
    return "\n".join(out + ["</svg>", ""])


def bench_ring(options):
    quick = ["--runs", "3", "--rounds", "50"] if options.quick else []
    data = json.loads(output(options.build / "bench/ring/ring-bench", "--json", "--cpu", 0, *quick))
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


def bench_fairness(options):
    quick = ["--pairs", "1", "--window", "300"] if options.quick else []
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Daemon(options.build, folder) as daemon:
        data = json.loads(output(options.build / "bench/sluice-bench", "fair", *daemon.sockets, "--json",
                                 "--cpu", 0, *quick))
    lines = ["| attack | others, calm (1/s) | others, attacked (1/s) | ratio | hostile driver's share of its thread |",
             "| --- | ---: | ---: | ---: | ---: |"]
    for r in data["rows"]:
        lines.append(f"| {r['attack']} | {r['calm']:.0f} | {r['attacked']:.0f} | {r['ratio']:.3f} | "
                     f"{100 * r['hostile_share']:.0f} % |")
    return lines


def bench_idle(options):
    seconds = 1 if options.quick else 10
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, Daemon(options.build, folder) as daemon:
        attach = subprocess.Popen([options.build / "bench/sluice-bench", "fair", *daemon.sockets, "--silent",
                                   str(seconds + 2)], stdout=subprocess.PIPE, text=True)
        attach.stdout.readline()  # all are attached
        time.sleep(0.5)
        before = daemon.cpu_seconds()
        time.sleep(seconds)
        used = daemon.cpu_seconds() - before
        attach.wait()
        if attach.returncode:
            sys.exit("the guests could not be attached")
    return [f"{GUESTS} attached guests without requests: {used:.2f} s of CPU time in {seconds} s "
            f"({100 * used / seconds:.1f} % of one CPU)."]


BENCHES = {"ring": bench_ring, "fairness": bench_fairness, "idle": bench_idle}


def write(name, lines):
    """Between the markers of @name in the page."""
    text = DOC.read_text()
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        sys.exit(f"{DOC}: no place for {name}")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    DOC.write_text(head + begin + f"\n{machine()}.\n\n" + "\n".join(lines) + "\n\n" + end + tail)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="ring, fairness, idle; default: all")
    parser.add_argument("--build", default=ROOT / "build", type=Path, help="meson's build folder (default: build)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="short, to see that it works; figures mean little")
    options = parser.parse_args()
    options.build = options.build.resolve()
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in options.names or BENCHES:
        print(f"{name}: {machine()}", flush=True)
        lines = BENCHES[name](options)
        print("\n".join(lines) + "\n", flush=True)
        if options.write:
            write(name, lines)


main()
