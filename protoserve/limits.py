"""
How much any peer, and all of them together, may ask of a server.

Every limit is on by default, names its precedent, and is switched off with
`None`. Limits counted per address do not hold for the loopback.
"""

from __future__ import annotations

from math import inf
from typing import Any

import attrs

from protoserve.errors import DeclarationError

__all__ = ["Limits", "is_loopback"]


def _connections() -> int:
    """
    Leave a fifth of the process's descriptors for everything else.
    """
    try:
        import resource
    except ImportError:  # not a Unix system
        return 1024
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 65_536 if soft == resource.RLIM_INFINITY else max(1, soft * 8 // 10)


def _positive(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    whole = attribute.metadata["kind"] is int
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < inf:
        expected = "a whole number" if whole else "a number"
        raise DeclarationError(
            f"limit {attribute.name}: expected {expected} above 0 or None, not {value!r}"
        )


def _limit(default: Any, kind: type) -> Any:
    return attrs.field(default=default, validator=_positive, metadata={"kind": kind})


@attrs.frozen(kw_only=True)
class Limits:
    """
    The limits of a service; `None` switches one off.
    """

    connections: int | None = _limit(attrs.Factory(_connections), int)
    """
    Connections at a time. By default 80 % of the descriptors that the process may
    open, as nginx leaves room below worker_rlimit_nofile.
    """

    connections_per_address: int | None = _limit(256, int)
    """Connections of one address at a time."""

    first_frame: float | None = _limit(10.0, float)
    """
    Seconds from the connection to its first whole frame; HAProxy's documentation
    suggests 5 s to 10 s for its timeout http-request.
    """

    handshake: float | None = _limit(10.0, float)
    """
    Seconds that a TLS handshake may take, before the time of the first frame begins;
    Go's net/http client has the same in its TLSHandshakeTimeout.
    """

    frame: float | None = _limit(30.0, float)
    """
    Seconds from a frame's first byte to its last, not renewed by the bytes between.
    """

    idle: float | None = _limit(300.0, float)
    """Seconds between two frames."""

    frame_size: int | None = _limit((1 << 24) - 1, int)
    """
    Bytes of a frame that a peer sends, if the framing does not allow even less;
    16 MiB - 1 is the largest that HTTP/2's SETTINGS_MAX_FRAME_SIZE can be.
    """

    write_buffer: int | None = _limit(64 * 1024, int)
    """
    Bytes that wait to be sent to one peer before no more is read from it and made for
    it; asyncio's high-water mark is the same. What is pushed on an event loop cannot
    wait: beyond 16 times as many a peer that does not keep up is closed, as Redis
    closes subscribers that lag behind.
    """

    write: float | None = _limit(10.0, float)
    """
    Seconds that a peer may take to accept what is sent to it, then it is closed;
    NATS has the same in its write_deadline.
    """

    requests: int | None = _limit(64, int)
    """
    Requests of one connection that coroutines answer at a time, if the protocol can
    tell their answers apart; more wait in the kernel. HTTP/2 suggests 100 streams.
    """

    queue: int | None = _limit(1024, int)
    """
    Requests that wait for a thread of mode pool; more wait in the kernel. waitress,
    which has such a pool too, lets the kernel hold as many.
    """

    peers: int | None = _limit(10_000, int)
    """Datagram peers whose session is kept; the one idle for longest makes room."""

    peer_idle: float | None = _limit(300.0, float)
    """Seconds after which a silent datagram peer's session is forgotten."""

    def with_text(self, assignment: str) -> Limits:
        """
        Change one limit as the command line does.

        Args:
            assignment: ``name=value``; the value ``none`` switches it off.

        Raises:
            DeclarationError: there is no such limit, or the value is no number.

        >>> Limits().with_text("idle=none").idle is None
        True
        """
        name, equals, text = assignment.partition("=")
        fields = attrs.fields_dict(Limits)
        if name not in fields:
            import difflib

            close = difflib.get_close_matches(name, fields, 1, 0.4)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(fields)}"
            )
            raise DeclarationError(f"there is no limit {name!r}; {hint}")
        kind = fields[name].metadata["kind"]
        if not equals:
            raise DeclarationError(f"limit {name}: write {name}=VALUE or {name}=none")
        if text.lower() == "none":
            return attrs.evolve(self, **{name: None})
        try:
            value = kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number of seconds"
            raise DeclarationError(
                f"limit {name}: expected {expected} or none, not {text!r}"
            ) from None
        return attrs.evolve(self, **{name: value})


def is_loopback(address: Any) -> bool:
    """
    Say whether a socket address is this machine's own (Unix sockets are).
    """
    if not isinstance(address, tuple):
        return True
    import ipaddress

    try:
        parsed = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
