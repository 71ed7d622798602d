# SPDX-License-Identifier: Apache-2.0
"""Containers with one network interface: LXC's, by its library, and bare network namespaces."""
import contextlib
import glob
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import LabError
from lab.daemon import wait_for
from lab.host import interface_exists, run


def make_root(folder):
    """What a container needs to run busybox: 2 MiB."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    shutil.copy(busybox, folder / "bin/busybox")
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        if name != "busybox":
            (folder / "bin" / name).symlink_to("busybox")


class Container:
    """
    A container whose only interface is eth0. Use as a context manager: it is gone afterwards.

    @interface: the host's that becomes its eth0. Or @bridge: eth0 is one end of a veth pair, the other end is on it.
    """

    def __init__(self, folder, name, addresses, interface=None, bridge=None):
        self.name = name
        self.addresses = addresses  # with the lengths of their prefixes
        self.interface = interface
        self.bridge = bridge
        self.folder = Path(folder) / name
        self.root = self.folder / "root"
        make_root(self.root)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        raise NotImplementedError

    def stop(self):
        raise NotImplementedError

    def command(self, script):
        """What makes a shell in the container run @script, in its /tmp."""
        raise NotImplementedError

    def sh(self, script):
        """What @script prints. LabError if it fails."""
        return run(*self.command(script)).strip()

    @contextlib.contextmanager
    def running(self, script):
        """@script runs meanwhile. Yields a function that waits for its end and returns what it printed."""
        with subprocess.Popen(self.command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, start_new_session=True) as process:
            def end():
                try:
                    out = process.communicate(timeout=60)[0].strip()
                except subprocess.TimeoutExpired:
                    raise LabError(f"{self.name}: {script}: has not ended") from None
                if process.returncode:
                    raise LabError(f"{self.name}: {script}: exit status {process.returncode}: {out}")
                return out
            try:
                yield end
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    # ---- net

    def wait_for_addresses(self):
        """Until IPv6 has found that nobody else has its addresses."""
        def ready():
            lines = self.sh("ip addr show dev eth0")
            return all(a in lines for a in self.addresses) and "tentative" not in lines
        wait_for(ready, 60, f"{self.name} has its addresses")

    def ping(self, address, size=56):
        out = self.sh(f"ping -c 3 -A -w 20 -s {size} {address}")
        if " 0% packet loss" not in out:
            raise LabError(f"{self.name}: ping {address}: {out.splitlines()[-1]}")

    def receiving(self, port):
        """running() that takes one connection, and returns the checksum of what came by it."""
        # nc at the other end goes when it reads the end of our stream, so that ours is not to end: a FIFO.
        return self.running(f"mkfifo open$$; nc -l -p {port} <>open$$ | sha256sum")

    def send(self, file, address, port):
        """The file in /tmp, to one who is just about to listen."""
        self.sh(f"i=0; until nc -w 10 {address} {port} <{file}; do i=$((i + 1)); [ $i -lt 50 ] || exit 1; "
                "usleep 100000; done")

    def bad_checksums(self):
        """How many segments and datagrams came with a wrong one."""
        rows = [line.split() for line in self.sh("cat /proc/net/snmp").splitlines()]
        found = 0
        for names, values in zip(rows[::2], rows[1::2]):
            found += int(dict(zip(names, values)).get("InCsumErrors", 0))
        return found + sum(int(line.split()[1]) for line in self.sh("cat /proc/net/snmp6").splitlines()
                           if "InCsumErrors" in line)


# In processes of their own: LXC moves the one that starts a container into that container's control group.
LXC = """
import lxc, sys
what, name, folder, file = sys.argv[1:]
box = lxc.Container(name, folder)
box.clear_config()
if not box.load_config(file):
    sys.exit("LXC does not take its configuration file")
if what == "stop":
    sys.exit(box.running and not box.stop())
if not box.start(useinit=False, daemonize=True, close_fds=True):
    sys.exit("LXC does not say why")
print(box.init_pid)
"""


class Lxc(Container):
    """A privileged one, from a file as lxc.container.conf(5) has it, and without what comes with a distribution."""

    _pid = None

    def start(self):
        if importlib.util.find_spec("lxc") is None:
            pytest.skip("LXC is not here (python3-lxc)")
        (self.folder / "mount").mkdir(exist_ok=True)
        try:
            self._do("start", self._config("probe", "lxc.net.0.type = empty\n"))
        except LabError as e:
            pytest.skip(f"LXC cannot start a container here: {e}")
        self._do("stop", self.folder / "probe")
        network = "lxc.net.0.name = eth0\nlxc.net.0.flags = up\n"
        if self.bridge:
            # Without an address of its own it has another one each time, and its neighbours remember the last one.
            network = (f"lxc.net.0.type = veth\nlxc.net.0.link = {self.bridge}\n"
                       f"lxc.net.0.hwaddr = 00:16:3e:5c:0c:01\n{network}")
        else:
            network = f"lxc.net.0.type = phys\nlxc.net.0.link = {self.interface}\n{network}"
        for address in self.addresses:
            network += f"lxc.net.0.ipv{6 if ':' in address else 4}.address = {address}\n"
        self._pid = int(self._do("start", self._config("config", network)))

    def _config(self, file, network):
        path = self.folder / file
        path.write_text(f"lxc.uts.name = {self.name}\n"
                        f"lxc.rootfs.path = dir:{self.root}\nlxc.rootfs.mount = {self.folder}/mount\n"
                        f"lxc.mount.auto = proc:mixed sys:ro\nlxc.init.cmd = /bin/sleep 100000\n"
                        f"lxc.log.file = {self.folder}/log\nlxc.log.level = WARN\n{network}")
        return path

    def _do(self, what, config):
        try:
            return run(sys.executable, "-c", LXC, what, self.name, self.folder, config)
        except LabError:
            lines = (self.folder / "log").read_text(errors="replace").splitlines()
            raise LabError(f"{self.name} does not {what}: " +
                           next((line for line in lines if " ERROR " in line), "LXC does not say why")) from None

    def command(self, script):
        return ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root",
                "/bin/sh", "-c", f"cd /tmp; export PATH=/bin; {script}"]

    def stop(self):
        if not self._pid:
            return
        self._do("stop", self.folder / "config")
        self._pid = None
        if self.interface:
            wait_for(lambda: interface_exists(self.interface), 60, f"{self.interface} is the host's again")
        # Where control groups are of version 1, LXC leaves those that it is still in itself.
        wait_for(self._left_groups, 60, f"{self.name} has left its control groups")

    def _left_groups(self):
        pattern = f"/sys/fs/cgroup/**/lxc.*.{self.name}*"
        for folder in glob.glob(pattern, recursive=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not glob.glob(pattern, recursive=True)


class Namespace(Container):
    """A bare network namespace: what any runtime makes of a container's network."""

    def start(self):
        run("ip", "netns", "add", self.name)
        if self.bridge:
            run("ip", "link", "add", f"{self.name}v", "type", "veth", "peer", "name", "eth0", "netns", self.name)
            run("ip", "link", "set", f"{self.name}v", "master", self.bridge, "up")
        else:
            run("ip", "link", "set", self.interface, "netns", self.name, "name", "eth0")
        for address in self.addresses:
            run("ip", "-n", self.name, "addr", "add", address, "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")

    def command(self, script):
        return ["ip", "netns", "exec", self.name, "busybox", "sh", "-c", f"cd {self.root}/tmp; {script}"]

    def stop(self):
        with contextlib.suppress(LabError):
            run("ip", "netns", "del", self.name)
