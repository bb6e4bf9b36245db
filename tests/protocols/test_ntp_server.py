"""
The example server, without a socket.
"""

import time

import pytest

from examples.ntp_server import LocalClock, app
from protocols import ntp
from protoserve import Direction, Frame, Role, Session

ASKED = 0x61DC569D312765A1


def ask(message, *, received_at=None, stratum=3, **header):
    """
    Hand a request to the server and give the frames that it sends.
    """
    request = ntp.ntp.build(message, Direction.REQUEST, header=ntp.Header(**header))
    parsed = ntp.ntp.parse(request, Direction.REQUEST)
    session = Session(ntp.ntp, Role.SERVER, stream=False)
    frame = Frame(request, time.time() if received_at is None else received_at)
    LocalClock(stratum).answer(parsed.message, parsed.header, frame, session)
    return session.data_to_send()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_answer(version):
    """
    The answer has the request's version, its time and poll, and the server's times.
    """
    arrived = time.time()
    request = ntp.ClientRequest(poll=6, transmit_timestamp=ASKED)
    (data,) = ask(request, received_at=arrived, version=version, leap=3)
    header, message, _ = ntp.ntp.parse(data, Direction.RESPONSE)
    assert ntp.Header(ntp.Leap.NO_WARNING, version, ntp.Mode.SERVER) == header
    assert message.stratum == 3
    assert message.poll == 6
    assert message.precision == -20
    assert message.reference_text == "127.127.1.1"
    assert message.origin_timestamp == ASKED
    assert ntp.to_unix(message.receive_timestamp) == pytest.approx(arrived, abs=1e-6)
    assert message.reference_timestamp <= message.receive_timestamp
    assert (
        0 <= ntp.difference(message.transmit_timestamp, message.receive_timestamp) < 60
    )


def test_primary():
    """
    A stratum of 1 has a name for its source.
    """
    (data,) = ask(ntp.ClientRequest(), stratum=1)
    message = ntp.ntp.parse(data, Direction.RESPONSE).message
    assert message.reference_text == "LOCL"


def test_version_1_without_mode():
    """
    A client of version 1 need not say that it is one.
    """
    (data,) = ask(ntp.Version1Request(transmit_timestamp=ASKED), version=1)
    assert data[0] == 0x0C


@pytest.mark.parametrize(
    ("cls", "version"),
    [
        (ntp.ClientRequest, 0),
        (ntp.ClientRequest, 5),
        (ntp.Version1Request, 0),
        (ntp.Version1Request, 2),
        (ntp.Version1Request, 4),
    ],
)
def test_no_such_version(cls, version):
    """
    Versions that do not exist, or not with that mode, are not answered.
    """
    assert ask(cls(), version=version) == []


def test_never_longer_than_the_request():
    """
    The answer to a request with everything behind it is the bare packet.
    """
    field = ntp.ExtensionField(1, bytes(100))
    (data,) = ask(ntp.ClientRequest(extensions=[field], mac=ntp.Mac(1, bytes(16))))
    assert len(data) == 48


def test_modes_that_are_answered():
    """
    Only clients have a route: nothing can be bounced between servers, or amplified.
    """
    routes = app.dispatcher.routes.messages
    assert {ntp.ClientRequest, ntp.Version1Request} == set(routes)


@pytest.mark.parametrize("stratum", [0, 16])
def test_stratum(stratum):
    """
    A server is of stratum 1 to 15.
    """
    with pytest.raises(ValueError, match="stratum"):
        LocalClock(stratum)
