#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user-net back-end of two cards that passes on what one sends to the other, or of one that gets its own back, at first
honestly: what sluice-bench net has to notice. net_liar.py SOCKET [SOCKET] LIE HONEST (frames before it). One pair each, split or packed, no indirect descriptors, no EVENT_IDX;
polls. A LIE may have a number behind it: "flip 120" is of bit 120 of a frame."""
import os
import socket
import struct
import sys
import time

from liar import Device, Packed, Split

F_MRG_RXBUF, F_VERSION_1, F_PACKED = 1 << 15, 1 << 32, 1 << 34
FOREIGN = bytes(12) + b"\xff" * 6 + b"\x02\x99\0\0\0\1" + b"\x08\x00" + bytes(46)
RX, TX = 0, 1


class Card(Device):
    def __init__(self, connection, lie, honest):
        super().__init__(connection, lie, honest)
        self.taken = 0
        self.sizes, self.places, self.calls, self.rings = {}, {}, {}, {}

    def message(self, request, payload, fds):
        if request == 1:
            self.answer(1, struct.pack("<Q", F_MRG_RXBUF | F_VERSION_1 | F_PACKED))
        elif request == 8:
            index, self.sizes[index] = struct.unpack("<II", payload)
        elif request == 9:
            self.places[struct.unpack_from("<I", payload)[0]] = struct.unpack_from("<QQQ", payload, 8)
        elif request == 13:
            index = payload[0]
            self.calls[index] = fds[0]
            self.rings[index] = (Packed if self.features & F_PACKED else Split)(self.memory, self.sizes[index], self.places[index])
        else:
            super().message(request, payload, fds)

    def attach(self):
        while len(self.rings) < 2:
            if not self.obey():
                raise SystemExit("hung up")

    def gone(self):
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False

    def ring_for(self, ring):
        if self.lie != "nocall":
            os.write(self.calls[ring], struct.pack("<Q", 1))

    def take(self):
        """A frame that is sent, with its header; None."""
        if self.lie == "keep" and self.taken >= self.honest:
            return None
        self.taken += 1
        found = self.rings[TX].next()
        if not found:
            return None
        ident, chain = found
        frame = b"".join(self.memory.read(gpa, n) for gpa, n, _ in chain)
        self.rings[TX].push(ident, 0, len(chain), 0)
        self.ring_for(TX)
        return frame

    def give(self, frame, buffers=1):
        """@return whether there was room."""
        found = self.rings[RX].next()
        if not found:
            return False
        ident, chain = found
        data = frame[:10] + struct.pack("<H", buffers) + frame[12:] if len(frame) >= 12 else frame
        self.memory.write(chain[0][0], data[:chain[0][1]])
        self.rings[RX].push(ident, len(data), len(chain))
        self.ring_for(RX)
        return True


class Net:
    def __init__(self, cards, lie, honest):
        name, _, number = lie.partition(" ")
        self.cards, self.lie, self.number, self.honest = cards, name, int(number or 0), honest
        self.seen, self.held, self.next_at, self.saved = 0, [], 0.0, 0.0

    def pass_on(self, to, frame):
        """One lie, once @honest frames were passed on; of "foreign" many. Frames of sluice-bench's have 02:53:4c in front."""
        if frame[18:21] != b"\x02\x53\x4c" or frame[24:26] == b"\x88\xb5":
            to.give(frame)
            return
        self.seen += 1
        lies = self.seen == self.honest + 1
        if self.lie == "limit" and not self.may_pass():
            return
        if lies and self.lie == "flip":
            at = 12 + self.number // 8
            frame = frame[:at] + bytes([frame[at] ^ 1 << self.number % 8]) + frame[at + 1:]
        if lies and self.lie in ("lose", "foreign"):
            return
        if lies and self.lie in ("swap", "late"):
            self.held.append((time.monotonic() + self.number / 1000, frame))
            return
        if self.held and self.lie == "swap":
            to.give(frame)
            frame = self.held.pop()[1]
        if lies and self.lie == "err":
            os.write(to.err, struct.pack("<Q", 1))
        if lies and self.lie == "stall":
            time.sleep(self.number / 1000)
        to.give(frame)
        if lies and self.lie == "twice":
            to.give(frame)

    def may_pass(self):
        """Of so many a second, with what was saved in 20 ms."""
        now = time.monotonic()
        self.saved = min(self.saved + (now - self.next_at) * self.number, self.number / 50)
        self.next_at = now
        passes = self.saved >= 1
        self.saved -= passes
        return passes

    def work(self):
        moved = 0
        for sender, to in {(self.cards[0], self.cards[-1]), (self.cards[-1], self.cards[0])}:
            if self.lie == "slow" and time.monotonic() < self.next_at:
                continue
            frame = sender.take()
            if frame:
                moved += 1
                self.pass_on(to, frame)
                if self.lie == "slow":
                    self.next_at = time.monotonic() + self.number / 1e6
        if self.lie in ("foreign", "keep") and self.seen >= self.honest and time.monotonic() >= self.next_at:
            self.cards[-1].give(FOREIGN)
            self.next_at = time.monotonic() + 0.05
        while self.held and self.lie == "late" and time.monotonic() >= self.held[0][0]:
            self.cards[-1].give(self.held.pop(0)[1])
        return moved


def main():
    *paths, lie, honest = sys.argv[1:]
    cards = []
    listeners = [socket.socket(socket.AF_UNIX) for _ in paths]
    for path, listener in zip(paths, listeners):
        listener.bind(path)
        listener.listen()
    for listener in listeners:
        cards.append(Card(listener.accept()[0], ("nocall" if cards else "none") if lie == "half" else lie, int(honest)))
        cards[-1].attach()
    net = Net(cards, lie, int(honest))
    while not any(c.gone() for c in cards):
        for _ in range(100):
            if not net.work():
                time.sleep(0.0001)


if __name__ == "__main__":
    main()
