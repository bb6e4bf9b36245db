"""
Run one of the interpreter's own test modules in this process.

Started by `run.py` with the interpreter under test, which needs nothing
installed: protoserve's own package initialisation, which wants attrs and
construct, is left out by putting an empty package in its place.

::

    python3.12 suite.py KIND SOURCE REPORT NAME [RESOURCE ...]

`KIND` is ``stock``, ``ours``, or one of the mix-ins that the standard library does
not have: ``pool``, ``prefork``, ``batch`` or ``tls``. Then that mix-in is in every
server whose requests it can handle, whatever the tests have put there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import types
import unittest
from pathlib import Path

LEFT_OUT = {
    "MiscTestCase.test_all": "it compares with names of the one module",
}
_CLASSIC = "it looks at the list of threads that is ThreadingMixIn's own"
LEFT_OUT_OF = {
    "pool": {
        "test_sync_not_handled": "a thread handles it; it ends that handler only",
        "test_threading_not_handled": "a thread that others wait for does not end so",
        "MiscTestCase.test_threads_reaped": _CLASSIC,
        "SocketWriterTest.test_basics": "it does not wait for the thread that handles",
    },
    "prefork": {
        "test_forking_not_handled": "handle_request, by contract, does not fork",
        "test_threading_not_handled": "handle_request, by contract, does not fork",
        "MiscTestCase.test_threads_reaped": _CLASSIC,
    },
}
"""Tests of what a mix-in does otherwise by contract, by the ends of their names."""
DUMP_AFTER = 240.0
"""Seconds until every thread's stack is printed and the run is given up."""


def install(source: Path) -> None:
    """
    Make ``import socketserver`` give `protoserve.server`.
    """
    assert "socketserver" not in sys.modules
    parent = types.ModuleType("protoserve")
    parent.__path__ = [str(source / "protoserve")]
    sys.modules["protoserve"] = parent
    import protoserve.server

    sys.modules["socketserver"] = protoserve.server


class Replaced:
    """
    Stands for a classic mix-in: in a server that has another already, for nothing.
    """

    def __init__(self, classic: type, mixin: type):
        self.classic = classic
        self.mixin = mixin

    def __mro_entries__(self, bases):
        classes = [base for base in bases if isinstance(base, type)]
        has = any(issubclass(base, self.mixin) for base in classes)
        return () if has else (self.classic,)

    def __instancecheck__(self, instance):
        return isinstance(instance, self.classic)


def put_everywhere(mixin: type, transports: tuple[str, ...], **options) -> None:
    """
    Put a mix-in into the servers that the names of `socketserver` give.

    Args:
        mixin: says where requests are handled, in place of classic mix-ins.
        transports: which servers, ``"TCP"`` for example.
        options: class variables of them.
    """
    import socketserver

    ways = ("", "Threading", "Forking")
    for transport in transports:
        base = getattr(socketserver, f"{transport}Server")
        made = type(base.__name__, (mixin, base), options)
        for way in ways:
            name = f"{way}{transport}Server"
            setattr(socketserver, name, type(name, (made,), {}) if way else made)
    for way in ways[1:]:
        name = f"{way}MixIn"
        setattr(socketserver, name, Replaced(getattr(socketserver, name), mixin))


def put_in_https() -> None:
    """
    Let `TLSMixIn` speak TLS in CPython's own HTTPS server, which wraps sockets itself.
    """
    from socketserver import TLSMixIn

    from test import ssl_servers

    class HTTPSServer(TLSMixIn, ssl_servers._HTTPServer):
        __str__ = ssl_servers.HTTPSServer.__str__

        def __init__(self, server_address, handler_class, context):
            self.ssl_context = self.context = context
            super().__init__(server_address, handler_class)

    ssl_servers.HTTPSServer = HTTPSServer


