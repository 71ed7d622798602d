# SPDX-License-Identifier: Apache-2.0
"""A sluiced, and what it says of itself."""
import contextlib
import json
import re
import signal
import subprocess
import time
from pathlib import Path

from . import BUILD, LabError, credentials

START_TIMEOUT_S = 20


def wait_for(condition, timeout_s, what, every_s=0.05):
    """The first true value of condition(); LabError "@what" after @timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what}, not within {timeout_s} s")
        time.sleep(every_s)


class Daemon:
    """sluiced with a configuration file. Use as a context manager: it is gone afterwards.

    @config must not say where the control socket is: that is @folder/control.sock.
    """

    def __init__(self, folder, config, user=None):
        self.folder = Path(folder)
        self.control = self.folder / "control.sock"
        self.config = self.folder / "sluice.yaml"
        self.log = self.folder / "sluiced.log"
        self.user = user  # None: as ourselves
        self._process = None
        self.config.write_text(f"control: {{ socket: {self.control} }}\n{config}")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    def start(self):
        self.launch()
        wait_for(self._answers, START_TIMEOUT_S, "sluiced answers on its control socket")
        return self

    def launch(self):
        """Starts it, and does not wait."""
        if not (BUILD / "daemon/sluiced").exists():
            raise LabError(f"there is no {BUILD}/daemon/sluiced; run make build")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [BUILD / "daemon/sluiced", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, **credentials(self.user))

    def _answers(self):
        if self._process.poll() is not None:
            raise LabError(f"sluiced ended with code {self._process.returncode} at its start{self.log_tail()}")
        return self.control.exists() and self._status().returncode == 0

    def _status(self):
        return subprocess.run([BUILD / "cli/sluice", "--socket", self.control, "status", "--json"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=10, check=False)

    def status(self):
        done = self._status()
        if done.returncode:
            raise LabError(f"sluice status failed: {done.stderr.strip()}{self.log_tail()}")
        return json.loads(done.stdout)

    def disk(self, name):
        return _named(self.status()["disks"], name)

    def port(self, name):
        return _named([p for n in self.status()["networks"] for p in n["ports"]], name)

    def log_tail(self, n=8):
        lines = self.log.read_text(errors="replace").splitlines()[-n:] if self.log.exists() else []
        return "".join(f"\n    | {line}" for line in lines)

    @property
    def pid(self):
        return self._process.pid

    def alive(self):
        return self._process.poll() is None

    def proc_status(self):
        """/proc/PID/status as a dictionary."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return {k: v.strip() for k, v in re.findall(r"^(\w+):(.*)$", text, re.MULTILINE)}

    def cpu_s(self):
        """Seconds of CPU that all its threads have used so far (schedstat: in ns, not in ticks)."""
        ns = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # io_uring's own threads come and go
                ns += int((task / "schedstat").read_text().split()[0])
        return ns / 1e9

    def cpu_percent(self, seconds):
        """Of one core, over the next @seconds."""
        start, before = time.monotonic(), self.cpu_s()
        time.sleep(seconds)
        return 100 * (self.cpu_s() - before) / (time.monotonic() - start)

    def stop(self, timeout_s=15):
        """SIGTERM. Its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"sluiced has not ended within {timeout_s} s of SIGTERM{self.log_tail()}") from None

    def kill(self):
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _named(rows, name):
    for row in rows:
        if row["name"] == name:
            return row
    raise LabError(f"sluice status does not list {name}, only {', '.join(r['name'] for r in rows)}")
