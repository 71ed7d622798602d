# SPDX-License-Identifier: Apache-2.0
"""One disk with as many queues as there are workers, for as many workers as there are CPUs for (see bench.py)."""
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROUNDS = 3


class WorkersFailure(Exception):
    """A sentence."""


def numbers(cpus):
    """1, 2, 4 ... and the most: each worker has a CPU, and so has each thread of the driver."""
    most = max(cpus // 2, 1)
    return sorted({n for n in (1, 2, 4, 8, 16, 32, 64) if n < most} | {most})


def cpu_list(first, n):
    return list(range(first, first + n))


def measure(build, workers, driver_cpus, worker_cpus, seconds):
    """What sluice-bench blk tells of a null disk with a queue for each worker."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        os.chmod(folder, 0o777)
        path = f"{folder}/d.sock"
        file = Path(folder) / "sluice.yaml"
        file.write_text(json.dumps({
            "workers": {"cpus": worker_cpus}, "control": {"socket": f"{folder}/control.sock"},
            "disks": [{"name": "d", "socket": path, "null": "1G", "queues": workers}]}))
        with subprocess.Popen([build / "daemon/sluiced", "--config", file, "--log-level", "error"]) as process:
            try:
                deadline = time.monotonic() + 30
                while not os.path.exists(path):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise WorkersFailure("sluiced did not start")
                    time.sleep(0.02)
                done = subprocess.run(
                    [build / "bench/sluice-bench", "blk", path, "--rw", "randread", "--bs", "4K", "--depth", "32", "--threads",
                     str(workers), "--cpus", ",".join(map(str, driver_cpus)), "--time", str(seconds), "--json"],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=seconds + 60)
            except subprocess.TimeoutExpired as e:
                raise WorkersFailure("sluice-bench did not end") from e
            finally:
                process.kill()
    if done.returncode:
        raise WorkersFailure(done.stderr.strip())
    return json.loads(done.stdout)


def bench(options, tell):
    """Lines of a table."""
    cpus, rounds = os.cpu_count() or 1, 1 if options.quick else ROUNDS
    lines = ["| workers | k requests/s | times one worker | CPU s a million | p99, us |", "| --- |" + " ---: |" * 4]
    one = None
    for n in numbers(cpus):
        found = []
        for _ in range(rounds):
            try:
                found.append(measure(options.build, n, cpu_list(0, n), cpu_list(max(cpus - n, 0), n), 1))
            except WorkersFailure as e:
                raise WorkersFailure(f"{n} workers: {e}") from e
            tell(f"workers: {n}: {found[-1]['iops']:.0f}")
        rate = statistics.median(f["iops"] for f in found)
        one = one or rate
        lines.append(f"| {n} | {rate / 1000:.0f} | {rate / one:.2f} | "
                     f"{statistics.median(f['backend_cpu_s_per_million'] for f in found):.3f} | "
                     f"{statistics.median(f['latency_us']['p99'] for f in found):.1f} |")
    if cpus < 4:
        lines += ["", f"This machine has {cpus} CPUs: more than one worker, each with a CPU, and a driver's thread for each, need 4."]
    return lines
