#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds that follow from a text. For the session target, from vhost/messages.def: for each row, a
front-end that starts a ring, says the message as it should be, and goes on; on a disk and on a network card, with
and without an IOMMU.
For the state target, from vhost/state_blob.h: for each kind of device states that are right, and the same with
one rule broken."""
import re
import struct
from pathlib import Path

from record import BYTES, NUMBERS, ROWS, message

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = re.findall(r"^MESSAGE\(\d+, (\w+),", (ROOT / "vhost/messages.def").read_text(), re.M)
IOMMU, CHANNEL, MISSED, LESS = 0x80, 0x40, 0x20, 0x10  # fuzz_session.c's step_start()
RUN, PARK, STEP, ANSWER = bytes([8]), bytes([9]), bytes([11]), bytes([11 + 12 * 5])
CHAIN = bytes([6, 0, 1 | 2 << 3, 0, 16]) + bytes(16) + bytes([16, 200, 1])  # a request to read a sector


def start(queue, how=0):
    return bytes([5, queue | how, 0, 0])


def payload_of(name, packed):
    """As an honest front-end may say it to the first ring, which runs."""
    features = 1 << 30 | 1 << 32 | packed << 34
    protocol = 0x39f22b
    words = {
        "SET_FEATURES": struct.pack("<Q", features), "SET_PROTOCOL_FEATURES": struct.pack("<Q", protocol),
        "SET_LOG_BASE": struct.pack("<QQ", 4096, 0), "SET_VRING_NUM": struct.pack("<II", 0, 16),
        "SET_VRING_BASE": struct.pack("<II", 0, 0x80008000 if packed else 0), "SET_VRING_ENABLE": struct.pack("<II", 0, 1),
        "SEND_RARP": bytes([0x52, 0x54, 0, 0, 0, 1, 0, 0]), "NET_SET_MTU": struct.pack("<Q", 1500),
        "GET_INFLIGHT_FD": struct.pack("<QQHHI", 0, 0, 4, 16, 0), "SET_INFLIGHT_FD": struct.pack("<QQHHI", 1 << 16, 0, 4, 16, 0),
        "SET_STATUS": struct.pack("<Q", 15), "SET_DEVICE_STATE_FD": struct.pack("<II", 0, 0),
    }
    return words.get(name, b"")


def right(name, packed, in_pieces=False):
    """fuzz_session.c's step_message() of that row."""
    row = NAMES.index(name)
    number, kind, _ = ROWS[row]
    fds_how = 2 if name in ("SET_VRING_KICK", "SET_LOG_BASE", "SET_INFLIGHT_FD") else 0
    if name == "SET_MEM_TABLE":
        said = message(row, 2)
    elif name in ("ADD_MEM_REG", "REM_MEM_REG"):  # one that is not there yet
        said = message(row, 2, fds_how=0)
    elif kind in ("ADDR", "IOTLB"):
        said = message(row, 0, fds_how=fds_how)
    elif kind == "CONFIG":
        said = message(row, 0, bytes([0, 24]) + bytes(8))
    else:
        n = BYTES.get(kind, 64)
        said = message(row, 0x80, payload_of(name, packed)[:n].ljust(n, b"\0"), fds_how)
    assert number == NUMBERS[row]
    return bytes([0, row, 3]) + said[3:] + bytes([4]) if in_pieces else said


def row_inputs():
    """A front-end starts a ring, says the message as it should be, and goes on; then once more, in pieces."""
    for name in NAMES:
        for device in (0, 1):
            for packed in (0, 1):
                begin = bytes([device, packed | 6, 5 if packed else 4, 0])
                for more in (0, IOMMU):
                    answers = 3 * (ANSWER + bytes(1) + STEP) if more else b""
                    yield name, (begin + start(0, more) + CHAIN + RUN + answers + right(name, packed) + CHAIN + RUN + answers +
                                 PARK + STEP + right(name, packed, True) + STEP + CHAIN + RUN)


