# SPDX-License-Identifier: Apache-2.0
"""The cross-check of sluice-bench net: the same switch, driven by DPDK's virtio-user ports instead (see bench.py)."""
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

BURSTS, BURST = 7, 32
CPU, WORKER_CPU = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
MACS = ("02:00:00:00:0a:01", "02:00:00:00:0a:02")


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


def say(process, *lines):
    process.stdin.write("".join(line + "\n" for line in lines))
    process.stdin.flush()


def totals(text):
    """Frames that were received on both ports, and dropped, as `stop` tells them."""
    tail = text.rpartition("Accumulated forward statistics for all ports")[2]
    found = re.search(r"RX-packets:\s*(\d+)\s.*\n\s*TX-packets:\s*\d+\s+TX-dropped:\s*(\d+)", tail)
    if not found:
        raise CrossFailure("dpdk-testpmd: " + " / ".join(text.strip().splitlines()[-3:]))
    return int(found.group(1)), int(found.group(2))


def virtio_user(sockets, folder, ring, size, seconds):
    """Frames a second, both ways: testpmd sends some bursts by each port, and then each frame that comes by one by the
    other, for ever. It looks at none of them."""
    vdevs = []
    for i, path in enumerate(sockets):
        vdevs += ["--vdev", f"net_virtio_user{i},path={path},mac={MACS[i]},queue_size=256,mrg_rxbuf=1,in_order=0,"
                            f"packed_vq={int(ring == 'packed')}"]
    command = ["stdbuf", "-oL", "dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry",
               f"--file-prefix=x{os.getpid()}",
               "--lcores", f"0@{CPU},1@{CPU}", *vdevs, "--", "-i", "--forward-mode=io", f"--txpkts={size}", f"--burst={BURST}",
               "--total-num-mbufs=8192", "--no-flush-rx", f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}"]
    with open(f"{folder}/testpmd.log", "w+", encoding="utf-8") as log:
        # Its run-time files with ours, not in /var/run.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
                              env={**os.environ, "RUNTIME_DIRECTORY": folder}) as process:
            try:
                await_text(process, log.name, "testpmd> ")
                say(process, f"start tx_first {BURSTS}")
                await_text(process, log.name, "packet forwarding - ports=")
                time.sleep(0.2)
                say(process, "clear fwd stats all")
                since = time.monotonic()
                time.sleep(seconds)
                say(process, "stop")
                took = time.monotonic() - since
                await_text(process, log.name, "Accumulated forward statistics for all ports[^$]*TX-total")
                say(process, "quit")
                process.wait(20)
            except (BrokenPipeError, subprocess.TimeoutExpired) as e:
                raise CrossFailure(f"dpdk-testpmd: {e}") from e
            finally:
                process.kill()
        return totals(Path(log.name).read_text(encoding="utf-8"))[0] / took


def await_text(process, name, pattern):
    deadline = time.monotonic() + 20
    while not re.search(pattern, Path(name).read_text(encoding="utf-8")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise CrossFailure("dpdk-testpmd: " + " / ".join(Path(name).read_text(encoding="utf-8").splitlines()[-3:]))
        time.sleep(0.02)


def ours(build, sockets, ring, size, seconds):
    done = subprocess.run([build / "bench/sluice-bench", "net", *sockets, "--both", "--ring", ring, "--size", str(size),
                           "--window", str(BURSTS * BURST), "--time", str(seconds), "--cpu", str(CPU), "--json"], check=False,
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
            return virtio_user(sockets, folder, ring, size, seconds)
        finally:
            switch.kill()
            switch.wait()


def bench(options, tell):
    """Lines of a table."""
    if not shutil.which("dpdk-testpmd") or not shutil.which("stdbuf"):
        return ["Skipped: dpdk-testpmd or stdbuf is not installed."]
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
                    return [f"Not done: {e}"]
                tell(f"cross: {ring}, {size} bytes: {found[-1][0]:.0f} and {found[-1][1]:.0f}")
            ratios = [a / b for a, b in found if b]
            lines.append(f"| {ring}, {size} bytes | {statistics.median(f[0] for f in found) / 1e6:.2f} | "
                         f"{statistics.median(f[1] for f in found) / 1e6:.2f} | {statistics.median(ratios):.2f} | "
                         f"{min(ratios):.2f} | {max(ratios):.2f} |")
    return lines
