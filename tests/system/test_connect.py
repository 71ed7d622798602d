# SPDX-License-Identifier: Apache-2.0
"""`connect: true`: sluiced comes to a socket that a front-end has made, now, later, or when it is let in."""
import json
import os
import subprocess

import pytest
from lab import BUILD
from lab.daemon import Daemon, wait_for
from running import running

CONFIG = "disks: [{{ name: d, socket: {folder}/mine.sock, connect: true, ram: 16M }}]\n"


def front_end(folder, umask):
    command = [BUILD / "bench/sluice-bench", "blk", folder / "mine.sock", "--listen", "--timeout", "20000", "--rw",
               "randwrite", "--verify", "--time", "1", "--json"]
    return running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, umask=umask)


def verified(driver):
    out, err = driver.communicate(timeout=40)
    assert driver.returncode == 0, err
    return json.loads(out)["verified"]


def has_said(daemon, text):
    return lambda: text in daemon.log.read_text()


@pytest.fixture(name="daemon")
def fixture_daemon(folder):
    folder.chmod(0o777)
    with Daemon(folder, CONFIG.format(folder=folder)) as daemon:
        wait_for(has_said(daemon, f"no front-end at {folder}/mine.sock: No such file or directory; trying again"), 20,
                 "the socket is missed")
        yield daemon


def test_a_socket_that_is_made_later_is_found(daemon, folder):
    with front_end(folder, umask=0) as driver:
        assert verified(driver) > 100
    assert daemon.log.read_text().count("no front-end at") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="sluiced changes its user as root only")
def test_a_socket_that_its_user_may_not_write_to_is_told_with_the_remedy(daemon, folder):
    with front_end(folder, umask=0o077) as driver:
        wait_for(has_said(daemon, "Permission denied; let the user that sluiced runs as write to it; trying again"), 20,
                 "the reason is told")
        (folder / "mine.sock").chmod(0o666)
        assert verified(driver) > 100
    assert daemon.log.read_text().count("no front-end at") == 2
