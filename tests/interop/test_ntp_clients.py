"""
Clients that others wrote ask the example server for the time, and a server that
others wrote answers our packets.
"""

import getpass
import hashlib
import socket
import subprocess
import time
from urllib.parse import urlsplit

import pytest

from protocols import ntp
from protoserve import Direction

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def port(served):
    """
    The port of the example server, of stratum 3.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTP_STRATUM", "3")
        with served("examples.ntp_server:app", "udp://127.0.0.1:0") as (url,):
            yield urlsplit(url).port


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_ntplib(require_module, port, version):
    """
    ntplib believes the server, in each version.
    """
    ntplib = require_module("ntplib")
    answer = ntplib.NTPClient().request(
        "127.0.0.1", port=port, version=version, timeout=60
    )
    assert answer.mode == 4
    assert version == answer.version
    assert answer.stratum == 3
    assert answer.leap == 0
    assert answer.precision == -20
    # The clock is the same: what is measured is how unlike the two ways were.
    assert abs(answer.offset) <= answer.delay / 2 + 0.001
    assert 0 <= answer.delay < 60
    assert answer.tx_time == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("option", ["", "version 3", "extfield F323"])
def test_chronyd(require_program, port, option, tmp_path):
    """
    chronyd selects the server and works out an offset.
    """
    chronyd = require_program("chronyd")
    source = f"server 127.0.0.1 port {port} iburst maxsamples 4 {option}"
    user = f"user {getpass.getuser()}"
    files = ["-f", "/dev/null", "cmdport 0", f"pidfile {tmp_path}/pid", user]
    done = subprocess.run(
        [chronyd, "-U", "-Q", "-t", "60", *files, source],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "System clock wrong by" in said


def test_what_is_not_answered(port):
    """
    Only clients get an answer; what else comes gets none, and does no harm.
    """
    ignored = [
        b"",
        b"\x23" + bytes(46),
        b"\x23" + bytes(49),
        b"\x03" + bytes(47),
        b"\x2b" + bytes(47),
        bytes.fromhex("16020001 00000000 00000000"),
        bytes.fromhex("1700032a 00000000") + bytes(40),
        *(bytes([0x20 | mode]) + bytes(47) for mode in (0, 1, 2, 4, 5, 6, 7)),
    ]
    request = ntp.ClientRequest(transmit_timestamp=77)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect(("127.0.0.1", port))
        for data in ignored:
            sock.send(data)
        sock.send(ntp.ntp.build(request, Direction.REQUEST))
        answer = sock.recv(1000)
    parsed = ntp.ntp.parse(answer, Direction.RESPONSE)
    assert parsed.message.origin_timestamp == 77


KEY = bytes(range(16))


@pytest.fixture(scope="module")
def chronyd(require_program, tmp_path_factory):
    """
    A socket connected to a chronyd that serves stratum 5.
    """
    program = require_program("chronyd")
    folder = tmp_path_factory.mktemp("chrony")
    keys = folder / "keys"
    keys.write_text(f"9 MD5 HEX:{KEY.hex()}\n")
    keys.chmod(0o600)
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        f"port {port}",
        "local stratum 5",
        "allow 127.0.0.1",
        "bindaddress 127.0.0.1",
        "cmdport 0",
        f"pidfile {folder}/pid",
        f"keyfile {keys}",
        f"user {getpass.getuser()}",
    ]
    process = subprocess.Popen(
        [program, "-U", "-d", "-x", "-f", "/dev/null", *lines],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process, socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        yield sock
        process.terminate()


def ask(sock, message, version):
    """
    Ask until the server is there to answer.
    """
    header = ntp.Header(version=version)
    data = ntp.ntp.build(message, Direction.REQUEST, header=header)
    deadline = time.monotonic() + 60
    sock.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            sock.send(data)
            return ntp.ntp.parse(sock.recv(1000), Direction.RESPONSE)
        except (ConnectionRefusedError, TimeoutError):
            continue
    raise AssertionError("chronyd does not answer")


EXTENSION = ntp.ExtensionField(0xF323, bytes.fromhex("f5bedd9a") + bytes(20))


@pytest.mark.parametrize("authentic", [False, True], ids=["open", "authentic"])
@pytest.mark.parametrize(
    ("version", "extensions"), [(1, []), (3, []), (4, []), (4, [EXTENSION])]
)
def test_server(chronyd, version, authentic, extensions):
    """
    chronyd takes what we build, and we take its answers apart.
    """
    sent = ntp.from_unix_ns(time.time_ns())
    message = ntp.ClientRequest(transmit_timestamp=sent, extensions=extensions)
    if authentic:
        message.mac = ntp.Mac(9, bytes(16))
        header = ntp.Header(version=version)
        data = ntp.ntp.build(message, Direction.REQUEST, header=header)
        message.mac.digest = hashlib.md5(KEY + data[:-20]).digest()
    parsed = ask(chronyd, message, version)
    answer = parsed.message
    arrived = ntp.from_unix_ns(time.time_ns())
    assert ntp.Header(ntp.Leap.NO_WARNING, version, ntp.Mode.SERVER) == parsed.header
    assert answer.stratum == 5
    assert sent == answer.origin_timestamp
    assert [e.kind for e in extensions] == [e.kind for e in answer.extensions]
    assert authentic == (answer.mac is not None)
    offset, delay = ntp.offset_and_delay(
        sent, answer.receive_timestamp, answer.transmit_timestamp, arrived
    )
    assert abs(offset) < 0.5
    assert -0.1 < delay < 20
