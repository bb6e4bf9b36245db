"""
What tests of a protocol or a service need, made from its declaration.

Each name is imported when it is used first: strategies need Hypothesis, which the extra
``protoserve[test]`` installs, and servers bring asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoserve.testing._clock import Clock
    from protoserve.testing._conversations import conversations
    from protoserve.testing._live import Live, live
    from protoserve.testing._replaying import replay
    from protoserve.testing._splits import Splitter, byte_by_byte
    from protoserve.testing._wire import on_wire
    from protoserve.testing.client import TestClient
    from protoserve.testing.faults import Fault, FaultError
    from protoserve.testing.injection import FaultPlan
    from protoserve.testing.proxy import fault_proxy
    from protoserve.testing.simulator import simulated
    from protoserve.testing.strategies import FrameExample, from_message, from_protocol
    from protoserve.testing.torturing import torture
else:
    from protoserve.late import late

    def __getattr__(name: str) -> object:
        try:
            return _find(name)
        except ModuleNotFoundError as exc:
            if exc.name != "hypothesis":
                raise
            raise ModuleNotFoundError(
                f"protoserve.testing.{name} needs Hypothesis; install it with "
                "pip install 'protoserve[test]'",
                name=exc.name,
            ) from exc

    _find, __dir__ = late(
        __name__,
        {
            "_clock": "Clock",
            "_conversations": "conversations",
            "_live": "Live live",
            "_replaying": "replay",
            "_splits": "Splitter byte_by_byte",
            "_wire": "on_wire",
            "client": "TestClient",
            "faults": "Fault FaultError",
            "injection": "FaultPlan",
            "proxy": "fault_proxy",
            "simulator": "simulated",
            "strategies": "FrameExample from_message from_protocol",
            "torturing": "torture",
        },
    )

__all__ = [
    "Clock",
    "Fault",
    "FaultError",
    "FaultPlan",
    "FrameExample",
    "Live",
    "Splitter",
    "TestClient",
    "byte_by_byte",
    "conversations",
    "fault_proxy",
    "from_message",
    "from_protocol",
    "live",
    "on_wire",
    "replay",
    "simulated",
    "torture",
]
