# SPDX-License-Identifier: Apache-2.0
"""DPDK is loaded for the first DPDK port, from sluice-dpdk.so; who has no such port has nothing of it."""
import contextlib
import re
import shutil
import subprocess

import pytest
from lab import BUILD
from lab.daemon import wait_for
from running import running
from test_daemon import is_served, write_config

MODULE = BUILD / "daemon/sluice-dpdk.so"
PORTS = """
networks:
  - name: lan
    ports:
      - {{ name: web, socket: {folder}/web.sock }}
"""
UPLINK = "      - {{ name: up, dpdk: net_null0 }}\n"


@pytest.fixture(name="serve")
def _serve(folder):
    """Starts a sluiced; gives it, and what it had logged when it served."""
    folder.chmod(0o777)
    with contextlib.ExitStack() as stack:
        def start(config, program=BUILD / "daemon/sluiced"):
            path, log = write_config(folder, config.format(folder=folder)), folder / "log"
            with open(log, "wb") as file:
                process = stack.enter_context(running([program, "--config", path], stderr=file))
            wait_for(lambda: " ready: " in log.read_text(), 20, "sluiced is ready")
            assert is_served(folder / "web.sock")
            return process, log.read_text()
        yield start


def has_dpdk(process):
    with open(f"/proc/{process.pid}/maps", encoding="ascii") as maps:
        return bool(re.search(r"librte_|sluice-dpdk", maps.read()))


def test_dpdk_is_loaded_for_dpdk_ports_alone(serve):
    process, _ = serve(PORTS)
    assert not has_dpdk(process)


def test_dpdk_comes_with_a_dpdk_port(serve):
    process, log = serve(PORTS + UPLINK)
    assert has_dpdk(process)
    assert "port up: net_null" in log


def absent(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def other(path):
    path.write_bytes(b"no shared library" * 100)


def older(path):
    """That of another version: sluiced's structures may be others."""
    version = subprocess.run([BUILD / "daemon/sluiced", "--version"], capture_output=True, check=True).stdout.split()[1]
    text = path.read_bytes()
    assert text.count(version + b"\0") == 1
    path.write_bytes(text.replace(version + b"\0", b"9" * len(version) + b"\0"))


@pytest.mark.parametrize("spoil, complaint", [
    (absent, "/sluice/sluice-dpdk.so, without which there are no DPDK ports, is not there: install it"),
    (empty, "install DPDK's libraries"), (other, "install DPDK's libraries"), (older, "install both anew")])
def test_a_module_that_is_not_what_it_should_be_is_named_and_the_others_run(serve, folder, spoil, complaint):
    program = folder / "sluiced"
    shutil.copy(BUILD / "daemon/sluiced", program)
    shutil.copy(MODULE, folder)
    spoil(folder / MODULE.name)
    process, log = serve(PORTS + UPLINK, program)
    assert not [line for line in log.splitlines() if "warning" in line]
    (line,) = [line for line in log.splitlines() if "port up: " in line]
    assert complaint in line and MODULE.name in line, line
    assert process.poll() is None
