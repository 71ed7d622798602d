# SPDX-License-Identifier: Apache-2.0
"""A real guest: a QEMU with scripts/guest's kernel and initramfs, and its console."""
import queue
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Optional

from . import LabError, credentials, qemu as qemus

BOOT_TIMEOUT_S = 60


@dataclass
class Disk:
    socket: str
    queues: int = 1
    ring_size: int = 128
    server: bool = False  # QEMU listens, the back-end connects
    reconnect: bool = False  # QEMU connects again, soon, when the back-end is gone


@dataclass
class Net:
    socket: str
    mac: str = ""
    queues: int = 1  # pairs
    ring_size: int = 256  # QEMU's smallest for a network card
    server: bool = False
    reconnect: bool = False
    packed: Optional[bool] = None  # None: as the machine
    more: str = ""  # properties of QEMU's virtio-net, "guest_csum=off"
    # QEMU's device for any kind of vhost-user back-end: that one answers the control queue, and gives the address
    generic: bool = False


@dataclass
class Machine:
    """What a guest's hardware is like. Features are those of its disk and its network card alike."""
    qemu: Optional[qemus.Qemu] = None  # the default one
    accelerator: str = ""  # what works here
    type: str = "q35"
    cpus: int = 1
    memory_mib: int = 256
    memory_kib: int = 0  # and so many KiB
    backing: str = "memfd"  # or "hugepages", or "file:PATH"
    packed: bool = False
    event_idx: bool = True
    disk: Optional[Disk] = None
    net: Optional[Net] = None
    ip: str = ""  # of the network card, "10.0.0.1/24"
    ip6: str = ""  # likewise, "fd00::1/64"; the guest has no IPv6 without
    # "strict" or "lazy": behind Intel's IOMMU, where the guest maps each buffer for one use, and takes the
    # translation back at once or all of them together, each 10 ms; "passthrough": it maps all of its memory, once
    iommu: str = ""
    options: list = field(default_factory=list)  # more for QEMU


def _on(flag):
    return "on" if flag else "off"


def _kib(m):
    return m.memory_mib * 1024 + m.memory_kib


def _memory(m):
    size = f"size={_kib(m)}K,share=on"
    if m.backing.startswith("file:"):
        return f"memory-backend-file,id=mem,mem-path={m.backing[5:]},{size}"
    return f"memory-backend-memfd,id=mem,{size}" + (",hugetlb=on" if m.backing == "hugepages" else "")


def _chardev(name, device, qemu):
    server = ",server=on" if device.server else ""
    reconnect = ""
    if device.reconnect:
        reconnect = ",reconnect-ms=100" if qemu.version >= (9, 2) else ",reconnect=1"
    return f"socket,id={name},path={device.socket}{server}{reconnect}"


def _disk_options(m, qemu):
    name = "vhost-user-blk" if m.type == "microvm" else "vhost-user-blk-pci"
    d = m.disk
    return ["-chardev", _chardev("disk", d, qemu),
            "-device", f"{name},chardev=disk,num-queues={d.queues},queue-size={d.ring_size},"
                       f"packed={_on(m.packed)},event_idx={_on(m.event_idx)}{_iommu_options(m)}"]


def _iommu_options(m):
    return ",iommu_platform=on,ats=on,disable-legacy=on" if m.iommu else ""


def _net_options(m, qemu, accelerator):
    n = m.net
    if n.generic:
        # The configuration up to supported_hash_types, virtio 1.3 5.1.4.
        return ["-chardev", _chardev("net", n, qemu),
                "-device", f"vhost-user-test-device-pci,virtio-id=1,chardev=net,num_vqs={2 * n.queues + 1},"
                           f"vq_size={n.ring_size},config_size=24"]
    pci = m.type != "microvm"
    device = (f"{'virtio-net-pci' if pci else 'virtio-net-device'},netdev=net,mac={n.mac},"
              f"mq={_on(n.queues > 1)},rx_queue_size={n.ring_size},tx_queue_size={n.ring_size},"
              f"packed={_on(m.packed if n.packed is None else n.packed)},event_idx={_on(m.event_idx)}"
              f"{_iommu_options(m)}{',' if n.more else ''}{n.more}")
    if pci:
        # QEMU 7.2 dies of a network card with MSI-X where there is no KVM.
        old = qemu.version < (8, 0) and accelerator == "tcg"
        device += f",vectors={0 if old else 2 * n.queues + 2}"
    return ["-chardev", _chardev("net", n, qemu),
            "-netdev", f"vhost-user,id=net,chardev=net,queues={n.queues}", "-device", device]


