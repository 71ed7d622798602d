# SPDX-License-Identifier: Apache-2.0
"""The QEMUs of this machine, and its accelerator."""
import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import CACHE, ROOT, LabError


@dataclass(frozen=True)
class Qemu:
    binary: str
    version: tuple  # (7, 2)
    options: tuple = ()  # where an unpacked one finds its firmware

    @property
    def name(self):
        return ".".join(map(str, self.version))


def _version(binary):
    try:
        out = subprocess.run([binary, "--version"], check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"version (\d+)\.(\d+)", out)
    return tuple(map(int, found.groups())) if found else None


@functools.lru_cache(None)
def qemus():
    """Oldest first. The installed one, and what scripts/setup.sh unpacked beside it."""
    found = {}
    installed = shutil.which("qemu-system-x86_64")
    share = CACHE / "qemu10/usr/share"
    candidates = [(installed, ())] if installed else []
    candidates.append((str(CACHE / "qemu10/usr/bin/qemu-system-x86_64"),
                       ("-L", str(share / "qemu"), "-L", str(share / "seabios"))))
    for binary, options in candidates:
        version = _version(binary)
        if version and version not in found:
            found[version] = Qemu(binary, version, options)
    return [found[v] for v in sorted(found)]


@functools.lru_cache(None)
def generic_qemu():
    """A QEMU that lets anybody use its device for any kind of vhost-user back-end (11.1 does), or None."""
    binary = str(CACHE / "qemu11/qemu")
    share = CACHE / "qemu11/usr/share"
    version = _version(binary)
    return Qemu(binary, version, ("-L", str(share / "qemu"), "-L", str(share / "seabios"))) if version else None


def default_qemu():
    if not qemus():
        raise LabError("there is no qemu-system-x86_64: run scripts/setup.sh --for demo")
    return qemus()[0]


@functools.lru_cache(None)
def guest_files(*programs):
    """{'kernel': PATH, 'initramfs': PATH, 'pattern': PATH}, built where they are missing; with @programs of the host's."""
    done = subprocess.run([ROOT / "scripts/guest/build.sh", *programs], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LabError(f"the test guest cannot be built: {done.stderr.strip()}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def _boots_with_kvm(qemu):
    files = guest_files()
    command = [qemu.binary, *qemu.options, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256",
               "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
               "-kernel", files["kernel"], "-initrd", files["initramfs"],
               "-append", "console=ttyS0 quiet panic=-1 sluice.job=poweroff"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=8, check=False)
    except subprocess.TimeoutExpired:
        return False
    return b"SLUICE end=poweroff" in done.stdout


@functools.lru_cache(None)
def accelerator():
    """'kvm' where a guest boots with it (a /dev/kvm that opens is no proof), else 'tcg'.

    The answer is kept in the cache folder: it only changes with the host's kernel or the QEMU.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    qemu = default_qemu()
    answer = Path(CACHE) / f"accelerator-{os.uname().release}-{qemu.name}"
    if not answer.exists():
        found = answer.with_name(f"{answer.name}.{os.getpid()}")  # another process may be looking just now
        found.write_text("kvm" if _boots_with_kvm(qemu) else "tcg")
        found.replace(answer)
    return answer.read_text()


def host_tsc_khz():
    """Near enough: TCG's guests see the host's TSC."""
    found = re.search(r"^cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return round(float(found.group(1)) * 1000) if found else 2000000
