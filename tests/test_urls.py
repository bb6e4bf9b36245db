"""
Addresses as people write them.
"""

import doctest

import pytest

import protoserve.limits
import protoserve.urls
from protoserve import DeclarationError
from protoserve.urls import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://127.0.0.1:1502", Address("tcp", "127.0.0.1", 1502)),
        ("TCP://127.0.0.1:1502", Address("tcp", "127.0.0.1", 1502)),
        ("udp://localhost:0", Address("udp", "localhost", 0)),
        ("tcp://[::1]:65535", Address("tcp", "::1", 65535)),
        ("udp://[fe80::1%eth0]:53", Address("udp", "fe80::1%eth0", 53)),
        ("tcp://:80", Address("tcp", "", 80)),
        ("tcp://*:80", Address("tcp", "*", 80)),
        ("tls://127.0.0.1:853", Address("tls", "127.0.0.1", 853)),
        ("unix:///run/x.sock", Address("unix", "/run/x.sock")),
        ("unixgram:///run/a:b", Address("unixgram", "/run/a:b")),
    ],
)
def test_parse(url, expected):
    """A URL is read, and written as it was."""
    address = Address.parse(url)
    assert expected == address
    assert url.replace("TCP", "tcp") == str(address)
    assert url.startswith(("tcp", "TCP", "tls", "unix:")) == address.is_stream


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "'' is no URL: expected TRANSPORT://HOST:PORT"),
        ("127.0.0.1:80", "is no URL"),
        (("127.0.0.1", 80), "is no URL: expected text such as 'tcp://127.0.0.1:9000'"),
        ("tpc://127.0.0.1:80", "unknown transport 'tpc'; did you mean tcp?"),
        ("http://127.0.0.1:80", "unknown transport 'http'; known: tcp, tls, udp, unix"),
        ("tcp://127.0.0.1", "expected HOST:PORT with a port in 0..65535"),
        ("tcp://127.0.0.1:", "expected HOST:PORT"),
        ("tcp://127.0.0.1:65536", "expected HOST:PORT"),
        ("tcp://127.0.0.1:-1", "expected HOST:PORT"),
        ("tcp://127.0.0.1:http", "expected HOST:PORT"),
        ("tcp://127.0.0.1:٣", "expected HOST:PORT"),
        ("tcp://127.0.0.1:" + "9" * 5000, "expected HOST:PORT"),
        ("tcp://::1:80", r"put an IPv6 address in brackets, \[::1\]"),
        ("tcp://[::1]", "expected HOST:PORT"),
        ("unix://", "expected a path after unix://"),
    ],
)
def test_bad(url, words):
    """What is wrong with a URL is told."""
    with pytest.raises(DeclarationError, match=words):
        Address.parse(url)


def test_bound():
    """A socket's own address is written as a URL."""
    for transport, address, expected in (
        ("tcp", ("127.0.0.1", 80), "tcp://127.0.0.1:80"),
        ("udp", ("::1", 53, 0, 0), "udp://[::1]:53"),
        ("udp", ("fe80::1", 53, 0, 2), "udp://[fe80::1%2]:53"),
        ("unix", "/run/x.sock", "unix:///run/x.sock"),
    ):
        assert expected == str(Address.bound(transport, address))


@pytest.mark.parametrize("module", [protoserve.urls, protoserve.limits])
def test_examples(module):
    """The examples in the docstrings work."""
    results = doctest.testmod(module)
    assert (0, True) == (results.failed, results.attempted > 0)
