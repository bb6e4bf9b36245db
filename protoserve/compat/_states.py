"""
Two tables of states, walked together: what one allows and the other forbids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protoserve.compat._report import NEW, OLD

__all__ = ["forbidden"]

_Table = Mapping[str, Mapping[str, str]]


def forbidden(
    old: _Table, new: _Table, names: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """
    Walk both conversations from their first states, by what both allow.

    Args:
        old: the old states; empty if there are none.
        new: the new states.
        names: the messages that both know: the new names by the old ones.

    Yields:
        Who forbids (`OLD` or `NEW`), who allows, the message by its new name, and the
        state in which the other sends it; empty if it has no states.
    """
    start = next(iter(old), ""), next(iter(new), "")
    waiting, seen, told = [start], {start}, set()
    while waiting:
        state, other = waiting.pop(0)
        for before, after in names.items():
            next_old = _following(old, state, before)
            next_new = _following(new, other, after)
            if next_old is not None and next_new is not None:
                both = next_old, next_new
                if both not in seen:
                    seen.add(both)
                    waiting.append(both)
            elif next_old is not None:
                told.add((NEW, OLD, after, state))
            elif next_new is not None:
                told.add((OLD, NEW, after, other))
    yield from sorted(told)


def _following(states: _Table, state: str, message: str) -> str | None:
    """
    Say where a message leads; `None` if it is forbidden.
    """
    moves = states.get(state, {})
    if message in moves:
        return moves[message]
    known = any(message in others for others in states.values())
    return None if known else state
