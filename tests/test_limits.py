"""
Limits: defaults, what is refused, and how the command line sets them.
"""

import resource

import attrs
import pytest

from protoserve import DeclarationError, Limits
from protoserve.limits import is_loopback


def test_every_limit_is_on_by_default():
    """Nothing is unlimited unless somebody says so."""
    assert None not in attrs.astuple(Limits())


def test_connections_leave_descriptors_free():
    """A fifth of the descriptors is left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft * 8 // 10 == Limits().connections


def test_unlimited_descriptors(monkeypatch):
    """Where descriptors are unlimited, connections are not."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert 65_536 == Limits().connections


def test_none_switches_off():
    """None is no limit."""
    names = attrs.fields_dict(Limits)
    off = Limits(**dict.fromkeys(names))
    assert {None} == set(attrs.astuple(off))


@pytest.mark.parametrize("name", list(attrs.fields_dict(Limits)))
@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan"), float("inf"), []])
def test_what_is_no_limit(name, value):
    """A limit is a number above 0, or None."""
    with pytest.raises(DeclarationError, match=f"limit {name}: expected a"):
        Limits(**{name: value})


def test_counts_are_whole():
    """Half a connection is none."""
    with pytest.raises(DeclarationError, match="peers: expected a whole number"):
        Limits(peers=2.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idle=60", Limits(idle=60.0)),
        ("idle=0.5", Limits(idle=0.5)),
        ("idle=none", Limits(idle=None)),
        ("idle=None", Limits(idle=None)),
        ("connections=7", Limits(connections=7)),
        ("peers=none", Limits(peers=None)),
    ],
)
def test_text(text, expected):
    """The command line changes one limit."""
    assert expected == Limits().with_text(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("idel=60", "there is no limit 'idel'; did you mean idle?"),
        ("xyzzy=60", "there is no limit 'xyzzy'; known: connections,"),
        ("idle", "limit idle: write idle=VALUE or idle=none"),
        ("idle=", "limit idle: expected a number of seconds or none, not ''"),
        ("idle=1m", "limit idle: expected a number of seconds"),
        ("peers=1.5", "limit peers: expected a whole number or none"),
        ("idle=0", "limit idle: expected a number above 0"),
        ("idle=nan", "limit idle: expected a number above 0"),
        ("idle=inf", "limit idle: expected a number above 0"),
        ("idle=-3", "limit idle: expected a number above 0"),
    ],
)
def test_bad_text(text, words):
    """What the command line got wrong is told, with what was perhaps meant."""
    with pytest.raises(DeclarationError) as caught:
        Limits().with_text(text)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.9.10", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("fe80::1%eth0", 1, 0, 2), False),
        (("192.0.2.1", 1), False),
        (("::ffff:192.0.2.1", 1, 0, 0), False),
        (("somewhere", 1), False),
        ("/run/x.sock", True),
        ("", True),
        (None, True),
    ],
)
def test_loopback(address, expected):
    """This machine's own addresses are known."""
    assert expected == is_loopback(address)
