# SPDX-License-Identifier: Apache-2.0
"""A qemu-nbd of the test's own, which can be killed, stopped and started again."""
import contextlib
import shutil
import signal
import socket
import subprocess

import pytest
from lab import LabError
from lab.daemon import wait_for

needs_qemu_nbd = pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-nbd (qemu-utils) is not here")


class Server:
    """qemu-nbd with an image. Use as a context manager: it is gone afterwards."""

    def __init__(self, folder, image, form):
        self.socket = folder / "nbd.sock"
        self._command = ["qemu-nbd", "--persistent", "--shared=8", f"--format={form}", "--discard=unmap",
                         f"--socket={self.socket}", image]
        self._process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    def start(self):
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_for(self._listens, 20, "qemu-nbd listens", 0.01)
        self.socket.chmod(0o666)  # sluiced is somebody else
        return self

    def _listens(self):
        if self._process.poll() is not None:
            raise LabError(f"qemu-nbd has ended with code {self._process.returncode}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.socket))
            return True
        return False

    def pause(self):
        """It is silent, and keeps its connections."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def stop(self):
        self._process.terminate()
        self._process.wait(60)
