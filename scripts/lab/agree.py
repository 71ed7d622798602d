# SPDX-License-Identifier: Apache-2.0
"""What the daemon counted, against what a guest's own kernel counted.

Both counts are taken twice, at the beginning and at the end, while nothing moves, and what lies
between must agree exactly: every request and every byte of it, every frame and every byte of it.
"""
from . import LabError

# The guest's name of a figure, the daemon's (if there are several: their sum). Its kernel has no letter for
# what is zeroed, and counts its bytes as written. What the guest's card receives its port transmitted.
DISK = {"disk_reads": "reads", "disk_read_bytes": "read_bytes", "disk_writes": "writes",
        "disk_write_bytes": ("write_bytes", "zeroed_bytes"), "disk_flushes": "flushes", "disk_discards": "discards",
        "disk_others": ("write_zeroes", "get_ids")}
NET = {"net_rx_packets": "tx_packets", "net_rx_bytes": "tx_bytes", "net_tx_packets": "rx_packets",
       "net_tx_bytes": "rx_bytes"}


def total(counters, names):
    return counters[names] if isinstance(names, str) else sum(counters[n] for n in names)


class Snapshot:
    """The counts of both sides at one quiet moment."""

    def __init__(self, guest, daemon, disk=None, port=None, tries=20):
        for _ in range(tries):
            before = guest.job("counters")
            self.daemon = {}
            if disk:
                counters = daemon.disk(disk)["counters"]
                self.daemon.update({k: total(counters, v) for k, v in DISK.items()})
            if port:
                counters = daemon.port(port)["counters"]
                self.daemon.update({k: counters[v] for k, v in NET.items()})
            after = guest.job("counters")
            if before == after and after.get("disk_in_flight", "0") == "0":
                self.guest = {k: int(after[k]) for k in self.daemon}
                return
        raise LabError(f"{guest.name}: its counters do not come to rest")

    def since(self, earlier):
        """[(what, the guest's count, the daemon's)], from @earlier to here."""
        return [(k, self.guest[k] - earlier.guest[k], self.daemon[k] - earlier.daemon[k]) for k in self.daemon]


def differences(rows):
    """The rows that do not agree, as text; empty when all do."""
    return ", ".join(f"{what}: the guest says {guest}, sluiced {daemon}"
                     for what, guest, daemon in rows if guest != daemon)
