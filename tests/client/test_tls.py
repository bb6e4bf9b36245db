"""
Clients over TLS.
"""

import ssl

import pytest

from protoserve import PeerTimeoutError, SessionClosedError
from tests.certificates import Authority
from tests.client.kit import PATIENCE, Bulk, Ping, Pong, Text, echo


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    pytest.importorskip("trustme")
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(far, authority):
    """
    Start a peer that speaks TLS.
    """

    def start(speak, *names, **settings):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(*(names or ("localhost",))))
        for name, value in settings.items():
            setattr(context, name, value)
        context.load_verify_locations(authority.ca_file)
        options = {"server_side": True, "suppress_ragged_eofs": False}
        peers = far(speak, wrap=lambda sock: context.wrap_socket(sock, **options))
        peers.url = peers.url.replace("tcp://127.0.0.1", "tls://localhost")
        return peers

    return start


def test_call(secure, client, authority):
    """A call over TLS, with many bytes both ways at the same time."""
    asker = client(secure(echo), tls=authority.client())
    assert Pong(1) == asker.call(Ping(1))
    many = [Bulk(bytes([n]) * 15_000) for n in range(100)]
    answers = list(asker.call_many(many, window=100))
    assert [Text(request.data) for request in many] == answers


def test_closing(secure, client, authority):
    """The end of a connection is announced, so that the peer knows that it is whole."""
    ended = []

    def until_the_end(far):
        _, header = far.receive()
        far.send((Pong(1), header))
        ended.append(far.sock.recv(1))

    peers = secure(until_the_end)
    asker = client(peers, tls=authority.client())
    asker.call(Ping(1))
    asker.close()
    for thread in peers.threads[1:]:
        thread.join(PATIENCE)
    assert [b""] == ended


def test_client_certificate(secure, client, authority):
    """A client shows its certificate, if its context has one."""
    shown = []

    def look(far):
        shown.append(far.sock.getpeercert()["subjectAltName"])
        echo(far)

    peers = secure(look, verify_mode=ssl.CERT_REQUIRED)
    context = authority.client(authority.issue("device-7.test"))
    assert Pong(1) == client(peers, tls=context).call(Ping(1))
    assert [(("DNS", "device-7.test"),)] == shown


def test_unknown_authority(secure, client):
    """A certificate that no authority of the system has signed is refused."""
    with pytest.raises(ssl.SSLCertVerificationError):
        client(secure(echo), tls=True).call(Ping(1))


def test_wrong_name(secure, client, authority):
    """A certificate for another name is refused."""
    asker = client(secure(echo, "elsewhere.test"), tls=authority.client())
    with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
        asker.call(Ping(1))


def test_peer_without_tls(far, client, authority):
    """A peer that speaks no TLS is told in time, or fails at once."""
    peers = far(lambda far: far.raw(b"hello, this is no TLS at all"))
    url = peers.url.replace("tcp://127.0.0.1", "tls://localhost")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client(url, tls=authority.client()).call(Ping(1))


def silent(far):
    while far.sock.recv(65_536):
        pass


def test_silent_peer(far, client, authority):
    """A handshake that does not go on ends in time."""
    peers = far(silent)
    url = peers.url.replace("tcp://127.0.0.1", "tls://localhost")
    asker = client(url, tls=authority.client(), timeout=0.1)
    with pytest.raises(PeerTimeoutError, match="no connection to tls://localhost"):
        asker.call(Ping(1))


def test_closed_in_the_handshake(far, client, authority):
    """A peer that closes instead of the handshake resets the connection."""
    peers = far(lambda far: far.sock.recv(65_536))
    url = peers.url.replace("tcp://127.0.0.1", "tls://localhost")
    with pytest.raises(ConnectionResetError, match="tls://localhost"):
        client(url, tls=authority.client()).call(Ping(1))


def test_closed_by_the_peer(secure, client, authority):
    """When the peer closes, the caller is told."""
    asker = client(secure(lambda far: far.receive()), tls=authority.client())
    with pytest.raises((SessionClosedError, ConnectionError)):
        asker.call(Ping(1))
    with pytest.raises(SessionClosedError):
        asker.call(Ping(1))
