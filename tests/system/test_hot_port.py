# SPDX-License-Identifier: Apache-2.0
"""Networks and ports that come and go while traffic runs, in the sandbox."""
import contextlib
import json
import socket
import subprocess
import time

import pytest
from lab import BUILD
from lab.daemon import Daemon, LabError, wait_for
from running import running
from test_hot_disk import ask, descriptors, good, refused, resident_kib

CONFIG = """
workers: {{ count: 2 }}
networks: [{{ name: lan, ports: [{{ name: one, socket: {folder}/one.sock }}, {{ name: two, socket: {folder}/two.sock }}] }}]
"""


@contextlib.contextmanager
def traffic(*sockets):
    with running([BUILD / "bench/sluice-bench", "net", *sockets, "--time", "120"], stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE, text=True) as process:
        yield process


def frames_arrive(daemon, process, *ports):
    """Waits for it, and tells what there is to be told if they do not."""
    with contextlib.suppress(LabError):
        wait_for(lambda: process.poll() is not None or daemon.port(ports[-1])["counters"]["tx_packets"] > 0, 60, "frames arrive",
                 every_s=0.01)
    ended = process.poll()
    assert ended is None, process.stderr.read()
    assert daemon.port(ports[-1])["counters"]["tx_packets"] > 0, [daemon.port(name) for name in ports]


@pytest.fixture(name="daemon")
def _daemon(folder):
    folder.chmod(0o777)
    (folder / "aside").mkdir()
    with Daemon(folder, CONFIG.format(folder=folder)) as d:
        yield d
        if d.alive():
            assert d.stop() == 0


def test_ports_come_and_go_under_traffic_and_nothing_is_left(daemon):
    aside = daemon.folder / "aside"

    def once():
        for name in ("a", "b"):
            good(daemon, "port", "add", "lan", name, "--socket", aside / f"{name}.sock", "--mtu", "1500")
        with traffic(aside / "a.sock", aside / "b.sock") as process:
            frames_arrive(daemon, process, "a", "b")
            assert "port b is in use" in refused(daemon, "port", "remove", "b")
            for name in ("b", "a"):
                good(daemon, "port", "remove", name, "--force")
        assert not list(aside.iterdir())

    with traffic(daemon.folder / "one.sock", daemon.folder / "two.sock") as busy:
        wait_for(lambda: daemon.port("two")["counters"]["tx_packets"] > 0, 60, "frames arrive")
        for _ in range(5):
            once()
        files, memory = descriptors(daemon), resident_kib(daemon)
        for _ in range(30):
            once()
        before = daemon.port("two")["counters"]["tx_packets"]
        wait_for(lambda: daemon.port("two")["counters"]["tx_packets"] > before, 60, "the others go on")
        wait_for(lambda: descriptors(daemon) <= files, 60, "descriptors are closed")
        assert resident_kib(daemon) < memory + 2048
        assert busy.poll() is None
    assert daemon.port("one")["front_end"]["connects"] == 1
    assert "error" not in daemon.log.read_text()


def test_networks_come_and_go(daemon):
    aside = daemon.folder / "aside"
    files = descriptors(daemon)
    for _ in range(20):
        good(daemon, "network", "add", "dmz", "--mac-ageing", "60")
        good(daemon, "port", "add", "dmz", "a", "--socket", aside / "a.sock", "--vlan", "10")
        assert "network dmz has port a still" in refused(daemon, "network", "remove", "dmz")
        text = good(daemon, "config")
        assert f"  - name: dmz\n    mac_ageing: 60\n    ports:\n      - {{ name: a, socket: {aside}/a.sock, vlan: 10 }}\n" in text
        good(daemon, "port", "remove", "a")
        good(daemon, "network", "remove", "dmz")
    assert [n["name"] for n in daemon.status()["networks"]] == ["lan"]
    wait_for(lambda: descriptors(daemon) <= files, 60, "descriptors are closed")


