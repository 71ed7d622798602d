# SPDX-License-Identifier: Apache-2.0
"""The cross-check of sluice-bench net: the same switch, driven by DPDK's virtio-user ports instead (see bench.py)."""
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import virtio_user

CPU, WORKER_CPU = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


class CrossFailure(Exception):
    """A sentence."""


def start_switch(build, folder):
    sockets = [f"{folder}/{n}.sock" for n in "ab"]
    file = Path(folder) / "sluice.yaml"
    file.write_text(json.dumps({
        "workers": {"cpus": [WORKER_CPU]}, "control": {"socket": f"{folder}/control.sock"},
        "networks": [{"name": "lan", "ports": [{"name": n, "socket": s} for n, s in zip("ab", sockets)]}]}))
    process = subprocess.Popen([build / "daemon/sluiced", "--config", file, "--log-level", "error"])
    deadline = time.monotonic() + 30
    while not all(os.path.exists(s) for s in sockets):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise CrossFailure("sluiced did not start")
        time.sleep(0.02)
    return process, sockets


def virtio_user_rate(sockets, folder, ring, size, seconds):
    try:
        return virtio_user.drive(sockets, folder, CPU, seconds, ring, size)[0]
    except virtio_user.VirtioUserFailure as e:
        raise CrossFailure(str(e)) from e


def ours(build, sockets, ring, size, seconds):
    done = subprocess.run([build / "bench/sluice-bench", "net", *sockets, "--both", "--ring", ring, "--size", str(size),
                           "--window", str(virtio_user.BURSTS * virtio_user.BURST), "--time", str(seconds), "--cpu", str(CPU), "--json"], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise CrossFailure(done.stderr.strip())
    return json.loads(done.stdout)["pps"]


def one(build, way, ring, size, seconds):
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        os.chmod(folder, 0o777)
        switch, sockets = start_switch(build, folder)
        try:
            if way == "ours":
                return ours(build, sockets, ring, size, seconds)
            return virtio_user_rate(sockets, folder, ring, size, seconds)
        finally:
            switch.kill()
            switch.wait()


def bench(options, tell):
    """Lines of a table."""
    if virtio_user.missing():
        return [f"Skipped: not installed: {', '.join(virtio_user.missing())}."]
    rounds, sizes = (1, (60,)) if options.quick else (3, (60, 1514))
    lines = ["| frames | sluice-bench net | DPDK virtio-user | ratio, round by round: median | least | most |",
             "| --- |" + " ---: |" * 5]
    for ring in ("split", "packed"):
        for size in sizes:
            found = []
            for _ in range(rounds):
                try:
                    found.append([one(options.build, way, ring, size, 1) for way in ("ours", "theirs")])
                except CrossFailure as e:
                    raise CrossFailure(f"{ring}, {size} bytes: {e}") from e
                tell(f"cross: {ring}, {size} bytes: {found[-1][0]:.0f} and {found[-1][1]:.0f}")
            ratios = [a / b for a, b in found if b]
            lines.append(f"| {ring}, {size} bytes | {statistics.median(f[0] for f in found) / 1e6:.2f} | "
                         f"{statistics.median(f[1] for f in found) / 1e6:.2f} | {statistics.median(ratios):.2f} | "
                         f"{min(ratios):.2f} | {max(ratios):.2f} |")
    return lines
