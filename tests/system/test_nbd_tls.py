# SPDX-License-Identifier: Apache-2.0
"""A disk on a server that wants TLS, by a pre-shared key and by certificates, out of the sandbox."""
import shutil
import subprocess

import pytest
from lab import host
from lab.daemon import BUILD, Daemon, wait_for

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ("nbdkit", "psktool", "certtool"))),
                                reason="nbdkit or GnuTLS's tools (gnutls-bin) are not here")


def make_psk(folder):
    keys = folder / "keys.psk"
    host.run("psktool", "-u", "sluice", "-p", keys)
    return f"--tls-psk={keys}", f"sluice@localhost:{{port}}/?tls-psk-file={keys}", keys


def make_certificates(folder):
    pki = folder / "pki"
    pki.mkdir()
    (pki / "ca.info").write_text("cn = test\nca\ncert_signing_key\n")
    (pki / "server.info").write_text("cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n")
    for name in ("ca", "server"):
        host.run("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", pki / f"{name}-key.pem")
    host.run("certtool", "--generate-self-signed", "--load-privkey", pki / "ca-key.pem", "--template", pki / "ca.info",
             "--outfile", pki / "ca-cert.pem")
    host.run("certtool", "--generate-certificate", "--load-ca-certificate", pki / "ca-cert.pem", "--load-ca-privkey",
             pki / "ca-key.pem", "--load-privkey", pki / "server-key.pem", "--template", pki / "server.info",
             "--outfile", pki / "server-cert.pem")
    client = folder / "client"
    client.mkdir()
    shutil.copy(pki / "ca-cert.pem", client)
    return f"--tls-certificates={pki}", f"localhost:{{port}}/?tls-certificates={client}", client


class Server:
    def __init__(self, option, port):
        self._command = ["nbdkit", "-f", "--tls=require", option, "-p", str(port), "-i", "localhost", "memory", "8M"]
        self._port = port
        self._process = None

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_for(lambda: host.listens(self._port), 20, "nbdkit listens", 0.01)
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("make", [make_psk, make_certificates], ids=["psk", "certificates"])
def test_a_server_that_wants_tls_is_connected_again_from_within_the_sandbox(make, folder):
    option, uri, readable = make(folder)
    port = host.free_port()
    config = (f"disks: [{{ name: disk, socket: {folder}/disk.sock, reconnect: 60, "
              f"nbd: 'nbds://{uri.format(port=port)}' }}]\n")
    folder.chmod(0o755)
    for path in (readable, *(readable.iterdir() if readable.is_dir() else ())):
        path.chmod(0o755)
    server = Server(option, port)
    with server, Daemon(folder, config) as daemon:
        assert daemon.status()["sandbox"]["seccomp"] == "tls", daemon.log_tail()
        # Somebody has to use the disk: before that nobody looks.
        load = subprocess.Popen([BUILD / "bench/sluice-bench", "blk", folder / "disk.sock", "--rate", "50", "--sleep",
                                 "--time", "600", "--timeout", "60000"], stdout=subprocess.DEVNULL)
        wait_for(lambda: daemon.disk("disk")["counters"]["reads"], 20, "the disk is read")
        for _ in range(2):
            server.__exit__()
            wait_for(lambda: "server" in daemon.disk("disk"), 20, "the server is away")
            assert "by TLS" in daemon.disk("disk")["how"]
            server.__enter__()
            wait_for(lambda: "server" not in daemon.disk("disk"), 20, "the server is back")
            reads = daemon.disk("disk")["counters"]["reads"]
            wait_for(lambda reads=reads: daemon.disk("disk")["counters"]["reads"] > reads, 20, "it is read again")
        load.kill()
        load.wait()
        assert daemon.stop() == 0