def iommu_inputs():
    """Behind an IOMMU: what is missed is answered right, in part, wrong or never, and taken away again under the
    rings; memory comes and goes meanwhile. (what, bytes)"""
    row = NAMES.index("IOTLB_MSG")

    def told(how, more=b""):
        return message(row, how, more)

    gone = bytes([0x30])  # access 0, type 3: an invalidation
    answers = {"all": 0, "with the access asked for": 2, "not at all": 1, "with another region": 4 | 2, "to be read alone": 4 | 0x10}
    for device in (0, 1):
        for packed in (0, 1):
            begin = bytes([device, packed | 6, 5 if packed else 4, 0])
            for what, how in answers.items():
                answer = ANSWER + bytes([how]) + (b"\x21" if how & 0x10 else b"") + STEP
                for missed in (0, MISSED):
                    yield (f"answered {what}", begin + start(0, IOMMU | missed) + 2 * answer + 3 * (CHAIN + RUN + answer) + CHAIN +
                           RUN + told(8, gone) + STEP + RUN + answer + CHAIN + RUN + answer)
            one, all_of_it = ANSWER + bytes(1) + STEP, bytes(8)
            pages = b"".join(told(0x10, struct.pack("<HH", at * 0x800, 0x800)) for at in range(16))
            yield "page by page", begin + start(0, IOMMU) + pages + CHAIN + RUN + one + told(8 | 0x10, gone + struct.pack("<HH", 0x1800, 0x800)) + CHAIN + RUN + one
            yield "everything is taken away", begin + start(0, IOMMU) + CHAIN + RUN + one + told(8 | 0x40, gone + all_of_it) + CHAIN + RUN + 3 * one
            yield "it wraps", begin + start(0, IOMMU) + told(0x40, 8 * b"\xff") + told(3) + CHAIN + RUN + one
            yield "memory goes", (begin + start(0, IOMMU) + CHAIN + RUN + one + right("REM_MEM_REG", packed) + told(1) +
                                  message(NAMES.index("REM_MEM_REG"), 1) + told(1) + CHAIN + RUN + one)
            yield "a log", begin + start(0, IOMMU) + right("SET_LOG_BASE", packed) + CHAIN + RUN + one
            yield "another channel", begin + start(0, IOMMU | MISSED) + right("SET_BACKEND_REQ_FD", packed) + CHAIN + RUN + one
            yield "the front-end dies", begin + start(0, IOMMU | MISSED) + CHAIN + RUN + bytes([0x8f]) + start(0, IOMMU) + CHAIN + RUN + one


def feature_inputs():
    """A front-end that leaves a feature of the ring's or the transport's out, or all of the device's. (what, bytes)"""
    masks = {f"feature {n}": 1 << n for n in (26, 30, 32, *range(35, 42))}
    masks |= {"the device's": (1 << 24) - 1, "the ring's": 0x1ff << 32, "all": 2**64 - 1}
    for device in (0, 1):
        for packed in (0, 1):
            for what, mask in masks.items():
                begin = bytes([device, packed | 6, 5 if packed else 4, 0])
                said = bytes([5, LESS, 0, 0]) + struct.pack("<Q", mask)
                yield f"without {what}", begin + said + 3 * CHAIN + RUN + STEP + CHAIN + RUN + PARK + CHAIN + RUN


def session_lines():
    for what, data in (*row_inputs(), *iommu_inputs(), *feature_inputs()):
        yield f"# {what}"
        yield data.hex()


def field(tag, data, said=None):
    return struct.pack("<HH", tag, len(data) if said is None else said) + data


def state(kind, fields, said=None):
    """kind: 1 a card, 2 a disk."""
    return b"sluicest" + struct.pack("<IIII", 1, kind, len(fields) if said is None else said, 0) + fields


def rss(types=0x3f, mask=3, unclassified=0, max_tx=1, steers=1, key_len=40, table=(0, 1, 2, 0), other=0):
    """STATE_NET_RSS; other: what the table has behind its end."""
    words = [*table] + (128 - len(table)) * [other]
    return field(3, struct.pack("<IHHHBB", types, mask, unclassified, max_tx, steers, key_len) + bytes(range(40)) +
                 struct.pack("<128H", *words))


