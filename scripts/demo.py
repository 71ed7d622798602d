#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make demo: sluiced with its default configuration, and two real guests that use what it gives them.

Every line of the list of checks is something that was seen to hold just now. Ends with code 1, and a
sentence, if anything does not. Leaves nothing behind: no process, no interface, no file.
"""
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import ROOT, LabError, agree, host, qemu
from lab.daemon import Daemon
from lab.guest import Disk, Guest, Machine, Net

DISK_MIB = 128
FILE_MIB = 32
HOST_FILE_MIB = 8
# A network that RFC 2544 sets aside for tests of equipment.
HOST_IP, GUEST_IPS = "198.18.77.254", ["198.18.77.1", "198.18.77.2"]
PATTERN_SEED = 20220501
# What a DPDK tap needs, and the daemon may keep: CAP_NET_ADMIN, CAP_NET_RAW.
CAPABILITIES_ALLOWED = 1 << 12 | 1 << 13


class Report:
    def __init__(self):
        self.start = time.monotonic()
        self.checks = []  # (name, held, detail)
        self.figures = []  # (what, value)

    def say(self, text):
        print(f"[{time.monotonic() - self.start:5.1f} s] {text}", flush=True)

    def check(self, name, held, detail=""):
        self.checks.append((name, bool(held), detail))
        self.say(f"{'PASS' if held else 'FAIL'}  {name}" + (f" ({detail})" if detail else ""))

    def figure(self, what, value):
        self.figures.append((what, value))

    def print(self):
        print("\nMeasured:")
        width = max((len(what) for what, _ in self.figures), default=0)
        for what, value in self.figures:
            print(f"  {what:<{width}}  {value}")
        failed = [c for c in self.checks if not c[1]]
        print(f"\n{len(self.checks) - len(failed)} of {len(self.checks)} checks passed"
              f" in {time.monotonic() - self.start:.0f} s")
        for name, _, detail in failed:
            print(f"FAILED: {name}: {detail or 'it does not hold'}")
        return 1 if failed or not self.checks else 0


def mib_s(n_bytes, ms):
    return f"{n_bytes / 2**20 / (max(float(ms), 1) / 1000):.1f} MiB/s"


def default_config(folder):
    """deploy/sluice.yaml, with its sockets and images moved to @folder. The images it names are made."""
    text = (ROOT / "deploy/sluice.yaml").read_text()
    text = text.replace("/run/sluice", str(folder)).replace("/var/lib/sluice", str(folder))
    # The laboratory says where the control socket is.
    text = re.sub(r"^control:.*\n(?:[ \t]+.*\n)*", "", text, flags=re.MULTILINE)
    for image in re.findall(r"\bfile:\s*[\"']?([^\s,\"'}]+)", text):
        with open(image, "wb") as f:
            f.truncate(DISK_MIB * 2**20)
    for interface in re.findall(r"iface=([^\s,\"'}]+)", text):
        if host.interface_exists(interface):
            raise LabError(f"there is an interface {interface} already; is a sluiced running? Stop it first")
    return text


class Demo:
    def __init__(self, report, stack):
        self.r = report
        self.stack = stack
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-demo-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.pool = stack.enter_context(ThreadPoolExecutor(4))
        self.interface = None

    def together(self, *calls):
        """Runs calls at the same time; their results. The first error after all have ended."""
        return [f.result() for f in [self.pool.submit(c) for c in calls]]

    def run(self):
        self.start_daemon()
        self.boot()
        self.disks()
        self.reboot()
        self.network()
        self.counters()
        self.idle()
        self.end()

    # ---- the steps

    def start_daemon(self):
        self.r.say("starting sluiced with the default configuration")
        self.stack.callback(lambda: host.wait_until_gone(self.interface))
        self.daemon = self.stack.enter_context(Daemon(self.folder, default_config(self.folder)))
        status = self.daemon.status()
        self.ports = [p for n in status["networks"] for p in n["ports"] if p["kind"] == "guest"][:2]
        self.tap = next((p for n in status["networks"] for p in n["ports"] if p["kind"] == "dpdk"), None)
        self.disk_names = [d["name"] for d in status["disks"]][:2]
        self.images = [d["file"] for d in status["disks"]][:2]
        if len(self.ports) < 2 or not self.tap or len(self.disk_names) < 2:
            raise LabError("deploy/sluice.yaml lacks two guest ports, a DPDK port and two disks")
        for thing in [*self.ports, self.tap, *status["disks"]]:
            if thing["state"] == "failed":
                raise LabError(f"{thing['name']}: {thing['error']}")
        self.disk_sockets = [d["socket"] for d in status["disks"]][:2]
        proc = self.daemon.proc_status()
        uids, caps = proc["Uid"].split(), int(proc["CapEff"], 16) | int(proc["CapPrm"], 16)
        self.r.check("sluiced runs as an unprivileged user",
                     "0" not in uids and not caps & ~CAPABILITIES_ALLOWED,
                     f"user {status['user']}, capabilities {proc['CapEff']}")
        self.interface = re.search(r"iface=([^,]+)", self.tap["device"]).group(1)
        host.interface_up(self.interface, f"{HOST_IP}/24")

    def boot(self):
        which = qemu.default_qemu()
        self.r.say(f"booting two guests: QEMU {which.name}, {qemu.accelerator().upper()}")
        self.guests = []
        for i in range(2):
            machine = Machine(
                cpus=1, disk=Disk(self.disk_sockets[i]),
                net=Net(self.ports[i]["socket"], f"52:54:00:5c:00:0{i + 1}"), ip=f"{GUEST_IPS[i]}/24")
            self.guests.append(self.stack.enter_context(Guest(machine, f"guest {i + 1}")))
        start = time.monotonic()
        self.together(*[g.boot for g in self.guests])
        self.r.figure("boot of two guests", f"{time.monotonic() - start:.1f} s")
        facts = self.together(*[lambda g=g: g.job("facts") for g in self.guests])
        self.r.check("both guests see their disk",
                     all(f.get("disk_bytes") == str(DISK_MIB * 2**20) for f in facts),
                     f"{DISK_MIB} MiB each, Linux {facts[0]['kernel']}")
        self.snapshots = [self.snapshot(i) for i in range(2)]

    def snapshot(self, i):
        return agree.Snapshot(self.guests[i], self.daemon, self.disk_names[i], self.ports[i]["name"])

    def disks(self):
        self.r.say("guest 1 makes a file system and writes files; guest 2 fills its disk with a pattern")
        one, two = self.guests
        self.files, (fill, check) = self.together(
            lambda: one.job("fs_write", timeout_s=120),
            lambda: (two.job("pattern", "fill", PATTERN_SEED), two.job("pattern", "check", PATTERN_SEED)))
        self.r.figure("guest 1: mkfs, files written and summed",
                      f"{self.files['files']} files, {int(self.files['bytes']) / 2**20:.1f} MiB,"
                      f" {int(self.files['ms']) / 1000:.1f} s")
        size = int(fill["sectors"]) * 512
        self.r.figure("guest 2: raw pattern written", mib_s(size, fill["ms"]))
        self.r.figure("guest 2: raw pattern read and compared", mib_s(size, check["ms"]))
        self.r.check("guest 2 verifies a raw pattern over the whole disk",
                     size == int(check["sectors"]) * 512 == DISK_MIB * 2**20, f"{size // 512} sectors")

    def reboot(self):
        one = self.guests[0]
        rows = self.snapshot(0).since(self.snapshots[0])
        self.first_boot = agree.differences(rows)
        self.requests = sum(count for what, count, _ in rows if what.startswith("disk_") and "bytes" not in what)
        self.r.say("guest 1 reboots")
        one.reboot()
        self.snapshots[0] = self.snapshot(0)
        again = one.job("fs_check", timeout_s=120)
        self.r.check("guest 1 finds the same checksums after its reboot",
                     one.boots == 2 and again["digest"] == self.files["digest"],
                     f"{again['files']} files, {again['digest'][:12]}")

    def network(self):
        self.r.say("guests and host ping each other")
        one, two = self.guests
        rtt = []
        for guest, other in ((one, GUEST_IPS[1]), (two, GUEST_IPS[0])):
            answers = guest.job("ping", other, 10)
            rtt.append(answers["rtt_avg_ms"])
        self.r.check("the guests ping each other", True, "2 x 10 of 10 answers")
        self.r.figure("ping guest to guest, average", f"{rtt[0]} ms")
        for guest in self.guests:
            rtt = guest.job("ping", HOST_IP, 5)["rtt_avg_ms"]
        self.r.check("the guests reach the host through the DPDK port", True, f"{self.tap['device']}, 2 x 5 of 5")
        self.r.figure("ping guest to host, average", f"{rtt} ms")
        rtts = [host.ping(ip) for ip in GUEST_IPS]
        self.r.check("the host reaches the guests", True, "2 x 5 of 5")
        self.r.figure("ping host to guest, average", f"{rtts[0]:.3f} ms")

        self.r.say(f"guest 1 sends {FILE_MIB} MiB to guest 2 over TCP")
        made = one.job("make", "big", FILE_MIB)
        two.begin("receive", "copy", 5001)
        two.answer("listening")
        sent = one.job("send", "big", GUEST_IPS[1], 5001, timeout_s=90)
        received = two.end("receive", 60)
        self.r.check("a file crosses from guest to guest with the right checksum",
                     received["sum"] == made["sum"] and received["bytes"] == str(FILE_MIB * 2**20),
                     f"{FILE_MIB} MiB, {made['sum'][:12]}")
        self.r.figure("TCP guest to guest", f"{mib_s(FILE_MIB * 2**20, sent['ms'])}"
                      f" ({FILE_MIB * 8 * 2**20 / 1e6 / max(int(sent['ms']), 1):.2f} Gbit/s)")
        self.host_files(one, two)

    def host_files(self, one, two):
        size = HOST_FILE_MIB * 2**20
        made = one.job("make", "up", HOST_FILE_MIB)
        receiver = host.Receiver(HOST_IP)
        sent = one.job("send", "up", HOST_IP, receiver.port)
        self.r.check("a file crosses from guest to host with the right checksum",
                     receiver.digest() == made["sum"] and receiver.bytes == size, f"{HOST_FILE_MIB} MiB")
        self.r.figure("TCP guest to host", mib_s(size, sent["ms"]))
        data = secrets.token_bytes(size)
        two.begin("receive", "down", 5002)
        two.answer("listening")
        took = host.send_when_listening(GUEST_IPS[1], 5002, data)
        received = two.end("receive", 60)
        self.r.check("a file crosses from host to guest with the right checksum",
                     received["sum"] == hashlib.sha256(data).hexdigest(), f"{HOST_FILE_MIB} MiB")
        self.r.figure("TCP host to guest", mib_s(size, took * 1000))

    def counters(self):
        self.r.say("comparing the guests' own counters with sluice status")
        rows = [self.snapshot(i).since(self.snapshots[i]) for i in range(2)]
        text = "; ".join(filter(None, [self.first_boot, *map(agree.differences, rows)]))
        total = {what: sum(r[k][1] for r in rows) for k, (what, _, _) in enumerate(rows[0])}
        requests = self.requests + sum(n for what, n in total.items() if what.startswith("disk_") and "bytes" not in what)
        packets = total["net_rx_packets"] + total["net_tx_packets"]
        self.r.check("sluice status agrees with the guests to the last request, packet and byte", not text,
                     text or f"{requests} requests, {packets} packets")
        port, kernel = self.quiet_tap()
        differing = [f"{k}: the host {kernel[k]}, sluiced {port[v]}"
                     for k, v in {"rx_packets": "tx_packets", "rx_bytes": "tx_bytes", "tx_packets": "rx_packets",
                                  "tx_bytes": "rx_bytes"}.items() if kernel[k] != port[v]]
        self.r.check("sluice status agrees with the host's tap interface", not differing,
                     ", ".join(differing) or f"{kernel['rx_packets'] + kernel['tx_packets']} packets")

    def quiet_tap(self):
        for _ in range(20):
            before = host.interface_counters(self.interface)
            time.sleep(0.1)
            port = self.daemon.port(self.tap["name"])["counters"]
            if host.interface_counters(self.interface) == before:
                break
        return port, before

    def idle(self):
        self.r.say("measuring sluiced while the guests are idle")
        time.sleep(1)
        percent = self.daemon.cpu_percent(5)
        self.r.figure("sluiced with two idle guests", f"{percent:.2f} % of one core")
        self.r.check("sluiced with idle guests uses less than 1 % of one core", percent < 1, f"{percent:.2f} %")

    def end(self):
        self.r.say("powering off")
        self.together(*[g.poweroff for g in self.guests])
        self.r.figure("CPU that sluiced used in all", f"{self.daemon.cpu_s():.2f} s")
        code = self.daemon.stop()
        self.r.check("sluiced ends with code 0 on SIGTERM", code == 0, f"code {code}{self.daemon.log_tail() if code else ''}")
        pattern = subprocess.run([qemu.guest_files()["pattern"], "check", self.images[1], str(PATTERN_SEED)],
                                 stdout=subprocess.PIPE, text=True, check=False)
        self.r.check("the host finds guest 2's pattern in the image, each sector in its place",
                     pattern.returncode == 0, "" if pattern.returncode == 0 else pattern.stdout.strip())
        fsck = subprocess.run([shutil.which("e2fsck", path="/usr/sbin:/sbin:/usr/bin"), "-fn", self.images[0]],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.r.check("the host finds guest 1's file system clean", fsck.returncode == 0,
                     fsck.stdout.strip().splitlines()[-1] if fsck.stdout else "")


def main():
    if os.geteuid() != 0:
        sys.exit("make demo: a tap interface needs root; run it as root (sluiced itself drops to a user of its own)")
    # Both unwind the same way as an error. SIGINT is ignored where a shell has put us into the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    report = Report()
    try:
        with contextlib.ExitStack() as stack:
            demo = Demo(report, stack)
            try:
                demo.run()
            finally:
                report.say("cleaning up")
    except LabError as e:
        report.check("the demo runs to its end", False, str(e))
    except KeyboardInterrupt:
        print("\nmake demo: interrupted; everything is cleaned up")
        return 130
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
