# SPDX-License-Identifier: Apache-2.0
"""sluiced and sluice as programs: start, status, stop, bad input, privileges, the control socket.

No guest runs here. SLUICE_BUILD names the build folder; the default is build/ of this repository.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD", REPO / "build")).resolve()
SLUICED = BUILD / "daemon" / "sluiced"
SLUICE = BUILD / "cli" / "sluice"
IS_ROOT = os.geteuid() == 0
NOBODY = 65534

GET_FEATURES = 1


class Daemon:
    """A running sluiced; its log is in a file, so that nobody has to read a pipe."""

    def __init__(self, folder, *args, ready=True, **popen):
        self.log_path = folder / f"log.{time.monotonic_ns()}"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [SLUICED, *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **popen
            )
        if ready:
            self.wait_for_line(" ready: ")

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_for_line(self, text, timeout=20):
        end = time.monotonic() + timeout
        while text not in self.log:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"no {text!r} in:\n{self.log}"
            time.sleep(0.02)

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.process.wait(timeout=15)


@pytest.fixture
def spawn(tmp_path):
    daemons = []

    def start(*args, **popen):
        daemons.append(Daemon(tmp_path, *args, **popen))
        return daemons[-1]

    yield start
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


@pytest.fixture
def folder(tmp_path):
    """A short path, because socket paths are, that an ordinary user may enter."""
    path = pathlib.Path(f"/tmp/sluice-test-{os.getpid()}-{time.monotonic_ns() % 1000000}")
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def write_config(folder, text):
    path = folder / "sluice.yaml"
    path.write_text(f"control: {{ socket: {folder}/control.sock }}\n" + text)
    return path


def sluice(folder, *args, **run):
    return subprocess.run(
        [SLUICE, "--socket", folder / "control.sock", *args],
        capture_output=True,
        text=True,
        timeout=20,
        **run,
    )


def status(folder):
    result = sluice(folder, "status", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(10)
    for _ in range(1000):
        try:
            client.connect(str(path))
            return client
        except BlockingIOError:  # the daemon has not yet taken those before us
            time.sleep(0.01)
    raise AssertionError(f"{path} takes no connections")


def offered_features(client):
    """Asks as a front-end does: proves that a device is behind the socket."""
    client.sendall(struct.pack("<III", GET_FEATURES, 1, 0))
    reply = b""
    while len(reply) < 20:
        more = client.recv(20 - len(reply))
        assert more, "hung up"
        reply += more
    request, flags, size, features = struct.unpack("<IIIQ", reply)
    assert (request, flags & 0x7, size) == (GET_FEATURES, 0x5, 8)
    return features


def is_served(path):
    with connect(path) as client:
        return offered_features(client) != 0


def run_sluiced(*args, **run):
    return subprocess.run([SLUICED, *args], capture_output=True, text=True, timeout=20, **run)


def make_image(path, size=1 << 20):
    with open(path, "wb") as f:
        f.truncate(size)
    path.chmod(0o666)
    return path


# The way of a daemon


def test_serves_what_the_configuration_says_and_ends_on_sigterm(spawn, folder):
    image = make_image(folder / "a.raw", 3 << 20)
    config = write_config(
        folder,
        f"""
networks:
  - name: lan
    ports: [ {{ name: web, socket: {folder}/web.sock, queues: 2, mac: "52:54:00:00:00:07" }} ]
disks:
  - {{ name: root, socket: {folder}/root.sock, file: {image}, queues: 3 }}
  - {{ name: scratch, socket: {folder}/scratch.sock, ram: 8M }}