def receives(modes, n_uni, n_multi, vlans):
    """What a driver wants to receive: modes, addresses of stations and of groups, VLANs."""
    macs = b"".join(bytes([2 | kind, 0, 0, 0, 0, n]) for kind in (0, 1) for n in range(64))
    return field(5, struct.pack("<HBB", modes, n_uni, n_multi) + macs + vlans.ljust(512, b"\0"))


def driver_states(right):
    """What a driver has set over the control queue of a card of 3 pairs."""
    coalesce = field(4, struct.pack("<512I", *range(1, 17), *496 * [0]))
    yield "a table", right + rss()
    yield "a table of 128 entries", right + rss(mask=127, table=128 * [2])
    yield "hash reports without a table", right + rss(steers=0, mask=0xffff, table=(9,))
    yield "a table, and no hash", right + rss(types=0)
    yield "a table with anything behind its end", right + rss(other=0xffff)
    yield "a table of two", right + rss() + rss()
    yield "a table that is cut off", right + field(3, rss()[4:-1])
    yield "a flag of 2", right + rss(steers=2)
    yield "hashes that there are not", right + rss(types=0x40)
    yield "hashes that there are not, without a table", right + rss(types=0x40, steers=0)
    yield "a key of 41", right + rss(key_len=41)
    yield "a table of 3 entries", right + rss(mask=2)
    yield "a table of 256 entries", right + rss(mask=255)
    yield "a table of 65536 entries", right + rss(mask=0xffff)
    yield "a pair that there is not", right + rss(table=(0, 1, 2, 3))
    yield "a pair that there is not, for the rest", right + rss(unclassified=3)
    yield "no transmit queue", right + rss(max_tx=0)
    yield "too many transmit queues", right + rss(max_tx=4)
    yield "notifications that wait", right + coalesce
    yield "notifications that wait, and a table", right + coalesce + rss()
    yield "notifications of queues that there are not", right + field(4, bytes(2040) + 8 * b"\1")
    yield "notifications that wait, twice", right + coalesce + coalesce
    yield "notifications that wait, cut off", right + field(4, coalesce[4:-1])
    yield "notifications that wait, too long", right + field(4, coalesce[4:] + b"\0")
    for what, modes, n_uni, n_multi, vlans in (
            ("everything", 1, 0, 0, b""), ("nothing", 0, 0, 0, b""), ("addresses", 0, 3, 64, b""), ("VLANs", 1, 0, 0, b"\5"),
            ("a mode that there is not", 0x100, 0, 0, b""), ("too many stations", 0, 65, 0, b""), ("too many groups", 0, 0, 65, b"")):
        yield f"a filter: {what}", right + receives(modes, n_uni, n_multi, vlans)
    for what, off in (("checksums", 1 << 1), ("all", 0xc0000000000382), ("none", 0), ("large frames of another kind", 1 << 10),
                      ("what is no offload", 1 << 2), ("everything", 2**64 - 1)):
        yield f"offloads that are off: {what}", right + field(6, struct.pack("<Q", off))
    yield "offloads that are off, twice", right + 2 * field(6, struct.pack("<Q", 1 << 7))
    yield "offloads that are off, cut off", right + field(6, bytes([0x80]) + bytes(6))
    yield "offloads that are off, too long", right + field(6, bytes([0x80]) + bytes(8))
    yield "a filter, twice", right + 2 * receives(0, 1, 1, b"")
    yield "a filter, cut off", right + field(5, receives(0, 1, 1, b"")[4:-1])
    yield "a filter, too long", right + field(5, receives(0, 1, 1, b"")[4:] + b"\0")


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
    for what, fields in driver_states(mac + field(2, b"\3\0")):
        yield what, 1, state(1, fields)
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


