# SPDX-License-Identifier: Apache-2.0
"""sluice beside a control socket that says what it likes, or nothing: whom it trusts, what it prints, what it returns."""
import json
import os
import subprocess

import pytest
from fake_daemon import FakeDaemon
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
               "stopped": {"requests": 1, "since_s": 1.0},
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
