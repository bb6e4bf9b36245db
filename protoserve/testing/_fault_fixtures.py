"""
Pytest fixtures for what goes wrong: a proxy with faults, and a simulated server.

They belong to the plugin, so nothing but pytest is imported until one is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from protoserve.protocol import Protocol
    from protoserve.testing.faults import Fault
    from protoserve.testing.proxy import RunningProxy
    from protoserve.testing.simulator import Simulator

__all__ = ["fault_proxy", "simulated"]


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., RunningProxy]]:
    """
    Put faults in front of a server until the test ends.

    ``fault_proxy(protocol, server.url, "drop=5%", seed=1).url`` is where clients
    connect; it takes what `protoserve.testing.fault_proxy` takes.
    """
    with contextlib.ExitStack() as stack:

        def start(
            protocol: Protocol, to: str, *faults: str | Fault, **options: Any
        ) -> RunningProxy:
            from protoserve.testing import fault_proxy as running

            return stack.enter_context(running(protocol, to, *faults, **options))

        yield start


@pytest.fixture
def simulated() -> Iterator[Callable[..., Simulator]]:
    """
    Simulate a server until the test ends.

    ``simulated(protocol, "delay=50ms").url`` is where clients connect; it takes what
    `protoserve.testing.simulated` takes.
    """
    with contextlib.ExitStack() as stack:

        def start(
            protocol: Protocol, *faults: str | Fault, **options: Any
        ) -> Simulator:
            from protoserve.testing import simulated as running

            return stack.enter_context(running(protocol, *faults, **options))

        yield start
