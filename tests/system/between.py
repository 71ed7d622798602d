# SPDX-License-Identifier: Apache-2.0
"""Stands between a front-end and its back-end, and offers less than that one does: QEMU's device for any kind of
vhost-user back-end has no properties by which to do without a feature."""
import contextlib
import os
import socket
import struct
import threading

GET_FEATURES = 1
HEADER_BYTES, FDS_MAX = 12, 16


def _message(sock):
    """(bytes, descriptors) of one; None at the end."""
    data, fds, _, _ = socket.recv_fds(sock, HEADER_BYTES, FDS_MAX)
    while data:
        wanted = HEADER_BYTES + (struct.unpack_from("<I", data, 8)[0] if len(data) >= HEADER_BYTES else 0)
        if len(data) == wanted and wanted >= HEADER_BYTES:
            return data, fds
        more = sock.recv(max(wanted, HEADER_BYTES) - len(data))
        if not more:
            break
        data += more
    return None


def _pump(source, to, hidden):
    with contextlib.suppress(OSError):
        while message := _message(source):
            data, fds = message
            if hidden and struct.unpack_from("<I", data)[0] == GET_FEATURES and len(data) == HEADER_BYTES + 8:
                offered, = struct.unpack_from("<Q", data, HEADER_BYTES)
                data = data[:HEADER_BYTES] + struct.pack("<Q", offered & ~hidden)
            socket.send_fds(to, [data], fds)
            for fd in fds:
                os.close(fd)
    for sock in (source, to):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def hiding(path, behind, *bits):
    """At @path there is the back-end at @behind, for one front-end, without these feature bits."""
    hidden = sum(1 << bit for bit in bits)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as back:
        listener.bind(path)
        listener.listen(1)

        def serve():
            with contextlib.suppress(OSError):
                front, _ = listener.accept()
                with front:
                    back.connect(behind)
                    other = threading.Thread(target=_pump, args=(front, back, 0), daemon=True)
                    other.start()
                    _pump(back, front, hidden)
                    other.join()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            for sock in (listener, back):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join(10)