""",
    )
    daemon = spawn("--config", config)
    for name in ("web", "root", "scratch"):
        assert is_served(folder / f"{name}.sock")

    answer = status(folder)
    assert answer["pid"] == daemon.process.pid
    disks = {disk["name"]: disk for disk in answer["disks"]}
    assert disks["root"]["capacity"] == 3 << 20
    assert disks["root"]["state"] == "waiting"
    assert len(disks["root"]["queues"]) == 3
    assert disks["root"]["front_end"]["connects"] == 1
    assert disks["scratch"]["kind"] == "ram"
    (network,) = answer["networks"]
    (port,) = network["ports"]
    assert (port["name"], port["kind"], port["mac"]) == ("web", "guest", "52:54:00:00:00:07")
    assert len(answer["workers"]) == 1

    text = sluice(folder, "status").stdout
    assert re.search(r"^root +waiting +0/3 +3\.0 MiB ", text, re.M), text
    assert re.search(r"^web +guest +waiting +", text, re.M), text
    assert "disk root\n" in sluice(folder, "status", "root").stdout

    assert daemon.stop() == 0
    assert "error" not in daemon.log


def test_two_thousand_connections_leave_nothing_behind(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    daemon = spawn("--config", config)

    def open_files():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    assert is_served(folder / "a.sock")
    status(folder)
    before = open_files()
    for i in range(1000):
        with connect(folder / "a.sock") as client:
            client.sendall(b"\x01\x00\x00")  # and hangs up in the middle of a message
        with connect(folder / "control.sock") as client:
            client.sendall(b"{")
    assert is_served(folder / "a.sock")
    deadline = time.monotonic() + 60
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert open_files() <= before
    assert daemon.stop() == 0


def test_an_idle_daemon_uses_next_to_no_cpu(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    daemon = spawn("--config", config)

    def ticks():
        fields = pathlib.Path(f"/proc/{daemon.process.pid}/stat").read_text().split()
        return int(fields[13]) + int(fields[14])

    def ticks_of_3_s():
        before = ticks()
        time.sleep(3)
        return ticks() - before

    time.sleep(0.5)
    # Of 300: under one per cent of a core. What other machines steal from this one is counted, too: so not the first time only.
    assert any(ticks_of_3_s() <= 3 for _ in range(5))


def test_sighup_is_ignored_with_a_warning(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    daemon = spawn("--config", config)
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_line("SIGHUP: reloading the configuration is not supported")
    assert is_served(folder / "a.sock")
    assert daemon.stop(signal.SIGINT) == 0


def stop_thread(tid):
    """Freezes one thread of another process, as a hung one is. Its end has to be waited for here."""
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
        if libc.ptrace(request, tid, None, None):
            pytest.skip(f"cannot stop a thread: {os.strerror(ctypes.get_errno())}")
    os.waitpid(tid, 0x40000000)  # __WALL


@pytest.mark.parametrize("second_signal", [True, False])
def test_gives_up_on_what_hangs_and_names_it(spawn, folder, second_signal):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    daemon = spawn("--config", config)
    tasks = pathlib.Path(f"/proc/{daemon.process.pid}/task")
    (worker,) = [t for t in tasks.iterdir() if re.match("sluice-w[0-9]", (t / "comm").read_text())]
    stop_thread(int(worker.name))
    begin = time.monotonic()
    daemon.process.terminate()
    if second_signal:
        daemon.wait_for_line("closing all devices")
        daemon.process.terminate()
    while os.waitpid(int(worker.name), 0x40000001) == (0, 0):  # __WALL | WNOHANG
        if time.monotonic() - begin > 15:
            daemon.process.kill()
            os.waitpid(int(worker.name), 0x40000000)
            pytest.fail(f"did not give up:\n{daemon.log}")
        time.sleep(0.05)
    took = time.monotonic() - begin
    assert daemon.process.wait(timeout=5) == 1
    if second_signal:
        assert took < 5
        # It may come before the control thread has closed the disk, which takes it no time.
        assert re.search(r"^sluice error: a second signal, giving up; still open: (disk a|workers)$", daemon.log, re.M)
    else:
        assert took > 9
        assert "sluice error: not finished after 10 s, giving up; still open: workers\n" in daemon.log


def test_tells_systemd_when_ready_alive_and_stopping(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        os.chmod(folder / "notify", 0o777)
        manager.settimeout(10)
        env = dict(os.environ, NOTIFY_SOCKET=str(folder / "notify"), WATCHDOG_USEC="500000")
        env.pop("WATCHDOG_PID", None)
        daemon = spawn("--config", config, env=env)
        heard = ""
        while "READY=1" not in heard or "WATCHDOG=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"
        daemon.process.terminate()
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode() + "\n"
    assert daemon.process.wait(timeout=15) == 0


def test_a_second_daemon_is_refused_and_harms_not_the_first(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    first = spawn("--config", config)
    second = run_sluiced("--config", config)
    assert second.returncode == 1
    assert f"control socket {folder}/control.sock: in use, so a sluiced runs already" in second.stderr
    assert is_served(folder / "a.sock")
    assert sluice(folder, "status").returncode == 0
    assert first.stop() == 0


def test_starts_again_over_the_sockets_of_one_that_was_killed(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    first = spawn("--config", config)
    first.process.kill()
    first.process.wait()
    assert stat.S_ISSOCK(os.stat(folder / "a.sock").st_mode)
    second = spawn("--config", config)
    assert is_served(folder / "a.sock")
    assert second.stop() == 0


# Bad input: configurations

DISK = "disks:\n  - name: a\n    socket: /tmp/a.sock\n"


@pytest.mark.parametrize(
    "text, problem",
    [
        (DISK + "    fille: /x\n", r'5: disks\[0\]\.fille: unknown key; did you mean "file"\?'),
        (DISK + "    file: [/x]\n", r"5: disks\[0\]\.file: a list stands where"),
        (DISK + "    null: 1M\n    queues: lots\n", r'6: disks\[0\]\.queues: "lots" is not a whole'),
        (
            DISK + "    null: 1M\n  - { name: a, socket: /tmp/b.sock, null: 1M }\n",
            r'6: disks\[1\]\.name: "a" is already taken by disks\[0\]\.name \(line 3\); give',
        ),
        ("workers: { cpus: [60000] }\n", r"2: workers\.cpus: CPU 60000 does not exist"),
        (
            "disks: [{ name: a, null: 1M, socket: /tmp/" + "x" * 120 + " }]\n",
            r"2: disks\[0\]\.socket: is 125 bytes long; at most 107 are possible",
        ),
        ("disks: [\n", r"3: not valid YAML: "),
    ],
)
@pytest.mark.parametrize("mode", [[], ["--check"]])
def test_a_bad_configuration_is_refused_with_file_line_and_key(folder, text, problem, mode):
    config = write_config(folder, text)
    result = run_sluiced("--config", config, *mode)
    assert result.returncode == 1
    assert re.search(f"^sluice error: {re.escape(str(config))}:{problem}", result.stderr, re.M), (
        result.stderr
    )
    assert not (folder / "control.sock").exists()


def test_check_finds_no_fault_with_the_default_configuration():
    result = run_sluiced("--config", REPO / "deploy" / "sluice.yaml", "--check")
    assert result.returncode == 0, result.stderr
    assert "in order: disks 2, networks 1, ports 3" in result.stdout


def test_a_missing_configuration_is_named(folder):
    result = run_sluiced("--config", folder / "none.yaml")
    assert result.returncode == 1
    assert f"{folder}/none.yaml: cannot open it: No such file or directory" in result.stderr


# Bad input: devices. Each fails alone; what it needs is made in the test's folder.


def bad_devices(folder):
    (folder / "dir").mkdir()
    (folder / "plain.sock").write_text("a file")
    return {
        "missing image": f"file: {folder}/none.raw, socket: {folder}/1.sock",
        "folder as image": f"file: {folder}/dir, socket: {folder}/1.sock",
        "socket in use": f"null: 1M, socket: {folder}/used.sock",
        "file as socket": f"null: 1M, socket: {folder}/plain.sock",
        "socket in no folder": f"null: 1M, socket: {folder}/none/1.sock",
        "folder as socket": f"null: 1M, socket: {folder}/dir",
    }


BAD_DEVICE_SENTENCES = {
    "missing image": "none.raw",
    "folder as image": "/dir",
    "socket in use": "used.sock",
    "file as socket": "plain.sock",
    "socket in no folder": "/none",
    "folder as socket": "/dir",
}


@pytest.mark.parametrize("case", BAD_DEVICE_SENTENCES)
def test_a_device_that_cannot_be_opened_is_told_and_the_others_run(spawn, folder, case):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "used.sock"))
        listener.listen()
        config = write_config(
            folder,
            f"""
