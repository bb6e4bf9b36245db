"""
``protoserve send``: a message, and no waiting.
"""

import socket

import pytest

from protocols.ntp import Broadcast, ntp
from protocols.osc import osc
from protoserve import Direction
from tests.service.kit import PATIENCE

NTP = "protocols.ntp:ntp"
MODBUS = "protocols.modbus:modbus"


def test_datagram(command):
    """The message arrives, under the header that was asked for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        url = f"udp://127.0.0.1:{peer.getsockname()[1]}"
        ran = command(
            *("send", NTP, url, "Broadcast", "stratum=2", "reference_id=text:GPS."),
            *("--header", "version=3"),
        )
        data = peer.recv(1000)
    assert (0, "", "") == ran
    header, message, _ = ntp.parse(data, Direction.REQUEST)
    assert 3 == header.version
    assert Broadcast(stratum=2, reference_id=b"GPS.") == message


def test_stream(command):
    """A stream's framing is put around it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        ran = command("send", MODBUS, url, "ReadCoils", "address=1", "count=2")
        peer, _ = listening.accept()
        with peer:
            peer.settimeout(PATIENCE)
            data = peer.recv(1000)
    assert (0, "", "") == ran
    assert "000000000006010100010002" == data.hex()


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (
            ["--data", '{"address": "/a", "args": [1, "hex:00ff", "x"]}'],
            [1, b"\0\xff", "x"],
        ),
        (["address=/a", 'args=[["hex:00ff"], "text:hi"]'], [[b"\0\xff"], b"hi"]),
        (["address=/a", "args.0=hex:00ff", "args.1=00ff"], [b"\0\xff", "00ff"]),
        (["address=/a", 'args=["hex:00ff"]', "types=s"], ["hex:00ff"]),
        (["address=/a", 'args=["hex:zz", "hexagon"]'], ["hex:zz", "hexagon"]),
    ],
)
def test_bytes_inside_of_lists(command, words, sent):
    """What says that it is bytes is bytes in lists too, where text is not demanded."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(PATIENCE)
        url = f"udp://127.0.0.1:{peer.getsockname()[1]}"
        ran = command("send", "protocols.osc:osc", url, "OscMessage", *words)
        assert (0, "", "") == ran
        data = peer.recv(1000)
    assert sent == osc.parse(data, Direction.REQUEST).message.args


@pytest.mark.parametrize(
    ("url", "words", "code", "text"),
    [
        ("tcp://127.0.0.1:1", ["ReadExceptionStatus"], 1, "refused: nobody listens"),
        ("tcp://127.0.0.1:1", ["ReadExceptionStats"], 2, "did you mean ReadException"),
        ("unix:///nowhere/x.sock", ["ReadExceptionStatus"], 1, "No such file"),
        ("tcp://no-such-host.invalid:1", ["ReadExceptionStatus"], 1, "is not known"),
    ],
)
def test_what_fails(command, url, words, code, text):
    """What could not be sent is exit code 1, what could not start is 2."""
    ended, out, err = command("send", MODBUS, url, *words)
    assert (code, "") == (ended, out)
    assert text in err
    assert 1 == err.count("\n")
