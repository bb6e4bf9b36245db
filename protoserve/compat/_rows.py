"""
Parts in a row: what stands at the same place, and what may be left out of it.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "is_nothing",
    "kind_of",
    "may_be_missing",
    "names_of",
    "paired",
    "size_of",
    "takes_padding",
    "takes_zero",
]

_Node = dict[str, Any]


def kind_of(node: Any) -> str:
    return str(node["kind"]) if isinstance(node, dict) else ""


def is_nothing(node: Any) -> bool:
    return node is None or kind_of(node) == "derived"


def names_of(items: list[_Node]) -> list[str]:
    return [item["name"] for item in items if item["name"]]


def size_of(node: Any) -> int | None:
    """
    Give the size of what always has the same.
    """
    match kind_of(node):
        case "number" | "padding" | "bits" | "raw":
            return node["size"] if isinstance(node["size"], int) else None
        case "constant" | "mapped" | "text":
            return size_of(node["inner"])
        case "window" if node["prefix"] is None and isinstance(node["size"], int):
            return int(node["size"])
        case "group":
            sizes = [size_of(item["node"]) for item in node["items"]]
            known = [size for size in sizes if size is not None]
            return sum(known) if len(known) == len(sizes) else None
        case "derived":
            return 0
        case _:
            return None


def paired(
    old: list[_Node], new: list[_Node]
) -> tuple[list[tuple[Any, Any]], tuple[list[_Node], list[_Node]] | None]:
    """
    Put together what stands at the same place; padding with what took its place.

    Returns:
        The pairs, and what is left at the end of each; `None` if it does not fit.
    """
    names = set(names_of(old)), set(names_of(new))
    pairs: list[tuple[Any, Any]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        one, other = old[i], new[j]
        padding = [kind_of(n["node"]) == "padding" for n in (one, other)]
        if padding[0] != padding[1]:
            reserved, row, start = (one, new, j) if padding[0] else (other, old, i)
            taken = _filling(row, start, reserved["node"]["size"])
            if taken is None:
                return pairs, None
            pairs.append((one, taken) if padding[0] else (taken, other))
            i += 1 if padding[0] else len(taken)
            j += len(taken) if padding[0] else 1
            continue
        if one["name"] != other["name"] and (
            one["name"] in names[1] or other["name"] in names[0]
        ):
            return pairs, None
        pairs.append((one, other))
        i, j = i + 1, j + 1
    return pairs, (old[i:], new[j:])


def _filling(row: list[_Node], start: int, size: int) -> list[_Node] | None:
    taken: list[_Node] = []
    for item in row[start:]:
        if size <= 0:
            break
        each = size_of(item["node"])
        if each is None:
            return None
        taken.append(item)
        size -= each
    return taken if size == 0 else None


def may_be_missing(node: Any) -> bool:
    """
    Say whether a part is read from no bytes at all.
    """
    match kind_of(node):
        case "optionalpart":
            return True
        case "raw":
            return node["size"] is None or node["size"] == 0
        case "repeated":
            return node["counter"] is None and node["count"] in (None, 0)
        case "text":
            return may_be_missing(node["inner"])
        case "stripped":
            return True
        case "padding":
            return bool(node["size"] == 0)
        case _:
            return False


def takes_padding(node: Any, padding: _Node) -> bool:
    """
    Say whether a part can be read from the padding that the other version writes.
    """
    zeros = padding["pattern"] == "hex 00"
    match kind_of(node):
        case "number" | "raw" | "padding":
            return True
        case "mapped":
            return zeros and takes_zero(node)
        case "bits":
            return zeros and all(
                p["computed"] is None and takes_zero(p["mapped"]) for p in node["parts"]
            )
        case _:
            return False


def takes_zero(mapped: Any) -> bool:
    return mapped is None or mapped["open"] or any(w == 0 for _, w in mapped["values"])