def command_line(m, files):
    qemu = m.qemu or qemus.default_qemu()
    accelerator = m.accelerator or qemus.accelerator()
    append = f"console=ttyS0 quiet ipv6.disable={int(not m.ip6)} mitigations=off"
    if m.type == "microvm" and accelerator == "tcg":
        # It has no clock that Linux could measure the TSC by, and would wait for ever.
        append += f" tsc_early_khz={qemus.host_tsc_khz()}"
    if m.ip:
        append += f" sluice.ip={m.ip}"
    if m.ip6:
        append += f" sluice.ip6={m.ip6}"
    command = [qemu.binary, *qemu.options, "-nodefaults", "-no-user-config", "-display", "none",
               "-machine", f"{m.type},memory-backend=mem", "-object", _memory(m), "-m", f"{_kib(m)}K",
               "-smp", str(m.cpus)]
    if accelerator == "kvm":
        command += ["-accel", "kvm", "-cpu", "host"]
    else:
        command += ["-accel", "tcg,thread=multi", "-cpu", "max"]
    if m.type == "microvm":
        # qboot, as SeaBIOS would drive the disk from memory that QEMU shares with no back-end.
        command += ["-global", "virtio-mmio.force-legacy=false", "-bios", "qboot.rom"]
    if m.iommu:
        append += (f" intel_iommu=on iommu.passthrough={int(m.iommu == 'passthrough')}"
                   f" iommu.strict={int(m.iommu == 'strict')}")
        command += ["-device", "intel-iommu,intremap=off,device-iotlb=on"]  # before the devices behind it
    command += ["-serial", "stdio", "-kernel", files["kernel"], "-initrd", files["initramfs"],
                "-append", append]
    if m.disk:
        command += _disk_options(m, qemu)
    if m.net:
        command += _net_options(m, qemu, accelerator)
    return command + m.options


class Guest:
    """Use as a context manager: whatever happens, QEMU is gone afterwards."""

    def __init__(self, machine, name="guest", user=None, files=None):
        self.machine = machine
        self.name = name
        self.user = user  # that QEMU runs as; None: as ourselves
        self.files = files or qemus.guest_files()
        self.console = []  # all lines, QEMU's own complaints too
        self.boots = 0
        self._lines = queue.Queue()
        self._process = None
        self._reader = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    # ---- life

    def start(self):
        """Starts QEMU; ready() waits for the guest."""
        # Where QEMU listens, a sluiced of another user must be able to connect.
        listens = any(d and d.server for d in (self.machine.disk, self.machine.net))
        self._process = subprocess.Popen(command_line(self.machine, self.files), stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                                         umask=0 if listens else -1, start_new_session=True,
                                         **credentials(self.user))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def boot(self):
        return self.start().ready()

    def ready(self, timeout_s=BOOT_TIMEOUT_S):
        deadline = time.monotonic() + timeout_s
        while True:
            if self._next_answer(deadline, "booting").get("ready") == "1":
                self.boots += 1
                return self

    def reboot(self):
        """The guest's own reboot, through its firmware; QEMU stays."""
        self.job("reboot")
        return self.ready()

    def poweroff(self):
        self.job("poweroff")
        self.wait()

    def wait(self, timeout_s=20):
        """QEMU has ended by itself."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: QEMU has not ended within {timeout_s} s{self.tail()}") from None
        if code:
            raise LabError(f"{self.name}: QEMU ended with code {code}{self.tail()}")

    def kill(self):
        """kill -9, as a crash would be."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._reader.join(5)

    @property
    def pid(self):
        return self._process.pid

    def alive(self):
        return self._process is not None and self._process.poll() is None

    # ---- jobs: scripts/guest/init lists them

    def begin(self, job, *arguments):
        """Hands a job over; end() takes its answers."""
        self.type(" ".join(map(str, (job, *arguments))))

    def type(self, line):
        """A line for the guest's console, and so for the job that runs, if it reads."""
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except OSError:
            raise LabError(f"{self.name}: cannot type {line}: QEMU is gone{self.tail()}") from None

    def answer(self, key, timeout_s=60):
        """The next answer to the running job that has @key; the others are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            pairs = self._next_answer(deadline, f"waiting for {key}")
            if key in pairs:
                return pairs[key]

    def end(self, job, timeout_s=60):
        """All the answers of the job that runs, as one dictionary. LabError unless it succeeds."""
        deadline = time.monotonic() + timeout_s
        answers = {}
        while True:
            pairs = self._next_answer(deadline, job)
            if pairs.get("end") != job:
                answers.update(pairs)
            elif pairs["status"] == "0":
                return answers
            else:
                why = answers.get("error", f"exit status {pairs['status']}")
                raise LabError(f"{self.name}: {job} failed: {why}{self.tail()}")

    def job(self, job, *arguments, timeout_s=60):
        self.begin(job, *arguments)
        return self.end(job, timeout_s)

    # ---- the console

    def tail(self, n=8):
        return "".join(f"\n    | {line}" for line in self.console[-n:])

    def _read(self):
        for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            # SeaBIOS clears the screen; the kernel's complaints may come in the middle of a line.
            line = re.sub(r"\x1b[^a-zA-Z]*[a-zA-Z]", "", line)
            if not line:
                continue
            self.console.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def _next_answer(self, deadline, what):
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise LabError(f"{self.name}: no answer in time ({what}){self.tail()}") from None
            if line is None:
                raise LabError(f"{self.name}: QEMU has ended ({what}){self.tail()}")
            if "Kernel panic" in line:
                raise LabError(f"{self.name}: the guest's kernel panicked ({what}){self.tail()}")
            at = line.find("SLUICE ")
            if at < 0:
                continue
            if "SLUICE error=" in line:
                return {"error": line[at + 13:]}
            return dict(pair.split("=", 1) for pair in line[at + 7:].split() if "=" in pair)
