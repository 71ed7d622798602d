# SPDX-License-Identifier: Apache-2.0
"""The host's end of a network: its tap interface, ping, and files over TCP."""
import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import LabError


def run(*command):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(map(str, command))}: {done.stdout.strip()}")
    return done.stdout


def interface_up(name, address):
    """Gives the interface its address, and keeps IPv6's own traffic off it."""
    ipv6 = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if ipv6.exists():
        ipv6.write_text("1")
    run(_ip(), "addr", "add", address, "dev", name)
    run(_ip(), "link", "set", name, "up")


def interface_exists(name):
    return Path(f"/sys/class/net/{name}").exists()


def wait_until_gone(name, timeout_s=15):
    """After its daemon has ended: the kernel takes a killed process's io_uring apart in the background, and until then
    the poll requests in it hold the tap. 1.8 s were seen (Linux 6.18)."""
    end = time.monotonic() + timeout_s
    while name and interface_exists(name):
        if time.monotonic() > end:
            raise LabError(f"the interface {name} is still there {timeout_s} s after its daemon has ended")
        time.sleep(0.01)


@contextlib.contextmanager
def bridge(name, address):
    """A bridge with an address of the host's. The daemons' taps are put on it by plug()."""
    # A link address of its own: otherwise it changes with what is plugged in, and guests remember the last one.
    run(_ip(), "link", "add", name, "address", "52:54:00:5c:ff:01", "type", "bridge")
    try:
        interface_up(name, address)
        yield
    finally:
        run(_ip(), "link", "del", name)


def is_plugged(name, tap):
    return Path(f"/sys/class/net/{name}/brif/{tap}").exists()


def plug(name, tap):
    run(_ip(), "link", "set", tap, "master", name, "up")


def interface_counters(name):
    folder = Path(f"/sys/class/net/{name}/statistics")
    return {k: int((folder / k).read_text()) for k in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")}


def listens(port):
    """Does anybody, at TCP port @port of this machine?"""
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
        return True
    return False


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def _ip():
    return shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "ip"


def ping(address, count=5):
    """The average round trip in ms. LabError if one answer is missing."""
    out = run("busybox", "ping", "-c", count, "-A", "-w", 20, address)
    if " 0% packet loss" not in out:
        raise LabError(f"ping {address}: {out.strip().splitlines()[-1]}")
    return float(re.search(r"min/avg/max = [0-9.]+/([0-9.]+)/", out).group(1))


def send(address, port, data, timeout_s=30):
    """@data over TCP; returns when the other side has closed. The seconds it took."""
    start = time.monotonic()
    with socket.create_connection((address, port), timeout_s) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        while s.recv(65536):
            pass
    return time.monotonic() - start


def send_when_listening(address, port, data, timeout_s=10):
    """As send(), to one who is just about to listen."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return send(address, port, data)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise LabError(f"nobody listens at {address} port {port}") from None
            time.sleep(0.05)


class Receiver:
    """Takes one TCP connection at @address and everything that comes in by it."""

    def __init__(self, address, timeout_s=60):
        self._listener = socket.create_server((address, 0))
        self._listener.settimeout(timeout_s)
        self.port = self._listener.getsockname()[1]
        self._sum = hashlib.sha256()
        self.bytes = 0
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self):
        with self._listener, self._listener.accept()[0] as s:
            s.settimeout(30)
            while True:
                data = s.recv(1 << 20)
                if not data:
                    return
                self._sum.update(data)
                self.bytes += len(data)

    def digest(self):
        self._thread.join(60)
        return self._sum.hexdigest()
