# SPDX-License-Identifier: Apache-2.0
"""sluice beside a control socket that says what it likes, or nothing: whom it trusts, what it prints, what it returns."""
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
