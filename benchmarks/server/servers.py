"""
Which servers there are, and which loads each takes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from benchmarks.server.loads import Load
from benchmarks.server.processes import python

Side = Literal["limit", "stdlib", "hand", "ours", "peer"]

STREAMS = ("tcp-64x1", "tcp-64x32", "tcp-1x1", "churn", "idle")
INGEST = ("udp-ingest",)
ANSWER = ("udp-answer",)
DATAGRAM_MODES = ("single", "loop", "batch")
"""Other modes serve datagrams as one of these do, or in several processes."""


@attrs.frozen
class Server:
    """
    One server program.
    """

    name: str
    side: Side
    loads: tuple[str, ...]
    """The keys of the loads that it takes."""
    function: str = ""
    """``MODULE:FUNCTION`` in `peers`."""
    program: tuple[str, ...] = ()
    """For those in C: the program and its first arguments."""
    module: str = ""
    """What has to be installed; nothing by default."""
    package: str = ""
    """What pip calls that, if it is another name."""
    forks: bool = False
    """Whether each connection has a process: then only some hundred idle ones are made."""

    @property
    def installed(self) -> bool:
        """
        Whether what it needs is there.
        """
        return not self.module or importlib.util.find_spec(self.module) is not None

    def command(
        self, folder: Path, load: Load, port: int, every: int, buffer: int
    ) -> list[str]:
        """
        Give the program that serves a load, and its arguments.
        """
        if self.program:
            name, *words = self.program
            limits = [str(every), str(buffer)] if load.kind != "stream" else []
            return [str(folder / name), *words, str(port), *limits]
        return [
            *python("benchmarks.server.peers", self.function, "--port", port),
            *("--every", str(every), "--buffer", str(buffer)),
            *("--shape", str(load.shape)),
        ]


def _stdlib() -> Iterator[Server]:
    for name, function, loads in (
        ("TCPServer", "single", ("tcp-1x1", "churn")),
        ("ThreadingTCPServer", "threading", STREAMS),
        ("ForkingTCPServer", "forking", STREAMS),
    ):
        forks = function == "forking"
        yield Server(name, "stdlib", loads, f"stdlib:{function}", forks=forks)
    for name, function in (
        ("UDPServer", "udp"),
        ("ThreadingUDPServer", "udp_threading"),
    ):
        yield Server(name, "stdlib", INGEST, f"stdlib:{function}_ingest")
        yield Server(name, "stdlib", ANSWER, f"stdlib:{function}_answer")
    yield Server("ForkingUDPServer", "stdlib", ANSWER, "stdlib:udp_forking_answer")


def _by_hand() -> Iterator[Server]:
    for name, function, module in (
        ("uvloop", "on_uvloop", "uvloop"),
        ("asyncio", "on_asyncio", ""),
        ("threads", "in_threads", ""),
    ):
        yield Server(
            f"by hand, {name}", "hand", STREAMS, f"by_hand:{function}", module=module
        )
    for name, function in (("recvfrom", ""), ("recvmmsg", "many_")):
        name = f"by hand, {name}"
        yield Server(name, "hand", INGEST, f"by_hand_udp:{function}ingest")
        yield Server(name, "hand", ANSWER, f"by_hand_udp:{function}answer")
    yield Server(
        "by hand, recvmmsg to NumPy columns",
        "hand",
        INGEST,
        "by_hand_udp:columns_ingest",
        module="numpy",
    )


def _ours() -> Iterator[Server]:
    """
    Every mode that `protoserve.serve` has, and batch routes if there are any.
    """
    import protoserve
    from protoserve.serve import MODES

    streams = {"single": ("tcp-1x1", "churn"), "batch": ()}
    for mode in MODES:
        name = f"protoserve, {mode}"
        loads = streams.get(mode, STREAMS)
        forks = mode == "fork"
        yield Server(name, "ours", loads, f"ours:streams:{mode}", forks=forks)
        if mode in DATAGRAM_MODES:
            yield Server(name, "ours", INGEST, f"ours_udp:ingest:{mode}")
            yield Server(name, "ours", ANSWER, f"ours_udp:answer:{mode}")
    if hasattr(protoserve, "batch_route"):
        mode = "batch" if "batch" in MODES else "single"
        for name, function in (("", "batches"), (", GRO", "coalesced")):
            yield Server(
                f"protoserve, {mode}, batch route{name}",
                "ours",
                INGEST,
                f"ours_udp:{function}:{mode}",
                module="numpy",
            )


def _peers() -> Iterator[Server]:
    for loop, module in (("asyncio", ""), ("uvloop", "uvloop")):
        found = f"least_asyncio:on_{loop}"
        for name, function in (
            ("Protocol", "protocol"),
            ("BufferedProtocol", "buffered"),
            ("streams", "streams"),
        ):
            yield Server(
                f"{loop} {name}", "peer", STREAMS, f"{found}:{function}", module=module
            )
        for loads, function in ((INGEST, "udp_ingest"), (ANSWER, "udp_answer")):
            yield Server(
                f"{loop} DatagramProtocol",
                "peer",
                loads,
                f"{found}:{function}",
                module=module,
            )
    for loads, function in ((INGEST, "dgram_ingest"), (ANSWER, "dgram_answer")):
        yield Server(
            "asyncio-dgram",
            "peer",
            loads,
            f"least_asyncio:on_asyncio:{function}",
            module="asyncio_dgram",
            package="asyncio-dgram",
        )
    for package, names in (
        ("twisted", {"Int16StringReceiver": "strings", "Protocol": "whole"}),
        ("gevent", {"StreamServer": "streams"}),
        ("trio", {"serve_listeners": "streams"}),
    ):
        datagrams = {"twisted": "DatagramProtocol", "gevent": "DatagramServer"}
        title, module = package.replace("tw", "Tw"), f"least_{package}"
        for name, function in names.items():
            yield Server(
                f"{title} {name}", "peer", STREAMS, f"{module}:{function}", (), package
            )
        for loads, function in ((INGEST, "udp_ingest"), (ANSWER, "udp_answer")):
            name = f"{title} {datagrams.get(package, 'socket')}"
            yield Server(name, "peer", loads, f"{module}:{function}", (), package)


def _limits() -> Iterator[Server]:
    yield Server("C, epoll", "limit", STREAMS, program=("limit_tcp",))
    for name, way in (("C, recvmmsg", "batch"), ("C, recvfrom", "single")):
        for load in (*INGEST, *ANSWER):
            what = load.partition("-")[2]
            yield Server(name, "limit", (load,), program=("limit_udp", what, way))
    program = ("limit_udp", "ingest", "gro")
    yield Server("C, recvmmsg, GRO", "limit", INGEST, program=program)


def all_servers() -> tuple[Server, ...]:
    """
    Give all servers, those that are not installed included.
    """
    return (*_limits(), *_stdlib(), *_by_hand(), *_ours(), *_peers())
