#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the session target that follow from vhost/messages.def: for each row, a front-end
that starts a ring, says the message as it should be, and goes on; on a disk and on a network card."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS = re.findall(r"^MESSAGE\(\d+, (\w+),", (ROOT / "vhost/messages.def").read_text(), re.M)


def start(queue):
    return bytes([5, queue, 0, 0])


def message(row, how=0):
    """A payload that is right, with what need_reply asks for, and the descriptors that belong to it."""
    return bytes([0, row, 1, how]) + bytes(3)


def main():
    lines = ["# One line for each row of messages.def and kind of device; made by make_seeds.py."]
    for row, name in enumerate(ROWS):
        for device in (0, 1):
            for packed in (0, 1):
                begin = bytes([device, packed, 4, 0])
                chain = bytes([6, 0, 1 | 2 << 3, 0, 16]) + bytes(16) + bytes([16, 200, 1])
                lines.append(f"# {name}")
                lines.append((begin + start(0) + chain + bytes([8]) + message(row, 2) + chain +
                              bytes([8, 9, 11]) + message(row, 0x40) + bytes([8])).hex())
    out = ROOT / "tests/fuzz/seeds/session/rows.hex"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


main()
