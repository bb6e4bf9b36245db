"""
A recording as a test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import inf

from protoserve.protocol import Protocol
from protoserve.replaying import Replay, Replayed, Source, run_replay
from protoserve.service import Service
from protoserve.testing._live import live
from protoserve.urls import Address

__all__ = ["replay"]

_MOST_SHOWN = 10


def replay(
    recording: str | os.PathLike[str],
    target: Service | str,
    *,
    protocol: Protocol | None = None,
    ports: Collection[int] = (),
    ignore: Collection[str] = (),
    speed: float = inf,
    timeout: float = 2.0,
    mode: str = "threads",
) -> Replayed:
    """
    Send what was recorded once more, and demand the same answers.

    Args:
        recording: a journal that ``protoserve run --journal`` has written, or a
            capture.
        target: the service, which is served meanwhile, or a server's URL.
        protocol: what is spoken, so that answers are compared as messages; that of a
            service is known.
        ports: the server's ports in a capture; by default the protocol's own.
        ignore: names of fields that may differ.
        speed: how many times as fast as recorded; by default without a pause.
        timeout: seconds for an answer.
        mode: how the service is served, as in ``protoserve run --mode``.

    Returns:
        What was counted.

    Raises:
        AssertionError: something is not as it was; it says what.
        SourceError: the recording cannot be read.
    """
    if isinstance(target, Service):
        protocol = target.protocol
    own = () if protocol is None else protocol.ports.values()
    ports = tuple(ports) or tuple(own)
    result = Replayed()

    def play(url: str) -> None:
        asked = Replay(
            url=url, protocol=protocol, speed=speed, ignored=ignore, timeout=timeout
        )
        given = ports or tuple(filter(None, [Address.parse(url).port]))
        with closing(Source(recording, given)) as source:
            run_replay(asked, source, result=result)

    if isinstance(target, str):
        _beside(play, target)
    else:
        with closing(Source(recording, ports)) as source:
            kinds = {piece.stream for piece in source}
        for stream in sorted(kinds):
            with live(
                target, mode=mode, transport="tcp" if stream else "udp"
            ) as served:
                _beside(play, served.url)
        result.left_out = 0  # by one, and replayed by the other
    # Not by `assert`: pytest would add what nobody wants to read to the message.
    if not result.sent:
        raise AssertionError(
            f"{os.fspath(recording)}: there is nothing to send to {target}"
        )
    if not result.is_same:
        raise AssertionError(_told(result))
    return result


def _beside(play: Callable[[str], None], url: str) -> None:
    """
    Play in a thread of its own: an event loop may be running in this one.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(play, url).result()


def _told(result: Replayed) -> str:
    counts = {
        "answers are different": result.different,
        "were not answered": result.unanswered,
        "could not be sent, as the server had closed": result.unsent,
        **result.errors,
    }
    lines = [f"{count} {what}" for what, count in counts.items() if count]
    lines += map(str, result.differences[:_MOST_SHOWN])
    return "\n".join(lines)
