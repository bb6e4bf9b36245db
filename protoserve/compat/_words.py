"""
Nodes of a format, and what values follow from, for people.
"""

from __future__ import annotations

from typing import Any

from protoserve.compat._rows import kind_of

__all__ = ["in_words", "rule_in_words"]

_Node = dict[str, Any]


_FLOATS = {"e": "float16", "f": "float32", "d": "float64", "?": "flag"}


def in_words(node: Any) -> str:
    """
    Say what a node is, for people.
    """
    match kind_of(node):
        case "number":
            sign = "" if node["signed"] else "u"
            bits = node.get("width") or 8 * node["size"]
            name = _FLOATS.get(node["code"]) or f"{sign}int{bits}"
            order = {">": ", big-endian", "<": ", little-endian"}[node["order"]]
            return name if node["size"] < 2 else name + order
        case "varnumber":
            return "zigzag varint" if node["zigzag"] else "varint"
        case "raw":
            size = node["size"]
            return "bytes to the end" if size is None else f"bytes of size {size}"
        case "repeated":
            if node["counter"] is not None:
                many = f" behind its count ({in_words(node['counter'])})"
            else:
                count = node["count"]
                many = " to the end" if count is None else f" of {count} elements"
            return f"list{many} of {in_words(node['element'])}"
        case "window" if node["prefix"] is not None:
            own = " that counts itself" if node["inclusive"] else ""
            prefix = in_words(node["prefix"])
            return f"{in_words(node['inner'])} behind its length{own} ({prefix})"
        case "window":
            return f"{in_words(node['inner'])} in {node['size']} bytes"
        case "constant" | "mapped":
            return in_words(node["inner"])
        case "text":
            return f"{node['encoding']} text ({in_words(node['inner'])})"
        case "terminated":
            return f"bytes up to {node['term']}"
        case "padding":
            return f"{node['size']} bytes of padding"
        case "message":
            return str(node["message"])
        case "construct" | "recursive":
            return str(node["construct"])
        case "group":
            return "a structure"
        case "chosen":
            return f"chosen by {node['key']}"
        case "optionalpart":
            return f"{in_words(node['inner'])} if there are bytes left"
        case kind:
            return kind or "nothing"


def rule_in_words(computed: _Node) -> str:
    """
    Say what a value follows from.
    """
    span = computed["first"]
    if computed["last"] != span:
        span = f"{span} to {computed['last']}"
    match computed["kind"]:
        case "lengthof":
            plus = f" {computed['plus']:+d}" if computed["plus"] else ""
            unit = computed["unit"]
            units = "" if unit == 1 else f" in units of {unit} bytes"
            return f"the length of {span}{plus}{units}"
        case "countof":
            return f"the number of elements of {span}"
        case _:
            return f"{computed['using']} over {span}"
