# SPDX-License-Identifier: Apache-2.0
"""sluice capture and sluice port: frames that sluice-bench sends from card to card, over both ring layouts."""
import contextlib
import json
import os
import signal
import struct
import subprocess
import time

import pytest
from lab.daemon import wait_for
from running import running
from test_daemon import BUILD, SLUICE, folder, sluice, spawn, status, write_config  # noqa: F401

BENCH = BUILD / "bench" / "sluice-bench"


def blocks(data):
    """Each block's type and body; lengths stand at both ends, and nothing is left over."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0 and struct.unpack_from("<I", data, at + length - 4)[0] == length
        yield kind, data[at + 8 : at + length - 4]
        at += length
    assert at == len(data)


def start(spawn, folder, keys):
    spawn(
        "--config",
        write_config(
            folder,
            f"""
networks:
  - name: lan
    ports:
      - {{ name: web, socket: {folder}/a.sock, {keys} }}
      - {{ name: db, socket: {folder}/b.sock }}
""",
        ),
    )


def send(folder, ring, seconds):
    sockets = [folder / "a.sock", folder / "b.sock"]
    options = ["--ring", ring, "--size", "300", "--time", str(seconds), "--json"]
    return subprocess.Popen([BENCH, "net", *sockets, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_capture_is_pcapng_and_holds_what_passed(spawn, folder, ring):
    start(spawn, folder, "limit: { tx: { packets: 2000 } }")
    out = folder / "out.pcapng"
    bench = send(folder, ring, 3)
    capture = subprocess.Popen([SLUICE, "--socket", folder / "control.sock", "capture", "db", "-w", out, "--snap", "100"])
    time.sleep(2)
    again = sluice(folder, "capture", "db", "-w", "/dev/null")
    assert again.returncode == 1 and "already" in again.stderr
    capture.send_signal(signal.SIGINT)
    assert capture.wait(10) == 0
    assert bench.wait(20) == 0, bench.stderr.read()
    found = list(blocks(out.read_bytes()))
    assert [kind for kind, _ in found[:2]] == [0x0A0D0D0A, 1]
    assert struct.unpack_from("<HHI", found[1][1]) == (1, 0, 100)
    packets = [body for kind, body in found if kind == 6]
    long = 0
    for body in packets:
        _, high, low, copied, length = struct.unpack_from("<IIIII", body)
        assert abs((high << 32 | low) / 1e9 - time.time()) < 60
        assert copied == min(length, 100)
        long += length == 300
    assert len(packets) > 100 and long > len(packets) / 2
    kind, body = found[-1]
    assert kind == 5
    assert struct.unpack_from("<HHQHHQ", body, 12) == (4, 8, len(packets), 5, 8, 0)
    gone = sluice(folder, "capture", "nobody", "-w", "/dev/null")
    assert gone.returncode == 1 and "nobody" in gone.stderr


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_a_reader_that_takes_nothing_holds_no_frame_up(spawn, folder, ring):
    start(spawn, folder, "queues: 1")
    bench = send(folder, ring, 2)
    capture = subprocess.Popen([SLUICE, "--socket", folder / "control.sock", "capture", "db", "-w", "-"], stdout=subprocess.PIPE)
    assert bench.wait(20) == 0, bench.stderr.read()
    assert json.load(bench.stdout)["pps"] > 2000
    capture.stdout.close()
    capture.kill()
    capture.wait()
    assert sluice(folder, "status").returncode == 0


def test_port_that_is_down_is_shown_and_drops(spawn, folder):
    start(spawn, folder, "vlan: 7")
    assert sluice(folder, "port", "down", "db").returncode == 0
    bench = send(folder, "split", 1)
    bench.wait(20)
    ports = {port["name"]: port for port in status(folder)["networks"][0]["ports"]}
    assert ports["db"]["up"] is False and ports["web"]["up"] is True and ports["web"]["vlan"] == 7
    assert ports["db"]["drops"]["rx_port_down"] > 0
    text = sluice(folder, "status").stdout
    assert "rx_port_down" in text and ", down" in text
    assert sluice(folder, "port", "up", "db").returncode == 0
    assert sluice(folder, "port", "up", "nobody").returncode == 1


def test_a_capture_that_is_refused_leaves_an_older_file_alone(spawn, folder):
    start(spawn, folder, "queues: 1")
    old, new = folder / "old.pcapng", folder / "new.pcapng"
    old.write_bytes(b"of yesterday")
    for path in (old, new):
        assert sluice(folder, "capture", "nobody", "-w", path).returncode == 1
    assert old.read_bytes() == b"of yesterday" and not new.exists()
    assert sluice(folder, "capture", "db", "-w", folder / "no/such").returncode == 1
    wait_for(lambda: not_captured(folder, "db"), 60, "the capture has ended")


def not_captured(folder, port):
    """Whether one can be started; it is ended again."""
    with subprocess.Popen([SLUICE, "--socket", folder / "control.sock", "capture", port, "-w", "-"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as capture:
        good = len(capture.stdout.read(4)) == 4
        capture.send_signal(signal.SIGINT)
        capture.stdout.read()
    return good


@contextlib.contextmanager
def capture_of(folder, port, out):
    with running([SLUICE, "--socket", folder / "control.sock", "capture", port, "-w", out], stderr=subprocess.PIPE) as capture:
        wait_for(lambda: out.exists() and out.stat().st_size, 60, "it has begun")
        yield capture


def test_a_capture_ends_with_its_port_and_says_so(spawn, folder):
    start(spawn, folder, "queues: 1")
    for i in range(9):  # one more than there may be at a time
        assert sluice(folder, "port", "add", "lan", "new", "--socket", folder / "c.sock").returncode == 0
        out = folder / f"{i}.pcapng"
        with capture_of(folder, "new", out) as capture:
            assert sluice(folder, "port", "remove", "new").returncode == 0
            assert capture.wait(60) == 1
            assert b"has ended the capture of new" in capture.stderr.read()
        assert [kind for kind, _ in blocks(out.read_bytes())][-1] == 5


def test_a_capture_whose_daemon_dies_is_no_success(spawn, folder):
    start(spawn, folder, "queues: 1")
    pid = status(folder)["pid"]
    with capture_of(folder, "db", folder / "out.pcapng") as capture:
        os.kill(pid, signal.SIGKILL)
        assert capture.wait(60) == 1
        assert b"has ended the capture of db" in capture.stderr.read()
