# SPDX-License-Identifier: Apache-2.0
"""
A guest that is migrated again and again, back and forth between two sluiced, while it churns its disk
(scripts/guest/churn.c: every read is compared) and echoes a TCP stream. `make migration ROUNDS=100`.
"""
import contextlib
import os

import pytest
from lab import host, qemu
from lab.daemon import wait_for
from lab.guest import Guest
from lab.qmp import Monitor
from lab.stream import Stream
from test_migration import ECHO_PORT, GUEST_IP, ROWS, machine, row_name, two_hosts

MIGRATIONS = int(os.environ.get("SLUICE_MIGRATIONS", "2"))
SEED = 4713
ANSWERS = 20  # that each process of the guest gets between two migrations, and more


def least(guest):
    """How far the slowest of its processes was in each report on this console."""
    wrong = [line for line in guest.console if "SLUICE error=" in line or "SLUICE end=pattern" in line]
    assert not wrong, wrong
    # The first and the last line may be parts of one.
    reports = [line for line in guest.console if "SLUICE writes=" in line and " least=" in line]
    return [int(line.rpartition("=")[2]) for line in reports]


def goes_on(guest, name):
    """All of them have had more answers since it is here."""
    wait_for(lambda: len(least(guest)) > 2, 60, f"{name}: the guest reports")
    enough = least(guest)[1] + ANSWERS
    wait_for(lambda: least(guest)[-1] >= enough, 60, f"{name}: its requests are answered")


def migrate(leaving, arriving, socket):
    uri = f"unix:{socket}"
    for monitor in (leaving, arriving):
        monitor.do("migrate-set-parameters", max_bandwidth=1 << 30)
    arriving.do("migrate-incoming", uri=uri)
    return leaving.migrate(uri, timeout_s=120)


# Both rows when it is asked for; `make test` has more to do.
@pytest.mark.parametrize("row", ROWS if "SLUICE_MIGRATIONS" in os.environ else ROWS[1:], ids=row_name)
def test_a_guest_goes_back_and_forth_and_misses_nothing(row, folder):
    with two_hosts(row, folder) as (image, daemons, guests, monitors), contextlib.ExitStack() as stack:
        guests[0].job("echo", ECHO_PORT)
        stream = Stream(GUEST_IP, ECHO_PORT)
        guests[0].begin("pattern", "churn", SEED)
        goes_on(guests[0], "at first")
        downtimes, here, there = [], 0, 1
        for n in range(1, MIGRATIONS + 1):
            report = migrate(monitors[here], monitors[there], folder / f"{n}.sock")
            downtimes.append(report["downtime"])
            goes_on(guests[there], f"migration {n}")
            if n < MIGRATIONS:
                # An empty one where it came from, for the way back.
                guests[here].kill()
                place = folder / "ab"[here]
                (place / "qmp").unlink(missing_ok=True)
                hardware = machine(row, place, "-incoming", "defer")
                guests[here] = stack.enter_context(Guest(hardware, f"{'ab'[here]}{n}")).start()
                monitors[here] = stack.enter_context(Monitor(place / "qmp"))
            here, there = there, here
        last = guests[here]
        last.type("enough")
        found = last.end("pattern")
        stream.stop()
        last.poweroff()
        assert [d.stop() for d in daemons] == [0, 0]
        print(f"{row_name(row)}: {MIGRATIONS} migrations, downtime {min(downtimes)} to {max(downtimes)} ms, "
              f"{sum(downtimes) / len(downtimes):.0f} on average; {found['writes']} writes, {found['reads']} reads "
              f"compared; {stream.bytes >> 10} KiB echoed, the longest echo took {stream.worst_gap_s:.1f} s")
        assert host.run(qemu.guest_files()["pattern"], "churn-check", image, SEED).strip().endswith(found["digest"])
