"""
What is on its way to a log.
"""

import threading

import pytest

from protoserve.telemetry.logs.base import LogUnavailableError
from protoserve.telemetry.logs.window import (
    BYTES,
    ENTRIES,
    MAX_ENTRY,
    EntryTooLargeError,
    Window,
)
from tests.service.kit import until

PATIENCE = 60.0


def serials(items):
    return [item.serial for item in items]


def test_bounded_in_entries():
    """Where nothing is confirmed, no more than so many entries are taken in."""
    window = Window("x://y", patience=0.05)
    for number in range(ENTRIES):
        window.add(str(number), "k", b"")
    with pytest.raises(
        LogUnavailableError, match="^x://y: nothing was confirmed for 0"
    ):
        window.add("more", "k", b"")
    assert ENTRIES == len(window)
    window.add("7", "k", b"")  # on its way already
    window.done([3])
    window.add("more", "k", b"")
    assert ENTRIES == len(window)


def test_bounded_in_bytes():
    """Nor are more than so many bytes."""
    window = Window("x://y", patience=0.05)
    for number in range(BYTES // MAX_ENTRY):
        window.add(str(number), "k", bytes(MAX_ENTRY))
    with pytest.raises(LogUnavailableError):
        window.add("more", "k", bytes(MAX_ENTRY))


def test_too_large():
    """What is larger than any log takes is refused, and nothing is kept of it."""
    window = Window("x://y", limit=10)
    with pytest.raises(
        EntryTooLargeError, match="^e: expected|^entry e: expected"
    ) as c:
        window.add("e", "k", bytes(11))
    assert ("e", 11, 10) == (c.value.id, c.value.size, c.value.limit)
    assert 0 == len(window)


def test_again():
    """All that is not confirmed is sent again, in order and once."""
    window = Window("x://y")
    for number in range(5):
        window.add(str(number), "k", b"")
    assert [0, 1, 2, 3, 4] == serials(window.fresh())
    assert [] == serials(window.fresh())
    window.done([1, 3])
    window.add("5", "k", b"")
    window.again()
    assert [0, 2, 4, 5] == serials(window.fresh())


def test_pieces():
    """What is given out at a time is bounded, but is one entry at least."""
    window = Window("x://y")
    for number in range(4):
        window.add(str(number), "k", bytes(10))
    assert [0, 1] == serials(window.fresh(most=2))
    assert [2] == serials(window.fresh(size=5))
    assert [3] == serials(window.fresh(size=5))


def test_settle_waits_for_what_was_there():
    """`settle` waits for what was added before it, and not for what comes after."""
    window = Window("x://y", patience=PATIENCE)
    window.add("a", "k", b"")
    settled = threading.Event()

    def settle():
        window.settle()
        settled.set()

    thread = threading.Thread(target=settle)
    thread.start()
    until(lambda: window._changed._waiters, PATIENCE)
    window.add("b", "k", b"")
    assert not settled.is_set()
    window.done([0])
    thread.join(PATIENCE)
    assert settled.is_set()
    assert 1 == len(window)


def test_settle_again():
    """What a `settle` has given up on is still on its way, and counts for the next."""
    window = Window("x://y", patience=0.05)
    window.add("a", "k", b"")
    for _ in range(2):
        with pytest.raises(LogUnavailableError, match="1 entries wait: no answer"):
            window.settle()
    window.done([0])
    window.settle()


def test_closed():
    """Who waits is let go when the log is closed."""
    window = Window("x://y", patience=PATIENCE)
    window.add("a", "k", b"")
    said = []

    def settle():
        try:
            window.settle()
        except LogUnavailableError as exc:
            said.append(str(exc))

    thread = threading.Thread(target=settle)
    thread.start()
    until(lambda: window._changed._waiters, PATIENCE)
    window.close()
    thread.join(PATIENCE)
    assert ["x://y: the log is closed"] == said