def forgotten_states():
    """A driver's state, then one of a driver that has set nothing of it."""
    plain = bytes([0]) + bytes([0x52, 0, 0, 0, 0, 2, 0, 0]) + bytes([8, 2]) + bytes(7)
    for field_of_driver in (bytes([0xa0, 0]) + bytes(range(1, 65)), bytes([0x80, 0x0a]),
                            bytes([0xd0, 0, 0x82, 3]) + bytes(6)):
        yield bytes([3, 0xff, 3]) + plain + field_of_driver + bytes([3, 0xff, 2]) + plain


def net_inputs():
    """A guest that says over its control queue how frames are steered, and when it is to be called, and has
    frames come and go. (what, bytes)"""
    coalesce, pairs = 0xc4, 0xa4
    receive, receive_2 = bytes([1, 0, 1 << 3, 64, 0, 208]), bytes([0x81, 0, 1 << 3, 64, 0, 208])
    transmit = bytes([0, 0, 1, 0x80, 26]) + bytes(12) + b"\x52\x54\0\0\0\2\x52\x54\0\0\0\1\x88\xb5" + bytes([72])
    forward, run, park = bytes([5, 0, 0, 0]), bytes([6]), bytes([7])
    traffic = receive + receive + transmit + run + forward + transmit + run + forward
    both = traffic + receive_2 + receive_2 + 2 * forward + run + park
    both += 2 * (receive + receive_2) + forward + run + park + park
    waits = [("for packets or a long time", bytes([4, 200, 200])), ("for one packet", bytes([4, 1, 200])),
             ("for hardly any time", bytes([0]) + struct.pack("<II", 200, 1)), ("no more", bytes([0]) + bytes(8))]
    for layout, ring, more in (("split", bytes([0, 3, 0]), 0), ("packed", bytes([1, 4, 0]), 8)):
        def begin(hashes, features):
            return struct.pack("<HH", hashes << 15, (features | more) << 12) + 3 * ring
        for what, how in waits:
            for who in (0, 1):  # transmit, receive
                said = bytes([coalesce, how[0] | who]) + how[1:]
                yield f"{layout}: it waits {what}", begin(0, 5) + said + run + both
            for queue in (0, 1, 2, 3, 4, 5):
                said = bytes([coalesce, how[0] | 2 | queue << 4]) + how[1:] + bytes([coalesce, 3 | queue << 4]) + bytes(8)
                yield f"{layout}: queue {queue} waits {what}", begin(0, 6) + said + run + both
        for features in (0, 1, 2, 3):
            said = b"".join(bytes([coalesce, 4 | cmd, 9, 9]) for cmd in range(4))
            yield f"{layout}: all commands, with features {features}", begin(0, features) + said + run + traffic
        for length in range(19):
            said = b"".join(bytes([coalesce, 0x84 | cmd, 9, 9, length]) for cmd in range(4))
            yield f"{layout}: commands of {length} bytes", begin(0, 3) + said + run + traffic
        yield f"{layout}: index 0xffff", begin(0, 6) + bytes([coalesce, 0x76, 0xff, 0xff, 9, 9]) + run + both
        yield f"{layout}: enabled anew", begin(0, 5) + bytes([coalesce, 5, 9, 9, coalesce, 0x0d, 9, 9]) + run + both
        for n in range(5):
            yield f"{layout}: {n} pairs", begin(0, 4) + bytes([pairs, n & 3, 0x80 * (n > 3)]) + run + both
        offloads, card = 0x94, struct.pack("<HH", 0x9f0, more << 12) + 3 * ring
        large = b"".join(bytes([5, 4 | v6, 0, 0x10, how]) for v6 in (0, 1) for how in (0, 2, 4))
        buffers = 4 * bytes([1, 0, 1 << 3, 64, 0, 212])
        for on in (0, 1 << 1, 1 << 1 | 1 << 7, 1 << 1 | 1 << 8 | 1 << 9, 1 << 7, 2**64 - 1):
            said = bytes([offloads, 0]) + struct.pack("<Q", on)
            for pairs_too, two in (("", card), (" of two pairs", struct.pack("<HH", 0x9f0, (4 | more) << 12) + 3 * ring)):
                yield (f"{layout}: offloads {on:#x}{pairs_too}",
                       two + buffers + large + run + said + run + large + run + buffers + large + run)
        for on in (1 << 0, 1 << 2, 1 << 10, 1 << 59, 1 << 61, 2**64 - 1):
            yield f"{layout}: offloads {on:#x}, which there are not", card + bytes([offloads, 1]) + struct.pack("<Q", on) + run + traffic
        for length in range(15):
            said = bytes([offloads, 2]) + struct.pack("<QB", 1 << 1, length)
            yield f"{layout}: offloads in {length} bytes", card + said + run + traffic
        yield f"{layout}: another command", card + bytes([offloads, 0x80]) + struct.pack("<Q", 1 << 1) + run + traffic
        yield f"{layout}: offloads that were not negotiated", begin(0, 0) + bytes([offloads, 1]) + struct.pack("<Q", 1 << 1) + run + traffic
        in_order = bytes([ring[0] | 0x40]) + ring[1:]
        yield f"{layout}: in order", begin(0, 0)[:4] + 3 * in_order + both
        yield f"{layout}: in order, of two pairs", begin(0, 4)[:4] + 3 * in_order + both + buffers + large + run
        for how in range(0x10):  # tables of 1 to 128 entries, or hash reports alone, then a chain that has it
            for place in (None, 6, 7, 8, 10):
                said = bytes([0x84, 0, how | 0x10 * (how > 7) | (0x40 if place is not None else 0)]) + bytes(range(8))
                said += struct.pack("<HB", place, 7) if place is not None else b""
                command = bytes([2, 0, 2 | 1 << 3, 0, 0, 191, 191, 1])
                yield f"{layout}: a table", begin(1, 0) + said + command + run + both


