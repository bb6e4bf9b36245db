"""
Two versions of a protocol: what stands around the messages, and which there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from protoserve.compat._formats import Comparer
from protoserve.compat._report import BOTH, NEW, NOBODY, OLD, Difference
from protoserve.compat._states import forbidden
from protoserve.compat._words import in_words
from protoserve.snapshots import Snapshot

__all__ = ["differences"]

_WAYS = ("request", "response")


def differences(old: Snapshot, new: Snapshot) -> Iterator[Difference]:
    """
    Find all that is not as it was, in the order of the wire.
    """
    comparer = Comparer(*({m["message"]: m for m in s["messages"]} for s in (old, new)))
    for key, what in (("protocol", "its name was"), ("ports", "its ports were")):
        if old.get(key) != new.get(key):
            text = f"{what} {old.get(key)}, now {new.get(key)}"
            yield Difference(new["protocol"], text, NOBODY)
    yield from _framing(old["framing"], new["framing"])
    yield from _part(old, new, "header", comparer)
    for key, what in (("tag", "what tells messages"), ("correlate", "what ties answers to requests")):  # fmt: skip
        if old[key] != new[key]:
            text = f"{what} was {_shown(old[key])} and is {_shown(new[key])}"
            yield Difference("header", text, BOTH)
    for way in _WAYS:
        yield from _table(old, new, way, comparer)
    yield from _part(old, new, "trailer", comparer)
    yield from _states(old, new)
    yield from _attributes(old, new)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return in_words(value)
    return "nothing" if value is None else str(value)


def _framing(old: Any, new: Any) -> Iterator[Difference]:
    if old == new:
        return
    if old is None or new is None or old["kind"] != new["kind"]:
        was, now = ("none" if f is None else f["kind"] for f in (old, new))
        yield Difference("framing", f"it was {was} and is {now}", BOTH)
        return
    for option in dict.fromkeys([*old, *new]):
        was, now = old.get(option), new.get(option)
        if was == now:
            continue
        text = f"{option} was {_shown(was)} and is {_shown(now)}"
        if option == "max_size":
            less = NEW if now < was else OLD
            text += f"; {less} peers refuse longer frames"
            yield Difference("framing", text, (less,))
        else:
            yield Difference("framing", text, BOTH)


def _part(
    old: Snapshot, new: Snapshot, part: str, comparer: Comparer
) -> Iterator[Difference]:
    was, now = old[part], new[part]
    if was is None or now is None:
        if was != now:
            text = (
                f"frames have no {part} any more"
                if now is None
                else (f"frames have a {part} now, {now}")
            )
            yield Difference(part, text, BOTH)
        return
    for found in comparer.messages(was, now, tail=False):
        yield attrs.evolve(found, where=f"{part} {found.where}")


def _table(
    old: Snapshot, new: Snapshot, way: str, comparer: Comparer
) -> Iterator[Difference]:
    """
    Compare the messages of one direction.
    """
    was = {_key(entry["tag"]): entry for entry in old[f"{way}s"]}
    now = {_key(entry["tag"]): entry for entry in new[f"{way}s"]}
    tags = {entry["message"]: entry["tag"] for entry in old[f"{way}s"]}
    new_tags = {entry["message"]: entry["tag"] for entry in new[f"{way}s"]}
    for key, entry in was.items():
        name, where = entry["message"], f"{way} {entry['message']}"
        if name in new_tags and _key(new_tags[name]) != key:
            text = f"its tag was {_shown(entry['tag'])} and is {_shown(new_tags[name])}"
            yield Difference(where, text, BOTH, (way,))
        elif key not in now:
            text = f"it is gone; new peers do not know tag {_shown(entry['tag'])}"
            yield Difference(where, text, (NEW,), (way,))
        else:
            yield from _message(name, now[key]["message"], tags, way, comparer)
    for key, entry in now.items():
        if key not in was and entry["message"] not in tags:
            text = f"it is new; old peers do not know tag {_shown(entry['tag'])}"
            yield Difference(f"{way} {entry['message']}", text, (OLD,), (way,))


def _message(
    old: str, new: str, tags: Mapping[str, Any], way: str, comparer: Comparer
) -> Iterator[Difference]:
    """
    Compare what stands under one tag.
    """
    where = f"{way} {new}"
    if old != new:
        if new in tags:
            return  # the other message was given another tag, which is told
        yield Difference(where, f"it was called {old}", NOBODY, (way,))
    for found in comparer.messages(old, new, tail=True):
        yield attrs.evolve(found, where=f"{way} {found.where}", ways=(way,))


def _key(tag: Any) -> str:
    return repr(tag)


def _states(old: Snapshot, new: Snapshot) -> Iterator[Difference]:
    """
    Find what may be sent in one version's states and not in the other's.
    """
    ways: dict[str, tuple[str, ...]] = {}
    for way in _WAYS:
        for entry in new[f"{way}s"]:
            ways[entry["message"]] = (*ways.get(entry["message"], ()), way)
    names = _same_messages(old, new)
    for reader, sender, message, state in forbidden(
        old["states"], new["states"], names
    ):
        place = f"state {state!r}" if state else "at any time"
        text = f"{sender} peers may send it {'in ' if state else ''}{place}; {reader} ones refuse it"  # fmt: skip
        where = f"states {message}"
        yield Difference(where, text, (reader,), ways.get(message, _WAYS))


def _same_messages(old: Snapshot, new: Snapshot) -> dict[str, str]:
    """
    Give the new names of messages by their old ones: both stand under one tag.
    """
    found: dict[str, str] = {}
    for way in _WAYS:
        now = {_key(entry["tag"]): entry["message"] for entry in new[f"{way}s"]}
        for entry in old[f"{way}s"]:
            if _key(entry["tag"]) in now:
                found[entry["message"]] = now[_key(entry["tag"])]
    return found


def _attributes(old: Snapshot, new: Snapshot) -> Iterator[Difference]:
    """
    Tell of what programs see and the wire does not.
    """
    was = {m["message"]: m for m in old["messages"]}
    for message in new["messages"]:
        before = was.get(message["message"])
        if before is None:
            continue
        for key, what in (
            ("error", "whether it is an error"),
            ("answered_by", "what answers it"),
        ):
            if before.get(key) != message.get(key):
                text = f"{what}: was {before.get(key)}, is {message.get(key)}"
                yield Difference(message["message"], text, NOBODY)
        was_default, now_default = (m.get("defaults", {}) for m in (before, message))
        for name, default in now_default.items():
            if was_default.get(name, default) != default:
                text = f"its default was {was_default[name]} and is {default}"
                yield Difference(f"{message['message']}.{name}", text, NOBODY)
