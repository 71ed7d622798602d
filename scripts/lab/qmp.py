# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor, as far as migrations need it."""
import json
import socket
import time

from . import LabError
from .daemon import wait_for


class Monitor:
    """Connects to a QEMU that was started with options()."""

    def __init__(self, path):
        self._socket = wait_for(lambda: self._connect(path), 10, "QEMU's monitor answers")
        self._file = self._socket.makefile("rw")
        self._read()  # the greeting
        self.do("qmp_capabilities")

    @staticmethod
    def options(path):
        return ["-chardev", f"socket,id=qmp,path={path},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]

    @staticmethod
    def _connect(path):
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(str(path))
        except OSError:
            s.close()
            return None
        s.settimeout(30)
        return s

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def _read(self):
        line = self._file.readline()
        if not line:
            raise LabError("QEMU's monitor is gone")
        return json.loads(line)

    def do(self, command, **arguments):
        """The command's answer; LabError when QEMU refuses it."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "error" in answer:
                raise LabError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def migration(self):
        return self.do("query-migrate")

    def may_postcopy(self):
        """On both sides, before anything else. LabError where a back-end cannot do it."""
        self.do("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])

    def migrate(self, uri, timeout_s=60):
        """Begins to migrate and waits for the end of it. What query-migrate says then."""
        self.begin(uri)
        return self.end(timeout_s)

    def begin(self, uri):
        self.do("migrate", uri=uri)

    def end(self, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while True:
            info = self.migration()
            if info["status"] == "completed":
                return info
            if info["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise LabError(f"the migration is {info['status']}: {info.get('error-desc', info)}")
            time.sleep(0.05)