def blk_request(kind, sector, pieces, reads):
    header = struct.pack("<IIQ", kind, 0, sector)
    shape = 1 | (len(pieces) + 1) << 3 if reads else len(pieces) + 1 | 1 << 3
    return bytes([0, 0, shape, 0, 16]) + header + bytes([16, *pieces, 1])


def blk_inputs():
    """A disk in a file, whose requests go badly in one way each. (what, bytes)"""
    sector, four, sixteen = 200, 204, 205  # as any_length() has it: 512, 4096, 16384
    requests = [blk_request(1, 8, [sector], False), blk_request(0, 8, [sector], True), blk_request(1, 3, 2 * [four], False),
                blk_request(0, 2, [four, sector, four], True), blk_request(1, 1, [100, 156, 201, 203], False),
                blk_request(0, 9, 2 * [sixteen], True), blk_request(4, 0, [], False), blk_request(8, 0, [20], True),
                blk_request(0, 508, [four, sector], True), blk_request(11, 0, [16], False), blk_request(13, 0, [16], False)]
    run = bytes([4, 4])
    troubles = [0, 1, 2, 3, 0x5555, 0xaaaa, 0xffff, 0x12345678]
    for layout, ring in (("split", bytes([0, 6, 0])), ("packed", bytes([1, 7, 0]))):
        for how in (0x0c, 0x0d, 0x0e, 0x0f):
            for trouble in troubles:
                begin = bytes([how]) + ring + struct.pack("<I", trouble)
                yield f"{layout}: one after the other, trouble {trouble:#x}", begin + run.join(requests) + run
                yield f"{layout}: all at once, trouble {trouble:#x}", begin + 2 * b"".join(requests) + run
                if how & 1:
                    continue
                begin = bytes([how, ring[0] | 0x40]) + ring[1:] + struct.pack("<I", trouble)
                yield f"{layout}: in order, trouble {trouble:#x}", begin + 2 * b"".join(requests) + run
            yield f"{layout}: none is run before the end", bytes([how]) + ring + bytes(4) + 40 * requests[0]


