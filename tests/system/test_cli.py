# SPDX-License-Identifier: Apache-2.0
"""sluice beside a control socket that says what it likes, or nothing: whom it trusts, what it prints, what it returns."""
import json
import os
import subprocess

import pytest
from fake_daemon import SILENT, FakeDaemon
from lab import BUILD

IS_ROOT = os.geteuid() == 0
SOMEBODY, NOBODY = 12345, 65534


def sluice(*words, **run):
    return subprocess.run([BUILD / "cli/sluice", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60, check=False, **run)


@pytest.mark.skipif(not IS_ROOT, reason="needs two users")
@pytest.mark.parametrize("listener, trusted", [(SOMEBODY, False), (NOBODY, True), (0, True)])
def test_the_own_socket_is_asked_only_if_it_is_ones_own(folder, listener, trusted):
    """Whoever comes first may make /tmp/sluice-UID, and would be handed images."""
    own = folder / "run/sluice"
    own.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "run").chmod(0o777)
    own.chmod(0o777)
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder / "run")}
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    os.seteuid(listener)
    try:
        fake = FakeDaemon(own / "control.sock", {"config": {"user": "me"}}).__enter__()
    finally:
        os.seteuid(0)
    try:
        done = sluice("config", env=env, **user)
        if trusted:
            assert (done.returncode, done.stdout) == (0, "user: me\n"), done.stderr
            return
        assert done.returncode == 3
        assert f"{own}/control.sock belongs to another user's process (user {SOMEBODY})" in done.stderr
        assert not fake.asked
        # Named, it is the caller's choice.
        assert sluice("--socket", own / "control.sock", "config", env=env, **user).returncode == 0
    finally:
        fake.__exit__()


EVIL = "x\x1b]0;owned\x07\x7f\u009b31m\ny"

STATUS = {
    "version": EVIL, "pid": 1, "uptime_s": 1.0, "user": EVIL, "config": EVIL,
    "sandbox": {"seccomp": EVIL, "landlock": 1, "why": EVIL},
    "workers": [{"index": 0, "cpu": None, "pollers": 1, "active": 1, "busy_percent": 1.0, "sleeps": 1, "wakes": 1}],
    "disks": [{"name": "a", "state": EVIL, "error": EVIL, "socket": EVIL, EVIL: EVIL, "limit": {EVIL: 5},
               "front_end": {"features": [EVIL], EVIL: EVIL}, "counters": {EVIL: 1},
               "last_fault": {"operation": EVIL, "sector": 1, "ago_s": 1.0, "reason": EVIL},
               "server": {"state": EVIL, "since_s": 1.0, "reason": EVIL},
               "no_answer": {"operation": EVIL, "sector": 1, "since_s": 1.0, "requests": 1},
               "stopped": {"requests": 1, "since_s": 1.0}, "lost": {"reason": EVIL},
               "queues": [{"index": 0, "state": EVIL, "layout": EVIL, "broken": EVIL}]}, {"name": EVIL, "stopped": {}}, {}],
    "networks": [{"name": "n", "macs": [{"mac": EVIL, "port": EVIL, "age_s": 1}], "ports": [
        {"name": "p", "kind": EVIL, "state": EVIL, "socket": EVIL, "error": EVIL, "drops": {EVIL: 1}}]}, {}],
}


def is_clean(text):
    return not any(c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0) for c in text)


@pytest.mark.parametrize("words, answers, code", [
    (("status",), {"status": STATUS}, 0),
    (("status", "a"), {"status": STATUS}, 0),
    (("status", "n"), {"status": STATUS}, 0),
    (("status", "p"), {"status": STATUS}, 0),
    (("status", "nobody"), {"status": STATUS}, 1),
    (("config",), {"config": {EVIL: EVIL, "networks": [{EVIL: EVIL, "ports": [{EVIL: EVIL}]}], "disks": [{EVIL: [EVIL]}]}}, 0),
    (("port", "set", "p"), {"port.set": {EVIL: EVIL, "macs": [EVIL]}}, 0),
    (("port", "limit", "p"), {"port.limit": {EVIL: 1}}, 0),
    (("disk", "limit", "a"), {"disk.limit": {EVIL: 1}}, 0),
    (("disk", "add", "a", "--ram", "1M", "--socket", "x", "--connect"), {"disk.add": {"capacity": 1, "how": EVIL}}, 0),
    (("port", "remove", "p"), {"port.remove": {"socket": "/dev/null" + EVIL}}, 0),
    (("port", "up", "p"), {"port.up": {"error": EVIL}}, 1),
    (("port", "down", "p"), {"port.down": EVIL.encode() + b"\n"}, 1),
])
def test_nothing_of_the_daemons_reaches_the_terminal_as_it_is(folder, words, answers, code):
    with FakeDaemon(folder / "s", answers):
        done = sluice("--socket", folder / "s", *words)
        assert done.returncode == code, done.stderr
        assert is_clean(done.stdout + done.stderr), (done.stdout, done.stderr)
        method, answer = next(iter(answers.items()))
        if code == 0 and words[0] != "disk":
            done = sluice("--socket", folder / "s", "--json", *words)
            assert is_clean(done.stdout)
            if len(words) == 1 or words[0] != "status":
                assert json.loads(done.stdout) == answer, method
        if words == ("config",):
            # As YAML: what is saved is what was meant.
            quoted = '"x\\u001b]0;owned\\u0007\\u007f\\u009b31m\\ny"'
            assert f"{quoted}: {quoted}\nnetworks:\n  - {quoted}:" in sluice("--socket", folder / "s", "config").stdout.lower()


