"""
Clients of declared protocols: `Client` blocks, `AsyncClient` is awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoserve.client._call import Stats
    from protoserve.client.asyncio import AsyncClient
    from protoserve.client.sync import Client
else:
    from protoserve.late import late

    __getattr__, __dir__ = late(
        __name__,
        {"_call": "Stats", "asyncio": "AsyncClient", "sync": "Client"},
    )

__all__ = ["AsyncClient", "Client", "Stats"]
