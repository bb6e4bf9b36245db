"""
The table of what is generated, in docs/construct.md.

``python -m tests.codec.coverage_table`` writes it anew. Each row comes from declaring
a message with such a field, and looking at the code that was made for it.
"""

import inspect
from pathlib import Path

import construct as C
from construct import core

from protoserve import DeclarationError
from protoserve.codec.coverage import Level, coverage_of
from tests.test_docs import NO_SAMPLE, SAMPLES, declared

PAGE = Path(__file__).parents[2] / "docs" / "construct.md"
HEAD = """\
| Declared with | Parsed by | Built by | Why |
|---|---|---|---|
"""
BYTE, WORD = C.Int8ub, C.Int16ub

FUNCTIONS = {
    "AlignedStruct": C.AlignedStruct(4, "a" / BYTE),
    "BitStruct": C.BitStruct("a" / C.BitsInteger(3), C.Padding(5)),
    "BitsSwapped": C.BitsSwapped(BYTE),
    "Bitwise": C.Bitwise(C.Struct("a" / C.BitsInteger(3), "b" / C.BitsInteger(5))),
    "ByteSwapped": C.ByteSwapped(C.Int24ub),
    "Bytewise": C.Bitwise(C.Struct("a" / C.Bytewise(BYTE))),
    "CString": C.CString("utf8"),
    "Filter": C.Filter(C.obj_ != 0, C.Array(2, BYTE)),
    "GreedyString": C.GreedyString("utf8"),
    "If": C.If(C.this.n, BYTE),
    "NoneOf": C.NoneOf(BYTE, [1]),
    "OneOf": C.OneOf(BYTE, [1]),
    "Optional": C.Optional(WORD),
    "PaddedString": C.PaddedString(4, "utf8"),
    "Padding": C.Padding(2),
    "PascalString": C.PascalString(BYTE, "utf8"),
    "PrefixedArray": C.PrefixedArray(BYTE, WORD),
}
"""One of what each of Construct's functions makes."""

OTHERS = {
    "CompressedLZ4": C.CompressedLZ4.__new__(C.CompressedLZ4),
    "EncryptedSym": C.EncryptedSym(C.GreedyBytes, None),
    "EncryptedSymAead": C.EncryptedSymAead(C.GreedyBytes, None, None),
    "Numpy": C.Numpy,
    "Switch": C.Switch(C.this.n, {0: BYTE, 1: WORD}),
    "Timestamp": C.TimestampAdapter(C.Int32ub),
    "TimestampAdapter": C.TimestampAdapter(C.Int32ub),
}
"""Where the samples of the page's other table have none, or an unusual one."""
C.Tunnel.__init__(OTHERS["CompressedLZ4"], C.GreedyBytes)  # not its own: no lz4 needed

WORDS = {
    Level.GENERATED: "generated code",
    Level.PARTLY: "Construct",
    Level.INTERPRETED: "Construct, all of the message",
}


def objects():
    """Give a Construct object for each class and function, by name."""
    samples = {name: sample[0] for name, sample in SAMPLES.items()}
    found = {**samples, **FUNCTIONS, **OTHERS}
    return {name: found[name] for name in sorted(found, key=str.lower)}


def row(name, subcon):
    try:
        cls = declared(subcon)
    except DeclarationError:
        return f"| `{name}` | refused | refused | |"
    found = coverage_of(cls._record, cls._caps)
    reasons = [
        why if who in (name, type(subcon).__name__) else f"`{who}` {why}"
        for who, why in found.reasons
    ]
    cells = (f"`{name}`", WORDS[found.parse], WORDS[found.build], "; ".join(reasons))
    return "| " + " | ".join(cells).rstrip() + " |"


def made():
    return HEAD + "\n".join(row(*entry) for entry in objects().items()) + "\n"


def unlisted():
    """Give what Construct has and the table has not."""
    functions = {
        name
        for name, value in vars(core).items()
        if name[0].isupper() and inspect.isfunction(value)
    }
    return (functions | SAMPLES.keys() | NO_SAMPLE.keys()) - objects().keys()


def write():
    text = PAGE.read_text("utf-8")
    start = text.index(HEAD)
    end = text.index("\n\n", start) + 1
    PAGE.write_text(text[:start] + made() + text[end:], "utf-8")


if __name__ == "__main__":
    write()
