#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A vhost-user-blk back-end of 1 MiB that serves its first requests honestly and then lies: what sluice-bench has to
notice. liar.py SOCKET LIE [HONEST]. "config: ..." are no lies, but what back-ends make of GET_CONFIG. One queue, split or packed, no
indirect descriptors, no EVENT_IDX; polls."""
import contextlib
import fcntl
import mmap
import os
import socket
import struct
import sys
import threading
import time

HONEST = 800  # requests before the first lie, unless it is told how many
DISK_BYTES = 1 << 20
BLOCK = 4096
F_SIZE_MAX, F_FLUSH, F_DISCARD, F_PROTOCOL = 1 << 1, 1 << 9, 1 << 13, 1 << 30
F_VERSION_1, F_PACKED = 1 << 32, 1 << 34
PF_MQ, PF_CONFIG, PF_MEM_SLOTS = 1 << 0, 1 << 9, 1 << 15
DESC_NEXT, DESC_WRITE, AVAIL, USED = 1, 2, 1 << 7, 1 << 15
T_IN, T_OUT, T_FLUSH = 0, 1, 4


def put(m, at, data):
    """In one step; pack_into() writes zeros first."""
    m[at:at + len(data)] = data


def fill(event):
    """An eventfd that does not block, and may have been kicked before."""
    for kicks in range(1000):
        with contextlib.suppress(BlockingIOError):
            os.write(event, struct.pack("<Q", (1 << 64) - 2 - kicks))
            return


class Memory:
    def __init__(self):
        self.regions = []  # gpa, uva, bytes, mapping

    def add(self, gpa, size, uva, offset, fd):
        self.regions.append((gpa, uva, size, mmap.mmap(fd, size, offset=offset)))
        os.close(fd)

    def find(self, address, by=0):
        for region in self.regions:
            if region[by] <= address < region[by] + region[2]:
                return region[3], address - region[by]
        raise ValueError(f"{address:#x} is nowhere")

    def read(self, gpa, n):
        m, at = self.find(gpa)
        return m[at:at + n]

    def write(self, gpa, data):
        m, at = self.find(gpa)
        m[at:at + len(data)] = data


class Split:
    def __init__(self, memory, size, addresses):
        self.memory, self.size = memory, size
        (self.desc, self.d), (self.used, self.u), (self.avail, self.a) = (memory.find(a, 1) for a in addresses)
        self.seen = self.done = 0

    def next(self):
        if struct.unpack_from("<H", self.avail, self.a + 2)[0] == self.seen:
            return None
        head, = struct.unpack_from("<H", self.avail, self.a + 4 + 2 * (self.seen % self.size))
        self.seen = (self.seen + 1) & 0xffff
        chain, i = [], head
        while True:
            gpa, n, flags, following = struct.unpack_from("<QIHH", self.desc, self.d + 16 * i)
            chain.append((gpa, n, flags))
            if not flags & DESC_NEXT:
                return head, chain
            i = following

    def push(self, ident, length, *_):
        put(self.used, self.u + 4 + 8 * (self.done % self.size), struct.pack("<II", ident, length))
        self.done = (self.done + 1) & 0xffff
        put(self.used, self.u + 2, struct.pack("<H", self.done))


class Packed:
    def __init__(self, memory, size, addresses):
        self.desc, self.d = memory.find(addresses[0], 1)
        self.size, self.at, self.wrap, self.used_at, self.used_wrap = size, 0, True, 0, True

    def next(self):
        flags, = struct.unpack_from("<H", self.desc, self.d + 16 * self.at + 14)
        if bool(flags & AVAIL) != self.wrap or bool(flags & USED) == self.wrap:
            return None
        chain = []
        while True:
            gpa, n, ident, flags = struct.unpack_from("<QIHH", self.desc, self.d + 16 * self.at)
            chain.append((gpa, n, flags))
            self.at += 1
            if self.at == self.size:
                self.at, self.wrap = 0, not self.wrap
            if not flags & DESC_NEXT:
                return ident, chain

    def push(self, ident, length, n_slots, flags=DESC_WRITE):
        place = self.d + 16 * self.used_at
        put(self.desc, place + 8, struct.pack("<IH", length, ident))
        put(self.desc, place + 14, struct.pack("<H", flags | (AVAIL | USED if self.used_wrap else 0)))
        self.used_at += n_slots
        if self.used_at >= self.size:
            self.used_at, self.used_wrap = self.used_at - self.size, not self.used_wrap


class Device:
    def __init__(self, connection, lie, honest):
        self.connection, self.lie, self.honest = connection, lie, honest
        self.memory, self.disk, self.served, self.writes = Memory(), bytearray(DISK_BYTES), 0, 0
        self.features, self.size, self.addresses, self.call, self.err = 0, 0, None, -1, -1

    def store(self, at, data, lies):
        """A segment of a write, or what a liar makes of it, one write in seven."""
        lies = lies and self.writes % 7 == 0
        if lies and self.lie == "stale":
            return
        if lies and self.lie == "torn":
            data = data[:len(data) // 2]
        if lies and self.lie == "damaged":
            data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
        self.disk[at:at + len(data)] = data
        if lies and self.lie == "clobber":
            self.disk[at ^ BLOCK:(at ^ BLOCK) + len(data)] = data

    def serve(self, ident, chain, ring):
        kind, _, sector = struct.unpack("<IIQ", self.memory.read(chain[0][0], 16))
        lies, written, at = self.served >= self.honest, 1, sector * 512
        if self.lie == "slow":
            time.sleep(0.003)
        if self.lie == "babble" and not self.served:
            self.connection.sendall(b"hello")
            threading.Timer(0.5, self.connection.shutdown, [socket.SHUT_RDWR]).start()
        if self.lie == "ring" and lies:
            while True:
                os.write(self.call, struct.pack("<Q", 1))
                time.sleep(0.001)
        self.served += 1
        self.writes += kind == T_OUT
        if lies and self.lie == "misread" and kind == T_IN:
            at ^= BLOCK
        for gpa, n, _ in chain[1:-1]:
            if kind == T_IN:
                self.memory.write(gpa, self.disk[at:at + n])
                written += n
            elif kind == T_OUT:
                self.store(at, self.memory.read(gpa, n), lies)
            at += n
        if lies and self.lie == "lost" and self.served == self.honest + 1 or lies and self.lie == "silent":
            return
        if not (lies and self.lie == "status"):
            self.memory.write(chain[-1][0], bytes([9 if lies and self.lie == "strange" else 0]))
        if lies and self.lie == "id":
            ident = ring.size - 1 if ident != ring.size - 1 else 0
        if lies and self.lie == "range":
            ident = 0xfff0
        if lies and self.lie == "long":
            written += 4096
        if lies and self.lie == "short":
            written = 0
        if lies and self.lie == "err":
            os.write(self.err, struct.pack("<Q", 1))
        ring.push(ident, written, len(chain))
        if lies and self.lie == "twice":
            ring.push(ident, written, len(chain))
        if not (lies and self.lie == "nocall"):
            os.write(self.call, struct.pack("<Q", 1))
        if lies and self.lie == "hangup":
            self.connection.shutdown(socket.SHUT_RDWR)

    def work(self):
        ring = (Packed if self.features & F_PACKED else Split)(self.memory, self.size, self.addresses)
        while True:
            found = ring.next()
            if found:
                self.serve(*found, ring)
            else:
                time.sleep(0.0001)

    def answer(self, request, payload):
        fds = [0] if self.lie == "descriptors" else []
        socket.send_fds(self.connection, [struct.pack("<III", request, 1 | 4, len(payload)) + payload], fds)

    def config(self, offset, size):
        """virtio 1.3 5.2.4: capacity in sectors, size_max; discard and write zeroes at most so many sectors."""
        space = bytearray(256)
        sectors = {"config: endless": (1 << 55) + 1, "config: empty": 0}.get(self.lie, DISK_BYTES // 512)
        struct.pack_into("<QI", space, 0, sectors, 0 if self.lie == "config: no size_max" else 1536)
        struct.pack_into("<I", space, 36, 64)
        asked = offset
        if self.lie == "config: no offset":  # libvhost-user, SPDK
            offset = 0
        if self.lie == "config: brief":
            size = min(size, 36)
        if self.lie == "config: tiny":
            size = min(size, 4)
        whole = self.lie.removeprefix("config: whole ")
        if self.lie == "config: none" or whole.isdigit() and (offset, size) != (0, int(whole)):
            # As rust-vmm's vhost does: a header that says 0 bytes. libvhost-user leaves the header out, too.
            self.answer(24, b"" if self.lie == "config: none" else struct.pack("<III", offset, 0, 0))
            return
        self.answer(24, struct.pack("<III", asked, size, 0) + space[offset:offset + size])

    def message(self, request, payload, fds):
        if self.lie == "full" and request == 12:
            fill(fds[0])
        if self.lie in ("blocking", "full") and request in (12, 13, 14):
            fcntl.fcntl(fds[0], fcntl.F_SETFL, 0)
        if self.lie == "aside":
            while True:
                self.connection.send(b"!", socket.MSG_OOB)
                time.sleep(0.01)
        if request == 1:
            self.answer(1, struct.pack("<Q", F_SIZE_MAX | F_FLUSH | F_DISCARD | F_PROTOCOL | F_VERSION_1 | F_PACKED))
        elif request == 2:
            self.features, = struct.unpack("<Q", payload)
        elif request == 15:
            more = {"no config": PF_CONFIG, "no blk mq": PF_MQ, "no slots": PF_MEM_SLOTS}.get(self.lie, 0)
            self.answer(15, struct.pack("<Q", PF_CONFIG ^ more))
        elif request in (17, 36):
            self.answer(request, struct.pack("<Q", 0 if self.lie == "no slots" else 8))
        elif request == 5:
            for i, fd in enumerate(fds):
                with contextlib.suppress(PermissionError):
                    if self.lie == "truncate":
                        os.ftruncate(fd, 0)
                self.memory.add(*struct.unpack_from("<QQQQ", payload, 8 + 32 * i), fd)
        elif request == 8:
            self.size = struct.unpack("<II", payload)[1]
        elif request == 9:
            self.addresses = struct.unpack_from("<QQQ", payload, 8)
        elif request == 13:
            self.call = fds[0]
        elif request == 14:
            self.err = fds[0]
        elif request == 18:
            threading.Thread(target=self.work, daemon=True).start()
        elif request == 24:
            self.config(*struct.unpack_from("<II", payload))

    def obey(self):
        """One message. @return False where there is none any more."""
        data, fds, _, _ = socket.recv_fds(self.connection, 12, 16)
        if len(data) < 12:
            return False
        request, _, size = struct.unpack("<III", data)
        payload = b""
        while len(payload) < size:
            payload += self.connection.recv(size - len(payload))
        self.message(request, payload, fds)
        return True

    def run(self):
        while self.obey():
            pass


def main():
    path, lie, *honest = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        Device(listener.accept()[0], lie, *map(int, honest or [HONEST])).run()


if __name__ == "__main__":
    main()