def put_in_place(kind: str) -> type:
    """
    Put one of our mix-ins where it belongs; give the class of servers to count.
    """
    import socketserver

    datagrams = ("UDP", "UnixDatagram")
    if kind == "pool":
        put_everywhere(socketserver.PoolMixIn, ("TCP", "UnixStream", *datagrams))
        return socketserver.PoolMixIn
    if kind == "prefork":
        put_everywhere(
            socketserver.PreforkMixIn, ("TCP", "UnixStream", *datagrams), workers=2
        )
        return socketserver.PreforkMixIn
    if kind == "batch":
        put_everywhere(socketserver.BatchMixIn, datagrams)
        return socketserver.BatchMixIn
    if kind == "tls":
        put_in_https()
        return socketserver.TLSMixIn
    return socketserver.BaseServer


@contextlib.contextmanager
def looking_like_a_user():
    """
    Load tests within this to get those that are skipped for the superuser.

    Those of CGI scripts are: a server of the superuser's runs scripts as
    nobody, who may not read them. So no server changes its user from here on.
    """

    def refuse(user):
        raise PermissionError(1, "not permitted in these tests")

    truth = os.geteuid
    if truth() == 0:
        os.setuid = refuse
        os.geteuid = lambda: 1000
    yield
    os.geteuid = truth


def count_servers(kind: type) -> list[int]:
    """
    Count the servers of a class that are made from here on, in the first item.
    """
    import socketserver

    count = [0]
    original = socketserver.BaseServer.__init__

    def init(self, *args, **kwargs):
        count[0] += isinstance(self, kind)
        original(self, *args, **kwargs)

    socketserver.BaseServer.__init__ = init
    return count


class Verdicts(unittest.TestResult):
    """
    Keeps one verdict for each test, and why it did not pass.
    """

    def __init__(self):
        super().__init__()
        self.verdicts: dict[str, str] = {}
        self.details: dict[str, str] = {}

    def addSuccess(self, test):
        self.verdicts.setdefault(test.id(), "passed")

    def addExpectedFailure(self, test, err):
        self.verdicts.setdefault(test.id(), "passed")

    def addUnexpectedSuccess(self, test):
        self._tell(test, "failed", "unexpected success")

    def addSkip(self, test, reason):
        self._tell(test, "skipped", reason)

    def addFailure(self, test, err):
        self._tell(test, "failed", self._exc_info_to_string(err, test))

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._tell(test, "failed", self._exc_info_to_string(err, test))

    def _tell(self, test, verdict, detail):
        self.verdicts[test.id()] = verdict
        self.details[test.id()] = detail


def wanted(
    suite: unittest.TestSuite, reasons: dict[str, str], left_out: dict[str, str]
) -> unittest.TestSuite:
    """
    Return the tests of a suite, nested as they are, without those left out.

    Args:
        suite: all of them.
        reasons: why tests are left out, by the ends of their names.
        left_out: takes the names of those that were, and why.
    """
    kept = unittest.TestSuite()
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            kept.addTest(wanted(test, reasons, left_out))
            continue
        why = [text for end, text in reasons.items() if test.id().endswith(end)]
        if why:
            left_out[test.id()] = why[0]
        else:
            kept.addTest(test)
    return kept


def main() -> None:
    """
    Run the tests of one name, and write the report.
    """
    kind, source, report, name, *resources = sys.argv[1:]
    faulthandler.dump_traceback_later(DUMP_AFTER, exit=True)
    if kind != "stock":
        install(Path(source))
    from test import support

    support.use_resources = resources
    servers = count_servers(put_in_place(kind))
    loader = unittest.TestLoader()
    verdicts, left_out = Verdicts(), {}
    try:
        with looking_like_a_user():
            suite = loader.loadTestsFromName(name)
    except unittest.SkipTest as reason:
        verdicts.details[name] = str(reason)
    else:
        reasons = LEFT_OUT | LEFT_OUT_OF.get(kind, {})
        wanted(suite, reasons, left_out).run(verdicts)
    import http.server

    Path(report).write_text(
        json.dumps(
            {
                "served_by": http.server.HTTPServer.__mro__[1].__module__,
                "servers": servers[0],
                "left_out": left_out,
                "verdicts": verdicts.verdicts,
                "details": verdicts.details,
            }
        )
    )


if __name__ == "__main__":
    main()
