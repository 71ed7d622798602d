#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, prints what they say, and with --write puts it into docs/benchmarks.md.

    ring      the ring layer in cycles a descriptor, beside DPDK's rte_vhost
    iotlb     what an address costs behind an IOMMU, by the size of the table
    fairness  64 disks, and then 64 cards, on one worker; one of them a hostile guest's, or two
    idle      the CPU time of a daemon whose 64 guests are silent
    disk      requests a second to a null disk, beside qemu-storage-daemon
    file      requests a second to a file, also beside fio without any back-end
    device    the same to a zram device, where there is one
    cards     frames a second from guest to guest, beside dpdk-testpmd and, where it is installed, OVS-DPDK
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
sys.path.insert(0, str(ROOT / "bench/compare"))
import recipe  # pylint: disable=wrong-import-position
import report  # pylint: disable=wrong-import-position
import run  # pylint: disable=wrong-import-position

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
        out.append(f'<text x="8" y="{y + 17}">{row["name"]}</text>')
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


FAIR_PAIRS, FAIR_PAIRS_AGAIN = 7, 41


def fair(options, cards, ring):
    """The rows of sluice-bench fair. What comes out under 0.95 is measured again over more pairs, and that counts: on a
    machine that changes its speed a few times a second, the median of few pairs says little."""
    rows = fair_run(options, cards, ring, FAIR_PAIRS)
    low = [r["attack"] for r in rows if r["ratio"] < 0.95]
    if not low or options.quick:
        return rows
    again = {r["attack"]: r for r in fair_run(options, cards, ring, FAIR_PAIRS_AGAIN, "--attack", ",".join(low))}
    return [again.get(r["attack"], r) for r in rows]


def fair_run(options, cards, ring, pairs, *more):
    """The rows of one run."""
    quick = ["--pairs", 1, "--window", 50] if options.quick else ["--pairs", pairs, "--window", 100]
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder, \
            Daemon(options.build, folder, cards) as daemon:
        return json.loads(output(options.build / "bench/sluice-bench", "fair", *daemon.sockets, "--json", "--cpu", 0,
                                 "--ring", ring, *(["--net"] if cards else []), *quick, *more))["rows"]


def bench_fairness(options):
    lines, tables, behind = [], [], []
    for cards, title, unit in ((False, "disks", "requests"), (True, "cards", "frames")):
        split, packed = fair(options, cards, "split"), fair(options, cards, "packed")
        lines += [f"**{GUESTS} {title}**; {unit} a second of the well-behaved guests, in thousands", "",
                  "| attack | split: calm | attacked | ratio | packed: calm | attacked | ratio "
                  "| attacker's driver |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for s, p in zip(split, packed):
            lines.append(f"| {s['attack']}: {s['what']} | {s['calm'] / 1000:.0f} | {s['attacked'] / 1000:.0f} | "
                         f"{s['ratio']:.3f} | {p['calm'] / 1000:.0f} | {p['attacked'] / 1000:.0f} | "
                         f"{p['ratio']:.3f} | {100 * max(s['hostile_share'], p['hostile_share']):.0f} % |")
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


def compare(options, name):
    """What `sluice-bench compare NAME` finds, as lines; the charts beside the page."""
    read = recipe.load(recipe.find(name), rounds=1 if options.quick else None)
    if options.quick:
        read.workloads = dict(list(read.workloads.items())[::3])
    with run.Bench(read, options.build / "bench/sluice-bench") as bench:
        results = run.in_turn(bench, lambda text: print(text, file=sys.stderr, flush=True))
    lines = report.markdown(read, results)
    if not all(f.found for f in results.values()):
        sys.exit("\n".join(lines))
    if options.write:
        chart = ROOT / f"docs/bench-{name}.svg"
        chart.write_text(report.svg(read, results))
        if report.can_png():
            report.write_png(chart, chart.with_suffix(".png"))
        lines += ["", f"![{read.title}]({chart.name})"]
    return lines


def bench_device(options):
    size = Path("/sys/block/zram0/disksize")
    if not Path("/dev/zram0").exists() or not size.exists() or int(size.read_text()) == 0:
        return ["Skipped: /dev/zram0 is not there, or has no size."]
    return compare(options, "device")


BENCHES = {"ring": bench_ring, "iotlb": bench_iotlb, "fairness": bench_fairness, "idle": bench_idle,
           "disk": lambda options: compare(options, "disk"), "file": lambda options: compare(options, "file"),
           "device": bench_device, "cards": lambda options: compare(options, "cards")}


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
    parser.add_argument("names", nargs="*", metavar="NAME", help="ring, iotlb, fairness, idle, disk, file, device, cards; default: all")
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
