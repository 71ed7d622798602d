# SPDX-License-Identifier: Apache-2.0
"""Disks that come and go while others run, in the sandbox: sluice disk add, sluice disk remove."""
import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest
from lab import BUILD
from lab.daemon import Daemon, wait_for
from running import running

CONFIG = "workers: {{ count: 2 }}\ndisks: [{{ name: first, socket: {folder}/first.sock, ram: 4M }}]\n"


def image_of(path, size=4 << 20):
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def sluice(daemon, *words, cwd=None):
    return subprocess.run([BUILD / "cli/sluice", "--socket", daemon.control, *map(str, words)], cwd=cwd,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=30, check=False)


def good(daemon, *words, **more):
    done = sluice(daemon, *words, **more)
    assert done.returncode == 0, done.stderr + daemon.log_tail()
    return done.stdout


def refused(daemon, *words, code=1):
    done = sluice(daemon, *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def bench(path, *options):
    return [BUILD / "bench/sluice-bench", "blk", path, "--sleep", "--json", *options]


@contextlib.contextmanager
def load(path, *options):
    """A front-end that reads and writes all the time, and that must not notice anything."""
    with running(bench(path, "--time", "120", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True) as process:
        yield process


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def resident_kib(daemon):
    return int(daemon.proc_status()["VmRSS"].split()[0])


def names(daemon):
    return [d["name"] for d in daemon.status()["disks"]]


@pytest.fixture(name="daemon")
def _daemon(folder):
    folder.chmod(0o777)  # root becomes nobody, who makes socket files here
    with Daemon(folder, CONFIG.format(folder=folder)) as d:
        yield d
        if d.alive():
            assert d.stop() == 0


@pytest.fixture(name="aside")
def _aside(folder):
    """A folder that sluiced was not told of when it entered its sandbox."""
    path = folder / "aside"
    path.mkdir()
    return path


def test_an_added_disk_is_like_any_other(daemon, aside):
    image = image_of(aside / "a.raw")
    image.chmod(0o600)  # the daemon's user may not open it; we may
    path = aside / "a.sock"
    text = good(daemon, "disk", "add", "a", "--socket", path, "--file", image, "--queues", "2", "--serial", "007")
    assert "disk a is served: 4194304 bytes, io_uring" in text
    assert "The configuration file does not say so" in text
    disk = daemon.disk("a")
    assert (disk["state"], disk["file"], disk["added"], len(disk["queues"])) == ("waiting", str(image), True, 2)
    assert not daemon.disk("first")["added"]
    with load(daemon.folder / "first.sock", "--rw", "randwrite", "--verify") as busy:
        for layout in ("split", "packed"):
            subprocess.run(bench(path, "--rw", "randwrite", "--verify", "--time", "1", "--ring", layout),
                           check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert busy.poll() is None
        assert daemon.disk("a")["counters"]["errors"] == 0
        wait_for(lambda: daemon.disk("a")["state"] == "waiting", 60, "the front-end has gone")
        assert good(daemon, "disk", "remove", "a") == "disk a is closed\n"
        assert names(daemon) == ["first"]
        assert busy.poll() is None
        assert daemon.disk("first")["front_end"]["connects"] == 1
    assert not path.exists()
    assert image.read_bytes().strip(b"\0")


def test_the_socket_file_is_as_at_start(daemon, aside):
    image = image_of(aside / "a.raw")
    good(daemon, "disk", "add", "a", "--socket", "a.sock", "--file", "a.raw", "--mode", "0620", cwd=aside)
    made, first = (aside / "a.sock").stat(), (daemon.folder / "first.sock").stat()
    assert stat.S_IMODE(made.st_mode) == 0o620
    assert (made.st_uid, made.st_gid) == (first.st_uid, first.st_gid)
    assert daemon.disk("a")["socket"] == str(aside / "a.sock")
    assert daemon.disk("a")["file"] == str(image)


def test_null_and_ram_need_no_file(daemon, aside):
    good(daemon, "disk", "add", "n", "--socket", aside / "n.sock", "--null", "1G")
    good(daemon, "disk", "add", "r", f"--socket={aside}/r.sock", "--ram=2M", "--read-only", "--limit", "iops=20k,iops_max=30k,burst=2")
    assert good(daemon, "disk", "limit", "r").splitlines() == ["iops=20000", "iops_max=30000", "burst=2"]
    assert (daemon.disk("n")["kind"], daemon.disk("n")["capacity"]) == ("null", 1 << 30)
    assert (daemon.disk("r")["kind"], daemon.disk("r")["read_only"]) == ("ram", True)


def test_a_disk_that_connects_is_added_without_a_socket(daemon, aside):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(aside / "vmm.sock"))
        s.listen()
        s.settimeout(10)
        (aside / "vmm.sock").chmod(0o777)
        good(daemon, "disk", "add", "c", "--socket", aside / "vmm.sock", "--connect", "--ram", "1M")
        s.accept()[0].close()
        good(daemon, "disk", "remove", "c", "--force")
        assert (aside / "vmm.sock").exists()


@pytest.mark.parametrize("words, complaint", [
    (["a", "--file", "{image}"], "socket: is missing"),
    (["a", "--socket", "{aside}/a.sock"], "file: is missing; a disk needs a file"),
    (["a", "--socket", "{aside}/a.sock", "--file", "{image}", "--qeues", "2"], 'qeues: unknown key; did you mean "queues"?'),
    (["a", "--socket", "{aside}/a.sock", "--file", "{image}", "--queues", "many"], '"many" is text'),
    (["a", "--socket", "{aside}/a.sock", "--file", "{aside}/none.raw"], "No such file"),
    (["a", "--socket", "{aside}/a.sock", "--file", "{aside}"], "is a directory"),
    (["a", "--socket", "{aside}/none/a.sock", "--ram", "1M"], "create it first"),
    (["a", "--socket", "{image}", "--ram", "1M"], "is not a socket"),
    (["a", "--socket", "{folder}/first.sock", "--ram", "1M"], "already in use"),
    (["a", "--socket", "{aside}/a.sock", "--ram", "1M", "--group", "nonesuch"], "there is no group nonesuch"),
    (["first", "--socket", "{aside}/a.sock", "--ram", "1M"], "there is disk first already"),
    (["b c", "--socket", "{aside}/a.sock", "--ram", "1M"], "is not a name"),
])
def test_what_cannot_be_added_is_explained_and_leaves_nothing(daemon, aside, words, complaint):
    image = image_of(aside / "a.raw")
    before = descriptors(daemon)
    words = [w.format(folder=daemon.folder, aside=aside, image=image) for w in words]
    done = sluice(daemon, "disk", "add", *words)
    assert done.returncode != 0
    assert complaint in done.stderr, done.stderr
    assert names(daemon) == ["first"]
    assert not (aside / "a.sock").exists()
    wait_for(lambda: descriptors(daemon) <= before, 60, "descriptors are closed")


def test_an_image_that_another_disk_writes_is_refused_and_later_free(daemon, aside):
    image = image_of(aside / "a.raw")
    good(daemon, "disk", "add", "a", "--socket", aside / "a.sock", "--file", image)

    def refusal_s():
        start = time.monotonic()
        assert "its lock is held" in refused(daemon, "disk", "add", "b", "--socket", aside / "b.sock", "--file", image)
        return time.monotonic() - start

    assert any(refusal_s() < 1.5 for _ in range(5)), "others waited for it"
    good(daemon, "disk", "remove", "a")
    good(daemon, "disk", "add", "b", "--socket", aside / "b.sock", "--file", image)


def test_a_disk_in_use_is_only_removed_by_force(daemon, aside):
    image = image_of(aside / "a.raw")
    path = aside / "a.sock"
    good(daemon, "disk", "add", "a", "--socket", path, "--file", image)
    with load(path, "--rw", "randwrite") as busy:
        wait_for(lambda: daemon.disk("a")["state"] == "running", 60, "it runs")
        assert "disk a is in use" in refused(daemon, "disk", "remove", "a")
        assert busy.poll() is None
        good(daemon, "disk", "remove", "a", "--force")
        assert busy.wait(20) != 0, "its front-end was hung up on"
    assert 'no disk called "a"' in refused(daemon, "disk", "remove", "a")


def test_a_disk_of_the_configuration_can_be_removed_too(daemon):
    good(daemon, "disk", "remove", "first")
    assert names(daemon) == []
    assert not (daemon.folder / "first.sock").exists()


def test_a_restart_forgets_what_was_added(daemon, aside):
    good(daemon, "disk", "add", "a", "--socket", aside / "a.sock", "--ram", "1M")
    assert daemon.stop() == 0
    daemon.start()
    assert names(daemon) == ["first"]
    good(daemon, "disk", "add", "a", "--socket", aside / "a.sock", "--ram", "1M")


def test_a_hundred_times_under_load_nothing_is_left(daemon, aside):
    image = image_of(aside / "a.raw")
    path = aside / "a.sock"

    def once(layout):
        good(daemon, "disk", "add", "a", "--socket", path, "--file", image, "--queues", "2")
        with load(path, "--rw", "randwrite", "--ring", layout):
            wait_for(lambda: daemon.disk("a")["counters"]["writes"] > 0, 60, "it writes", every_s=0.01)
            good(daemon, "disk", "remove", "a", "--force")

    with load(daemon.folder / "first.sock", "--rw", "randwrite", "--verify") as busy:
        for _ in range(10):  # what is kept for the next time, is kept by now
            once("split")
        files, memory = descriptors(daemon), resident_kib(daemon)
        for i in range(100):
            once(("split", "packed")[i % 2])
        wait_for(lambda: descriptors(daemon) <= files, 60, "descriptors are closed")
        assert resident_kib(daemon) < memory + 2048
        assert busy.poll() is None, "the other disk's guest noticed"
        assert daemon.disk("first")["counters"]["errors"] == 0
    assert "error" not in daemon.log.read_text()


def ask(control, request, files=()):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(control))
        socket.send_fds(s, [json.dumps({"jsonrpc": "2.0", "id": 1, **request}).encode() + b"\n"], list(files))
        return json.loads(s.makefile().readline())


@contextlib.contextmanager
def bound(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        yield s
    path.unlink(missing_ok=True)


def test_descriptors_that_are_not_what_they_should_be(daemon, aside):
    """Whoever may use the control socket, and is not sluice: named, closed, nothing else."""
    image = image_of(aside / "a.raw")
    params = {"name": "a", "socket": str(aside / "a.sock"), "file": str(image), "cache": "writeback"}
    before = descriptors(daemon)

    def add(files, **more):
        answer = ask(daemon.control, {"method": "disk.add", "params": {**params, **more}}, files)
        return answer.get("error", {}).get("message", "done")

    with contextlib.ExitStack() as stack:
        def opened(flags, path=image):
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        good_socket = stack.enter_context(bound(aside / "a.sock"))
        other = stack.enter_context(bound(aside / "b.sock"))
        unbound = stack.enter_context(socket.socket(socket.AF_UNIX))
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        network = stack.enter_context(socket.socket(socket.AF_INET))
        pair = socket.socketpair()
        for s in pair:
            stack.enter_context(s)
        fifo = aside / "fifo"
        os.mkfifo(fifo)
        sock, rw = good_socket.fileno(), opened(os.O_RDWR)
        copy = image_of(aside / "copy.raw")
        for files, more, complaint in (
            ([], {}, "0 descriptors came along"),
            ([sock], {}, "1 descriptors came along"),
            ([sock, rw, rw, rw], {}, "4 descriptors came along"),
            ([sock, rw, rw, rw, rw], {}, "descriptors of this request were lost"),
            ([rw, sock], {}, "is a socket"),
            ([other.fileno(), rw], {}, "is not bound to"),
            ([unbound.fileno(), rw], {}, "but to no path"),
            ([datagram.fileno(), rw], {}, "is no Unix stream socket"),
            ([network.fileno(), rw], {}, "is no Unix stream socket"),
            ([pair[0].fileno(), rw], {}, "is connected"),
            ([rw, rw], {}, "is no Unix stream socket"),
            ([sock, opened(os.O_RDONLY)], {}, "can only be read"),
            ([sock, opened(os.O_WRONLY)], {}, "cannot be read"),
            ([sock, opened(os.O_WRONLY)], {"read_only": True}, "cannot be read"),
            ([sock, opened(os.O_RDWR | os.O_APPEND)], {}, "appends (O_APPEND)"),
            ([sock, opened(os.O_PATH)], {}, "O_PATH"),
            ([sock, opened(os.O_RDONLY, aside)], {"read_only": True}, "is a directory"),
            ([sock, opened(os.O_RDWR, fifo)], {}, "is a pipe"),
            ([sock, opened(os.O_RDWR, "/dev/null")], {}, "is a character device"),
            ([sock, rw, rw], {}, "the first is not O_DIRECT"),
            ([sock, opened(os.O_RDWR | os.O_DIRECT)], {}, "O_DIRECT, which goes with cache: none"),
            ([sock, opened(os.O_RDWR | os.O_DIRECT)], {"cache": "none"}, "its open descriptor was not handed over"),
            ([sock, opened(os.O_RDWR | os.O_DIRECT), opened(os.O_RDWR, copy)], {"cache": "none"}, "different files"),
            ([sock, opened(os.O_RDWR | os.O_DIRECT), opened(os.O_RDWR | os.O_DIRECT)], {"cache": "none"},
             "the second must not"),
            ([sock, rw], {"connect": True}, "is a socket"),
        ):
            assert complaint in add(files, **more), complaint
        for method, params2 in (("status", {}), ("nonesuch", {}), ("disk.resize", {"disk": "first"}),
                                ("disk.remove", {"disk": "first"})):
            assert "error" in ask(daemon.control, {"method": method, "params": params2}, [rw])
        assert names(daemon) == ["first"]
        wait_for(lambda: descriptors(daemon) <= before, 60, "all of them are closed")
        assert add([sock, opened(os.O_RDWR)]) == "done"
        assert daemon.disk("a")["state"] == "waiting"
    good(daemon, "disk", "remove", "a")


def test_shutdown_while_a_disk_is_being_removed(daemon, aside):
    """A front-end that holds its device back does not keep sluiced from ending."""
    for i in range(5):
        good(daemon, "disk", "add", f"d{i}", "--socket", aside / f"{i}.sock", "--file", image_of(aside / f"{i}.raw"))
    removals = [subprocess.Popen([BUILD / "cli/sluice", "--socket", daemon.control, "disk", "remove", f"d{i}"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i in range(5)]
    assert daemon.stop() == 0
    for r in removals:
        r.wait(20)
    assert "error" not in Path(daemon.log).read_text()


def test_an_image_is_replaced_while_nobody_uses_the_disk(daemon, aside):
    first, second = image_of(aside / "1.raw"), image_of(aside / "2.raw", 8 << 20)
    path = aside / "a.sock"
    good(daemon, "disk", "add", "a", "--socket", path, "--file", first)
    text = good(daemon, "disk", "replace", "a", "--file", "2.raw", cwd=aside)
    assert text.startswith("disk a has another image: 8388608 bytes, before 4194304\n")
    assert (daemon.disk("a")["file"], daemon.disk("a")["capacity"]) == (str(second), 8 << 20)
    subprocess.run(bench(path, "--rw", "randwrite", "--verify", "--time", "1"), check=True, stdout=subprocess.DEVNULL,
                   timeout=60)
    assert second.read_bytes().strip(b"\0") and not first.read_bytes().strip(b"\0")
    good(daemon, "disk", "add", "b", "--socket", aside / "b.sock", "--file", first)  # it is free again
    with load(path, "--rw", "randwrite") as busy:
        wait_for(lambda: daemon.disk("a")["state"] == "running", 60, "it runs")
        files = descriptors(daemon)
        assert "a front-end is connected" in refused(daemon, "disk", "replace", "a", "--file", first)
        assert busy.poll() is None
        wait_for(lambda: descriptors(daemon) <= files, 60, "descriptors are closed")
    wait_for(lambda: daemon.disk("a")["state"] == "waiting", 60, "it has gone")
    assert "lock is held" in refused(daemon, "disk", "replace", "a", "--file", first)
    assert "No such file" in refused(daemon, "disk", "replace", "a", "--file", aside / "none.raw")
    assert "has no image" in refused(daemon, "disk", "replace", "first", "--file", first)
    assert 'no disk called "x"' in refused(daemon, "disk", "replace", "x", "--file", first)
    assert daemon.disk("a")["file"] == str(second)
    files = descriptors(daemon)
    for i in range(20):
        good(daemon, "disk", "replace", "a", "--file", image_of(aside / f"r{i}.raw"))
    wait_for(lambda: descriptors(daemon) <= files, 60, "descriptors are closed")


def test_what_is_served_now_is_printed_as_a_configuration(daemon, aside):
    """And a sluiced that starts from it serves the same."""
    image = image_of(aside / "a b.raw")
    good(daemon, "disk", "add", "a", "--socket", aside / "a.sock", "--file", image_of(aside / "old.raw"), "--serial",
         "007", "--mode", "0660", "--queues", "2", "--cache", "writeback", "--limit", "iops=20k")
    good(daemon, "disk", "replace", "a", "--file", image)
    good(daemon, "disk", "limit", "a", "bandwidth=1M")
    good(daemon, "disk", "remove", "first")
    text = good(daemon, "config")
    assert f'{{ name: a, socket: {aside}/a.sock, mode: "0660", file: "{image}", cache: writeback' in text, text
    before = daemon.disk("a")
    assert daemon.stop() == 0
    (daemon.folder / "sluice.yaml").write_text(text)
    image.chmod(0o666)
    daemon.start()
    after = daemon.disk("a")
    assert names(daemon) == ["a"]
    for key in ("file", "socket", "how", "limit", "capacity", "read_only"):
        assert before[key] == after[key], key
    assert good(daemon, "config") == text


@contextlib.contextmanager
def lingering(seconds):
    """A TCP socket whose last close() waits so long: what it has sent nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as tcp:
        peer, _ = door.accept()
        with peer:
            tcp.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    tcp.send(bytes(1 << 20))
            tcp.setblocking(True)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
            yield tcp


@pytest.mark.parametrize("method, params, n_bound", [
    ("disk.add", {"name": "a", "socket": "{aside}/a.sock", "ram": "1M"}, 0),
    ("disk.add", {"name": "a", "socket": "{aside}/a.sock", "file": "{aside}/a.raw"}, 1),
    ("disk.add", {"name": "a", "socket": "{aside}/a.sock", "connect": True, "file": "{aside}/a.raw"}, 0),
    ("disk.replace", {"disk": "filed", "file": "{aside}/a.raw"}, 0),
    ("port.add", {"network": "lan", "port": {"name": "p", "socket": "{aside}/a.sock"}}, 0),
    ("port.capture", {"port": "one"}, 0),
])
def test_a_descriptor_that_takes_long_to_close_holds_up_nobody(daemon, aside, method, params, n_bound):
    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return value.format(aside=aside) if isinstance(value, str) else value

    good(daemon, "network", "add", "lan")
    good(daemon, "port", "add", "lan", "one", "--socket", aside / "one.sock")
    good(daemon, "disk", "add", "filed", "--socket", aside / "filed.sock", "--file", image_of(aside / "f.raw"))
    with bound(aside / "a.sock") as listener, contextlib.ExitStack() as stack:
        tcp = stack.enter_context(lingering(100))
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(30)
        client.connect(str(daemon.control))
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": filled(params)}
        socket.send_fds(client, [json.dumps(request).encode()], [listener.fileno()] * n_bound + [tcp.fileno()])
        tcp.close()  # sluiced's is the last one
        client.sendall(b"\n")
        answer = json.loads(client.makefile().readline())
        assert "error" in answer, answer
        assert "result" in ask(daemon.control, {"method": "version"})
        assert "result" in ask(daemon.control, {"method": "version"})
    good(daemon, "disk", "remove", "filed")


@pytest.mark.parametrize("method, params, complaint", [
    ("disk.limit", {}, "disk.limit takes"),
    ("disk.limit", {"disk": 1}, "disk.limit takes"),
    ("disk.limit", {"disk": "first", "limit": 5}, "disk.limit takes"),
    ("disk.limit", {"disk": "first", "limit": None}, "disk.limit takes"),
    ("disk.limit", {"disk": "first", "more": 5}, "disk.limit takes"),
    ("disk.limit", {"disk": "nonesuch"}, 'no open disk called "nonesuch"'),
    ("disk.limit", {"disk": "first", "limit": {"iop": 5}}, 'there is no "iop"'),
    ("disk.limit", {"disk": "first", "limit": {"iops": [5]}}, "iops: is neither text nor a whole number"),
    ("disk.limit", {"disk": "first", "limit": {"iops": -1}}, "iops"),
    ("disk.limit", {"disk": "first", "limit": {"iops": "fast"}}, "iops"),
    ("disk.limit", {"disk": "first", "limit": {"iops": "1000001G"}}, "is more than any disk does"),
    ("disk.limit", {"disk": "first", "limit": {"iops": 5, "bandwidth": "x"}}, "bandwidth"),
    ("disk.limit", {"disk": "first", "limit": {"iops_max": 5}}, "iops_max: is less than iops"),
    ("disk.limit", {"disk": "first", "limit": {"iops_read_max": 5}}, "iops_read_max: is how far iops_read may be exceeded"),
    ("disk.limit", {"disk": "first", "limit": {"burst": 5}}, "burst"),
    ("disk.limit", ["first"], "disk.limit takes"),
    ("disk.retry", {}, "disk.retry takes"),
    ("disk.retry", {"disk": "first", "more": 1}, "disk.retry takes"),
    ("disk.retry", {"disk": None}, "disk.retry takes"),
    ("disk.retry", {"disk": "nonesuch"}, 'no open disk called "nonesuch"'),
])
def test_wrong_parameters_of_limit_and_retry_change_nothing(daemon, method, params, complaint):
    good(daemon, "disk", "limit", "first", "iops=7")
    answer = ask(daemon.control, {"method": method, "params": params})
    assert complaint in answer["error"]["message"]
    assert daemon.disk("first")["limit"] == {"iops": 7}


def test_limits_change_while_a_guest_reads_and_writes(daemon):
    def limit(**keys):
        return ask(daemon.control, {"method": "disk.limit", "params": {"disk": "first", "limit": keys}})["result"]

    def counter(name):
        return daemon.disk("first")["counters"][name]

    with load(daemon.folder / "first.sock", "--rw", "randwrite", "--verify") as busy:
        wait_for(lambda: counter("writes") > 0, 60, "requests arrive")
        assert ask(daemon.control, {"method": "disk.limit", "params": {"disk": "first"}})["result"] == {}
        assert limit(iops=50, iops_max="1k", burst=2) == {"iops": 50, "iops_max": 1000, "burst": 2}
        wait_for(lambda: counter("held") > 0, 60, "requests wait")
        assert limit(bandwidth="1G") == {"iops": 50, "iops_max": 1000, "bandwidth": 1 << 30, "burst": 2}
        assert daemon.disk("first")["limit"] == limit()
        assert ask(daemon.control, {"method": "disk.retry", "params": {"disk": "first"}})["result"] == {"waiting": 0}
        assert limit(iops=0, iops_max=0, bandwidth=0, burst=0) == {}
        before = counter("writes")
        wait_for(lambda: counter("writes") > before + 10000, 60, "all goes as before")
        assert "limit" not in good(daemon, "config")
        assert busy.poll() is None
    assert good(daemon, "disk", "limit", "first") == "first has no limits\n"
    assert good(daemon, "disk", "retry", "first") == "first: requests that try again: 0\n"