def test_an_answer_that_cannot_be_written_is_no_success(folder):
    with FakeDaemon(folder / "s", {"status": STATUS, "config": {"user": "me"}, "port.up": {"up": True}}), \
            open("/dev/full", "w", encoding="ascii") as full:
        for words in (("status",), ("status", "--json"), ("config",), ("port", "up", "p"), ("--help",), ("--version",)):
            done = subprocess.run([BUILD / "cli/sluice", "--socket", folder / "s", *words], stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            assert done.returncode == 1, words
            assert "cannot write all of the answer: No space left on device" in done.stderr, words
        done = subprocess.run([BUILD / "bench/sluice-bench", "--version"], stdout=full, stderr=subprocess.PIPE, text=True,
                              timeout=60, check=False)
        assert done.returncode == 1 and "cannot write all of the result" in done.stderr


@pytest.mark.parametrize("words, code, complaint", [
    (("disk", "limit", "a", b"iops=\xff"), 2, "is not valid UTF-8"),
    (("disk", "limit", "a", "iops=5", b"\xff=1"), 2, "is not valid UTF-8"),
    (("disk", "limit", b"\xff", "iops=5"), 1, "is not valid UTF-8"),
    (("disk", "resize", "a", b"\xff"), 1, "is not valid UTF-8"),
    (("disk", "retry", b"\xff"), 1, "is not valid UTF-8"),
    (("disk", "replace", "a", "--file", b"/\xff"), 1, "is not valid UTF-8"),
    (("disk", "add", "a", "--socket", "/x", "--ram", "1M", "--limit", b"iops=\xff"), 2, "cannot be read"),
    (("disk", "add", "a", "--socket", "/x", "--file", b"\xff"), 2, "cannot be read"),
    (("port", "set", "p", "--macs", b"52:54:00:00:00:01,\xff"), 2, "cannot be read"),
    (("port", "add", b"\xff", "p", "--socket", "/x"), 1, "is not valid UTF-8"),
    (("port", "down", b"\xff"), 1, "is not valid UTF-8"),
])
def test_what_is_not_utf8_is_refused_and_not_left_out(folder, words, code, complaint):
    image = folder / "old.raw"
    image.write_bytes(bytes(1 << 20))
    answers = {"config": {"disks": [{"name": "a", "file": str(image)}]}, "version": {"uid": 0, "gid": 0}}
    with FakeDaemon(folder / "s", answers) as fake:
        done = subprocess.run([BUILD / "cli/sluice", "--socket", folder / "s", *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False)
        assert (done.returncode, complaint in done.stderr.decode(errors="replace")) == (code, True), done.stderr
        assert [r["method"] for r in fake.asked if r["method"] not in answers] == []


def test_a_working_folder_without_a_name_is_no_unreachable_daemon(folder):
    for cwd, complaint in ((b"\xff", "the path of the current folder is not valid UTF-8"), (b"gone", "the current folder: ")):
        path = os.fsencode(folder) + b"/" + cwd
        os.mkdir(path)
        script = 'test "$1" != gone || rmdir "$PWD"; shift; exec "$@"'
        with FakeDaemon(folder / "s", {}) as fake:
            done = subprocess.run(["sh", "-c", script, "sh", cwd, BUILD / "cli/sluice", "--socket", folder / "s", "disk", "add", "a",
                                   "--socket", "a.sock", "--ram", "1M"], cwd=path, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=60, check=False)
            assert (done.returncode, complaint in done.stderr.decode()) == (1, True), done.stderr
            assert not fake.asked


@pytest.mark.parametrize("answer, code, is_left", [({"error": "no"}, 1, False), (b"", 3, False), (SILENT, 3, True)])
def test_a_socket_file_is_left_to_a_daemon_that_may_still_come(folder, answer, code, is_left):
    with FakeDaemon(folder / "s", {"version": {"uid": os.geteuid(), "gid": os.getegid()}, "disk.add": answer}) as fake:
        done = sluice("--socket", folder / "s", "disk", "add", "a", "--socket", folder / "a.sock", "--ram", "1M")
        assert done.returncode == code, done.stderr
        assert (folder / "a.sock").exists() == is_left
        assert (f"socket file {folder}/a.sock is left, since it may still be served" in done.stderr) == is_left
        assert fake.n_fds == 1
