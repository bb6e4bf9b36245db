"""
Load for a server of any declared protocol: requests at a rate, and how long answers
take.

Requests are built before the first is sent, a cycle of them, so that sending costs
next to nothing; answers that have been seen before are known by their bytes. One
thread does it all, with sockets that never block, so that no time is lost between
threads while it is measured.

In a *closed loop* each connection keeps a number of requests outstanding: the next is
sent when one is answered. That finds out how much a server can do, and says little of
latency: while the server is stuck, nothing is sent, so nothing waits. In an *open
loop* requests are due at fixed times, whatever the server does, and an answer's time
counts from when its request was due, also if that could not be sent then. There is no
coordinated omission.
"""

from __future__ import annotations

from protoserve.loadgen.figures import Figures, Second, histogram
from protoserve.loadgen.generator import Load, LoadError, run_load
from protoserve.loadgen.requests import Requests, make_requests

__all__ = [
    "Figures",
    "Load",
    "LoadError",
    "Requests",
    "Second",
    "histogram",
    "make_requests",
    "run_load",
]