def test_what_cannot_be_is_explained(daemon):
    aside = daemon.folder / "aside"
    for words, complaint in (
        (("port", "add", "wan", "a", "--socket", aside / "a.sock"), 'no network called "wan"'),
        (("port", "add", "lan", "one", "--socket", aside / "a.sock"), "there is port one already"),
        (("port", "add", "lan", "a", "--dpdk", "net_null0"), "a DPDK port opens devices"),
        (("port", "add", "lan", "a"), "socket: is missing"),
        (("port", "add", "lan", "a", "--socket", aside / "a.sock", "--vlan", "5000"), "vlan"),
        (("network", "add", "lan"), 'a network called "lan" already'),
        (("network", "add", "x", "--mac-max", "0"), "mac_max"),
        (("network", "remove", "wan"), 'no network called "wan"'),
        (("port", "remove", "wan"), 'no port called "wan"'),
    ):
        assert complaint in refused(daemon, *words), complaint
        assert not list(aside.iterdir())
    answer = ask(daemon.control, {"method": "network.add", "params": {"name": "x", "ports": [{"name": "y", "socket": "/z"}]}})
    assert "ports are added one by one" in answer["error"]["message"]


def test_limits_change_under_traffic(daemon):
    def counters(name):
        return daemon.port(name)["counters"]

    with traffic(daemon.folder / "one.sock", daemon.folder / "two.sock") as busy:
        wait_for(lambda: counters("two")["tx_packets"] > 0, 60, "frames arrive")
        assert good(daemon, "port", "limit", "one") == "one has no limits\n"
        assert good(daemon, "port", "limit", "one", "tx.packets=1k", "tx.packets_burst=10").splitlines() == [
            "tx.packets=1000", "tx.packets_burst=10"]
        wait_for(lambda: counters("one")["rx_held"] > 0, 60, "the sender waits")
        good(daemon, "port", "limit", "two", "rx.bits=100k", "broadcast=100", "unknown=200")
        wait_for(lambda: counters("two")["tx_limited"] > 0, 60, "frames to the receiver are dropped")
        text = good(daemon, "config")
        assert "limit: { tx: { packets: 1000, packets_burst: 10 } }" in text
        assert "flood_limit: { broadcast: 100, unknown: 200 }" in text
        assert good(daemon, "port", "limit", "one", "none") == "one has no limits\n"
        assert good(daemon, "port", "limit", "two", "rx.bits=0").splitlines() == ["broadcast=100", "unknown=200"]
        before = counters("two")
        wait_for(lambda: counters("two")["tx_packets"] > before["tx_packets"] + 10000, 60, "all goes as before")
        assert counters("two")["tx_limited"] == before["tx_limited"]
        assert busy.poll() is None
    for words, complaint in (
        (("none-such", "rx.bits=1"), 'no open port called "none-such"'),
        (("one", "rx.byte=1"), 'there is no "rx.byte"'),
        (("one", "rx.bits=fast"), "rx.bits"),
        (("one", "rx.bits_burst=5"), "is a burst without a rate: give rx.bits too"),
        (("one", "rx.bits=9223372036854775808"), "is more than any port does"),
        (("one", "unknown=1000001G"), "is more than any port does"),
    ):
        assert complaint in refused(daemon, "port", "limit", *words), complaint
    assert good(daemon, "port", "limit", "one") == "one has no limits\n"
    for params in ({}, {"port": 1}, {"port": "one", "limit": 5}, {"port": "one", "more": 1},
                   {"port": "one", "limit": {"rx.bits": [1]}}, {"port": "one", "limit": {"rx.bits": -1}}):
        assert "error" in ask(daemon.control, {"method": "port.limit", "params": params}), params


