"""
Two formats of one message, part by part: what a reader makes of the other's bytes.

Parts belong together by their place; their names tell whether one was moved or only
has another name. The few changes that one side can live with are rules here, one for
each kind of node. All others are breaks for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from protoserve.compat._report import BOTH, NEW, NOBODY, OLD, Difference
from protoserve.compat._rows import (
    is_nothing,
    kind_of,
    may_be_missing,
    names_of,
    paired,
    takes_padding,
    takes_zero,
)
from protoserve.compat._values import (
    all_numbers,
    bits_number,
    in_order,
    some_named,
    values_of,
)
from protoserve.compat._words import in_words, rule_in_words

__all__ = ["Comparer"]

_Node: TypeAlias = dict[str, Any]
_Found: TypeAlias = Iterator[Difference]


class Comparer:
    """
    Compares formats; messages inside others are compared where they stand.

    Args:
        old: the old version's messages by name.
        new: the new version's.
    """

    def __init__(self, old: Mapping[str, _Node], new: Mapping[str, _Node]) -> None:
        self._messages = {OLD: old, NEW: new}
        self._known: dict[tuple[str, str, bool], list[Difference]] = {}
        self._renamed: dict[str, str] = {}
        """New names by old ones, of the fields of the message that is compared."""
        self._everywhere: dict[str, str] = {}
        """Those of all messages so far: an expression may look at what is around it."""

    def messages(self, old: str, new: str, *, tail: bool) -> list[Difference]:
        """
        Compare two messages.

        Args:
            old: the old one's name.
            new: the new one's.
            tail: whether nothing stands behind them, so that a reader knows their end.
        """
        key = (old, new, tail)
        if key not in self._known:
            self._known[key] = []  # of a message inside itself nothing more is said
            around, self._renamed = self._renamed, {}
            self._known[key] = list(self._message(*key))
            self._renamed = around
        return self._known[key]

    def _message(self, old: str, new: str, tail: bool) -> _Found:
        was, now = self._messages[OLD].get(old), self._messages[NEW].get(new)
        if was is None or now is None:
            return
        yield from self._items(was["format"], now["format"], new, tail=tail)
        yield from self._takes(was.get("takes", {}), now.get("takes", {}), new)
        for cap, most in was.get("caps", {}).items():
            after = now.get("caps", {}).get(cap, most)
            if after != most:
                what = f"its cap of {cap} was {most} and is {after}"
                yield Difference(new, what, (NEW,) if after < most else (OLD,))

    # Parts in a row --------------------------------------------------------

    def _items(
        self, old: list[_Node], new: list[_Node], where: str, *, tail: bool
    ) -> _Found:
        was = [item for item in old if not is_nothing(item["node"])]
        now = [item for item in new if not is_nothing(item["node"])]
        yield from self._derived(old, new, where)
        pairs, rest = paired(was, now)
        if rest is None:
            yield from self._shifted(was, now, where)
            return
        for one, other in pairs:
            self._note_name(one, other)
        for i, (one, other) in enumerate(pairs):
            last = tail and i == len(pairs) - 1 and not any(rest)
            yield from self._pair(one, other, where, tail=last)
        yield from self._ends(*rest, where, tail=tail)

    def _note_name(self, old: _Node | list[_Node], new: _Node | list[_Node]) -> None:
        if isinstance(old, list) or isinstance(new, list):
            return
        if old["name"] and new["name"] and old["name"] != new["name"]:
            self._rename(old["name"], new["name"])

    def _rename(self, old: str, new: str) -> None:
        self._renamed[old] = self._everywhere[old] = new

    def _pair(self, old: Any, new: Any, where: str, *, tail: bool) -> _Found:
        if isinstance(old, list) or isinstance(new, list):
            yield from self._reserved(old, new, where)
            return
        place = f"{where}.{new['name']}" if new["name"] else where
        if old["name"] != new["name"] and old["name"] and new["name"]:
            yield Difference(place, f"it was called {old['name']}", NOBODY)
        yield from self._computed(old, new, place)
        yield from self._node(old["node"], new["node"], place, tail=tail)

    def _computed(self, old: _Node, new: _Node, place: str) -> _Found:
        was, now = old["computed"], new["computed"]
        if self._same(was, now):
            return
        if was is None:
            what = f"it may hold anything, and is now {rule_in_words(now)}, which is checked"
            yield Difference(place, what, (NEW,))
        elif now is None:
            what = f"it was {rule_in_words(was)}, which is checked, and may hold anything now"
            yield Difference(place, what, (OLD,))
        else:
            what = f"it was {rule_in_words(was)} and is {rule_in_words(now)}"
            yield Difference(place, what, BOTH)

    def _derived(self, old: list[_Node], new: list[_Node], where: str) -> _Found:
        """
        Compare values that take no bytes: others may be sized by them.
        """
        was = {i["name"]: i["node"] for i in old if is_nothing(i["node"])}
        for item in new:
            node = item["node"]
            known = is_nothing(node) and item["name"] in was
            if known and not self._same(was[item["name"]], node):
                what = "what it is worked out from has changed"
                yield Difference(f"{where}.{item['name']}", what, BOTH)

    def _shifted(self, old: list[_Node], new: list[_Node], where: str) -> _Found:
        """
        Say which parts are in the way when the rows do not fit.
        """
        was, now = names_of(old), names_of(new)
        gone = [n for n in was if n not in now]
        come = [n for n in now if n not in was]
        for name in gone:
            yield Difference(
                f"{where}.{name}", "it is no longer there; what stands behind it has "
                "moved", BOTH,
            )  # fmt: skip
        for name in come:
            yield Difference(
                f"{where}.{name}", "it is new; what stands behind it has moved", BOTH
            )
        before = [n for n in was if n in now]
        after = [n for n in now if n in was]
        for name, other in zip(before, after, strict=True):
            if name != other:
                what = f"it stands where {name} stood"
                yield Difference(f"{where}.{other}", what, BOTH)
        if not gone and not come and before == after:
            yield Difference(where, "its parts have moved", BOTH)

    def _ends(
        self, old: list[_Node], new: list[_Node], where: str, *, tail: bool
    ) -> _Found:
        """
        Compare what only one of them has at its end.
        """
        for item in new:
            place = f"{where}.{item['name'] or 'padding'}"
            if not tail:
                what = "it is new; what stands behind the message has moved"
                yield Difference(place, what, BOTH)
            elif may_be_missing(item["node"]):
                what = "it is new and optional; old peers refuse the bytes, new ones "
                yield Difference(place, what + "do without", (OLD,))
            else:
                what = "it is new and required; old peers refuse the bytes, new ones "
                yield Difference(place, what + "miss them", BOTH)
        for item in old:
            place = f"{where}.{item['name'] or 'padding'}"
            what = "it is no longer there; new peers refuse the bytes"
            if tail and may_be_missing(item["node"]):
                yield Difference(place, what + ", old ones do without", (NEW,))
            else:
                yield Difference(place, what + ", old ones miss them", BOTH)

    def _reserved(self, old: Any, new: Any, where: str) -> _Found:
        """
        Compare padding with what takes its place: readers skip padding.
        """
        added = isinstance(new, list)
        for item in new if added else old:
            place = f"{where}.{item['name']}" if item["name"] else where
            what = "it was padding" if added else "it is padding now"
            padding = (old if added else new)["node"]
            fits = item["computed"] is None and takes_padding(item["node"], padding)
            if fits:
                yield Difference(place, what, NOBODY)
            else:
                readers = (NEW,) if added else (OLD,)
                yield Difference(
                    place, what + ", which it cannot be read from", readers
                )

    # Values ----------------------------------------------------------------

    def _takes(self, old: _Node, new: _Node, where: str) -> _Found:
        for name, now in new.items():
            was = old.get(self._old_name(name), {})
            yield from self._bounds(was, now, f"{where}.{name}", NEW)
        for name, was in old.items():
            now = new.get(self._renamed.get(name, name), {})
            yield from self._bounds(now, was, f"{where}.{name}", OLD)

    def _bounds(self, sent: _Node, read: _Node, place: str, reader: str) -> _Found:
        """
        Find values that are sent and not taken.
        """
        who = f"{reader} peers refuse"
        for key, word, lower in _BOUNDS:
            limit, most = read.get(key), sent.get(key)
            if limit is None:
                continue
            if most is None or (most < limit if lower else most > limit):
                yield Difference(place, f"{who} {word} {limit}", (reader,))
        for other in read.get("others", ()):
            if other not in sent.get("others", ()):
                what = f"{who} what {other} does not accept"
                yield Difference(place, what, (reader,))

    def _old_name(self, name: str) -> str:
        return next((o for o, n in self._renamed.items() if n == name), name)

    def _same(self, old: Any, new: Any) -> bool:
        """
        Say whether two descriptions are equal but for the names of fields.
        """
        own, everywhere = self._renamed, {**self._everywhere, **self._renamed}
        return any(_renamed(old, names) == new for names in (own, everywhere))

    # Nodes -----------------------------------------------------------------

    def _node(self, old: Any, new: Any, place: str, *, tail: bool) -> _Found:
        """
        Compare two nodes that stand at the same place.
        """
        kinds = kind_of(old), kind_of(new)
        if kinds == ("message", "message"):
            yield from self._nested(old, new, place, tail=tail)
        elif kinds[0] == kinds[1] and kinds[0] in _RULES:
            yield from _RULES[kinds[0]](self, old, new, place, tail)
        elif "constant" in kinds:
            yield from self._fixed(old, new, place, tail)
        elif "mapped" in kinds:
            yield from self._named(old, new, place, tail)
        elif "optionalpart" in kinds and "derived" not in kinds:
            yield from self._optional(old, new, place, tail)
        elif not self._same(old, new):
            yield self._changed(old, new, place)

    def _changed(self, old: Any, new: Any, place: str) -> Difference:
        was, now = in_words(old), in_words(new)
        if was == now:
            return Difference(place, f"its format ({now}) is not what it was", BOTH)
        return Difference(place, f"it was {was} and is {now}", BOTH)

    def _nested(self, old: _Node, new: _Node, place: str, *, tail: bool) -> _Found:
        for found in self.messages(old["message"], new["message"], tail=tail):
            inner = found.where.removeprefix(new["message"])
            yield Difference(f"{place}{inner}", found.what, found.readers)

    def _number(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        del tail
        if in_words(old) != in_words(new):
            yield self._changed(old, new, place)

    def _padding(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        del tail
        if old["size"] != new["size"]:
            yield self._changed(old, new, place)
        elif old["pattern"] != new["pattern"]:
            what = f"its padding was {old['pattern']} and is {new['pattern']}"
            yield Difference(place, what, NOBODY)

    def _raw(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        if self._same(old["size"], new["size"]):
            return
        if tail and None in (old["size"], new["size"]):
            # What takes all that there is takes any number of bytes.
            reader = OLD if new["size"] is None else NEW
            yield Difference(
                place,
                f"it was {in_words(old)} and is {in_words(new)}",
                (reader,),
            )
            return
        yield self._changed(old, new, place)

    def _repeated(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        counters = old["counter"], new["counter"]
        inside = f"{place}[]"
        if not self._same(counters[0], counters[1]):
            yield self._changed(old, new, place)
            return
        if not self._same(old["count"], new["count"]):
            open_ended = None in (old["count"], new["count"]) and counters[1] is None
            if not tail or not open_ended:
                yield self._changed(old, new, place)
                return
            reader = OLD if new["count"] is None else NEW
            what = f"it was {in_words(old)} and is {in_words(new)}"
            yield Difference(place, what, (reader,))
        yield from self._node(old["element"], new["element"], inside, tail=False)

    def _window(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        del tail
        for key in ("size", "prefix", "inclusive"):
            if not self._same(old[key], new[key]):
                yield self._changed(old, new, place)
                return
        # A window of fixed size ignores what is left; one with a prefix does not.
        yield from self._node(
            old["inner"], new["inner"], place, tail=new["prefix"] is not None
        )

    def _group(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        yield from self._items(old["items"], new["items"], place, tail=tail)

    def _text(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        yield from self._node(old["inner"], new["inner"], place, tail=tail)
        was, now = (_encoding(n["encoding"]) for n in (old, new))
        if was == now:
            return
        readers = {"ascii": (OLD,)} if now in _ABOVE_ASCII else {}
        back = {"ascii": (NEW,)} if was in _ABOVE_ASCII else {}
        what = f"it was {was} text and is {now} text"
        yield Difference(place, what, readers.get(was) or back.get(now) or BOTH)

    def _optional(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        was, now = (kind_of(n) == "optionalpart" for n in (old, new))
        one, other = (
            n["inner"] if kind_of(n) == "optionalpart" else n for n in (old, new)
        )
        if was == now:
            # What differs may be taken for what stands behind it, unless nothing does.
            if not tail and not self._same(one, other):
                yield self._changed(one, other, place)
            else:
                yield from self._node(one, other, place, tail=False)
            return
        what = "it may be missing now" if now else "it may be missing no longer"
        readers = ((OLD,) if now else (NEW,)) if tail else BOTH
        yield Difference(place, what, readers)
        yield from self._node(one, other, place, tail=False)

    def _fixed(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        was, now = (kind_of(n) == "constant" for n in (old, new))
        one, other = (n["inner"] if kind_of(n) == "constant" else n for n in (old, new))
        yield from self._node(one, other, place, tail=tail)
        if was and now:
            if old["value"] != new["value"]:
                what = f"it was always {old['value']} and is always {new['value']}"
                yield Difference(place, what, BOTH)
        elif now:
            what = f"it is always {new['value']} now; new peers refuse other values"
            yield Difference(place, what, (NEW,))
        else:
            what = f"it was always {old['value']}; old peers refuse other values"
            yield Difference(place, what, (OLD,))

    def _named(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        """
        Compare numbers that stand for something, or with plain numbers.
        """
        one, other = (n["inner"] if kind_of(n) == "mapped" else n for n in (old, new))
        before = list(self._node(one, other, place, tail=tail))
        yield from before
        if any(found.readers for found in before):
            return
        was, now = (values_of(n) for n in (old, new))
        if was is not None and now is not None:
            yield from self._renumbered(was, now, place)
        else:
            what = (
                "its numbers have names now"
                if was is None
                else ("its numbers have no names any more")
            )
            yield Difference(place, what, NOBODY)
        for sent, read, numbers, reader in (
            (old, was, one, NEW),
            (new, now, other, OLD),
        ):
            reading = new if reader == NEW else old
            yield from self._refused(sent, read, reading, numbers, place, reader)

    def _renumbered(
        self, old: Mapping[Any, str], new: Mapping[Any, str], place: str
    ) -> _Found:
        before = {name: number for number, name in old.items()}
        after = {name: number for number, name in new.items()}
        for name in [n for n in before if n in after and before[n] != after[n]]:
            what = f"{name} was {before[name]} and is {after[name]}"
            yield Difference(place, what, BOTH)
        for number in [n for n in old if n in new and old[n] != new[n]]:
            if old[number] not in after and new[number] not in before:
                what = f"{number} was called {old[number]} and is called {new[number]}"
                yield Difference(place, what, NOBODY)

    def _refused(
        self,
        sent: _Node,
        values: Mapping[Any, str] | None,
        reading: _Node,
        number: _Node,
        place: str,
        reader: str,
    ) -> _Found:
        """
        Find values that are sent and that a strict reader does not know.
        """
        known = values_of(reading)
        if known is None:
            return
        closed = values is not None and not sent["open"]
        possible = set(values or ()) if closed else all_numbers(number)
        if not reading["open"]:
            if closed and sent["flags"] and possible == set(known):
                return
            if possible is None or (values is None and possible - set(known)):
                what = f"{reader} peers refuse numbers without a name"
                yield Difference(place, what, (reader,))
                return
            unknown = sorted(possible - set(known), key=in_order)
            if unknown and (not sent.get("flags") or reading["flags"]):
                names = some_named(values, unknown)
                what = f"{reader} peers refuse {names}"
                yield Difference(place, what, (reader,))
            elif unknown or sent.get("flags") != reading["flags"]:
                yield Difference(place, "whether it is flags has changed", (reader,))
            return
        strange = sorted(set(values or ()) - set(known), key=in_order)
        if strange:
            names = some_named(values, strange)
            what = f"{reader} peers read {names} as a plain number"
            yield Difference(place, what, NOBODY)

    def _bits(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        del tail
        if old["size"] != new["size"]:
            what = f"its bits were {old['size']} bytes and are {new['size']}"
            yield Difference(place, what, BOTH)
            return
        was = {(p["shift"], p["width"]): p for p in old["parts"]}
        now = {(p["shift"], p["width"]): p for p in new["parts"]}
        names = names_of(old["parts"]), names_of(new["parts"])
        for where, part in now.items():
            at = f"{place}.{part['name']}" if part["name"] else place
            if where not in was:
                yield from self._new_bits(old, part, at, added=True)
                continue
            before = was[where]
            moved = before["name"] in names[1] or part["name"] in names[0]
            if before["name"] != part["name"] and before["name"] and part["name"]:
                if moved:
                    what = f"it stands where {before['name']} stood"
                    yield Difference(at, what, BOTH)
                    continue
                self._rename(before["name"], part["name"])
                yield Difference(at, f"it was called {before['name']}", NOBODY)
            yield from self._bit_part(before, part, at)
        for where, part in was.items():
            if where not in now:
                at = f"{place}.{part['name']}" if part["name"] else place
                yield from self._new_bits(new, part, at, added=False)

    def _bit_part(self, old: _Node, new: _Node, place: str) -> _Found:
        for old_or_new, other, added in ((new, old, True), (old, new, False)):
            if other["name"] is None and old_or_new["name"] is not None:
                yield from self._new_bits({"parts": [other]}, old_or_new, place,
                                          added=added)  # fmt: skip
                return
        if old["signed"] != new["signed"]:
            yield Difference(place, "whether it has a sign has changed", BOTH)
        yield from self._computed(old, new, place)
        both = [
            {**n["mapped"], "inner": bits_number(n)} if n["mapped"] else bits_number(n)
            for n in (old, new)
        ]
        if any(n["mapped"] for n in (old, new)):
            yield from self._named(both[0], both[1], place, tail=False)

    def _new_bits(
        self, other: _Node, part: _Node, place: str, *, added: bool
    ) -> _Found:
        """
        Judge bits of which the other version has none: padding leaves room for them.
        """
        if part["name"] is None:
            return  # what is in its place is told of by itself
        low, high = part["shift"], part["shift"] + part["width"]
        over = [
            p for p in other["parts"]
            if p["shift"] < high and p["shift"] + p["width"] > low
        ]  # fmt: skip
        readers = (NEW,) if added else (OLD,)
        if any(p["name"] is not None for p in over):
            yield Difference(place, "its bits have moved", BOTH)
        elif part["computed"] or not takes_zero(part["mapped"]):
            what = "its bits were padding, and 0 is refused"
            yield Difference(place, what, readers)
        else:
            what = "its bits were padding" if added else "its bits are padding now"
            yield Difference(place, what, NOBODY)

    def _chosen(self, old: _Node, new: _Node, place: str, tail: bool) -> _Found:
        if not self._same(old["key"], new["key"]) or old["truth"] != new["truth"]:
            what = f"what it is chosen by was {old['key']} and is {new['key']}"
            yield Difference(place, what, BOTH)
            return
        was, now = ({str(k): n for k, n in node["cases"]} for node in (old, new))
        for case, node in now.items():
            if case in was:
                where = place if new["truth"] else f"{place}({case})"
                yield from self._case(was[case], node, where, tail=tail)
            else:
                yield from self._one_sided(case, node, old["default"], place, OLD)
        for case, node in was.items():
            if case not in now:
                yield from self._one_sided(case, node, new["default"], place, NEW)
        yield from self._case(old["default"], new["default"], place, tail=tail)

    def _case(self, old: Any, new: Any, place: str, *, tail: bool) -> _Found:
        if old is None or new is None:
            if old is not new:
                what = "there is nothing in one case where there was something"
                if old is None:
                    what = "there is something in one case where there was nothing"
                yield Difference(place, what, BOTH)
            return
        yield from self._node(old, new, place, tail=tail)

    def _one_sided(
        self, case: str, node: Any, default: Any, place: str, other: str
    ) -> _Found:
        """
        Judge a case that only one version has; the other takes its default.
        """
        what = f"the case {case} is {'new' if other == OLD else 'gone'}"
        if self._same(node, default) or (node is None and default is None):
            yield Difference(place, f"{what}, and as all others are", NOBODY)
        elif kind_of(default) == "raw" and default["size"] is None:
            yield Difference(place, f"{what}; {other} peers take it as bytes", NOBODY)
        elif kind_of(default) == "construct" and default["construct"] == "Error":
            yield Difference(place, f"{what}; {other} peers refuse it", (other,))
        else:
            what = f"{what}; {other} peers take it for something else"
            yield Difference(place, what, BOTH)


_Rule: TypeAlias = Callable[[Comparer, _Node, _Node, str, bool], _Found]
_RULES: dict[str, _Rule] = {
    "bits": Comparer._bits,
    "chosen": Comparer._chosen,
    "constant": Comparer._fixed,
    "group": Comparer._group,
    "mapped": Comparer._named,
    "number": Comparer._number,
    "optionalpart": Comparer._optional,
    "padding": Comparer._padding,
    "raw": Comparer._raw,
    "repeated": Comparer._repeated,
    "text": Comparer._text,
    "window": Comparer._window,
}

_BOUNDS = (
    ("least", "less than", True),
    ("greatest", "more than", False),
    ("shortest", "lengths below", True),
    ("longest", "lengths above", False),
)

_ABOVE_ASCII = ("utf-8", "utf8", "latin-1", "latin1", "cp437", "cp1252")


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """
    Put new names of fields into a description.
    """
    if isinstance(value, str):
        return (
            re.sub(r"\w+", lambda m: names.get(m[0], m[0]), value) if names else value
        )
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, dict):
        return {k: v if k == "kind" else _renamed(v, names) for k, v in value.items()}
    return value


def _encoding(name: str) -> str:
    return name.lower().replace("_", "-")
