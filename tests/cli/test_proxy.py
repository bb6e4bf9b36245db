"""
``protoserve proxy``: run as users run it, in front of a live server.
"""

import socket
import sys

import pytest
import typer

from examples.modbus_station import app
from protocols import modbus
from protoserve.cli import commands
from protoserve.client import Client
from protoserve.testing import live
from tests.certificates import Authority
from tests.running import ROOT, bound, ended, started
from tests.service.kit import PATIENCE

PROXY = (sys.executable, "-m", "protoserve", "proxy", "protocols.modbus:modbus")
LISTEN = ("--listen", "tcp://127.0.0.1:0")


def test_carries_until_told_to_stop():
    """It tells where it listens, carries, and ends with 0 and counts."""
    faults = ["--fault", "duplicate@WriteSingleCoil", "--direction", "request"]
    with (
        live(app, mode="loop") as server,
        started([*PROXY, *LISTEN, "--to", server.url, *faults]) as process,
    ):
        (url,) = bound(process)
        with Client(modbus.modbus, url, timeout=PATIENCE) as client:
            client.call(modbus.WriteSingleCoil(0, True))
            client.call(modbus.ReadCoils(0, 1))
            code, output = ended(process)
    assert 0 == code, output
    assert "2 requests, 3 responses; faults: duplicate 1" in output


def test_tls(tmp_path):
    """It shows a certificate to clients, and checks the server's."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost", "127.0.0.1")
    authority_file = authority.write("ca.pem", authority.ca.cert_pem.bytes())
    simulate = [sys.executable, "-m", "protoserve", "simulate", PROXY[4]]
    tls = ["--listen", "tls://127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]
    with started([*simulate, *tls]) as server:
        (behind,) = bound(server)
        to = ["--to", behind, "--tls-ca", authority_file]
        with started([*PROXY, *tls, *to]) as process:
            (url,) = bound(process)
            context = authority.client()
            with Client(modbus.modbus, url, timeout=PATIENCE, tls=context) as client:
                assert 9 == client.call(modbus.WriteSingleRegister(3, 9)).value
            code, output = ended(process)
    assert 0 == code, output


def test_streams_and_datagrams():
    """Each kind of address leads to the server of its kind."""
    command = [sys.executable, "-m", "protoserve", "proxy", "protocols.dns:dns"]
    listen = [*LISTEN, "--listen", "udp://127.0.0.1:0"]
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(PATIENCE)
        to = [f"udp://127.0.0.1:{udp.getsockname()[1]}"]
        to += [f"tcp://127.0.0.1:{tcp.getsockname()[1]}"]
        with started([*command, *listen, "--to", to[0], "--to", to[1]]) as process:
            first, second = (url.rpartition(":")[2] for url in bound(process, 2))
            with socket.create_connection(("127.0.0.1", int(first))):
                tcp.accept()[0].close()
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(b"no DNS", ("127.0.0.1", int(second)))
                assert b"no DNS" == udp.recv(100)
            code, output = ended(process)
    assert 0 == code, output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([*LISTEN, "--to", "udp://127.0.0.1:9"], "is for a stream, and so should be"),
        ([*LISTEN, "--to", "tcp://127.0.0.1"], "expected HOST:PORT"),
        (
            [*LISTEN, "--to", "tcp://127.0.0.1:9", "--fault", "slow-lorsi"],
            "there is no fault 'slow-lorsi'; did you mean slow-loris?",
        ),
        (
            [*LISTEN, "--to", "tcp://127.0.0.1:9", "--fault", "drop@ReadCoils"],
            "ReadCoils is not sent this way",
        ),
        (
            [*LISTEN, "--to", "tcp://127.0.0.1:9", "--direction", "requests"],
            "did you mean request?",
        ),
        (
            [*LISTEN, "--to", "tcp://127.0.0.1:9", "--tls-ca", "x"],
            "--tls-ca is given, but --to is no tls:// address",
        ),
        (
            [*LISTEN, "--to", "tls://127.0.0.1:9", "--tls-ca", "x"],
            "--tls-ca x: No such file or directory",
        ),
        (
            ["--listen", "tcp://203.0.113.1:9", "--to", "tcp://127.0.0.1:9"],
            "cannot listen on tcp://203.0.113.1:9: ",
        ),
    ],
)
def test_wrong_options(refused, options, complaint):
    """What is wrong is one line and exit code 2."""
    assert complaint in refused(*PROXY[3:], *options)


@pytest.mark.parametrize(("name", "listed"), [("proxy", True), ("simulate", False)])
def test_page(name, listed):
    """The page names all options, with their defaults."""
    command = typer.main.get_command(commands.app).commands[name]
    page = (ROOT / "docs" / "simulate.md").read_text("utf-8")
    for option in command.params:
        if option.param_type_name != "option" or option.name == "help":
            continue
        (found, *_) = option.opts
        assert f"`{found}`" in page or f"`{found} " in page, found
        if listed and option.default not in (None, False, [], ()):
            row = next(line for line in page.splitlines() if f"| `{found}`" in line)
            assert f"| `{str(option.default).removesuffix('.0')}` |" in row
