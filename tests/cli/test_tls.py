"""
``protoserve run`` at tls:// addresses, talked to by OpenSSL and by dig.
"""

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time

import pytest

from protoserve.serve import MODES
from protoserve.urls import Address
from tests.certificates import Authority, stall
from tests.running import ROOT, bound, ended, started
from tests.service.kit import Client, Ping, Pong

PROTOSERVE = (sys.executable, "-m", "protoserve", "run")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.pair = made.issue("localhost", "127.0.0.1")
    made.other = made.issue("*.other.example")
    return made


@pytest.fixture(params=[mode for mode in MODES if mode != "batch"])
def mode(request):
    return request.param


@pytest.fixture
def run(authority):
    """
    Run a service at tls://; afterwards it has ended by SIGTERM, with nothing wrong.
    """

    @contextlib.contextmanager
    def run(mode, *options, target="tests.cli.station:app", printed=""):
        cert, key = authority.pair
        command = (*PROTOSERVE, target, "--listen", "tls://127.0.0.1:0", "--mode", mode)
        command += ("--tls-cert", cert, "--tls-key", key, *options)
        with started(command) as process:
            address = Address.parse(bound(process)[0])
            assert "tls" == address.transport
            yield address.host, address.port
            code, output = ended(process)
        assert 0 == code, output
        assert "Traceback" not in output
        assert printed in output

    return run


class TLSClient(Client):
    def __init__(self, authority, address, **options):
        super().__init__(authority.connect(address, **options), stream=True)


def test_modes(run, authority, mode):
    """In every mode a run serves at tls://, and is stopped without delay."""
    patient = ("--drain", "60", "--limit", "handshake=60")
    with run(mode, *patient) as address:
        for _ in range(3):
            with TLSClient(authority, address) as client:
                for value in range(100, 105):
                    assert Pong(value) == client.call(Ping(value))
        stalled = stall(address, 50)
        with TLSClient(authority, address) as client:
            assert Pong(100) == client.call(Ping(100))
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 30
    for sock in stalled:
        sock.close()


def test_limit(run, authority, mode):
    """`--limit handshake=…` ends those who stall, and the log tells of them."""
    with run(mode, "--limit", "handshake=0.1", printed="limit handshake") as address:
        for sock in stall(address, 4):
            with contextlib.suppress(ConnectionResetError):
                assert b"" == sock.recv(1)
            sock.close()


def test_options(run, authority, mode):
    """Several certificates, an ALPN name and a client CA may be given."""
    cert, key = authority.other
    options = ("--tls-cert", cert, "--tls-key", key, "--tls-alpn", "ping")
    with run(mode, *options, "--tls-client-ca", authority.ca_file) as address:
        pair = authority.issue("station-7.example")
        for name, shown in (("localhost", "localhost"), ("a.other.example", "*.")):
            given = {"name": name, "pair": pair, "alpn": ["ping"]}
            with TLSClient(authority, address, **given) as client:
                assert Pong(100) == client.call(Ping(100))
                names = client.sock.getpeercert()["subjectAltName"]
                assert names[0][1].startswith(shown)
                assert "ping" == client.sock.selected_alpn_protocol()
        with TLSClient(authority, address) as client:
            client.send(Ping(1))
            with pytest.raises(ssl.SSLError, match="(?i)certificate.required"):
                client.receive()


def test_mistakes(authority):
    """What is wrong with the options is one line, and exit code 2."""
    cert, key = (str(path) for path in authority.pair)
    tls, tcp = "tls://127.0.0.1:0", "tcp://127.0.0.1:0"
    for listen, options, words in (
        (tls, (), f"{tls} needs --tls-cert FILE and --tls-key FILE"),
        (tcp, ("--tls-cert", cert, "--tls-key", key), "nothing listens on tls://"),
        (tls, ("--tls-cert", "none.pem"), "none.pem: it cannot be read: No such file"),
        (tls, ("--tls-cert", cert), "there is no private key in PEM form in it"),
        (
            tls,
            ("--tls-cert", cert, "--tls-cert", cert, "--tls-key", key),
            "2 --tls-cert and 1 --tls-key are given",
        ),
        (
            tls,
            ("--tls-cert", cert, "--tls-key", str(authority.other[1])),
            "the private key does not belong to the certificate",
        ),
    ):
        command = (*PROTOSERVE, "tests.cli.station:app", "--listen", listen, *options)
        ran = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert 2 == ran.returncode
        (line,) = ran.stderr.splitlines()
        assert line.startswith("protoserve: ")
        assert words in line


@pytest.mark.interop
@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(run, authority, mode, version):
    """OpenSSL's own client gets the certificate, ALPN and an answer."""
    request = bytes.fromhex("0004 01 0007 64")
    with run(mode, "--tls-alpn", "ping") as (host, port):
        command = [
            *("openssl", "s_client", "-connect", f"{host}:{port}", version),
            *("-servername", "localhost", "-CAfile", str(authority.ca_file)),
            *("-verify_return_error", "-verify_hostname", "localhost"),
            *("-alpn", "ping", "-ign_eof"),
        ]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            client.stdin.write(request)
            client.stdin.flush()
            said = b""
            while b"\x00\x04\x02\x00\x07\x64" not in said:
                piece = client.stdout.read1(65_536)
                assert piece, said
                said += piece
            client.terminate()
    assert b"ALPN protocol: ping" in said
    assert b"Verification: OK" in said


def _has_tls():
    if not shutil.which("dig"):
        return False
    shown = subprocess.run(["dig", "-h"], capture_output=True, text=True, check=False)
    return "+[no]tls " in shown.stdout


@pytest.mark.interop
@pytest.mark.skipif(not _has_tls(), reason="needs dig of BIND 9.18 or newer")
def test_dig(run, authority, mode):
    """DNS over TLS: dig gets an answer from the example server, and a zone transfer."""
    options = {"target": "examples.dns_server:app"}
    with run(mode, "--tls-alpn", "dot", **options) as (host, port):
        dig = ["dig", f"@{host}", "-p", str(port), "+tls", "+short", "+tries=1"]
        check = [f"+tls-ca={authority.ca_file}", "+tls-hostname=localhost"]
        asked = ["www.example.test", "A"]
        ran = subprocess.run(
            [*dig, *check, *asked], capture_output=True, text=True, timeout=60
        )
        assert ["example.test.", "192.0.2.1"] == ran.stdout.splitlines(), ran
        ran = subprocess.run(
            [*dig, "example.test", "AXFR"], capture_output=True, text=True, timeout=60
        )
        assert len(ran.stdout.splitlines()) > 5, ran


def test_plain_client(run, authority, mode):
    """A client that speaks no TLS is closed, and the log says what it spoke."""
    with run(mode, printed="these bytes look like an HTTP request, not TLS") as address:
        with socket.create_connection(address, 20) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"" == sock.recv(1)
        with TLSClient(authority, address) as client:
            assert Pong(100) == client.call(Ping(100))