disks:
  - {{ name: bad, {bad_devices(folder)[case]} }}
  - {{ name: good, socket: {folder}/good.sock, null: 1M }}
""",
        )
        daemon = spawn("--config", config)
        assert is_served(folder / "good.sock")
        disks = {disk["name"]: disk for disk in status(folder)["disks"]}
        assert disks["good"]["state"] == "waiting"
        assert disks["bad"]["state"] == "failed"
        why = disks["bad"]["error"]
        assert BAD_DEVICE_SENTENCES[case] in why
        assert len(why) > 30, why  # a sentence, not an errno
        assert f"sluice error: disk bad: {why}\n" in daemon.log
        assert f"  bad: {why}\n" in sluice(folder, "status").stdout
        assert daemon.stop() == 0
    if case == "file as socket":
        assert (folder / "plain.sock").read_text() == "a file"


@pytest.mark.skipif(not IS_ROOT, reason="a DPDK port needs root")
def test_a_dpdk_device_that_does_not_probe_is_told_and_the_others_run(spawn, folder):
    config = write_config(
        folder,
        f"""
networks:
  - name: lan
    ports:
      - {{ name: up, dpdk: "net_nonesuch0" }}
      - {{ name: web, socket: {folder}/web.sock }}
""",
    )
    daemon = spawn("--config", config)
    assert is_served(folder / "web.sock")
    (network,) = status(folder)["networks"]
    ports = {port["name"]: port for port in network["ports"]}
    assert ports["up"]["state"] == "failed"
    assert "net_nonesuch0" in ports["up"]["error"]
    assert ports["web"]["state"] == "waiting"
    assert daemon.stop() == 0


def test_with_no_device_left_it_ends(folder):
    config = write_config(
        folder, f"disks: [{{ name: a, socket: {folder}/a.sock, file: {folder}/none.raw }}]\n"
    )
    result = run_sluiced("--config", config)
    assert result.returncode == 1
    assert "none.raw" in result.stderr
    assert "no device could be opened" in result.stderr
    assert not (folder / "control.sock").exists()


# Privileges


def threads_of(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        yield dict(
            line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line
        )


@pytest.mark.skipif(not IS_ROOT, reason="only root has something to drop")
def test_root_is_dropped_for_good_on_every_thread(spawn, folder):
    image = make_image(folder / "a.raw")
    image.chmod(0o600)  # root's own: opened before the drop
    config = write_config(
        folder,
        f"user: nobody\ndisks: [{{ name: a, socket: {folder}/a.sock, file: {image} }}]\n",
    )
    daemon = spawn("--config", config)
    threads = list(threads_of(daemon.process.pid))
    assert len(threads) >= 2
    for thread in threads:
        assert thread["Uid"].split() == [str(NOBODY)] * 4
        assert "0" not in thread["Gid"].split() + thread["Groups"].split()
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(thread[which], 16) == 0, (which, thread)
        assert thread["NoNewPrivs"].strip() == "1"
    assert os.stat(folder / "a.sock").st_uid == NOBODY
    assert os.stat(folder / "control.sock").st_uid == NOBODY
    assert is_served(folder / "a.sock")
    assert daemon.stop() == 0


def as_ordinary_user():
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}


@pytest.mark.parametrize("runtime_dir", [True, False])
def test_an_ordinary_user_runs_it(spawn, folder, tmp_path, runtime_dir):
    image = make_image(folder / "a.raw")
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    uid = NOBODY if IS_ROOT else os.geteuid()
    own = pathlib.Path(f"/tmp/sluice-{uid}")
    if runtime_dir:
        own = folder / "run" / "sluice"
        (folder / "run").mkdir()
        (folder / "run").chmod(0o777)
        env["XDG_RUNTIME_DIR"] = str(folder / "run")
    config = folder / "sluice.yaml"
    config.write_text(
        f"networks: [{{ name: n, ports: [{{ name: p, socket: {folder}/p.sock }}] }}]\n"
        f"disks: [{{ name: a, socket: {folder}/a.sock, file: {image} }}]\n"
    )
    daemon = spawn("--config", config, env=env, **as_ordinary_user())
    assert (own / "control.sock").exists()
    assert os.stat(own).st_mode & 0o077 == 0
    assert is_served(folder / "a.sock")
    assert is_served(folder / "p.sock")
    result = subprocess.run(
        [SLUICE, "status", "--json"], capture_output=True, text=True, env=env, **as_ordinary_user()
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["pid"] == daemon.process.pid
    assert daemon.stop() == 0
    assert "error" not in daemon.log


@pytest.mark.skipif(not IS_ROOT, reason="needs two users")
def test_an_ordinary_user_cannot_be_lured_into_anothers_folder(folder):
    own = folder / "run" / "sluice"
    own.mkdir(parents=True)
    (folder / "run").chmod(0o777)
    own.chmod(0o777)
    config = folder / "sluice.yaml"
    config.write_text(f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder / "run")}
    result = run_sluiced("--config", config, env=env, **as_ordinary_user())
    assert result.returncode == 1
    assert f"the folder {own} belongs to somebody else" in result.stderr


def test_an_image_that_the_user_may_not_open_is_told(folder):
    if not IS_ROOT:
        pytest.skip("needs a file of another user")
    image = make_image(folder / "a.raw")
    image.chmod(0o600)
    result = run_sluiced(
        "blk", "--socket-path", folder / "a.sock", "--blk-file", image, **as_ordinary_user()
    )
    assert result.returncode == 1
    assert str(image) in result.stderr and "Permission denied" in result.stderr


# The control socket

STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n'


def test_hostile_clients_of_the_control_socket_harm_nobody(spawn, folder):
    config = write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n")
    daemon = spawn("--config", config)
    control = folder / "control.sock"
    held = []
    for junk in (b"\x00" * 5000, b"{" * 1000 + b"\n", b"\xff\n", b'{"jsonrpc":"2.0"}\n', b"[" * 70000):
        client = connect(control)
        try:
            client.sendall(junk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        held.append(client)
    for _ in range(20):  # ask, and never read
        client = connect(control)
        client.setblocking(False)
        try:
            for _ in range(2000):
                client.send(STATUS * 10)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        held.append(client)
    begin = time.monotonic()
    assert status(folder)["pid"] == daemon.process.pid
    assert time.monotonic() - begin < 10
    assert is_served(folder / "a.sock")
    for client in held:
        client.close()
    assert daemon.stop() == 0


def test_version_and_unknown_methods(spawn, folder):
    spawn("--config", write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n"))
    with connect(folder / "control.sock") as client:
        lines = client.makefile()
        client.sendall(b'{"jsonrpc":"2.0","id":"v","method":"version"}\n')
        answer = json.loads(lines.readline())
        assert answer["id"] == "v" and answer["result"]["name"] == "sluiced"
        client.sendall(b'{"jsonrpc":"2.0","id":2,"method":"statsu"}\n')
        assert json.loads(lines.readline())["error"]["code"] == -32601
        client.sendall(b'{"jsonrpc":"2.0","id":3,"method":"status","params":{"a":1}}\n')
        assert json.loads(lines.readline())["error"]["code"] == -32602


def test_sluice_says_what_is_missing(spawn, folder):
    result = sluice(folder, "status")
    assert result.returncode == 3
    assert f"cannot reach sluiced at {folder}/control.sock" in result.stderr
    assert "is it running?" in result.stderr
    spawn("--config", write_config(folder, f"disks: [{{ name: a, socket: {folder}/a.sock, null: 1M }}]\n"))
    result = sluice(folder, "status", "nonesuch")
    assert result.returncode == 1
    assert 'no disk, port or network is called "nonesuch"' in result.stderr
    assert sluice(folder, "stauts").returncode == 2
    assert sluice(folder).returncode == 2


# One device by options


def test_one_disk_by_socket_path(spawn, folder):
    image = make_image(folder / "a.raw")
    daemon = spawn(
        "blk", "--socket-path", folder / "a.sock", "--blk-file", image, "--read-only", "--control",
        folder / "control.sock",
    )  # fmt: skip
    with connect(folder / "a.sock") as client:
        assert offered_features(client) >> 5 & 1  # VIRTIO_BLK_F_RO
    assert status(folder)["disks"][0]["read_only"] is True
    assert daemon.stop() == 0


def test_ports_by_socket_paths_share_a_switch(spawn, folder):
    daemon = spawn(
        "net", "--socket-path", folder / "a.sock", "--socket-path", folder / "b.sock", "--control",
        folder / "control.sock", "--mtu", "1400", "--speed", "10000",
    )  # fmt: skip
    assert is_served(folder / "a.sock")
    assert is_served(folder / "b.sock")
    (network,) = status(folder)["networks"]
    assert [port["name"] for port in network["ports"]] == ["port0", "port1"]
    assert [port["speed"] for port in network["ports"]] == [10000, 10000]
    assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["blk", "net"])
def test_one_device_by_fd_ends_when_its_front_end_hangs_up(spawn, kind):
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    args = ["--null", "1M"] if kind == "blk" else []
    daemon = spawn(kind, "--fd", str(theirs.fileno()), *args, pass_fds=[theirs.fileno()])
    theirs.close()
    assert offered_features(ours) != 0
    ours.close()
    assert daemon.process.wait(timeout=15) == 0


@pytest.mark.parametrize(
    "kind, want",
    [
        ("blk", {"type": "block", "features": ["read-only", "blk-file"]}),
        ("net", {"type": "net"}),
    ],
)
def test_print_capabilities_ignores_everything_else(tmp_path, kind, want):
    result = run_sluiced(kind, "--print-capabilities", "--socket-path", "/nonexistent/x")
    assert result.returncode == 0 and json.loads(result.stdout) == want
    result = run_sluiced(kind, "--no-such-option", "--print-capabilities")
    assert result.returncode == 0 and json.loads(result.stdout) == want
    name = tmp_path / f"sluice-vhost-user-{kind}"
    name.symlink_to(SLUICED)
    result = subprocess.run([name, "--print-capabilities"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0 and json.loads(result.stdout) == want


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["blk"], "sluiced blk: one of --socket-path PATH and --fd N is needed"),
        (["net"], "sluiced net: one of --socket-path PATH and --fd N is needed"),
        (["blk", "--socket-path", "/tmp/x", "--fd", "0"], "--fd does not go with --socket-path"),
        (["blk", "--socket-path", "/tmp/x"], "--blk-file: is missing; a disk needs a file"),
        (["blk", "--fd", "99", "--null", "1M"], "--fd: no file descriptor 99 was handed over"),
        (["blk", "--fd", "0", "--null", "1M"], "--fd: file descriptor 0 is not a socket"),
        (["blk", "--fd", "x", "--null", "1M"], '--fd: "x" is not a file descriptor\'s number'),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--queues", "0"],
            '--queues: "0" is not a whole number from 1 to 256',
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--cpu", "60000"],
            "--cpu: CPU 60000 does not exist",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--ram", "1M"],
            "--ram: a disk is one of file, nbd, null and ram",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd+unix:///?socket=/tmp/y", "--connections", "17"],
            '--connections: "17" is not a whole number from 1 to 16',
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd+unix:///?socket=/tmp/y", "--connections", "0"],
            '--connections: "0" is not a whole number from 1 to 16',
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd+unix:///?socket=/tmp/y", "--reconnect", "-1"],
            '--reconnect: "-1" is not a whole number from 0 to 1000000',
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd+unix:///?socket=/tmp/y", "--timeout", "1s"],
            '--timeout: "1s" is not a whole number from 0 to 1000000',
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--connections", "2"],
            "--connections: only goes with nbd; leave it out",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--reconnect", "2"],
            "--reconnect: only goes with nbd; leave it out",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--null", "1M", "--timeout", "2"],
            "--timeout: only goes with nbd; leave it out",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd://h/", "--cache", "none"],
            "--cache: only goes with a file; leave it out",
        ),
        (
            ["blk", "--socket-path", "/tmp/x", "--nbd", "nbd://h/", "--null", "1M"],
            "a disk is one of file, nbd, null and ram",
        ),
        (
            ["net", "--socket-path", "/tmp/x", "--socket-path", "/tmp/x"],
            '--socket-path: "/tmp/x" is already taken by --socket-path; give each its own',
        ),
        (
            ["net", "--socket-path", "/tmp/x", "--socket-path", "/tmp/y", "--mac", "52:54:00:0:0:1"],
            "--mac: ",
        ),
        (["blk", "extra"], '"extra" is no option'),
        (["frob"], '"frob" is neither an option nor a device kind (blk, net)'),
    ],
)
def test_wrong_options_are_named(args, sentence):
    result = run_sluiced(*args, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert sentence in result.stderr


@pytest.mark.parametrize(
    "uri, sentence",
    [
        ("http://h/", '"http://h/" is no NBD URI'),
        ("nbd://h:0/", '"0" is no port'),
        ("nbd+unix:///", "it names no socket"),
        ("nbd+unix:///?socket={folder}/none.sock", "NBD server {folder}/none.sock: No such file or directory"),
    ],
)
def test_an_nbd_disk_that_cannot_be_had_ends_it(folder, uri, sentence):
    result = run_sluiced("blk", "--socket-path", folder / "a.sock", "--nbd", uri.format(folder=folder))
    assert result.returncode == 1
    assert sentence.format(folder=folder) in result.stderr


def test_one_device_that_cannot_be_opened_ends_it(folder):
    result = run_sluiced("blk", "--socket-path", folder / "a.sock", "--blk-file", folder / "none.raw")
    assert result.returncode == 1
    assert "none.raw" in result.stderr
    result = run_sluiced("blk", "--socket-path", folder / "no" / "a.sock", "--null", "1M")
    assert result.returncode == 1
    assert f"{folder}/no" in result.stderr


@pytest.mark.parametrize("program", [[SLUICED], [SLUICED, "blk"], [SLUICED, "net"], [SLUICE]])
def test_help_and_version(program):
    result = subprocess.run([*program, "--help"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0 and result.stdout.startswith("usage: ")
    result = subprocess.run([*program, "--version"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0 and re.fullmatch(r"sluiced? \d+\.\d+\.\d+\n", result.stdout)
