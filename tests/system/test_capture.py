# SPDX-License-Identifier: Apache-2.0
"""sluice capture and sluice port: frames that sluice-bench sends from card to card, over both ring layouts."""
import json
import signal
import struct
import subprocess
import time

import pytest
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
