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
    names = [base.__name__ for base in cls.__mro__]
    if "BaseServer" not in names:
        return  # a mix-in, for a server class to come
    both = [name for name in names if name in _PLACES]
    if len(both) > 1:
        raise TypeError(
            f"{cls.__name__}: {both[0]} and {both[1]} exclude each other, both say "
            "where requests are handled"
        )
    server = next(
        base.__name__
        for base in cls.__mro__
        if base.__name__.endswith("Server")
        and "MixIn" not in base.__name__
        and base is not cls
        and base.__module__.startswith("protoserve.server")
    )
    if names.index(mixin) > names.index(server):
        raise TypeError(
            f"{cls.__name__}: {mixin} goes before the server class: "
            f"class {cls.__name__}({mixin}, {server})"
        )
