# SPDX-License-Identifier: Apache-2.0
"""A TCP stream through a guest, which must come back whole whatever happens underneath."""
import secrets
import socket
import threading
import time

from .daemon import wait_for


class Stream:
    """Sends without end to the guest's echo service and compares what comes back."""

    def __init__(self, address, port, timeout_s=20):
        self._address = (address, port)
        self._socket = wait_for(self._connect, 20, "the guest's echo service answers", 0.2)
        self._socket.settimeout(timeout_s)
        self._end = False
        self.bytes = 0
        self.worst_gap_s = 0.0
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _connect(self):
        try:
            return socket.create_connection(self._address, 2)
        except OSError:
            return None

    def _run(self):
        block = secrets.token_bytes(16384)
        try:
            while not self._end:
                start = time.monotonic()
                self._socket.sendall(block)
                got = b""
                while len(got) < len(block):
                    piece = self._socket.recv(65536)
                    if not piece:
                        raise OSError("the guest has closed the stream")
                    got += piece
                if got != block:
                    raise OSError("the stream came back changed")
                self.worst_gap_s = max(self.worst_gap_s, time.monotonic() - start)
                self.bytes += len(block)
                time.sleep(0.005)  # the guest has one emulated CPU, and more to do
        except OSError as e:
            self.error = e

    def goes_on(self, kib, timeout_s=30):
        """That much more has come back."""
        enough = self.bytes + (kib << 10)
        wait_for(lambda: self.error or self.bytes >= enough, timeout_s, "the stream goes on")

    def stop(self):
        self._end = True
        self._thread.join(30)
        self._socket.close()
        assert not self.error, f"after {self.bytes} bytes: {self.error}"
