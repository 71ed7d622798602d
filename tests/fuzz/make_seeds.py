#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds that follow from a text. For the session target, from vhost/messages.def: for each row, a
front-end that starts a ring, says the message as it should be, and goes on; on a disk and on a network card.
For the state target, from vhost/state_blob.h: for each kind of device states that are right, and the same with
one rule broken."""
import re
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS = re.findall(r"^MESSAGE\(\d+, (\w+),", (ROOT / "vhost/messages.def").read_text(), re.M)


def start(queue):
    return bytes([5, queue, 0, 0])


def message(row, how=0):
    """A payload that is right, with what need_reply asks for, and the descriptors that belong to it."""
    return bytes([0, row, 1, how]) + bytes(3)


def field(tag, data, said=None):
    return struct.pack("<HH", tag, len(data) if said is None else said) + data


def state(kind, fields, said=None):
    """kind: 1 a card, 2 a disk."""
    return b"sluicest" + struct.pack("<IIII", 1, kind, len(fields) if said is None else said, 0) + fields


def states():
    """(what, kind, bytes)"""
    mac, size = field(1, b"\x52\0\0\0\0\1"), field(1, struct.pack("<Q", 1 << 20))
    yield "no state", 1, b""
    for pairs in (0, 1, 3, 4, 0xffff):
        yield f"{pairs} pairs of 3", 1, state(1, mac + field(2, struct.pack("<H", pairs)))
    for cache in (b"\0", b"\1", b"\2", b"\1\0"):
        yield f"a write cache of {cache.hex()}", 2, state(2, size + field(0x8002, cache))
    yield "two write caches", 2, state(2, size + 2 * field(0x8002, b"\1"))
    yield "a group address", 1, state(1, field(1, b"\x53\0\0\0\0\1") + field(2, b"\1\0"))
    for kind, right in ((1, mac + field(2, b"\1\0")), (2, size)):
        optional = field(0x8007, b"")
        yield "right", kind, state(kind, right)
        yield "another kind of device's", kind, state(3 - kind, right)
        yield "a field that may be left out", kind, state(kind, right + optional)
        yield "a field that may not", kind, state(kind, right + field(7, b""))
        yield "a field twice", kind, state(kind, right + right)
        yield "a field cut off", kind, state(kind, right + field(0x8007, b"ab", 3))
        yield "a field's head cut off", kind, state(kind, right + optional[:2])
        yield "a whole field cut off", kind, state(kind, right, len(right + optional))
        yield "a whole field too much", kind, state(kind, right + optional, len(right))
        yield "its end cut off", kind, state(kind, right, len(right))[:-1]
        yield "another size of disk", kind, state(kind, field(1, struct.pack("<Q", 1 << 21)))


def state_seeds():
    """Each in large pieces to its device, then the device's own state back."""
    for what, kind, data in states():
        yield f"# {what}"
        yield (bytes([2 | kind & 1, 0xff, 0x80]) + data).hex()


def write(target, name, lines):
    out = ROOT / "tests/fuzz/seeds" / target / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def main():
    write("state", "rules.hex", ["# One rule of the format a line; made by make_seeds.py.", *state_seeds()])
    lines = ["# One line for each row of messages.def and kind of device; made by make_seeds.py."]
    for row, name in enumerate(ROWS):
        for device in (0, 1):
            for packed in (0, 1):
                begin = bytes([device, packed, 4, 0])
                chain = bytes([6, 0, 1 | 2 << 3, 0, 16]) + bytes(16) + bytes([16, 200, 1])
                lines.append(f"# {name}")
                lines.append((begin + start(0) + chain + bytes([8]) + message(row, 2) + chain +
                              bytes([8, 9, 11]) + message(row, 0x40) + bytes([8])).hex())
    write("session", "rows.hex", lines)


main()
