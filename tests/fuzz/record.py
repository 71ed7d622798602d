#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Records what a real front-end says, and makes a seed of it for the session target.

    record.py LISTEN BACKEND RECORDING      pass everything on between a front-end that connects to the
                                            socket LISTEN and the back-end at BACKEND; one line a message
    record.py --seed RECORDING...           print a line of hexadecimal for each recording; of a network
                                            card's where its name ends in net

A line is: number, flags, how many descriptors, payload in hexadecimal. A seed keeps the order of the
messages, their queues, numbers and features; addresses become those of the fuzzer's own guest, and each
time that a ring is kicked its guest makes a chain available and the worker polls.
"""
import re
import select
import socket
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Number, payload and most descriptors of each row; and how long that payload is in a seed.
ROWS = [(int(n), kind, int(fds)) for n, kind, fds in
        re.findall(r"^MESSAGE\((\d+), \w+, (\w+), \d+, (\d+)", (ROOT / "vhost/messages.def").read_text(), re.M)]
NUMBERS = [number for number, _, _ in ROWS]
BYTES = {"NONE": 0, "U64": 8, "STATE": 8, "LOG": 16, "INFLIGHT": 24, "IOTLB": 32, "TRANSFER": 8}
SET_FEATURES, SET_MEM_TABLE, SET_VRING_ADDR, SET_VRING_KICK = 2, 5, 9, 12
WITH_FILES = 6, 32  # SET_LOG_BASE, SET_INFLIGHT_FD
ADD_MEM_REG, REM_MEM_REG, GET_CONFIG, SET_CONFIG = 37, 38, 24, 25


def message_of(front):
    """A whole message and its descriptors, read as a back-end reads: they belong to its first bytes."""
    data, fds, _, _ = socket.recv_fds(front, 12, 32)
    while data and len(data) < 12:
        data += front.recv(12 - len(data))
    size = struct.unpack_from("=I", data, 8)[0] if data else 0
    while len(data) < 12 + size and (piece := front.recv(12 + size - len(data))):
        data += piece
    return data, fds


def record(listen, backend, path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(listen)
    server.listen(1)
    front, _ = server.accept()
    back = socket.socket(socket.AF_UNIX)
    back.connect(backend)
    with open(path, "w", encoding="ascii") as out:
        while True:
            ready, _, _ = select.select([front, back], [], [])
            if front in ready:
                data, fds = message_of(front)
                if not data:
                    break
                number, flags, _ = struct.unpack_from("=III", data)
                out.write(f"{number} {flags} {len(fds)} {data[12:].hex()}\n")
                target = back
            else:
                data, fds, _, _ = socket.recv_fds(back, 65536, 32)
                if not data:
                    break
                target = front
            socket.send_fds(target, [data], fds)
            for fd in fds:
                socket.close(fd)


def message(row, payload_how, extra=b"", fds_how=0):
    """fuzz_session.c's step_message()."""
    return bytes([0, row, 1, payload_how]) + extra + bytes([fds_how])


def seed(path):
    lines = [line.split() for line in Path(path).read_text(encoding="ascii").split("\n") if line]
    told = [(int(w[0]), int(w[2]), bytes.fromhex(w[3]) if len(w) > 3 else b"") for w in lines]
    features = [struct.unpack("=Q", p)[0] for n, _, p in told if n == SET_FEATURES]
    packed = bool(features) and features[-1] >> 34 & 1
    is_net = Path(path).stem.endswith("net")
    out = bytes([1 if is_net else 0, (1 if packed else 0) | 6, 9 if packed else 8, 0])
    for number, n_fds, payload in told:
        if number not in NUMBERS:
            continue
        row = NUMBERS.index(number)
        _, kind, fds_max = ROWS[row]
        fds_how = 2 | (payload[0] & 3) << 2 if number == SET_VRING_KICK else 0
        if number in WITH_FILES:
            fds_how = 2  # a large file
        if fds_max and not n_fds and kind == "U64" and payload[1] & 1:
            fds_how = 0x80  # none, and the bit that says so
        if number == SET_MEM_TABLE:
            out += message(row, 2)
        elif number in (ADD_MEM_REG, REM_MEM_REG):
            out += message(row, 0, fds_how=fds_how)
        elif number == SET_VRING_ADDR:
            # With its flags, where it has some: the migrating front-end's.
            out += message(row, payload[0] & 3 | (4 if payload[4] else 0), payload[4:5] if payload[4] else b"")
        elif number in (GET_CONFIG, SET_CONFIG):
            offset, size = struct.unpack_from("=II", payload)
            out += message(row, 0, bytes([offset & 0xff, min(size, 255)]) + payload[12:20].ljust(8, b"\0"))
        else:
            # As it was said: step_message()'s "any bytes".
            n = BYTES.get(kind, 64)
            out += message(row, 0x80, payload[:n].ljust(n, b"\0"), fds_how)
        if number == SET_VRING_KICK:
            out += bytes([6, 0, 1 | 2 << 3, 0, 16]) + bytes(16) + bytes([16, 200, 1]) + bytes([8])
    return out.hex()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--seed"]:
        for name in sys.argv[2:]:
            print(f"# {Path(name).stem}\n{seed(name)}")
    elif len(sys.argv) == 4:
        record(*sys.argv[1:])
    else:
        sys.exit(__doc__)
