# SPDX-License-Identifier: Apache-2.0
"""Guests that are not ours: dpdk-testpmd with a virtio-user port for each card, DPDK's own virtio driver and its own
vhost-user front-end.

Some bursts are sent by each port, and from then on each frame that comes in by one goes out by the other, for ever.
Nobody looks at a frame, so this driver costs less than sluice-bench's, which checks all of them."""
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

BURSTS, BURST, QUEUE = 7, 32, 256
NEEDS = ("dpdk-testpmd", "stdbuf")
OPTIONS = {"--ring": ("split", "packed"), "--size": range(60, 1515)}
START_TIMEOUT_S = 20


class VirtioUserFailure(Exception):
    """A sentence."""


def missing(search=None):
    return [p for p in NEEDS if not shutil.which(p, path=search)]


def why_wrong(arguments):
    """A sentence about the first of the words after "virtio-user" that will not do, or None."""
    names, values = arguments[::2], arguments[1::2]
    for name, value in zip(names, [*values, None]):
        if name not in OPTIONS:
            return f"{name}: virtio-user knows {', '.join(OPTIONS)}"
        known = OPTIONS[name]
        if value not in [str(x) for x in known]:
            what = f"{known[0]} to {known[-1]}" if isinstance(known, range) else " or ".join(known)
            return f"{name} {value or ''}: say {what}"
    return None


def mac_of(i):
    return f"02:00:00:00:0a:{i + 1:02x}"


def command_of(sockets, cpu, ring, size, listen):
    vdevs, peers = [], []
    for i, path in enumerate(sockets):
        vdevs += ["--vdev", f"net_virtio_user{i},path={path},mac={mac_of(i)},queue_size={QUEUE},mrg_rxbuf=1,in_order=0,"
                            f"packed_vq={int(ring == 'packed')}{',server=1' if listen else ''}"]
        peers.append(f"--eth-peer={i},{mac_of(1 - i)}")
    return ["stdbuf", "-oL", "dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", "--no-telemetry",
            "--file-prefix=u", "--lcores", f"0@{cpu},1@{cpu}", *vdevs, "--", "-i",
            "--forward-mode=io", f"--txpkts={size}", f"--burst={BURST}", "--total-num-mbufs=8192", "--no-flush-rx", *peers]


def last_lines(text):
    return " / ".join([x for x in text.strip().splitlines() if x.strip()][-3:]) or "it said nothing"


def await_text(process, log, pattern):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not re.search(pattern, log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise VirtioUserFailure(f"dpdk-testpmd: {last_lines(log.read_text(encoding='utf-8', errors='replace'))}")
        time.sleep(0.02)


def say(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def received(text):
    """Frames that both ports received, as `stop` tells them."""
    tail = text.rpartition("Accumulated forward statistics for all ports")[2]
    found = re.search(r"RX-packets:\s*(\d+)\s", tail)
    if not found:
        raise VirtioUserFailure(f"dpdk-testpmd: {last_lines(text)}")
    return int(found.group(1))


def drive(sockets, folder, cpu, seconds, ring="split", size=60, listen=False, measured=lambda: 0.0, path=None):
    """Drives the two cards at @sockets, of whatever is there (or, with @listen, will connect), from @cpu.

    Returns frames a second, both ways together, and how much @measured() grew meanwhile. Raises VirtioUserFailure."""
    log = Path(folder, "virtio-user.log")
    # Its run-time files with ours, not in /var/run.
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(folder), **({"PATH": path} if path else {})}
    with open(log, "w", encoding="utf-8") as out, \
            subprocess.Popen(command_of(sockets, cpu, ring, size, listen), stdin=subprocess.PIPE, stdout=out, stderr=out,
                             text=True, cwd=folder, env=environment) as process:
        try:
            await_text(process, log, "testpmd> ")
            say(process, f"start tx_first {BURSTS}")
            await_text(process, log, "packet forwarding - ports=")
            time.sleep(0.2)
            say(process, "clear fwd stats all")
            since, before = time.monotonic(), measured()
            time.sleep(seconds)
            grown = measured() - before
            say(process, "stop")
            took = time.monotonic() - since
            await_text(process, log, "Accumulated forward statistics for all ports[^$]*TX-total")
            say(process, "quit")
            process.wait(START_TIMEOUT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired) as e:
            raise VirtioUserFailure(f"dpdk-testpmd: {e}: {last_lines(log.read_text(encoding='utf-8', errors='replace'))}") from e
        finally:
            process.kill()
    return received(log.read_text(encoding="utf-8", errors="replace")) / took, grown
