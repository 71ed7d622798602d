# SPDX-License-Identifier: Apache-2.0
"""A control socket whose answers are the test's."""
import array
import contextlib
import json
import os
import socket
import threading

SILENT = object()  # an answer that does not come


class FakeDaemon:
    """@answers: method -> its result; {"error": text}, SILENT, or bytes that are sent as they are. @asked: what came,
    in order."""

    def __init__(self, path, answers):
        self.path, self.answers = str(path), answers
        self.asked, self.n_fds = [], 0
        self._kept = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener.bind(self.path)
        os.chmod(self.path, 0o777)
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for client in self._kept:
            client.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._answer(client):
                client.close()
            else:
                self._kept.append(client)

    def _answer(self, client):
        line = b""
        while not line.endswith(b"\n"):
            data, control, _, _ = client.recvmsg(1 << 16, socket.CMSG_SPACE(16))
            if not data:
                return True
            for _, _, fds in control:
                whole = array.array("i", fds[:len(fds) // 4 * 4])
                self.n_fds += len(whole)
                for fd in whole:
                    os.close(fd)
            line += data
        request = json.loads(line)
        self.asked.append(request)
        answer = self.answers.get(request["method"], {"error": "there is no method"})
        if answer is SILENT:
            return False
        if not isinstance(answer, bytes):
            failed = isinstance(answer, dict) and list(answer) == ["error"]
            body = {"error": {"code": 1, "message": answer["error"]}} if failed else {"result": answer}
            answer = json.dumps({"jsonrpc": "2.0", "id": request["id"], **body}).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            client.sendall(answer)
        return True