def kept_inputs():
    """A card whose place in its ring is kept in the in-flight buffer: it dies with a batch that was shown or was not,
    or finds what no back-end has left there. (what, bytes)"""
    chains, two = 6 * bytes([0, 0, 0, 1 << 3, 0, 0, 64]), 4 * bytes([0, 0, 0, 2 << 3, 0, 0, 64, 64])
    push, back, publish, anew, die = bytes([0x84]), bytes([0x44]), bytes([5]), bytes([0x85]), bytes([7, 0])

    def pop(n):
        return bytes([3 + 8 * (n - 1)])

    shown, unshown = pop(3) + 2 * push + back + publish, pop(4) + 3 * push
    for layout, bits, sizes in (("split", 0, (3, 4)), ("packed", 1, (4, 9))):
        for at in (0, 1, 4, 5) if bits else (0, 0x31, 0x33):
            for size in sizes:
                for logs in (0, 0x20):
                    def begin(how, header=b"", n=0, entries=b""):
                        return bytes([bits | logs, size, at, 4 | 2, how, n]) + header + entries
                    new = begin(2)
                    yield f"{layout}: shown", new + chains + shown + die + shown + chains + shown + die + shown
                    yield f"{layout}: not shown", new + chains + unshown + die + shown + unshown + die + chains + shown
                    yield f"{layout}: longer chains", new + two + unshown + die + unshown + publish + two + unshown + die + shown
                    yield f"{layout}: dies as often as not", new + 9 * (chains + shown + unshown + die)
                    yield f"{layout}: chains are out", new + chains + pop(5) + die + shown + chains + pop(2) + die
                    yield f"{layout}: started anew", new + chains + shown + anew + chains + shown + die + shown
                    yield f"{layout}: another version", begin(3, struct.pack("<QH", 0, 2).ljust(32, b"\0")) + chains + shown
                    yield f"{layout}: another size", begin(4) + chains + shown
                    for entry in (0, 3, 0xff):  # the last one
                        yield f"{layout}: in flight", begin(8, n=1, entries=bytes([entry, 8, 1, 1, 0])) + chains + shown
                    if bits and size == sizes[0] and not logs:
                        yield from kept_packed(begin, chains + die + shown)


def kept_packed(begin, then):
    """What may stand in the buffer of a packed ring of 8."""
    n = 8
    covered = b"".join(bytes([i, 0x0a if i & 1 else 0x12, i, 64, 0]) for i in range(n))
    for new, old in ((0, 0), (3, 0), (3, 3), (n - 1, n - 2), (n, 0), (0, n), (0xffff, 0), (0, 0xffff)):
        for wraps in (0, 1, 0x100, 0x101):
            header = bytes(16) + struct.pack("<HHH", new, old, wraps)
            yield f"packed: at {new} or {old}, turns {wraps:#x}", begin(1, header.ljust(32, b"\0"), n, covered) + then
    for free, old in ((n, n), (n + 1, 0), (0, n + 1), (0xffff, 0xffff)):
        header = bytes(12) + struct.pack("<HH", free, old)
        yield f"packed: free from {free} or {old}", begin(1, header.ljust(32, b"\0"), n, covered) + then


def write(target, name, lines):
    out = ROOT / "tests/fuzz/seeds" / target / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def main():
    write("state", "rules.hex", ["# One rule of the format a line; made by make_seeds.py.", *state_seeds(),
                                 "# What was set is forgotten", *(s.hex() for s in forgotten_states())])
    write("net", "commands.hex", ["# Commands of the control queue, one rule a line; made by make_seeds.py.",
                                  *(f"# {what}\n{data.hex()}" for what, data in net_inputs())])
    write("blk", "file.hex", ["# Requests to a disk in a file; made by make_seeds.py.",
                              *(f"# {what}\n{data.hex()}" for what, data in blk_inputs())])
    write("inflight", "kept.hex", ["# Cards' rings, of which the buffer keeps the place; made by make_seeds.py.",
                                   *(f"# {what}\n{data.hex()}" for what, data in kept_inputs())])
    write("session", "rows.hex", ["# Each row of messages.def, and what a front-end with an IOMMU says; made by make_seeds.py.",
                                  *session_lines()])


main()
