"""
Say at class definition which mix-ins do not go together, and in which order they go.

A mix-in that says where requests are handled excludes the others that do: one of them
would do nothing, and nobody would notice. They go before the server class, whose
methods they override. Names are compared, so that no mix-in imports another.
"""

from __future__ import annotations

__all__ = ["check_place"]

_PLACES = (
    "ThreadingMixIn",
    "ForkingMixIn",
    "PoolMixIn",
    "EventLoopMixIn",
    "BatchMixIn",
)
"""The mix-ins that say where requests are handled."""


def check_place(cls: type, mixin: str) -> None:
    """
    Refuse a server class in which a mix-in could not do its work.

    Args:
        cls: the class that has just been defined.
        mixin: the name of one of the mix-ins that say where requests are handled.

    Raises:
        TypeError: with the names of those that do not go together.
    """
    # What a user has defined may have any name, that of its own base for example.
    ours = [
        base.__name__ if base.__module__.startswith("protoserve.server.") else ""
        for base in cls.__mro__
    ]
    if "BaseServer" not in ours:
        return  # a mix-in, for a server class to come
    both = [name for name in ours if name in _PLACES]
    if len(both) > 1:
        raise TypeError(
            f"{cls.__name__}: {both[0]} and {both[1]} exclude each other, both say "
            "where requests are handled"
        )
    server = next(name for name in ours if name.endswith("Server"))
    if ours.index(mixin) > ours.index(server):
        raise TypeError(
            f"{cls.__name__}: {mixin} goes before the server class: "
            f"class {cls.__name__}({mixin}, {server})"
        )