def test_rules_change_under_traffic(daemon):
    def counters(name):
        return daemon.port(name)["counters"]

    macs = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
    with traffic(daemon.folder / "one.sock", daemon.folder / "two.sock") as busy:
        wait_for(lambda: counters("two")["tx_packets"] > 0, 60, "frames arrive")
        assert good(daemon, "port", "set", "one") == "one has no rules\n"
        assert good(daemon, "port", "set", "one", "--vlan", "10") == "one: vlan 10\n"
        dropped = counters("two")["tx_packets"]
        time.sleep(0.2)
        assert counters("two")["tx_packets"] == dropped
        assert good(daemon, "port", "set", "two", "--vlan", "10") == "two: vlan 10\n"
        wait_for(lambda: counters("two")["tx_packets"] > dropped + 10000, 60, "they arrive in the VLAN")
        assert good(daemon, "port", "set", "one", "--macs", ",".join(macs), "--isolated").splitlines() == [
            "one: vlan 10", "one: isolated true", f"one: macs {','.join(macs)}"]
        wait_for(lambda: counters("one")["rx_spoofed_mac"] > 0, 60, "others' addresses are dropped")
        text = good(daemon, "config")
        assert "vlan: 10, isolated: true, macs: [" in text and macs[1] in text
        (daemon.folder / "again.yaml").write_text(text)
        assert good(daemon, "port", "set", "one", "--vlan", "none", "--macs", "none", "--isolated", "none", "--trunk",
                    "20-30,40", "--native", "10").splitlines() == ["one: trunk 20-30,40", "one: native 10"]
        before = counters("two")["tx_packets"]
        wait_for(lambda: counters("two")["tx_packets"] > before + 10000, 60, "all goes as before")
        assert busy.poll() is None
    checked = subprocess.run([BUILD / "daemon/sluiced", "--config", daemon.folder / "again.yaml", "--check"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for words, complaint in (
        (("none-such", "--vlan", "1"), 'no open port called "none-such"'),
        (("one", "--vlan", "10"), "vlan"),
        (("one", "--trunk", "none"), "native"),
        (("two", "--vlan", "5000"), "vlan"),
        (("two", "--macs", "52:54:00"), "macs"),
        (("two", "--mtu", "1500"), '"mtu" cannot be set while the port is open'),
        (("two", "--limit", "rx=1"), "limits by port.limit"),
    ):
        assert complaint in refused(daemon, "port", "set", *words), complaint
    assert good(daemon, "port", "set", "two") == "two: vlan 10\n"
    for params in ({}, {"port": 1}, {"port": "one", "set": 5}, {"port": "one", "more": 1},
                   {"port": "two", "set": {"vlan": [1, 2]}}, {"port": "two", "set": {"macs": {}}}):
        assert "error" in ask(daemon.control, {"method": "port.set", "params": params}), params


RULES = ("vlan", "trunk", "native", "isolated", "macs", "ips", "static_macs", "mac_max", "limit", "flood_limit")


def rules_of(keys):
    return {key: value for key in RULES if (value := keys.get(key, False))}


def agreed(daemon):
    """The rules of port one; status and the configuration say the same of every port."""
    config = json.loads(good(daemon, "config", "--json"))
    said = {p["name"]: rules_of(p) for n in config["networks"] for p in n["ports"]}
    shown = {p["name"]: rules_of(p) for n in daemon.status()["networks"] for p in n["ports"]}
    assert said == shown
    return said["one"]


def test_status_and_configuration_agree_after_each_change(daemon):
    macs = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
    odd = ",".join(map(str, range(1, 4095, 2)))
    pairs = ",".join(f"{n}-{n + 1}" for n in range(1, 4094, 3))
    assert agreed(daemon) == {}
    for words, want in (
        (("set", "--vlan", "10"), {"vlan": 10}),
        (("set", "--vlan", "20"), {"vlan": 20}),
        (("limit", "rx.bits=1G", "tx.packets=1k", "broadcast=100"),
         {"limit": {"rx": {"bits": 10**9}, "tx": {"packets": 1000}}, "flood_limit": {"broadcast": 100}}),
        (("set", "--macs", ",".join(macs), "--ips", "10.0.0.1,fd00::/64"),
         {"macs": macs, "ips": ["10.0.0.1/32", "fd00::/64"]}),
        (("set", "--static-macs", macs[0], "--mac-max", "5", "--isolated"),
         {"static_macs": macs[:1], "mac_max": 5, "isolated": True}),
        (("set", "--vlan", "none", "--trunk", odd, "--native", "2"), {"vlan": None, "trunk": odd, "native": 2}),
        (("set", "--mac-max", "none"), {"mac_max": None}),
        (("set", "--trunk", pairs, "--native", "3"), {"trunk": pairs, "native": 3}),
        (("set", "--isolated", "none", "--macs", "none", "--ips", "none"), {"isolated": None, "macs": None, "ips": None}),
        (("limit", "rx.bits=0"), {"limit": {"tx": {"packets": 1000}}}),
        (("limit", "none"), {"limit": None, "flood_limit": None}),
        (("set", "--static-macs", "none"), {"static_macs": None}),
    ):
        before = agreed(daemon)
        good(daemon, "port", words[0], "one", *words[1:])
        assert agreed(daemon) == {k: v for k, v in {**before, **want}.items() if v is not None}, words
    for name, change in (("one", ()), ("two", ("--vlan", "7")), ("two", ())):
        good(daemon, "port", "set", name, *change)
    assert agreed(daemon) == {"trunk": pairs, "native": 3}
    text = good(daemon, "status", "one")
    assert f"trunk             {pairs}" in text
    good(daemon, "port", "limit", "one", "rx.bits=1M", "rx.packets=5", "unknown=9")
    good(daemon, "port", "set", "one", "--macs", ",".join(macs))
    lines = [line.split() for line in good(daemon, "status", "one").splitlines()]
    for line in ("limit rx.bits 1000000", "limit rx.packets 5", "limit unknown 9", f"macs {' '.join(macs)}"):
        assert line.split() in lines, line


def test_rules_of_a_port_whose_socket_has_no_path(folder):
    """sluiced net --fd, as crosvm and libvirt start it."""
    control = folder / "control.sock"
    ours, theirs = socket.socketpair()
    with ours, running([BUILD / "daemon/sluiced", "net", "--fd", theirs.fileno(), "--control", control],
                       pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL):
        theirs.close()
        wait_for(control.exists, 60, "its control socket")
        for words, want in ((("--vlan", "10"), "vlan 10"), (("--vlan", "none", "--trunk", "5-9"), "trunk 5-9")):
            done = subprocess.run([BUILD / "cli/sluice", "--socket", control, "port", "set", "port0", *words],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
            assert (done.returncode, done.stdout) == (0, f"port0: {want}\n"), done.stderr


def test_addresses_are_counted_and_listed_when_asked_for(folder):
    """A guest fills the table; it must not fill every answer."""
    folder.chmod(0o777)
    ports = []
    for i in range(17):
        macs = ", ".join(f'"52:54:00:00:{i:02x}:{n:02x}"' for n in range(64))
        ports.append(f"{{ name: p{i}, socket: {folder}/{i}.sock, static_macs: [{macs}] }}")
    few = f'{{ name: q, socket: {folder}/q.sock, static_macs: "52:54:00:00:00:01" }}'
    config = f"networks: [{{ name: lan, ports: [{', '.join(ports)}] }}, {{ name: dmz, ports: [{few}] }}]\n"
    with Daemon(folder, config) as daemon:
        assert [(n["addresses"], "macs" in n) for n in daemon.status()["networks"]] == [(1088, False), (1, False)]
        assert "network lan: 1088 addresses known" in good(daemon, "status")
        lan = json.loads(good(daemon, "status", "lan", "--json"))[0]
        assert (len(lan["macs"]), lan["macs_left_out"]) == (1000, 88)
        dmz = json.loads(good(daemon, "status", "dmz", "--json"))[0]
        assert ([m["mac"] for m in dmz["macs"]], "macs_left_out" in dmz) == (["52:54:00:00:00:01"], False)
        text = good(daemon, "status", "lan")
        assert text.count("52:54:00:") == 1000 and text.endswith("  and 88 more\n")
        for params in ({"macs": 1}, {"mac": "lan"}, ["lan"]):
            assert "error" in ask(daemon.control, {"method": "status", "params": params}), params
        assert daemon.stop() == 0
