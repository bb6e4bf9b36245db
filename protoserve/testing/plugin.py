"""
The pytest plugin: servers and clients as fixtures, and assertions that show fields.

It is loaded by every run of pytest where protoserve is installed, so it imports
nothing but pytest until something of it is used.

Servers and clients end with the test's function, not with its fixtures: what a handler
has raised is then a failure of the test, in place of an error after it.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

from protoserve.testing._fault_fixtures import fault_proxy, simulated

if TYPE_CHECKING:
    from protoserve.service import Service
    from protoserve.testing import Live

__all__ = ["fault_proxy", "simulated"]

_OPEN = pytest.StashKey[contextlib.ExitStack]()
"""What a test has opened."""
_NOW = pytest.StashKey[pytest.Item]()
"""The test that runs."""
_MARK = "protoserve_server"


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Add the option for the seed.
    """
    parser.getgroup("protoserve").addoption(
        "--protoserve-seed",
        type=int,
        default=0,
        metavar="N",
        help="where streams of the fixture protoserve_client are cut follows from it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Register the marks.
    """
    config.addinivalue_line(
        "markers",
        f"{_MARK}(**options): options of the fixture {_MARK}, as for live(); a list "
        "of modes or transports runs the test with each",
    )
    config.addinivalue_line(
        "markers",
        "wire(message, direction=...): what the bytes are that assertions compare",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run a test once for each combination of what its mark lists.
    """
    mark = metafunc.definition.get_closest_marker(_MARK)
    if mark is None or _MARK not in metafunc.fixturenames:
        return
    listed = {k: v for k, v in mark.kwargs.items() if isinstance(v, list | tuple)}
    if listed:
        each = list(itertools.product(*listed.values()))
        options = [dict(zip(listed, values, strict=True)) for values in each]
        ids = ["-".join(map(str, values)) for values in each]
        metafunc.parametrize(_MARK, options, indirect=True, ids=ids)


@pytest.fixture
def protoserve_server(request: pytest.FixtureRequest) -> Callable[..., Live]:
    """
    Serve a service on the real stack until the test ends: ``protoserve_server(app)``.

    Takes what `protoserve.testing.live` takes; the value has the ``url``. The mark
    ``@pytest.mark.protoserve_server(mode="loop")`` has options for all calls in a test,
    and a list as in ``mode=["threads", "loop"]`` runs it with each.
    """
    mark = request.node.get_closest_marker(_MARK)
    given = {} if mark is None else dict(mark.kwargs)
    chosen = getattr(request, "param", {})
    given.update({"mode": chosen} if isinstance(chosen, str) else chosen)
    opened = _opened(request)

    def serve(app: Service, **options: Any) -> Live:
        from protoserve.testing import live

        return opened.enter_context(live(app, **{**given, **options}))

    return serve


@pytest.fixture
def protoserve_client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """
    Connect a client until the test ends.

    ``protoserve_client(app)`` is a `protoserve.testing.TestClient`, without sockets;
    ``protoserve_client(protocol, url)`` is a `protoserve.client.Client`, and so is
    ``protoserve_client(server)`` of a server that is live. Options are theirs.
    """
    opened = _opened(request)
    seed = request.config.getoption("--protoserve-seed")

    def connect(target: Any, url: str | None = None, **options: Any) -> Any:
        from protoserve.protocol import Protocol
        from protoserve.testing import Live

        if isinstance(target, Live):
            return opened.enter_context(target.client(**options))
        if isinstance(target, Protocol) and url is not None:
            from protoserve.client import Client

            return opened.enter_context(Client(target, url, **options))
        if isinstance(target, Protocol) or url is not None:
            raise pytest.UsageError(
                "protoserve_client takes a Service, a live server, or a Protocol and a "
                f"URL, not {target!r} and {url!r}"
            )
        from protoserve.testing import TestClient

        options.setdefault("seed", seed)
        return opened.enter_context(TestClient(target, **options))

    return connect


def _opened(request: pytest.FixtureRequest) -> contextlib.ExitStack:
    """
    Give what closes all that a test has opened.
    """
    stash = request.node.stash
    if _OPEN not in stash:
        stash[_OPEN] = contextlib.ExitStack()
        request.addfinalizer(stash[_OPEN].close)  # if the test is never run
    found: contextlib.ExitStack = stash[_OPEN]
    return found


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """
    Close what the test has opened, in time for it to fail.
    """
    opened = pyfuncitem.stash.get(_OPEN, None)
    if opened is None:
        return (yield)
    with opened:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """
    Know which test runs, for its mark.
    """
    item.config.stash[_NOW] = item
    try:
        return (yield)
    finally:
        del item.config.stash[_NOW]


def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: Any, right: Any
) -> list[str] | None:
    """
    Show in which fields messages, or bytes that are known to be some, differ.
    """
    if op != "==" or "protoserve.messages" not in sys.modules:
        return None
    item = config.stash.get(_NOW, None)
    mark = None if item is None else item.get_closest_marker("wire")
    kinds = bytes | bytearray
    from protoserve.testing._wire import explain, on_wire

    if mark is not None and isinstance(left, kinds) and isinstance(right, kinds):
        of, *_ = mark.args
        left = on_wire(of, left, **mark.kwargs)
    return explain(left, right)
